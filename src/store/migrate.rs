//! Numbered SQL files, applied once, by one process at a time.

use std::time::Duration;

use secrecy::SecretString;
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::{StoreError, describe, parse_url};

mod embedded_files {
    refinery::embed_migrations!("migrations");
}

/// Identifies the migration lock among advisory locks of the database: "ragway" in ASCII.
const LOCK: i64 = 0x7261_6777_6179;

/// A migration that waits for a table makes everybody wait who comes after it, and can wait for
/// somebody who waits for it. So it gives up soon, leaves the table to others, and tries again.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '500ms'";
const LOCK_ATTEMPTS: usize = 120;
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// The first pgvector whose index scan goes on until enough rows pass the filter.
pub(super) const ITERATIVE_SCAN: (u32, u32, u32) = (0, 8, 0);

/// What the server is, and what is lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// Migrations applied now.
    pub applied: Vec<String>,
    /// Such as `18.1`.
    pub server_version: String,
    /// Such as `0.8.5`.
    pub pgvector_version: String,
    /// What does not work, or not well, with these versions.
    pub warnings: Vec<String>,
}

/// Brings the schema up to date with the owner's role and reports on the server.
///
/// Several processes may call this at once: a session-level advisory lock lets
/// one work and the others find nothing left to do. That lock needs a direct
/// connection, never one through a transaction-mode PgBouncer.
///
/// `application_role` is granted what the application needs where it is another role.
///
/// A role that may not change the schema changes nothing and takes no lock: for it the schema
/// must be there already.
pub async fn migrate(
    admin_url: &SecretString,
    application_role: Option<&str>,
) -> Result<ServerReport, StoreError> {
    let (mut client, connection) = parse_url(admin_url)?
        .connect(NoTls)
        .await
        .map_err(|error| StoreError::Unavailable(describe(&error)))?;
    let driver = tokio::spawn(connection);
    let applied = if may_migrate(&client).await? {
        apply(&mut client, application_role).await?
    } else {
        check_applied(&client).await?;
        Vec::new()
    };
    let report = report(&client, applied).await;
    drop(client); // Closes the session and so releases the lock.
    let _ = driver.await;
    report
}

async fn may_migrate(client: &Client) -> Result<bool, StoreError> {
    let row = client.query_typed_one("SELECT has_schema_privilege('public', 'CREATE') AS may", &[]).await?;
    Ok(row.get("may"))
}

async fn apply(client: &mut Client, application_role: Option<&str>) -> Result<Vec<String>, StoreError> {
    client.query_typed("SELECT pg_advisory_lock($1)", &[(&LOCK, tokio_postgres::types::Type::INT8)]).await?;
    client.batch_execute(LOCK_TIMEOUT).await?;
    let applied =
        run_migrations(client).await.map_err(|error| StoreError::Migration(full_message(&error)))?;
    if let Some(role) = application_role {
        grant(client, role).await?;
    }
    Ok(applied)
}

async fn run_migrations(client: &mut Client) -> Result<Vec<String>, refinery::Error> {
    let runner = embedded_files::migrations::runner();
    let mut applied = Vec::new();
    for attempt in 1.. {
        let (report, failure) = match runner.run_async(client).await {
            Ok(report) => (Some(report), None),
            Err(error) => (error.report().cloned(), Some(error)),
        };
        let reported = report.iter().flat_map(refinery::Report::applied_migrations);
        applied.extend(reported.map(ToString::to_string));
        match failure {
            Some(error) if attempt == LOCK_ATTEMPTS || !is_locked_out(&error) => return Err(error),
            Some(_) => tokio::time::sleep(LOCK_PAUSE).await,
            None => break,
        }
    }
    Ok(applied)
}

fn is_locked_out(error: &refinery::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<tokio_postgres::Error>() {
            return cause.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        }
        source = cause.source();
    }
    false
}

/// A newer schema will do: migrations only add what the program before does not know.
async fn check_applied(client: &Client) -> Result<(), StoreError> {
    let runner = embedded_files::migrations::runner();
    let newest = runner.get_migrations().iter().map(refinery::Migration::version).max();
    let applied =
        client.query_typed_one("SELECT max(version) AS version FROM refinery_schema_history", &[]).await;
    let applied = match applied {
        Ok(row) => row.get::<_, Option<i32>>("version"),
        Err(error)
            if [Some(&SqlState::UNDEFINED_TABLE), Some(&SqlState::INSUFFICIENT_PRIVILEGE)]
                .contains(&error.code()) =>
        {
            None
        }
        Err(error) => return Err(error.into()),
    };
    if applied >= newest {
        return Ok(());
    }
    Err(StoreError::Migration(
        "the schema is older than this program, and its role may not change it; run `ragway migrate` \
         with the owner's role in DATABASE_ADMIN_URL"
            .into(),
    ))
}

async fn grant(client: &Client, role: &str) -> Result<(), StoreError> {
    let text = tokio_postgres::types::Type::TEXT;
    let grants = client
        .query_typed_one(
            "SELECT format('GRANT USAGE ON SCHEMA public TO %1$I;
                            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %1$I;
                            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO %1$I;
                            REVOKE INSERT, UPDATE, DELETE ON api_keys FROM %1$I;
                            REVOKE UPDATE, DELETE ON encryption_keys FROM %1$I;
                            REVOKE UPDATE, DELETE ON audit_log FROM %1$I;
                            GRANT UPDATE (outcome) ON audit_log TO %1$I', $1) AS statements
             WHERE $1 <> current_user",
            &[(&role, text)],
        )
        .await;
    match grants {
        Ok(row) => Ok(client.batch_execute(row.get("statements")).await?),
        // No row: the owner is the application, and nothing needs granting.
        Err(error) if error.code().is_none() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn report(client: &Client, applied: Vec<String>) -> Result<ServerReport, StoreError> {
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version') AS server, current_setting('server_version_num')::int AS number,
                    (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
                    (SELECT extversion FROM pg_extension WHERE extname = 'citus'
                         AND to_regclass('passage_shards') IS NULL) AS unused_citus",
            &[],
        )
        .await?;
    let server_version: String = row.get("server");
    let pgvector_version: String = row.get::<_, Option<String>>("pgvector").ok_or(StoreError::NoPgvector)?;
    let mut warnings = warnings(row.get("number"), &pgvector_version);
    if let Some(version) = row.get::<_, Option<String>>("unused_citus") {
        warnings.push(format!(
            "Citus {version} is installed, but ragway's tables are not spread by it: `Citus` in deploy/SCALING.md says how it can hold the vectors"
        ));
    }
    Ok(ServerReport { applied, warnings, server_version, pgvector_version })
}

fn warnings(server: i32, pgvector: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if server < 180_000 {
        warnings.push(format!(
            "PostgreSQL {} is older than 18, the version ragway is tested with",
            server / 10_000
        ));
    }
    let version = parse_version(pgvector);
    if version < ITERATIVE_SCAN {
        warnings.push(format!(
            "pgvector {pgvector} has no iterative index scan (0.8 does): every search is exact, and slower on large collections"
        ));
    } else if ((0, 8, 2)..=(0, 8, 4)).contains(&version) {
        warnings.push(format!(
            "pgvector {pgvector} has faults in index build and vacuum that 0.8.5 mends: update it"
        ));
    }
    warnings
}

/// `0.8.5` as numbers; what is not a number counts as 0.
pub(super) fn parse_version(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

fn full_message(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::warnings;

    #[test]
    fn old_versions_are_reported_with_what_is_lost() {
        assert!(warnings(180_001, "0.8.5").is_empty());
        assert!(warnings(170_002, "0.8.5")[0].contains("older than 18"));
        assert!(warnings(180_001, "0.7.4")[0].contains("every search is exact"));
        assert!(warnings(180_001, "0.8.3")[0].contains("update it"));
    }
}
