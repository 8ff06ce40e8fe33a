//! `ragway serve`

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ragway::{
    access::Access,
    app::{Application, Database, Parts},
    assets::Assets,
    config::Config,
    demo,
    http::{limits::Limiter, starting::Starting, tls::Certificate},
    rag::{Caller, ingest::SourceFile},
    store::SaveOutcome,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// Listen on an address that others can reach although nobody has to say who they are.
    #[arg(long)]
    allow_unauthenticated: bool,
}

pub async fn run(config: Config, arguments: Arguments) -> Result<ExitCode> {
    let host = arguments.host.unwrap_or(config.host);
    if config.auth.is_none() {
        check_address(host, arguments.allow_unauthenticated)?;
    }
    let address = SocketAddr::new(host, arguments.port.unwrap_or(config.port));
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; another port can be given with --port"))?;
    let mut signals = Signals::listen()?;
    let certificate = config.tls.as_ref().map(Certificate::load).transpose()?;
    let tls = certificate.as_ref().map(Certificate::server_config).transpose()?;
    let starting = Starting::serve(&listener, tls.clone())?;
    let assets = Assets::new(&config.home, true)?;
    let parts = tokio::select! {
        parts = async {
            Database::wait(&config).await?;
            Parts::build(&config, &assets).await
        } => parts?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let samples = if arguments.demo { ingest_demo(&parts).await? } else { Vec::new() };
    starting.stop().await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if let Some(certificate) = certificate {
        tokio::spawn(certificate.keep_current());
    }
    let Config { catalog, trusted_proxies, redis_url, .. } = &config;
    let limiter = Limiter::new(&catalog.limits, &catalog.http, trusted_proxies.clone(), redis_url.as_ref())?;
    let access = Access::new(config.auth.as_ref(), parts.rag.store()).await?;
    let guards = (access, limiter);
    let application = Application::start(listener, parts.rag.clone(), guards, config.workers, samples, tls)?;
    announce(scheme, application.address(), arguments.demo, config.auth.is_some());
    application.run_until(signals.stop(config.catalog.shutdown.pause())).await?;
    parts.stop().await?;
    eprintln!("ragway has stopped");
    Ok(ExitCode::SUCCESS)
}

/// Where nobody has to say who they are, only this machine may be reached from, unless it is wanted otherwise.
fn check_address(host: IpAddr, allow_unauthenticated: bool) -> Result<()> {
    if host.is_loopback() {
        return Ok(());
    }
    if !allow_unauthenticated {
        bail!(
            "listening on {host} would let anyone on the network read and delete documents; set \
             RAGWAY_AUTH=required (and make keys with `ragway keys create`) or a JWT_ variable, or add \
             --allow-unauthenticated if that is wanted (behind a proxy that checks who asks, say)"
        );
    }
    tracing::warn!(
        "listening on {host}, and nobody has to say who they are: whoever reaches it may do everything"
    );
    Ok(())
}

/// What asks the process to end; listening begins at once, so that nothing is missed during start.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

enum Wish {
    /// Ctrl-C: a person waits.
    Now,
    /// SIGTERM: a supervisor, which may have told load balancers at the same time.
    WithPause,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Now,
            _ = self.terminate.recv() => Wish::WithPause,
        }
    }

    /// Done at the first signal, with how long to go on serving; at the second the process ends.
    async fn stop(mut self, pause: Duration) -> Duration {
        let wish = self.next().await;
        tokio::spawn(async move {
            self.next().await;
            eprintln!("ragway ends at once: this was the second signal");
            std::process::exit(1);
        });
        match wish {
            Wish::Now => Duration::ZERO,
            Wish::WithPause => pause,
        }
    }
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

fn announce(scheme: &str, address: SocketAddr, demo: bool, asks_who: bool) {
    let url = format!("{scheme}://{address}");
    let question = if demo { demo::QUESTIONS[0].question } else { "What do the documents say?" };
    eprintln!();
    eprintln!("ragway {} is ready", env!("CARGO_PKG_VERSION"));
    eprintln!();
    eprintln!("  ask a question   {url}/");
    eprintln!("  explore the API  {url}/docs/");
    eprintln!("  or try           curl {url}/api/v1/ask -H 'content-type: application/json' \\");
    if asks_who {
        eprintln!("                        -H 'authorization: Bearer KEY' \\");
    }
    eprintln!("                        -d '{{\"question\": \"{question}\"}}'");
    eprintln!();
    eprintln!("  Ctrl-C stops it and everything it started.");
    eprintln!();
}
