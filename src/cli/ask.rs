//! `ragway ask`

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use futures_util::StreamExt;
use ragway::{
    app::Parts,
    config::Config,
    rag::{
        Caller,
        ask::{Answer, AskEvent, AskRequest, AskRerank, Explanation, Method, NumberedPassage, Writing},
        filters::parse_filter_text,
    },
};

use super::search::RerankArgument;

#[derive(clap::Args)]
pub struct Arguments {
    question: String,
    #[arg(long)]
    collection: Option<String>,
    /// Passages to read.
    #[arg(long)]
    k: Option<usize>,
    /// A condition on metadata, in JSON: '{"language": "en"}', '{"type": "gte", "key": "year", "value": 2025}'.
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// A backend of `routes.answer`, or `extractive`.
    #[arg(long)]
    model: Option<String>,
    /// Show the passages, the prompt and the time of each stage.
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    rerank: RerankArgument,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    super::with_parts(config, async |parts| ask(parts, arguments).await).await
}

async fn ask(parts: &Parts, arguments: Arguments) -> Result<ExitCode> {
    let request = AskRequest {
        caller: Caller::DEFAULT,
        collection: arguments.collection,
        question: arguments.question,
        k: arguments.k,
        filter: arguments.filter.as_deref().map(parse_filter_text).transpose()?.flatten(),
        model: arguments.model,
        explain: arguments.explain,
        writing: Writing::default(),
        rerank: arguments.rerank.reranking().map_or(AskRerank::Configured, AskRerank::On),
    };
    let mut events = parts.rag.ask(request).await?;
    let mut sources = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            AskEvent::Sources(found) => sources = found,
            AskEvent::Delta(text) => {
                print!("{text}");
                std::io::stdout().flush()?;
            }
            AskEvent::Citation(_) => {}
            AskEvent::Done(answer) => print_end(&answer, &sources),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_end(answer: &Answer, sources: &[NumberedPassage]) {
    println!("\n");
    for citation in &answer.citations {
        let title = citation.title.as_deref().or(citation.source.as_deref()).unwrap_or("untitled");
        println!("  [{}] {title}: “{}”", citation.n, citation.quote.replace('\n', " "));
    }
    let how = match answer.method {
        Method::Generated => "written by",
        Method::Extractive => "quoted from the documents:",
        Method::Abstained => "not answered:",
    };
    println!("  ({how} {}, {:.1} s)", answer.model, answer.elapsed.as_secs_f64());
    if let Some(cached) = &answer.cached {
        println!("  (asked before, {:.0} s ago: “{}”)", cached.age.as_secs_f64(), cached.question);
    }
    for note in &answer.notes {
        println!("  note: {note}");
    }
    for attempt in &answer.attempts {
        println!("  {} failed: {}", attempt.backend, attempt.error);
    }
    if let Some(explanation) = &answer.explanation {
        print_explanation(explanation, sources);
    }
}

fn print_explanation(explanation: &Explanation, sources: &[NumberedPassage]) {
    println!(
        "\nplan: {} passages of collection `{}` in space `{}`",
        explanation.k, explanation.collection, explanation.space
    );
    match explanation.best_similarity {
        Some(best) => println!(
            "score {:.3} (best similarity {best:.3}, question's words and kind held: {:.2}), answered from {:.2} on",
            explanation.score.unwrap_or_default(),
            explanation.question_coverage,
            explanation.answer_cut
        ),
        None => println!("no passage is similar enough"),
    }
    println!("\nstages:");
    for (stage, time) in &explanation.stages {
        println!("  {stage:20} {:8.1} ms", time.as_secs_f64() * 1000.0);
    }
    println!("\npassages ({} given to the model):", explanation.passages_used);
    for source in sources {
        let title = source.passage.title.as_deref().unwrap_or("untitled");
        let start: String = source.passage.content.chars().take(100).collect();
        println!("  [{}] {:.3} {title}: {}…", source.n, source.passage.similarity, start.replace('\n', " "));
    }
    for message in &explanation.prompt {
        println!("\n--- {} ---\n{}", message.speaker.role(), message.text);
    }
}
