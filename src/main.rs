//! The command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    ragway::app::size_thread_pools();
    cli::run()
}
