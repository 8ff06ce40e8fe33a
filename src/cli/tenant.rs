//! `ragway tenant`

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use ragway::{
    config::Config,
    models::cache,
    store::{IndexAdmin, IndexError, Store, StoreError, Tenant, TenantAdmin, TenantIsolation},
};
use secrecy::SecretString;
use uuid::Uuid;

const MAX_NAME_BYTES: usize = 128;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make one; prints its id.
    Create { name: String },
    /// Show all, with their ids.
    List,
    /// Let the database keep tenants apart, after an update: when no replica of the version before runs any more.
    Enforce,
    /// Write what a tenant has into a new folder, as lines of JSON.
    Export {
        /// Name or id.
        tenant: String,
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Remove a tenant with everything of its own.
    Erase {
        /// Name or id.
        tenant: String,
        /// It cannot be undone.
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(config: &Config, command: Command) -> Result<ExitCode> {
    super::with_database(config, async |store, admin_url| {
        let mut admin = TenantAdmin::connect(admin_url).await?;
        match command {
            Command::Create { name } => create(store, &admin, &name).await?,
            Command::List => list(&admin).await?,
            Command::Enforce => enforce(store, &admin).await?,
            Command::Export { tenant, to } => export(store, &find(&admin, &tenant).await?, &to).await?,
            Command::Erase { tenant, yes } => {
                let tenant = find(&admin, &tenant).await?;
                if !yes {
                    bail!(
                        "`{}` with {} documents would be gone for good: repeat it with --yes",
                        tenant.name,
                        tenant.documents
                    );
                }
                erase(config, &mut admin, admin_url, &tenant).await?;
            }
        }
        admin.close().await;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn create(store: &Store, admin: &TenantAdmin, name: &str) -> Result<()> {
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        bail!("the name must be letters, digits, `.`, `_` and `-`, at most {MAX_NAME_BYTES} bytes");
    }
    if Uuid::parse_str(name).is_ok() {
        bail!("a name that looks like an id would be taken for one");
    }
    check_isolation(store).await?;
    println!("{}", admin.create(name).await?.0);
    Ok(())
}

/// A second tenant's rows need more than conditions that must not be forgotten.
async fn check_isolation(store: &Store) -> Result<()> {
    match lacking_isolation(store).await? {
        Some(why) => bail!(why),
        None => Ok(()),
    }
}

/// Why the database does not keep tenants apart, and what to do; nothing where it does.
pub async fn lacking_isolation(store: &Store) -> Result<Option<&'static str>, StoreError> {
    Ok(match store.tenant_isolation().await? {
        TenantIsolation::Enforced => None,
        TenantIsolation::NotYet => Some(
            "the database does not keep tenants apart yet, for replicas of an earlier version could not work then: \
             run `ragway tenant enforce` when none runs any more",
        ),
        TenantIsolation::RoleExempt => Some(
            "the database does not keep tenants apart for the role in DATABASE_URL, which owns the tables or is \
             exempt: give ragway a role of its own there, and the owner's in DATABASE_ADMIN_URL",
        ),
    })
}

async fn list(admin: &TenantAdmin) -> Result<()> {
    for Tenant { id, name, documents, created_at } in admin.tenants().await? {
        println!("{}  {name}  made {}, {documents} documents", id.0, created_at.date());
    }
    Ok(())
}

async fn enforce(store: &Store, admin: &TenantAdmin) -> Result<()> {
    match admin.enforce().await?.len() {
        0 => println!("nothing to do: the policies of all tables are on"),
        count => println!("the policies of {count} tables are on now"),
    }
    check_isolation(store).await
}

async fn find(admin: &TenantAdmin, wanted: &str) -> Result<Tenant> {
    let id = Uuid::parse_str(wanted).ok();
    let is_wanted = |tenant: &Tenant| id.map_or(tenant.name == wanted, |id| tenant.id.0 == id);
    let found = admin.tenants().await?.into_iter().find(is_wanted);
    found.with_context(|| format!("there is no tenant `{wanted}`; `ragway tenant list` shows all"))
}

async fn export(store: &Store, tenant: &Tenant, folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let mut files = Files { folder, open: BTreeMap::new() };
    store.export_tenant(tenant.id, |kind, line| files.write(kind, line)).await?;
    for (kind, lines) in files.finish()? {
        println!("{}: {lines}", folder.join(format!("{kind}.jsonl")).display());
    }
    Ok(())
}

/// A file for each kind of thing.
struct Files<'a> {
    folder: &'a Path,
    open: BTreeMap<&'static str, (BufWriter<File>, u64)>,
}

impl Files<'_> {
    fn write(&mut self, kind: &'static str, line: &str) -> io::Result<()> {
        if !self.open.contains_key(kind) {
            let file = File::create_new(self.folder.join(format!("{kind}.jsonl")))?;
            self.open.insert(kind, (BufWriter::new(file), 0));
        }
        if let Some((file, lines)) = self.open.get_mut(kind) {
            writeln!(file, "{line}")?;
            *lines += 1;
        }
        Ok(())
    }

    /// How many lines each has got, all of them on the disk.
    fn finish(self) -> io::Result<Vec<(&'static str, u64)>> {
        let finished = self.open.into_iter().map(|(kind, (file, lines))| {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            Ok((kind, lines))
        });
        finished.collect()
    }
}

async fn erase(
    config: &Config,
    admin: &mut TenantAdmin,
    admin_url: &SecretString,
    tenant: &Tenant,
) -> Result<()> {
    TenantAdmin::check_erasable(tenant.id)?;
    // Before the rows, so that it can be repeated where Redis is away; and after them, for a request
    // that was under way may have cached something.
    forget_vectors(config, tenant).await?;
    admin.erase(tenant.id).await?;
    forget_vectors(config, tenant).await?;
    match IndexAdmin::connect(admin_url).await {
        Ok(indexes) => {
            indexes.drop_leftovers().await?;
            indexes.close().await;
        }
        Err(IndexError::Busy) => {
            println!("an index is being built; those of the tenant's collections go with the next build")
        }
        Err(error) => return Err(error.into()),
    }
    println!(
        "`{}` is erased. Gateways that run forget its cached answers and vectors after the times in models.toml \
         (`ttl_s`), and nobody can ask for them; backups still have what they had",
        tenant.name
    );
    Ok(())
}

async fn forget_vectors(config: &Config, tenant: &Tenant) -> Result<()> {
    if let Some(url) = &config.redis_url {
        cache::forget(url, tenant.id.0).await.context("its cached vectors cannot be removed from Redis")?;
    }
    Ok(())
}
