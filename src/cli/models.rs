//! `ragway models`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use ragway::{
    app::postgres_wheel,
    assets::{Assets, ModelFiles, Packed},
    config::{Catalog, Config, LlmEntry, Source},
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say which are there and where the others come from.
    List,
    /// Fetch the named ones, or all.
    Fetch { names: Vec<String> },
    /// Say what models.toml sets up, or where it is wrong, without starting anything.
    Check,
    /// Write what is on this machine, PostgreSQL included, to an archive for one without a network.
    Pack {
        archive: PathBuf,
        /// Only these models.
        names: Vec<String>,
    },
    /// Take out of an archive what models.toml names.
    Unpack { archive: PathBuf },
}

/// What the catalog says about the files of one model.
struct Entry<'a> {
    name: &'a str,
    kind: &'static str,
    licence: &'a str,
    files: ModelFiles<'a>,
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    let assets = Assets::new(&config.home, true)?;
    match command {
        Command::List => list(config, &assets),
        Command::Fetch { names } => fetch(config, &assets, &names).await,
        Command::Check => check(config, &assets),
        Command::Pack { archive, names } => {
            let entries = named(config, &names)?;
            let files: Vec<_> = entries.iter().map(|entry| entry.files).collect();
            report(&assets.pack(&archive, &files, postgres_wheel(&config.catalog).ok())?, "packed", &archive);
            Ok(ExitCode::SUCCESS)
        }
        Command::Unpack { archive } => {
            let files: Vec<_> = entries(&config.catalog).iter().map(|entry| entry.files).collect();
            report(
                &assets.unpack(&archive, &files, postgres_wheel(&config.catalog).ok())?,
                "unpacked",
                &archive,
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(config: &Config, assets: &Assets) -> Result<ExitCode> {
    println!("{:38} {:7} {:12} {:8} where", "name", "kind", "licence", "state");
    for entry in entries(&config.catalog) {
        let found = assets.locate(entry.name, entry.files.files, entry.files.sources)?;
        let state = if found.is_some() { "present" } else { "missing" };
        let place = match found {
            Some(folder) => folder.display().to_string(),
            None => entry.files.sources.iter().map(describe).collect::<Vec<_>>().join(", then "),
        };
        println!("{:38} {:7} {:12} {:8} {place}", entry.name, entry.kind, entry.licence, state);
    }
    for server in servers(&config.catalog) {
        let ready = server.key.is_none_or(|name| std::env::var(name).is_ok());
        let state = if ready { "set up" } else { "no key" };
        println!(
            "{:38} {:7} {:12} {:8} {} ({})",
            server.name, server.kind, "-", state, server.url, server.model
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn fetch(config: &Config, assets: &Assets, names: &[String]) -> Result<ExitCode> {
    let mut failed = false;
    for entry in named(config, names)? {
        match assets.obtain(entry.name, entry.files.files, entry.files.sources).await {
            Ok(folder) => println!("{}: {}", entry.name, folder.display()),
            Err(error) => {
                failed = true;
                eprintln!("{error}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The entries of these names; all where none is given.
fn named<'a>(config: &'a Config, names: &[String]) -> Result<Vec<Entry<'a>>> {
    let all = entries(&config.catalog);
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|entry| entry.name == *name)) {
        let known: Vec<_> = all.iter().map(|entry| entry.name).collect();
        bail!("no model `{unknown}` in {}; known: {}", config.catalog_origin, known.join(", "));
    }
    let wanted = |entry: &Entry<'_>| names.is_empty() || names.iter().any(|name| name == entry.name);
    Ok(all.into_iter().filter(wanted).collect())
}

/// Parsing was the check; this says what came of it.
fn check(config: &Config, assets: &Assets) -> Result<ExitCode> {
    println!(
        "{}: {} embedders, {} answer models",
        config.catalog_origin,
        config.catalog.embedders.len(),
        config.catalog.llms.len()
    );
    for (model_type, route) in &config.catalog.routes.embed {
        let mut states = Vec::new();
        for entry in
            route.candidates.iter().chain(&route.replicas).filter_map(|name| config.catalog.embedder(name))
        {
            let state = match &entry.remote {
                Some(remote) => format!("at {}", remote.base_url),
                None if assets.locate(&entry.name, &entry.files, &entry.sources)?.is_some() => {
                    "present".into()
                }
                None => "to be fetched".into(),
            };
            states.push(format!("{} ({state}, {} dimensions)", entry.name, entry.dimension));
        }
        println!("/embed/{model_type:20} {}", states.join(", else "));
    }
    println!("answers {:21} {}", "", config.catalog.routes.answer.backends.join(", else "));
    let rerankers = &config.catalog.routes.rerank.candidates;
    if !rerankers.is_empty() {
        println!("/rerank {:21} {}", "", rerankers.join(", else "));
    }
    Ok(ExitCode::SUCCESS)
}

fn report(packed: &Packed, verb: &str, archive: &Path) {
    for name in &packed.done {
        println!("{verb} {name}");
    }
    for name in &packed.absent {
        println!("left out {name}: not there");
    }
    println!("{}", archive.display());
}

fn entries(catalog: &Catalog) -> Vec<Entry<'_>> {
    let embedders = catalog.embedders.iter().filter(|entry| entry.remote.is_none()).map(|entry| Entry {
        name: &entry.name,
        kind: entry.kind.name(),
        licence: &entry.licence,
        files: entry.into(),
    });
    let llms = catalog.llms.iter().filter_map(|entry| match entry {
        LlmEntry::Candle(entry) => {
            Some(Entry { name: &entry.name, kind: "llm", licence: &entry.licence, files: entry.into() })
        }
        LlmEntry::Openai(_) => None,
    });
    let rerankers = catalog.rerankers.iter().filter(|entry| entry.remote.is_none()).map(|entry| Entry {
        name: &entry.name,
        kind: "rerank",
        licence: &entry.licence,
        files: entry.into(),
    });
    embedders.chain(llms).chain(rerankers).collect()
}

/// A model that runs elsewhere.
struct RemoteModel<'a> {
    name: &'a str,
    kind: &'static str,
    key: Option<&'a str>,
    url: &'a url::Url,
    model: &'a str,
}

fn servers(catalog: &Catalog) -> Vec<RemoteModel<'_>> {
    let embedders = catalog.embedders.iter().filter_map(|entry| {
        let remote = entry.remote.as_ref()?;
        Some(RemoteModel {
            name: &entry.name,
            kind: entry.kind.name(),
            key: remote.api_key_env.as_deref(),
            url: &remote.base_url,
            model: &remote.model,
        })
    });
    let llms = catalog.llms.iter().filter_map(|entry| match entry {
        LlmEntry::Openai(entry) => Some(RemoteModel {
            name: &entry.name,
            kind: "openai",
            key: entry.api_key_env.as_deref(),
            url: &entry.base_url,
            model: &entry.model,
        }),
        LlmEntry::Candle(_) => None,
    });
    let rerankers = catalog.rerankers.iter().filter_map(|entry| {
        let remote = entry.remote.as_ref()?;
        Some(RemoteModel {
            name: &entry.name,
            kind: "rerank",
            key: remote.api_key_env.as_deref(),
            url: &remote.base_url,
            model: &remote.model,
        })
    });
    embedders.chain(llms).chain(rerankers).collect()
}

fn describe(source: &Source) -> String {
    match source {
        Source::Path { path } => path.display().to_string(),
        Source::Hf { repository, .. } => format!("hub {repository}"),
        Source::Pypi { package, version, .. } => format!("PyPI {package}=={version}"),
    }
}
