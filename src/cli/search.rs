//! `ragway search`

use std::process::ExitCode;

use anyhow::Result;
use ragway::{
    config::{Config, SearchMode},
    rag::{
        Caller,
        filters::parse_filter_text,
        search::{Reranking, SearchRequest},
    },
    store::SearchEffort,
};

#[derive(clap::Args)]
pub struct Arguments {
    query: String,
    #[arg(long)]
    collection: Option<String>,
    /// Results at most.
    #[arg(long, default_value_t = 5)]
    k: usize,
    /// What decides [default: search.mode of models.toml, hybrid]
    #[arg(long, value_enum)]
    mode: Option<ModeArgument>,
    /// Least similarity of what is found by its vector [default: the model's min_similarity]
    #[arg(long)]
    threshold: Option<f32>,
    /// A condition on metadata, in JSON: '{"language": "en"}', '{"type": "gte", "key": "year", "value": 2025}'.
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Compare every vector instead of using the index.
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    rerank: RerankArgument,
}

/// The same for every command that searches.
#[derive(clap::Args)]
pub struct RerankArgument {
    /// Have a reranker put the best passages into order [model: that of routes.rerank]
    #[arg(long, value_name = "MODEL", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    rerank: Option<String>,
}

impl RerankArgument {
    /// What is asked for; none: no reranking.
    pub fn reranking(&self) -> Option<Reranking> {
        let model = self.rerank.as_ref()?;
        Some(Reranking { model: Some(model.clone()).filter(|name| !name.is_empty()), ..Reranking::default() })
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ModeArgument {
    /// How near the vectors are.
    Dense,
    /// Which words passages hold.
    Lexical,
    Hybrid,
}

impl From<ModeArgument> for SearchMode {
    fn from(mode: ModeArgument) -> Self {
        match mode {
            ModeArgument::Dense => SearchMode::Dense,
            ModeArgument::Lexical => SearchMode::Lexical,
            ModeArgument::Hybrid => SearchMode::Hybrid,
        }
    }
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    let request = SearchRequest {
        caller: Caller::DEFAULT,
        collection: arguments.collection,
        query: arguments.query.into(),
        k: arguments.k,
        mode: arguments.mode.map(SearchMode::from),
        threshold: arguments.threshold,
        filter: arguments.filter.as_deref().map(parse_filter_text).transpose()?.flatten(),
        effort: if arguments.exact { SearchEffort::Exact } else { SearchEffort::Indexed },
        rerank: arguments.rerank.reranking(),
    };
    super::with_parts(config, async |parts| {
        let found = parts.rag.search(&request).await?;
        if let Some(Err(error)) = found.rerank.as_ref().map(|outcome| &outcome.result) {
            println!("not reranked: {error}\n");
        }
        if found.passages.is_empty() {
            println!("nothing found");
        }
        for passage in &found.passages {
            let title = passage.title.as_deref().unwrap_or("untitled");
            let heading = passage.heading.as_deref().unwrap_or_default();
            println!(
                "{:.3}  {title}  {heading}\n       {}\n",
                passage.scores.rerank.unwrap_or(passage.similarity),
                passage.content.replace('\n', "\n       ")
            );
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
