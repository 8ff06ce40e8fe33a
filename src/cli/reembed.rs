//! `ragway reembed`

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use ragway::{
    app::Parts,
    config::Config,
    rag::{
        Caller,
        gate::{Gate, parse_gate_text},
        reembed::{ReembeddingStage, ReembeddingStatus},
    },
    store::{Collection, TenantId},
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("action").required(true)))]
pub struct Arguments {
    /// The collection.
    collection: String,
    /// Go over to this model; goes on where an earlier run was stopped.
    #[arg(long, value_name = "MODEL", group = "action")]
    to: Option<String>,
    /// Go over only when the new vectors find what the old ones find: JSON,
    /// {"queries": [{"query": "…", "relevant": ["external id", …]}, …]}, also with "k" and "tolerance".
    #[arg(long, value_name = "FILE", requires = "to")]
    gate: Option<PathBuf>,
    /// Say how far it is.
    #[arg(long, group = "action")]
    status: bool,
    /// Cancel it, or go back to the vectors before it.
    #[arg(long, group = "action")]
    rollback: bool,
    /// Delete the vectors before it; there is no going back then.
    #[arg(long, group = "action")]
    finish: bool,
}

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(250);

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    let gate = arguments.gate.as_ref().map(|file| -> Result<Gate> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        parse_gate_text(&text).with_context(|| file.display().to_string())
    });
    let gate = gate.transpose()?;
    super::with_parts(config, async |parts| {
        let (rag, name) = (&parts.rag, arguments.collection.as_str());
        if let Some(model) = &arguments.to {
            return start(parts, name, model, gate).await;
        }
        if arguments.status {
            let status = rag.reembedding(TenantId::DEFAULT, name).await?;
            println!("{}", described(&status));
            return Ok(ExitCode::SUCCESS);
        }
        let collection = match arguments.rollback {
            true => rag.roll_back_reembedding(Caller::DEFAULT, name).await?,
            false => rag.finish_reembedding(Caller::DEFAULT, name).await?,
        };
        print_live(&collection);
        println!("what was given up is deleted by a running server, or by the next re-embedding");
        Ok(ExitCode::SUCCESS)
    })
    .await
}

/// Works itself: no server needs to run.
async fn start(parts: &Parts, name: &str, model: &str, gate: Option<Gate>) -> Result<ExitCode> {
    let gated = gate.is_some();
    parts.rag.start_reembedding(Caller::DEFAULT, name, model, gate).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let workers = tokio::spawn(parts.rag.clone().run_jobs(async {
        // Also when the sender is gone.
        let _ = stopped.await;
    }));
    let watched = watch(parts, name).await;
    // The receiver is there as long as the workers are.
    let _ = stop.send(());
    workers.await?;
    print_live(&watched?);
    if gated {
        println!("the gate passed: the new vectors find what those before found");
    }
    println!(
        "the vectors before are kept: `ragway reembed {name} --rollback` goes back, `--finish` deletes them"
    );
    Ok(ExitCode::SUCCESS)
}

/// Shows the progress until the cutover.
async fn watch(parts: &Parts, name: &str) -> Result<Collection> {
    let bar = super::bar(0);
    loop {
        let status = parts.rag.reembedding(TenantId::DEFAULT, name).await?;
        bar.set_length(u64::try_from(status.progress.documents)?);
        bar.set_position(u64::try_from(status.progress.done)?);
        if status.reembedding.stage == ReembeddingStage::CutOver {
            bar.finish_and_clear();
            return Ok(parts.rag.collection(TenantId::DEFAULT, name).await?);
        }
        if let Some(job) = status.job.filter(|job| job.state.is_final()) {
            bar.abandon();
            bail!(
                "it stopped: {} (the same command goes on)",
                job.error.unwrap_or_else(|| "its task was cancelled".into())
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print_live(collection: &Collection) {
    println!(
        "searches in `{}` read {} ({} documents, {} passages)",
        collection.name, collection.space.id, collection.documents, collection.passages
    );
}

fn described(status: &ReembeddingStatus) -> String {
    let (from, to) = (&status.reembedding.from.id, &status.reembedding.to.id);
    let progress = format!("{} of {} documents", status.progress.done, status.progress.documents);
    let mut text = match status.reembedding.stage {
        ReembeddingStage::Backfilling => format!("backfilling {to}: {progress}; searches read {from}"),
        ReembeddingStage::CutOver => format!("cut over to {to}: {progress}; {from} is kept"),
    };
    if let Some(error) = status.job.as_ref().and_then(|job| job.error.as_ref()) {
        text.push_str(&format!("\nlast error: {error}"));
    }
    text
}
