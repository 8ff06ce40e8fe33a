//! `ragway extract-worker`

use std::{process::ExitCode, time::Duration};

use ragway::rag::extract;

#[derive(clap::Args)]
pub struct Arguments {
    /// Address space that it may use, in MiB.
    #[arg(long)]
    memory_mb: u64,
    /// Longest time for one file.
    #[arg(long)]
    timeout_ms: u64,
}

/// Without a runtime and its threads, which would take of the memory.
pub fn run(arguments: &Arguments) -> ExitCode {
    match extract::serve(arguments.memory_mb << 20, Duration::from_millis(arguments.timeout_ms)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::failed(&error.into()),
    }
}
