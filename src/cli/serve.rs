//! `ragway serve`

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use ragway::{
    app::{Application, Parts},
    assets::Assets,
    config::Config,
    demo,
    http::limits::Limiter,
    rag::{Caller, ingest::SourceFile},
    store::SaveOutcome,
};

#[derive(clap::Args)]
pub struct Arguments {
    /// Address to listen on (also HOST) [default: 127.0.0.1]
    #[arg(long)]
    host: Option<IpAddr>,
    /// Port to listen on (also PORT) [default: 8080]
    #[arg(long)]
    port: Option<u16>,
    /// Store a small demo corpus, so that there is something to ask.
    #[arg(long)]
    demo: bool,
    /// Listen on an address that others can reach although nobody has to log in.
    #[arg(long)]
    allow_unauthenticated: bool,
}

pub async fn run(config: Config, arguments: Arguments) -> Result<ExitCode> {
    let host = arguments.host.unwrap_or(config.host);
    if !host.is_loopback() && !arguments.allow_unauthenticated {
        bail!(
            "listening on {host} would let anyone on the network read and delete documents; \
             add --allow-unauthenticated if that is wanted (behind a proxy that checks who asks, say)"
        );
    }
    let address = SocketAddr::new(host, arguments.port.unwrap_or(config.port));
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; another port can be given with --port"))?;
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let assets = Assets::new(&config.home, true)?;
    let parts = tokio::select! {
        parts = Parts::build(&config, &assets) => parts?,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    let samples = if arguments.demo { ingest_demo(&parts).await? } else { Vec::new() };
    let Config { catalog, trusted_proxies, redis_url, .. } = &config;
    let limiter = Limiter::new(&catalog.limits, &catalog.http, trusted_proxies.clone(), redis_url.as_ref())?;
    let application = Application::start(listener, parts.rag.clone(), limiter, config.workers, samples)?;
    announce(application.address(), arguments.demo);
    application.run_until(stop).await?;
    parts.stop().await?;
    eprintln!("ragway has stopped");
    Ok(ExitCode::SUCCESS)
}

/// Done at Ctrl-C or SIGTERM; listening begins now, so that none is missed during start.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn ingest_demo(parts: &Parts) -> Result<Vec<String>> {
    let mut new = 0;
    for document in demo::DOCUMENTS {
        let file = SourceFile {
            name: Some(document.file.to_owned()),
            external_id: Some(format!("demo/{}", document.file)),
            bytes: document.text.as_bytes().to_vec(),
            ..SourceFile::default()
        };
        let ingested = parts.rag.ingest(Caller::DEFAULT, None, file).await?;
        new += usize::from(ingested.saved.outcome == SaveOutcome::Created);
    }
    if new > 0 {
        eprintln!("stored the demo corpus: {new} documents");
    }
    Ok(demo::QUESTIONS.iter().take(4).map(|sample| sample.question.to_owned()).collect())
}

fn announce(address: SocketAddr, demo: bool) {
    let url = format!("http://{address}");
    let question = if demo { demo::QUESTIONS[0].question } else { "What do the documents say?" };
    eprintln!();
    eprintln!("ragway {} is ready", env!("CARGO_PKG_VERSION"));
    eprintln!();
    eprintln!("  ask a question   {url}/");
    eprintln!("  explore the API  {url}/docs/");
    eprintln!("  or try           curl {url}/api/v1/ask -H 'content-type: application/json' \\");
    eprintln!("                        -d '{{\"question\": \"{question}\"}}'");
    eprintln!();
    eprintln!("  Ctrl-C stops it and everything it started.");
    eprintln!();
}
