//! `ragway eval`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use indicatif::ProgressBar;
use ragway::{
    config::{Config, SearchMode, TEXT_ROUTE},
    models::Embedder,
    rag::{
        Rag, RagError,
        embed::EmbedderChoice,
        evaluate::{
            AnswerReport, CrossLingualReport, FeedbackReport, Half, ImageTextReport, PairScore, Progress,
            RetrievalReport, StsReport, bitext_mean, evaluate_answers, evaluate_bitext,
            evaluate_cross_lingual, evaluate_feedback, evaluate_image_text, evaluate_retrieval, evaluate_sts,
        },
    },
    store::SearchEffort,
};

use super::search::ModeArgument;

/// Model types that the sets without one of their own are measured with.
const MULTILINGUAL_ROUTE: &str = "multilingual";
const IMAGE_ROUTE: &str = "image-embedding";

#[derive(clap::Subcommand)]
pub enum Command {
    /// nDCG, recall and MRR on a folder in BEIR's format.
    Retrieval {
        folder: PathBuf,
        /// Use the HNSW index instead of comparing every vector.
        #[arg(long)]
        indexed: bool,
        /// What decides which passages are found [default: each after the other]
        #[arg(long, value_enum)]
        mode: Option<ModeArgument>,
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
        /// Ask the questions of every second article only: those to tune on, or the others.
        #[arg(long, value_enum, default_value = "all")]
        half: HalfArgument,
    },
    /// Translations found among sentences: recall@1 on files named like `tatoeba.deu-eng.deu`.
    Bitext {
        folder: PathBuf,
        /// An embedder [default: that of the route multilingual]
        #[arg(long)]
        model: Option<String>,
        /// Sentences of a language at most, from the first on.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Documents found by questions in other languages: recall@5 on `queries.de.jsonl`, `corpus.de.jsonl`, ….
    CrossLingual {
        folder: PathBuf,
        /// An embedder [default: that of the route multilingual]
        #[arg(long)]
        model: Option<String>,
    },
    /// Similarity of sentences: Spearman's correlation × 100 on CSV files of the STS benchmark.
    Sts {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// An embedder [default: that of the route text-embedding]
        #[arg(long)]
        model: Option<String>,
    },
    /// Answers that readers rated: how many, and why.
    Feedback {
        /// Write them, one JSON object a line.
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
    },
    /// Pictures found by their captions: recall@5 on `captions.jsonl` and `images/`.
    ImageText {
        folder: PathBuf,
        /// An embedder that reads images [default: that of the route image-embedding]
        #[arg(long)]
        model: Option<String>,
        /// Of the captions.
        #[arg(long, default_value = "en")]
        language: String,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum HalfArgument {
    All,
    Even,
    Odd,
}

impl From<HalfArgument> for Half {
    fn from(half: HalfArgument) -> Self {
        match half {
            HalfArgument::All => Half::All,
            HalfArgument::Even => Half::Even,
            HalfArgument::Odd => Half::Odd,
        }
    }
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_parts(config, async |parts| {
        let stages = Stages::default();
        let progress = |stage, done, of| stages.show(stage, done, of);
        measure(&parts.rag, &command, &progress).await?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn measure(rag: &Rag, command: &Command, progress: &Progress<'_>) -> Result<()> {
    match command {
        Command::Retrieval { folder, indexed, mode } => {
            let effort = if *indexed { SearchEffort::Indexed } else { SearchEffort::Exact };
            let all = [SearchMode::Dense, SearchMode::Lexical, SearchMode::Hybrid];
            let modes = mode.map_or(all.to_vec(), |mode| vec![mode.into()]);
            print_retrieval(&evaluate_retrieval(rag, folder, &modes, effort, progress).await?);
        }
        Command::Answers { file, limit, model, half } => {
            let half = Half::from(*half);
            print_answers(&evaluate_answers(rag, file, half, *limit, model.as_deref(), progress).await?);
        }
        Command::Bitext { folder, model, limit } => {
            let embedder = embedder(rag, model, MULTILINGUAL_ROUTE).await?;
            print_bitext(&evaluate_bitext(&*embedder, folder, *limit, progress).await?);
        }
        Command::CrossLingual { folder, model } => {
            let embedder = embedder(rag, model, MULTILINGUAL_ROUTE).await?;
            print_cross_lingual(&evaluate_cross_lingual(&*embedder, folder, progress).await?);
        }
        Command::Sts { files, model } => {
            let embedder = embedder(rag, model, TEXT_ROUTE).await?;
            for file in files {
                print_sts(file, &evaluate_sts(&*embedder, file, progress).await?);
            }
        }
        Command::Feedback { export } => {
            print_feedback(&evaluate_feedback(rag, export.as_deref(), progress).await?);
        }
        Command::ImageText { folder, model, language } => {
            let embedder = embedder(rag, model, IMAGE_ROUTE).await?;
            print_image_text(&evaluate_image_text(&*embedder, folder, language, progress).await?);
        }
    }
    Ok(())
}

/// The embedder of this name, else the one of the route; says on stdout which it is.
async fn embedder(rag: &Rag, model: &Option<String>, route: &str) -> Result<Arc<dyn Embedder>, RagError> {
    let choice = match model {
        Some(model) => EmbedderChoice::Model(model.clone()),
        None => EmbedderChoice::Type(route.to_owned()),
    };
    let embedder = rag.embedder(&choice).await?;
    println!("model       {}", embedder.space().id);
    Ok(embedder)
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

fn print_retrieval(reports: &[RetrievalReport]) {
    if let Some(report) = reports.first() {
        println!("documents   {}", report.documents);
        println!("queries     {}", report.queries);
    }
    for report in reports {
        let [first, second] = report.ndcg_10_halves;
        println!("\nmode        {}", report.mode.name());
        println!("nDCG@10     {:.4} ({first:.4} and {second:.4} of every second query)", report.ndcg_10);
        println!("recall@10   {:.4}", report.recall_10);
        println!("recall@100  {:.4}", report.recall_100);
        println!("MRR@10      {:.4}", report.mrr_10);
    }
}

fn print_answers(report: &AnswerReport) {
    println!("questions            {} answerable, {} unanswerable", report.answerable, report.unanswerable);
    println!("answered             {} of the answerable", report.answered);
    println!("exact match          {:.3}", report.exact_match);
    println!("F1                   {:.3}", report.f1);
    println!("holds a gold answer  {:.3}", report.contains_gold);
    println!("citation precision   {:.3} of the right paragraph", report.citation_precision);
    println!("quotes               {:.3} hold a gold answer", report.quotes_gold);
    println!("abstention           {:.3} of the unanswerable", report.abstention);
    println!("method               {} generated, {} extractive", report.generated, report.extractive);
    println!("mean time            {:.2} s", report.seconds);
    println!("\nanswer_cut  answerable kept  unanswerable refused");
    for cut in &report.trade_off {
        println!("{:>10.3}  {:>15.3}  {:>20.3}", cut.score, cut.kept, cut.refused);
    }
}

fn print_feedback(report: &FeedbackReport) {
    println!("backend                        up   down");
    for (backend, (up, down)) in &report.by_backend {
        println!("{backend:<28} {up:>4}   {down:>4}");
    }
    println!("comments                     {:>4}", report.comments);
}

fn print_bitext(pairs: &[PairScore]) {
    println!("recall@1    sentences  there   back");
    for pair in pairs {
        let languages = format!("{}-{}", pair.language, pair.other);
        println!("{languages:<11} {:>9}  {:.4}  {:.4}", pair.sentences, pair.there, pair.back);
    }
    println!("mean        {:.4}", bitext_mean(pairs));
}

fn print_cross_lingual(report: &CrossLingualReport) {
    println!("queries     {}", report.queries);
    println!("recall@5    {}", columns(report.languages.iter().map(String::as_str)));
    for (language, row) in report.languages.iter().zip(&report.recall_5) {
        let recalls: Vec<String> = row.iter().map(|recall| format!("{recall:.3}")).collect();
        println!("{language:<11} {}", columns(recalls.iter().map(String::as_str)));
    }
    println!("rows: the language of the queries; columns: of the documents");
    println!("mean        {:.4} across languages, {:.4} within", report.across(), report.within());
}

fn columns<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    cells.map(|cell| format!("{cell:>7}")).collect()
}

fn print_sts(file: &Path, report: &StsReport) {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    println!("{name}  {} pairs, Spearman × 100 = {:.2}", report.pairs, report.spearman);
}

fn print_image_text(report: &ImageTextReport) {
    println!("images      {}", report.images);
    println!("captions    {}", report.captions);
    println!("recall@5    {:.4}", report.recall_5);
}
