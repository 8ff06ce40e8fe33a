//! `ragway audit`

use std::process::ExitCode;

use anyhow::Result;
use ragway::{config::Config, store::AuditEntry};

#[derive(clap::Args)]
pub struct Arguments {
    /// Newest entries to show.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    super::with_database_as_owner(config, async |store| {
        let entries = store.audit_log(arguments.limit).await?;
        if entries.is_empty() {
            println!("nothing was administered yet");
        }
        // The newest last, where a terminal is.
        entries.iter().rev().for_each(print);
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn print(entry: &AuditEntry) {
    let AuditEntry { id: _, at, tenant, actor, action, target, request_id, outcome } = entry;
    let (outcome, request) =
        (outcome.as_deref().unwrap_or("ended untold"), request_id.as_deref().unwrap_or("-"));
    println!(
        "{}  {actor}  {action}  {target}  {outcome}  tenant {}  request {request}",
        super::span::shown(*at),
        tenant.0
    );
}
