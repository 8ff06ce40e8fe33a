//! `ragway models`

use std::process::ExitCode;

use anyhow::{Result, bail};
use ragway::{
    assets::Assets,
    config::{Catalog, Config, LlmEntry, PinnedFile, Source},
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Say which are there and where the others come from.
    List,
    /// Fetch the named ones, or all that the routes use.
    Fetch { names: Vec<String> },
}

/// What the catalog says about the files of one model.
struct Entry<'a> {
    name: &'a str,
    kind: &'static str,
    licence: &'a str,
    files: &'a [PinnedFile],
    sources: &'a [Source],
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    let assets = Assets::new(&config.home, true)?;
    match command {
        Command::List => list(config, &assets),
        Command::Fetch { names } => fetch(config, &assets, &names).await,
    }
}

fn list(config: &Config, assets: &Assets) -> Result<ExitCode> {
    println!("{:28} {:9} {:12} {:8} where", "name", "kind", "licence", "state");
    for entry in entries(&config.catalog) {
        let found = assets.locate(entry.name, entry.files, entry.sources)?;
        let state = if found.is_some() { "present" } else { "missing" };
        let place = match found {
            Some(folder) => folder.display().to_string(),
            None => entry.sources.iter().map(describe).collect::<Vec<_>>().join(", then "),
        };
        println!("{:28} {:9} {:12} {:8} {place}", entry.name, entry.kind, entry.licence, state);
    }
    for llm in &config.catalog.llms {
        if let LlmEntry::Openai(entry) = llm {
            let ready = entry.api_key_env.as_ref().is_none_or(|name| std::env::var(name).is_ok());
            let state = if ready { "set up" } else { "no key" };
            println!(
                "{:28} {:9} {:12} {:8} {} ({})",
                entry.name, "openai", "-", state, entry.base_url, entry.model
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn fetch(config: &Config, assets: &Assets, names: &[String]) -> Result<ExitCode> {
    let all = entries(&config.catalog);
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|entry| entry.name == *name)) {
        let known: Vec<_> = all.iter().map(|entry| entry.name).collect();
        bail!("no model `{unknown}` in {}; known: {}", config.catalog_origin, known.join(", "));
    }
    let mut failed = false;
    for entry in all.iter().filter(|entry| names.is_empty() || names.iter().any(|name| name == entry.name)) {
        match assets.obtain(entry.name, entry.files, entry.sources).await {
            Ok(folder) => println!("{}: {}", entry.name, folder.display()),
            Err(error) => {
                failed = true;
                eprintln!("{error}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn entries(catalog: &Catalog) -> Vec<Entry<'_>> {
    let embedders = catalog.embedders.iter().map(|entry| Entry {
        name: &entry.name,
        kind: "embedder",
        licence: &entry.licence,
        files: &entry.files,
        sources: &entry.sources,
    });
    let llms = catalog.llms.iter().filter_map(|entry| match entry {
        LlmEntry::Candle(entry) => Some(Entry {
            name: &entry.name,
            kind: "llm",
            licence: &entry.licence,
            files: &entry.files,
            sources: &entry.sources,
        }),
        LlmEntry::Openai(_) => None,
    });
    embedders.chain(llms).collect()
}

fn describe(source: &Source) -> String {
    match source {
        Source::Path { path } => path.display().to_string(),
        Source::Hf { repository, .. } => format!("hub {repository}"),
        Source::Pypi { package, version, .. } => format!("PyPI {package}=={version}"),
    }
}
