//! `ragway eval`

mod plot;
mod print;
mod svg;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use ragway::{
    config::{Config, SearchMode, TEXT_ROUTE},
    models::Embedder,
    rag::{
        Rag, RagError,
        embed::EmbedderChoice,
        evaluate::{
            AnswerOptions, Baseline, DataSet, Half, Progress, RetrievalOptions, evaluate_answers,
            evaluate_bitext, evaluate_cross_lingual, evaluate_cross_lingual_search, evaluate_feedback,
            evaluate_grounding, evaluate_image_text, evaluate_retrieval, evaluate_sts, run_gate,
        },
    },
    store::SearchEffort,
};

use super::search::{ModeArgument, RerankArgument};

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
        /// An embedder, or a model type [default: that of the route text-embedding]
        #[arg(long)]
        model: Option<String>,
        #[command(flatten)]
        rerank: RerankArgument,
        #[command(flatten)]
        output: Output,
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
        #[command(flatten)]
        output: Output,
    },
    /// Whether true sentences are told from false ones, on claims made from a file in SQuAD's format.
    Grounding { file: PathBuf },
    /// Do the evaluations of a baseline again; fails when a figure fell by more than the baseline allows.
    Gate {
        /// What `--save` of `retrieval` or `answers` wrote; its `tolerance` says by how much figures may fall.
        #[arg(long, value_name = "FILE")]
        baseline: PathBuf,
        /// Where a test set is now, if not where it was: a folder or file of the same name.
        #[arg(long, value_name = "PATH")]
        data: Vec<PathBuf>,
        /// Draw the results: one HTML page.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
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
        /// Search in the database by vectors, words and both instead: nDCG@10.
        #[arg(long)]
        search: bool,
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

/// Where results go beside the terminal.
#[derive(clap::Args)]
pub struct Output {
    /// Keep the figures in a baseline for `eval gate`, beside what it holds of other evaluations.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Draw the results: one HTML page.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
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
        measure(&parts.rag, &command, &progress).await
    })
    .await
}

async fn measure(rag: &Rag, command: &Command, progress: &Progress<'_>) -> Result<ExitCode> {
    match command {
        Command::Retrieval { folder, indexed, mode, model, rerank, output } => {
            let all = [SearchMode::Dense, SearchMode::Lexical, SearchMode::Hybrid];
            let options = RetrievalOptions {
                model: model.clone(),
                modes: mode.map_or(all.to_vec(), |mode| vec![mode.into()]),
                effort: if *indexed { SearchEffort::Indexed } else { SearchEffort::Exact },
                rerank: rerank.reranking(),
            };
            let data = output.data(folder)?;
            let reports = evaluate_retrieval(rag, folder, &options, progress).await?;
            print::retrieval(&reports);
            if let (Some(file), Some(data)) = (&output.save, &data) {
                Baseline::save(file, reports.iter().map(|report| report.measured(&options, data)).collect())?;
            }
            output.plot.as_ref().map_or(Ok(()), |file| plot::retrieval(file, &reports))?;
        }
        Command::Answers { file, limit, model, half, output } => {
            let options = AnswerOptions { half: Half::from(*half), limit: *limit, backend: model.clone() };
            let data = output.data(file)?;
            let report = evaluate_answers(rag, file, &options, progress).await?;
            print::answers(&report);
            if let (Some(file), Some(data)) = (&output.save, &data) {
                Baseline::save(file, vec![report.measured(&options, data)])?;
            }
            output.plot.as_ref().map_or(Ok(()), |file| plot::answers(file, &report))?;
        }
        Command::Grounding { file } => print::grounding(&evaluate_grounding(file)?),
        Command::Gate { baseline, data, plot } => {
            let report = run_gate(rag, &Baseline::read(baseline)?, data, progress).await?;
            print::gate(&report);
            plot.as_ref().map_or(Ok(()), |file| plot::gate(file, &report))?;
            return Ok(if report.fell() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Bitext { folder, model, limit } => {
            let embedder = embedder(rag, model, MULTILINGUAL_ROUTE).await?;
            print::bitext(&evaluate_bitext(&*embedder, folder, *limit, progress).await?);
        }
        Command::CrossLingual { folder, model, search: true } => {
            let model = embedder(rag, model, MULTILINGUAL_ROUTE).await?.space().model.clone();
            print::searched_pairs(&evaluate_cross_lingual_search(rag, folder, &model, progress).await?);
        }
        Command::CrossLingual { folder, model, search: false } => {
            let embedder = embedder(rag, model, MULTILINGUAL_ROUTE).await?;
            print::cross_lingual(&evaluate_cross_lingual(&*embedder, folder, progress).await?);
        }
        Command::Sts { files, model } => {
            let embedder = embedder(rag, model, TEXT_ROUTE).await?;
            for file in files {
                print::sts(file, &evaluate_sts(&*embedder, file, progress).await?);
            }
        }
        Command::Feedback { export } => {
            print::feedback(&evaluate_feedback(rag, export.as_deref(), progress).await?);
        }
        Command::ImageText { folder, model, language } => {
            let embedder = embedder(rag, model, IMAGE_ROUTE).await?;
            print::image_text(&evaluate_image_text(&*embedder, folder, language, progress).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Output {
    /// Looks at what would be written before hours of measuring; the test set, where it is kept.
    fn data(&self, path: &Path) -> Result<Option<DataSet>> {
        for file in [&self.save, &self.plot].into_iter().flatten() {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) {
                bail!("{}: its folder does not exist", file.display());
            }
        }
        let Some(save) = &self.save else { return Ok(None) };
        if save.exists() {
            Baseline::read(save)?;
        }
        Ok(Some(DataSet::of(path)?))
    }
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
