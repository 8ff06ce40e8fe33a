//! Embed, search and ask, end to end inside the process: `cargo bench`.
//!
//! Prints the median and the spread of each; compare two builds by running
//! them alternately, since machines drift. Works in a temporary folder, with
//! files from `target/test-cache` (or `RAGWAY_TEST_CACHE`).
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod common;

use std::time::{Duration, Instant};

use ragway::{
    app::Parts,
    assets::Assets,
    demo,
    models::TextRole,
    rag::{
        Caller,
        ask::{AskRequest, AskRerank, EXTRACTIVE, Writing},
        embed::EmbedderChoice,
        ingest::SourceFile,
        search::SearchRequest,
    },
    store::SearchEffort,
};

fn main() -> anyhow::Result<()> {
    ragway::app::size_thread_pools();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = common::config_in(folder.path())?;
    let parts = Parts::build(&config, &Assets::new(&config.home, true)?).await?;
    for document in demo::DOCUMENTS {
        let file = SourceFile {
            name: Some(document.file.into()),
            bytes: document.text.into(),
            ..SourceFile::default()
        };
        parts.rag.ingest(Caller::DEFAULT, None, file).await?;
    }
    let question = demo::QUESTIONS[0].question;
    let choice = EmbedderChoice::Type("text-embedding".into());
    let passages: Vec<String> = demo::DOCUMENTS.iter().map(|document| document.text.to_owned()).collect();
    measure("embed 1 question", 100, async || {
        parts.rag.embed(Caller::DEFAULT, &choice, vec![question.to_owned()], TextRole::Query).await.map(drop)
    })
    .await?;
    measure("embed 1 corpus (long texts)", 5, async || {
        parts.rag.embed(Caller::DEFAULT, &choice, passages.clone(), TextRole::Passage).await.map(drop)
    })
    .await?;
    let search = SearchRequest {
        caller: Caller::DEFAULT,
        collection: None,
        query: question.to_owned().into(),
        k: 10,
        mode: None,
        threshold: None,
        filter: None,
        effort: SearchEffort::Indexed,
        rerank: None,
    };
    measure("search", 100, async || parts.rag.search(&search).await.map(drop)).await?;
    let backends = parts.rag.answers().status().into_iter().map(|backend| backend.name);
    for model in backends.chain([EXTRACTIVE.to_owned()]) {
        let ask = AskRequest {
            caller: Caller::DEFAULT,
            collection: None,
            question: question.to_owned(),
            k: None,
            filter: None,
            model: Some(model.clone()),
            explain: false,
            writing: Writing::default(),
            rerank: AskRerank::Configured,
        };
        measure(&format!("ask {model}"), 5, async || parts.rag.ask_whole(ask.clone()).await.map(drop))
            .await?;
    }
    parts.stop().await
}

async fn measure<E: std::error::Error + Send + Sync + 'static>(
    name: &str,
    times: usize,
    work: impl AsyncFn() -> Result<(), E>,
) -> anyhow::Result<()> {
    work().await?; // warms caches and pools
    let mut taken: Vec<Duration> = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        work().await?;
        taken.push(started.elapsed());
    }
    taken.sort();
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!(
        "{name:30} median {:9.2} ms   min {:9.2}   max {:9.2}   ({times} runs)",
        ms(taken[times / 2]),
        ms(taken[0]),
        ms(taken[times - 1])
    );
    Ok(())
}
