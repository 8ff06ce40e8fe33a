//! `ragway eval`

use std::{path::PathBuf, process::ExitCode, sync::Mutex};

use anyhow::Result;
use indicatif::ProgressBar;
use ragway::{
    config::Config,
    rag::evaluate::{AnswerReport, RetrievalReport, evaluate_answers, evaluate_retrieval},
    store::SearchEffort,
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// nDCG, recall and MRR on a folder in BEIR's format.
    Retrieval {
        folder: PathBuf,
        /// Use the HNSW index instead of comparing every vector.
        #[arg(long)]
        indexed: bool,
    },
    /// Answers, citations and abstention on a file in SQuAD 2.0's format.
    Answers {
        file: PathBuf,
        /// Questions asked, spread over the file.
        #[arg(long, default_value_t = 200)]
        limit: usize,
        /// A backend of `routes.answer`, or `extractive`.
        #[arg(long)]
        model: Option<String>,
    },
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_parts(config, async |parts| {
        let stages = Stages::default();
        let progress = |stage, done, of| stages.show(stage, done, of);
        match &command {
            Command::Retrieval { folder, indexed } => {
                let effort = if *indexed { SearchEffort::Indexed } else { SearchEffort::Exact };
                print_retrieval(&evaluate_retrieval(&parts.rag, folder, effort, &progress).await?);
            }
            Command::Answers { file, limit, model } => {
                print_answers(
                    &evaluate_answers(&parts.rag, file, *limit, model.as_deref(), &progress).await?,
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// One bar at a time, a new one for each stage.
#[derive(Default)]
struct Stages {
    current: Mutex<Option<(&'static str, ProgressBar)>>,
}

impl Stages {
    fn show(&self, stage: &'static str, done: usize, of: usize) {
        let Ok(mut current) = self.current.lock() else { return };
        if current.as_ref().is_none_or(|(name, _)| *name != stage) {
            let bar = super::bar(of);
            bar.set_message(stage);
            *current = Some((stage, bar));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(done as u64);
            if done == of {
                bar.finish_and_clear();
            }
        }
    }
}

fn print_retrieval(report: &RetrievalReport) {
    println!("documents   {}", report.documents);
    println!("queries     {}", report.queries);
    println!("nDCG@10     {:.4}", report.ndcg_10);
    println!("recall@10   {:.4}", report.recall_10);
    println!("recall@100  {:.4}", report.recall_100);
    println!("MRR@10      {:.4}", report.mrr_10);
}

fn print_answers(report: &AnswerReport) {
    println!("questions            {} answerable, {} unanswerable", report.answerable, report.unanswerable);
    println!("answered             {} of the answerable", report.answered);
    println!("exact match          {:.3}", report.exact_match);
    println!("F1                   {:.3}", report.f1);
    println!("holds a gold answer  {:.3}", report.contains_gold);
    println!("citation precision   {:.3}", report.citation_precision);
    println!("abstention           {:.3} of the unanswerable", report.abstention);
    println!("method               {} generated, {} extractive", report.generated, report.extractive);
    println!("mean time            {:.2} s", report.seconds);
}
