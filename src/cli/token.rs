//! `ragway token`

use std::process::ExitCode;

use anyhow::{Context, Result};
use ragway::{
    access::{NewToken, Permission, mint},
    config::Config,
};
use secrecy::ExposeSecret;

use super::span::Span;

#[derive(clap::Args)]
pub struct Arguments {
    /// What it may do: embedding, search, ask, ingest, admin.
    #[arg(long, required = true, value_delimiter = ',')]
    permissions: Vec<Permission>,
    /// Whose documents it reaches: name or id [default: the default tenant]
    #[arg(long)]
    tenant: Option<String>,
    /// Who has it.
    #[arg(long, default_value = "test")]
    subject: String,
    /// When it ends, from now: 90d, 12h, 30m.
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    expires_in: Span,
}

pub fn run(config: &Config, arguments: &Arguments) -> Result<ExitCode> {
    let tokens = config.auth.as_ref().and_then(|auth| auth.tokens.as_ref());
    let settings = tokens.context("a token is signed with JWT_SECRET, which is not set")?;
    let token = NewToken {
        subject: &arguments.subject,
        tenant: arguments.tenant.as_deref(),
        permissions: arguments.permissions.iter().copied().collect(),
        lifetime: arguments.expires_in.0,
    };
    println!("{}", mint(settings, &token)?.expose_secret());
    Ok(ExitCode::SUCCESS)
}
