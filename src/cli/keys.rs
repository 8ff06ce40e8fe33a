//! `ragway keys`

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use ragway::{
    access::{Actor, KeyRequest, Permission, create_key, revoke_key},
    config::Config,
    store::{ApiKey, Store, TenantId},
};
use secrecy::ExposeSecret;
use time::OffsetDateTime;
use uuid::Uuid;

use super::span::Span;

/// The tenant of an installation without others.
const DEFAULT_TENANT: &str = "default";

/// Longest name of a key, in characters.
const MAX_NAME: usize = 100;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a key and print it, the one time that it is seen.
    Create {
        /// What it is for.
        name: String,
        /// What it may do: embedding, search, ask, ingest, admin.
        #[arg(long, required = true, value_delimiter = ',')]
        permissions: Vec<Permission>,
        /// Whose documents it reaches: name or id.
        #[arg(long, default_value = DEFAULT_TENANT)]
        tenant: String,
        /// When it ends, from now: 90d, 12h, 30m [default: never]
        #[arg(long, value_name = "SPAN")]
        expires_in: Option<Span>,
    },
    /// List the keys; what they are is not kept.
    List {
        /// Only this tenant's: name or id.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a key: no replica takes it any more some seconds later.
    Revoke {
        /// As it is listed.
        id: Uuid,
    },
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_database_as_owner(config, async |store| match command {
        Command::Create { name, permissions, tenant, expires_in } => {
            check(&name)?;
            let request = KeyRequest {
                tenant: find(store, &tenant).await?,
                name: &name,
                permissions: permissions.into_iter().collect(),
                expires_at: expires_in.map(|span| span.from(OffsetDateTime::now_utc())).transpose()?,
            };
            create(store, &request, config).await
        }
        Command::List { tenant } => {
            let tenant = match tenant {
                Some(tenant) => Some(find(store, &tenant).await?),
                None => None,
            };
            let keys = store.keys(tenant).await?;
            if keys.is_empty() {
                println!("there are no keys");
            }
            keys.iter().for_each(print);
            Ok(ExitCode::SUCCESS)
        }
        Command::Revoke { id } => {
            if !revoke_key(store, id, &user()).await? {
                bail!("there is no key {id}, or it was revoked before");
            }
            println!("revoked; running servers refuse it within some seconds");
            Ok(ExitCode::SUCCESS)
        }
    })
    .await
}

async fn create(store: &Store, request: &KeyRequest<'_>, config: &Config) -> Result<ExitCode> {
    let (id, key) = create_key(store, request, &user()).await?;
    println!("{}", key.expose_secret());
    eprintln!("key {id} may: {}. It is not shown again.", request.permissions);
    if config.auth.is_none() {
        eprintln!("nobody is asked for it yet: start the server with RAGWAY_AUTH=required");
    }
    Ok(ExitCode::SUCCESS)
}

fn check(name: &str) -> Result<()> {
    ensure!(
        !name.trim().is_empty() && name.chars().count() <= MAX_NAME,
        "a name has 1 to {MAX_NAME} characters"
    );
    ensure!(!name.chars().any(char::is_control), "a name is one line");
    Ok(())
}

async fn find(store: &Store, tenant: &str) -> Result<TenantId> {
    match store.find_tenant(tenant).await? {
        Some(found) => Ok(found),
        None => bail!("there is no tenant `{tenant}`"),
    }
}

/// Who is at the command line.
pub fn user() -> Actor {
    let name = ["USER", "LOGNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    Actor::CommandLine(name.unwrap_or_else(|| "an unnamed user".into()))
}

fn print(key: &ApiKey) {
    let now = OffsetDateTime::now_utc();
    let state = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", super::span::shown(at)),
        (None, Some(at)) if at <= now => format!("expired {}", super::span::shown(at)),
        (None, Some(at)) => format!("until {}", super::span::shown(at)),
        (None, None) => "never expires".to_owned(),
    };
    let permissions = key.permissions.join(",");
    println!(
        "{}  {}  {permissions}  {}  {state}  {}",
        key.id,
        key.tenant_name,
        super::span::shown(key.created_at),
        key.name
    );
}
