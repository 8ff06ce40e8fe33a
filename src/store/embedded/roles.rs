//! Roles and the database of the embedded server.
//!
//! The owner is the superuser that `initdb` made, because `CREATE EXTENSION
//! vector` wants one. The application's role is an ordinary one: row-level
//! security holds for it, and it cannot change the schema.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, Config, Error, NoTls, error::SqlState};

use super::EmbeddedError;

pub(super) const DATABASE: &str = "ragway";

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    Admin,
    Application,
}

impl Login {
    pub(super) fn role(self) -> &'static str {
        match self {
            Login::Admin => "ragway_admin",
            Login::Application => "ragway",
        }
    }
}

/// What a connection needs.
#[derive(Clone)]
pub(super) struct Access {
    config: Config,
    password: SecretString,
}

impl Access {
    pub(super) fn new(login: Login, password: SecretString, port: u16) -> Self {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .user(login.role())
            .password(password.expose_secret())
            .dbname(DATABASE);
        config.connect_timeout(Duration::from_secs(2)).application_name("ragway");
        Self { config, password }
    }

    /// The same for the database that every server has.
    pub(super) fn to_server(&self) -> Self {
        let mut access = self.clone();
        access.config.dbname("postgres");
        access
    }
}

/// Connects, giving up after a few seconds.
pub(super) async fn connect(access: &Access) -> Result<Client, Failure> {
    let connecting = access.config.connect(NoTls);
    match tokio::time::timeout(Duration::from_secs(5), connecting).await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(connection);
            Ok(client)
        }
        Ok(Err(error)) => Err(Failure::Refused(error)),
        Err(_) => Err(Failure::Silent),
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{}", explain(.0))]
    Refused(Error),
    #[error("no answer")]
    Silent,
}

impl Failure {
    /// Whether a server is there that does not accept connections yet, or no longer.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Failure::Refused(error) => error.code() == Some(&SqlState::CANNOT_CONNECT_NOW),
            Failure::Silent => false,
        }
    }

    /// Whether a server answered and does not want us: trying again will not help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Failure::Refused(error) => error.as_db_error().is_some() && !self.is_passing(),
            Failure::Silent => false,
        }
    }
}

/// Creates what is missing; safe to repeat, so an interrupted first start is mended by the next.
pub(super) async fn set_up(admin: &Access, application: &Access) -> Result<(), EmbeddedError> {
    let failed = |error: Error| EmbeddedError::Roles { reason: explain(&error) };
    let unreachable = |failure: Failure| EmbeddedError::Roles { reason: failure.to_string() };
    let server = connect(&admin.to_server()).await.map_err(unreachable)?;
    create_role(&server, application.password.expose_secret()).await.map_err(failed)?;
    create_database(&server).await.map_err(failed)?;
    let database = connect(admin).await.map_err(unreachable)?;
    database.batch_execute(GRANTS).await.map_err(failed)
}

async fn create_role(client: &Client, password: &str) -> Result<(), Error> {
    client
        .batch_execute(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ragway') THEN CREATE ROLE ragway; END IF;
             END $$",
        )
        .await?;
    // ALTER ROLE takes no parameters: the server quotes the password.
    let statement = "SELECT format('ALTER ROLE ragway LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE \
                                    NOREPLICATION NOBYPASSRLS PASSWORD %L', $1::text)";
    let statement: String = client.query_one(statement, &[&password]).await?.try_get(0)?;
    client.batch_execute(&statement).await
}

async fn create_database(client: &Client) -> Result<(), Error> {
    let found = client.query_opt("SELECT FROM pg_database WHERE datname = 'ragway'", &[]).await?;
    match found {
        Some(_) => Ok(()),
        None => client.batch_execute("CREATE DATABASE ragway OWNER ragway_admin").await,
    }
}

const GRANTS: &str = "
    SET client_min_messages = warning;
    CREATE EXTENSION IF NOT EXISTS vector;
    ALTER EXTENSION vector UPDATE;
    REVOKE ALL ON DATABASE ragway FROM PUBLIC;
    GRANT CONNECT, TEMPORARY ON DATABASE ragway TO ragway;
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public TO ragway;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ragway;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO ragway;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO ragway;
";

fn explain(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}
