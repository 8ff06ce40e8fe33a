//! `ragway rekey`

use std::process::ExitCode;

use anyhow::Result;
use ragway::{
    config::{Config, ENCRYPTION_KEYS, KeyId},
    store::{Rekeyed, RetiredKeys, Store},
};

use super::{bar, with_database_as_owner};

#[derive(clap::Args)]
pub struct Arguments {
    /// End the use of the keys before, so that they can be taken away. Not before every gateway was started with
    /// the new keys: one that still writes with an old key fails.
    #[arg(long)]
    retire: bool,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    with_database_as_owner(config, async |store| {
        let store = store.clone().with_keys(&config.encryption).await?;
        let rekeyed = rekey(&store).await?;
        report(&rekeyed);
        if rekeyed.left > 0 {
            return Ok(ExitCode::FAILURE);
        }
        if arguments.retire {
            return Ok(report_retired(&store.retire_keys().await?));
        }
        let others = store.other_keys().await?;
        if !others.is_empty() {
            println!(
                "no text is sealed with {} now: `ragway rekey --retire` ends their use, when every gateway was \
                 started with the new keys",
                listed(&others)
            );
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn rekey(store: &Store) -> Result<Rekeyed> {
    let all: i64 = store.rows_to_rekey().await?.iter().map(|(_, rows)| rows).sum();
    let bar = bar(usize::try_from(all).unwrap_or(0));
    let rekeyed = store.rekey(|table, rows| {
        bar.set_message(table.to_string());
        bar.inc(rows);
    });
    let rekeyed = rekeyed.await?;
    bar.finish_and_clear();
    Ok(rekeyed)
}

fn report(Rekeyed { rows, key, left }: &Rekeyed) {
    let rows: Vec<String> = rows.iter().map(|(table, count)| format!("{count} {table}")).collect();
    println!("written anew: {}", rows.join(", "));
    match (left, key) {
        (0, Some(key)) => println!("every text is sealed with the key {key}"),
        (0, None) => println!("no text is sealed"),
        (left, _) => {
            println!(
                "{left} rows were held by others, or written with another key, all the time: run it again"
            );
        }
    }
}

fn report_retired(RetiredKeys { retired, in_use }: &RetiredKeys) -> ExitCode {
    if !retired.is_empty() {
        println!("no longer needed in {ENCRYPTION_KEYS}: {}", listed(retired));
    }
    if in_use.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "something still writes with {}: start every gateway with the new keys, then run it again",
        listed(in_use)
    );
    ExitCode::FAILURE
}

fn listed(keys: &[KeyId]) -> String {
    keys.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}
