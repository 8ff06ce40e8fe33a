//! `ragway doctor`

use std::process::ExitCode;

use anyhow::Result;
use ragway::{
    app::{Database, postgres_wheel},
    assets::Assets,
    config::{Config, DatabaseSettings, LlmEntry},
    rag::prompts::Prompts,
    store::Store,
};

use super::tenant::lacking_isolation;

/// Prints a line for each check and counts what is wrong.
#[derive(Default)]
struct Checkup {
    problems: usize,
}

impl Checkup {
    fn good(&self, what: &str) {
        println!("  ok       {what}");
    }

    fn note(&self, what: &str) {
        println!("  note     {what}");
    }

    fn problem(&mut self, what: &str, remedy: &str) {
        self.problems += 1;
        println!("  PROBLEM  {what}\n           → {remedy}");
    }
}

pub async fn run(config: &Config) -> Result<ExitCode> {
    let mut checkup = Checkup::default();
    let assets = Assets::new(&config.home, false)?;
    println!("configuration");
    checkup.good(&format!("catalog {}", config.catalog_origin));
    match Prompts::load(config.prompts.as_deref()) {
        Ok(_) => checkup.good("prompt templates"),
        Err(error) => checkup.problem(&error.to_string(), "mend the template, or unset RAGWAY_PROMPTS"),
    }
    println!("embedders");
    check_embedders(config, &assets, &mut checkup)?;
    println!("answers");
    check_answers(config, &assets, &mut checkup)?;
    println!("database");
    check_database(config, &assets, &mut checkup).await?;
    println!("fetching");
    check_python(&mut checkup).await;
    match checkup.problems {
        0 => {
            println!("\nready: `ragway serve`");
            Ok(ExitCode::SUCCESS)
        }
        count => {
            println!("\n{count} problem(s)");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn check_embedders(config: &Config, assets: &Assets, checkup: &mut Checkup) -> Result<()> {
    for (model_type, route) in &config.catalog.routes.embed {
        let mut present = None;
        for entry in route.candidates.iter().filter_map(|name| config.catalog.embedder(name)) {
            if entry.remote.is_some() || assets.locate(&entry.name, &entry.files, &entry.sources)?.is_some() {
                present = Some(&entry.name);
                break;
            }
        }
        match present {
            Some(name) => checkup.good(&format!("{model_type}: {name}")),
            None => checkup.note(&format!(
                "{model_type}: no weights yet; `ragway models fetch {}` (or the first use) fetches them",
                route.candidates.join(" ")
            )),
        }
    }
    Ok(())
}

fn check_answers(config: &Config, assets: &Assets, checkup: &mut Checkup) -> Result<()> {
    for name in &config.catalog.routes.answer.backends {
        match config.catalog.llm(name) {
            Some(LlmEntry::Openai(entry)) => match &entry.api_key_env {
                Some(variable) if std::env::var(variable).is_err() => {
                    checkup.note(&format!("{name}: not used, because {variable} is not set"));
                }
                _ => checkup.good(&format!("{name}: {} at {}", entry.model, entry.base_url)),
            },
            Some(LlmEntry::Candle(entry)) => {
                match assets.locate(&entry.name, &entry.files, &entry.sources)? {
                    Some(_) => checkup.good(&format!("{name}: local")),
                    None => checkup
                        .note(&format!("{name}: no weights here; `ragway models fetch {name}` fetches them")),
                }
            }
            None => {}
        }
    }
    checkup.good("extractive: always there");
    Ok(())
}

async fn check_database(config: &Config, assets: &Assets, checkup: &mut Checkup) -> Result<()> {
    let pg0 = match &config.database {
        DatabaseSettings::External { .. } => None,
        DatabaseSettings::Embedded => match assets.locate_postgres(postgres_wheel(&config.catalog)?)? {
            Some(pg0) => Some(pg0),
            None => {
                checkup.note("embedded PostgreSQL: not fetched yet; the first start fetches it");
                return Ok(());
            }
        },
    };
    match Database::open(config, pg0.as_deref()).await {
        Ok(database) => {
            let report = &database.report;
            checkup.good(&format!(
                "PostgreSQL {} with pgvector {}, schema up to date",
                report.server_version, report.pgvector_version
            ));
            report.warnings.iter().for_each(|warning| checkup.note(warning));
            let store = Store::connect(&database.url, &config.catalog.database).await?;
            match lacking_isolation(&store).await? {
                None => checkup.good("the database keeps tenants apart"),
                Some(why) => checkup.note(why),
            }
            drop(store);
            check_replica(config, &database, checkup).await;
            database.stop().await?;
        }
        Err(error) => checkup
            .problem(&format!("{error:#}"), "check DATABASE_URL, or unset it to use the embedded PostgreSQL"),
    }
    Ok(())
}

async fn check_replica(config: &Config, database: &Database, checkup: &mut Checkup) {
    let answers = match database.connect(&config.catalog.database).await {
        Ok(store) => store.ping_replica().await,
        Err(error) => {
            return checkup.problem(&format!("{error:#}"), "check DATABASE_URL and DATABASE_REPLICA_URL");
        }
    };
    match answers {
        Some(Ok(())) => checkup.good("the read replica answers"),
        Some(Err(error)) => checkup.problem(
            &format!("the read replica: {error}"),
            "check DATABASE_REPLICA_URL; until it answers, searches go to the primary",
        ),
        None => {}
    }
}

async fn check_python(checkup: &mut Checkup) {
    let asked = tokio::process::Command::new("python3").args(["-m", "pip", "--version"]).output().await;
    match asked {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            checkup.good(version.split(" from ").next().unwrap_or("pip").trim());
        }
        _ => checkup.note("python3 with pip is not there: sources of kind `pypi` cannot be fetched"),
    }
}
