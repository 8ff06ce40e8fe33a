//! `ragway shards`

use std::process::ExitCode;

use anyhow::{Result, bail};
use ragway::{
    config::Config,
    store::{BuildResources, Shard, ShardAdmin},
};
use secrecy::SecretString;

use super::index::{Resources, megabytes};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Spread the vectors and their indexes over other PostgreSQL servers with pgvector.
    Create {
        /// postgresql://user:password@host:port/database of each, as the primary reaches it and as the
        /// owner of the database [default: SHARD_URLS, with spaces between them]
        urls: Vec<String>,
        #[command(flatten)]
        resources: Resources,
    },
    /// Build the indexes of spaces that came since, and renew the statistics that searches are planned by.
    Index {
        #[command(flatten)]
        resources: Resources,
    },
    /// Say what each shard holds.
    Status,
    /// Remove the shards; the documents and their vectors stay.
    Drop,
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_database(config, async |_, admin_url| {
        let mut admin = ShardAdmin::connect(admin_url).await?;
        match command {
            Command::Create { urls, resources } => {
                let shards = parse(urls)?;
                admin.create(&shards, BuildResources::from(resources)).await?;
                print_states(&admin).await?;
            }
            Command::Index { resources } => {
                admin.build_indexes(BuildResources::from(resources)).await?;
                print_states(&admin).await?;
            }
            Command::Status => print_states(&admin).await?,
            Command::Drop => {
                let left = admin.remove().await?;
                for problem in &left {
                    eprintln!("note: what is left there has to be dropped by hand: {problem}");
                }
                println!("searches are on the primary again; `ragway index status` shows its indexes");
            }
        }
        admin.close().await;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn parse(urls: Vec<String>) -> Result<Vec<Shard>> {
    let urls = match urls.is_empty() {
        false => urls,
        // A password on a command line is seen by everybody on the machine.
        true => {
            std::env::var("SHARD_URLS").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        }
    };
    if urls.is_empty() {
        bail!("give the URL of each server, or set SHARD_URLS");
    }
    Ok(urls.into_iter().map(|url| Shard::parse(&SecretString::from(url))).collect::<Result<_, _>>()?)
}

async fn print_states(admin: &ShardAdmin) -> Result<()> {
    let states = admin.states().await?;
    if states.is_empty() {
        println!("there are no shards: the primary holds all vectors");
    }
    for state in states {
        let indexes = state.indexes.iter().map(|(name, bytes, whole)| {
            let broken = if *whole { "" } else { ", not whole: `ragway shards index`" };
            format!("{name} ({}{broken})", megabytes(bytes.unsigned_abs()))
        });
        let indexes = indexes.collect::<Vec<_>>().join(", ");
        println!("{} at {}: {} passages; {indexes}", state.name, state.address, state.passages);
    }
    Ok(())
}
