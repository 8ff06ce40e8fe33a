//! Settings of one machine, from environment variables.

use std::{
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::Host;

use super::{
    AuthSettings, Catalog, ConfigError, EncryptionSettings, KeySetSource, PublicKey, TokenKey, TokenSettings,
    auth::auth, catalog::BUILT_IN, encryption::encryption,
};

/// Everything ragway is told from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST`, default 127.0.0.1.
    pub host: IpAddr,
    /// `PORT`, default 8080; 0 takes a free one.
    pub port: u16,
    /// `WORKERS`: threads that serve HTTP, default one a core.
    pub workers: usize,
    pub database: DatabaseSettings,
    /// `TLS_CERT` and `TLS_KEY`; absent: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// `REDIS_URL`: where replicas share what they embedded and counted; absent: each has its own.
    pub redis_url: Option<SecretString>,
    /// Absent: nobody has to say who they are.
    pub auth: Option<AuthSettings>,
    /// `RAGWAY_ENCRYPTION_KEYS`: what texts are sealed with in the database; by default they are not.
    pub encryption: EncryptionSettings,
    /// `TRUSTED_PROXIES`: networks whose `X-Forwarded-For` is believed; default none.
    pub trusted_proxies: Vec<IpNet>,
    pub home: Home,
    /// `RAGWAY_PROMPTS`: a folder that replaces the built-in prompts.
    pub prompts: Option<PathBuf>,
    /// Where the catalog was read from.
    pub catalog_origin: String,
    pub catalog: Catalog,
}

/// Which PostgreSQL is used.
#[derive(Debug, Clone)]
pub enum DatabaseSettings {
    /// One that ragway fetches, starts and stops itself.
    Embedded,
    /// A server that someone else runs.
    External {
        /// The application's role.
        url: SecretString,
        /// The owner's role, for migrations; the application's where it is not given.
        admin_url: SecretString,
        /// A streaming replica that answers searches.
        replica_url: Option<SecretString>,
    },
}

/// PEM files that HTTPS is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those that vouch for it.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Folders that ragway keeps things in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Downloads: can be deleted at any time.
    pub cache: PathBuf,
    /// The embedded database: the user's data.
    pub data: PathBuf,
}

impl Config {
    /// Reads the process environment and `models.toml`.
    ///
    /// `catalog_path` comes from the command line and wins over `RAGWAY_CONFIG`;
    /// without either, `models.toml` of the current folder is read where it
    /// exists, else the catalog that the binary carries.
    pub fn load(catalog_path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_variables(catalog_path, &|name| std::env::var(name).ok())
    }

    /// [`Config::load`] with the environment given as a function.
    pub fn from_variables(
        catalog_path: Option<&Path>,
        get: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let named = catalog_path.map(Path::to_owned).or_else(|| get("RAGWAY_CONFIG").map(PathBuf::from));
        let (catalog_origin, text) = read_catalog(named)?;
        Ok(Self {
            host: parsed(&get, "HOST")?.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            port: parsed(&get, "PORT")?.unwrap_or(8080),
            workers: match parsed(&get, "WORKERS")? {
                Some(0) => return Err(ConfigError::new("WORKERS", "must be at least 1")),
                Some(count) => count,
                None => std::thread::available_parallelism().map_or(2, usize::from),
            },
            database: database(&get)?,
            tls: tls(&get)?,
            redis_url: redis_url(&get)?,
            auth: auth(&get)?,
            encryption: encryption(&get)?,
            trusted_proxies: trusted_proxies(&get)?,
            home: home(&get)?,
            prompts: get("RAGWAY_PROMPTS").map(PathBuf::from),
            catalog: Catalog::parse(&text, &catalog_origin)?,
            catalog_origin,
        })
    }
}

impl fmt::Display for Config {
    /// The settings in force, secrets left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HOST            {}", self.host)?;
        writeln!(f, "PORT            {}", self.port)?;
        writeln!(f, "WORKERS         {}", self.workers)?;
        match &self.database {
            DatabaseSettings::Embedded => writeln!(f, "DATABASE_URL    (not set: the embedded PostgreSQL)")?,
            DatabaseSettings::External { url, admin_url, replica_url } => {
                writeln!(f, "DATABASE_URL    {}", redacted(url))?;
                writeln!(f, "DATABASE_ADMIN_URL {}", redacted(admin_url))?;
                if let Some(url) = replica_url {
                    writeln!(f, "DATABASE_REPLICA_URL {}", redacted(url))?;
                }
            }
        }
        match &self.tls {
            Some(files) => {
                writeln!(f, "TLS_CERT        {}", files.certificate.display())?;
                writeln!(f, "TLS_KEY         {}", files.key.display())?;
            }
            None => writeln!(f, "TLS_CERT        (not set: plain HTTP)")?,
        }
        match &self.redis_url {
            Some(url) => writeln!(f, "REDIS_URL       {}", redacted(url))?,
            None => writeln!(f, "REDIS_URL       (not set: embeddings and limits are each replica's own)")?,
        }
        match &self.auth {
            None => writeln!(f, "RAGWAY_AUTH     off: nobody has to say who they are")?,
            Some(AuthSettings { tokens }) => {
                writeln!(f, "RAGWAY_AUTH     required")?;
                tokens.as_ref().map_or(Ok(()), |tokens| show_tokens(tokens, f))?;
            }
        }
        show_encryption(&self.encryption, f)?;
        let proxies: Vec<String> = self.trusted_proxies.iter().map(ToString::to_string).collect();
        let proxies = if proxies.is_empty() { "(not set: none)".into() } else { proxies.join(", ") };
        writeln!(f, "TRUSTED_PROXIES {proxies}")?;
        writeln!(f, "cache           {}", self.home.cache.display())?;
        writeln!(f, "data            {}", self.home.data.display())?;
        let prompts = self.prompts.as_ref().map_or("built in".into(), |path| path.display().to_string());
        writeln!(f, "RAGWAY_PROMPTS  {prompts}")?;
        writeln!(f, "catalog         {}", self.catalog_origin)
    }
}

fn show_encryption(settings: &EncryptionSettings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let EncryptionSettings { keys, writing } = settings;
    let ids: Vec<String> = keys.iter().map(|(id, _)| id.to_string()).collect();
    match (writing, keys.as_slice()) {
        (_, []) => writeln!(f, "RAGWAY_ENCRYPTION_KEYS (not set: texts are stored as they are)"),
        (Some(id), _) => writeln!(f, "RAGWAY_ENCRYPTION_KEYS {id} seals, opened by {}", ids.join(", ")),
        (None, _) => writeln!(f, "RAGWAY_ENCRYPTION_KEYS none seals, opened by {}", ids.join(", ")),
    }
}

fn show_tokens(tokens: &TokenSettings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &tokens.key {
        TokenKey::Secret(_) => writeln!(f, "JWT_SECRET      (set)")?,
        TokenKey::PublicKey(PublicKey::Pem(_)) => writeln!(f, "JWT_PUBLIC_KEY  (set)")?,
        TokenKey::PublicKey(PublicKey::File(path)) => writeln!(f, "JWT_PUBLIC_KEY  {}", path.display())?,
        TokenKey::KeySet(KeySetSource::File(path)) => writeln!(f, "JWT_JWKS        {}", path.display())?,
        TokenKey::KeySet(KeySetSource::Url(url)) => {
            writeln!(f, "JWT_JWKS        {}", redacted(&url.to_string().into()))?;
        }
    }
    writeln!(f, "JWT_ISSUER      {}", tokens.issuer.as_deref().unwrap_or("(not set: any)"))?;
    writeln!(
        f,
        "JWT_AUDIENCE    {}",
        tokens.audience.as_deref().unwrap_or("(not set: tokens for no audience)")
    )
}

/// A URL without its password and options.
fn redacted(url: &SecretString) -> String {
    match url::Url::parse(url.expose_secret()) {
        Ok(mut url) => {
            if url.password().is_some() {
                // Fails only for URLs without a host, which then have no password either.
                let _ = url.set_password(Some("***"));
            }
            url.set_query(None);
            url.to_string()
        }
        Err(_) => several_hosts(url).unwrap_or_else(|| "(set, not a URL)".into()),
    }
}

/// A database URL of more than one server, which no other URL has.
fn several_hosts(url: &SecretString) -> Option<String> {
    let config: tokio_postgres::Config = url.expose_secret().parse().ok()?;
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    let (user, database) = (config.get_user()?, config.get_dbname().unwrap_or_default());
    Some(format!("postgresql://{user}:***@{}/{database}", hosts.collect::<Vec<_>>().join(",")))
}

fn read_catalog(named: Option<PathBuf>) -> Result<(String, String), ConfigError> {
    let path = match named {
        Some(path) => path,
        None if Path::new("models.toml").is_file() => PathBuf::from("models.toml"),
        None => return Ok(("models.toml (built in)".into(), BUILT_IN.into())),
    };
    let origin = path.display().to_string();
    let text = fs::read_to_string(&path)
        .map_err(|error| ConfigError::new(&origin, format!("cannot be read: {error}")))?;
    Ok((origin, text))
}

fn parsed<T: FromStr>(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>, ConfigError>
where
    T::Err: fmt::Display,
{
    get(name)
        .map(|value| {
            value.parse().map_err(|error| ConfigError::new(name, format!("`{value}` is not usable: {error}")))
        })
        .transpose()
}

fn database(get: &dyn Fn(&str) -> Option<String>) -> Result<DatabaseSettings, ConfigError> {
    let url = match get("DATABASE_URL") {
        Some(url) => url,
        None => match get("DB_HOST") {
            Some(host) => url_of_parts(get, &host)?,
            None if get("DATABASE_REPLICA_URL").is_some() => {
                return Err(ConfigError::new(
                    "DATABASE_REPLICA_URL",
                    "is a copy of DATABASE_URL, which is not set",
                ));
            }
            None => return Ok(DatabaseSettings::Embedded),
        },
    };
    check_database_url("DATABASE_URL", &url)?;
    let admin_url = get("DATABASE_ADMIN_URL").unwrap_or_else(|| url.clone());
    check_database_url("DATABASE_ADMIN_URL", &admin_url)?;
    let replica_url = get("DATABASE_REPLICA_URL");
    if let Some(url) = &replica_url {
        check_database_url("DATABASE_REPLICA_URL", url)?;
    }
    Ok(DatabaseSettings::External {
        url: url.into(),
        admin_url: admin_url.into(),
        replica_url: replica_url.map(SecretString::from),
    })
}

/// A URL from `DB_HOST`, `DB_PORT`, `DB_USER`, `DB_PASSWORD` and `DB_NAME`.
fn url_of_parts(get: &dyn Fn(&str) -> Option<String>, host: &str) -> Result<String, ConfigError> {
    let mut url = url::Url::parse("postgresql://host/")
        .map_err(|error| ConfigError::new("DB_HOST", error.to_string()))?;
    url.set_host(Some(host)).map_err(|error| ConfigError::new("DB_HOST", format!("`{host}`: {error}")))?;
    let refused = |name: &'static str| move |()| ConfigError::new(name, "cannot be part of a URL");
    url.set_port(Some(parsed(get, "DB_PORT")?.unwrap_or(5432))).map_err(refused("DB_PORT"))?;
    let user = get("DB_USER").unwrap_or_else(|| "postgres".into());
    url.set_username(&user).map_err(refused("DB_USER"))?;
    url.set_password(get("DB_PASSWORD").as_deref()).map_err(refused("DB_PASSWORD"))?;
    url.set_path(&get("DB_NAME").unwrap_or(user));
    Ok(url.into())
}

fn check_database_url(name: &str, url: &str) -> Result<(), ConfigError> {
    match tokio_postgres::Config::from_str(url) {
        Ok(config) if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require => {
            Err(ConfigError::new(name, "sslmode=require is not supported yet; use a local proxy for TLS"))
        }
        Ok(_) => Ok(()),
        // The parser's message may quote the value, which holds a password.
        Err(_) => Err(ConfigError::new(
            name,
            "is not a PostgreSQL URL such as postgresql://user:password@host:5432/name",
        )),
    }
}

fn tls(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<TlsFiles>, ConfigError> {
    match (get("TLS_CERT"), get("TLS_KEY")) {
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::new("TLS_KEY", "set it to the key's file: TLS_CERT is set")),
        (None, Some(_)) => {
            Err(ConfigError::new("TLS_CERT", "set it to the certificate's file: TLS_KEY is set"))
        }
    }
}

fn redis_url(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<SecretString>, ConfigError> {
    let Some(url) = get("REDIS_URL") else { return Ok(None) };
    if url.starts_with("rediss:") || url.starts_with("valkeys:") {
        return Err(ConfigError::new("REDIS_URL", "TLS is not supported yet; use a local proxy for it"));
    }
    // The parser's message may quote the value, which may hold a password.
    redis::Client::open(url.as_str()).map_err(|_| {
        ConfigError::new("REDIS_URL", "is not a Redis URL such as redis://user:password@host:6379/0")
    })?;
    Ok(Some(url.into()))
}

/// Addresses and networks, with commas between them.
fn trusted_proxies(get: &dyn Fn(&str) -> Option<String>) -> Result<Vec<IpNet>, ConfigError> {
    let given = get("TRUSTED_PROXIES").unwrap_or_default();
    let entries = given.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let network = |entry: &str| match entry.parse() {
        Ok(network) => Ok(network),
        Err(_) => entry.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
            let told = format!("`{entry}` is no address or network such as 10.0.0.2 or 10.0.0.0/8");
            ConfigError::new("TRUSTED_PROXIES", told)
        }),
    };
    entries.map(network).collect()
}

/// `RAGWAY_HOME` holds both folders; without it the user's own for each purpose.
fn home(get: &dyn Fn(&str) -> Option<String>) -> Result<Home, ConfigError> {
    if let Some(home) = get("RAGWAY_HOME") {
        let home = std::path::absolute(&home)
            .map_err(|error| ConfigError::new("RAGWAY_HOME", format!("`{home}`: {error}")))?;
        return Ok(Home { cache: home.join("cache"), data: home.join("data") });
    }
    let folder = |variable: &str, below: &str| {
        get(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| get("HOME").map(|home| Path::new(&home).join(below)))
            .map(|path| path.join("ragway"))
            .ok_or_else(|| ConfigError::new("RAGWAY_HOME", "set it: neither it nor HOME is set"))
    };
    Ok(Home { cache: folder("XDG_CACHE_HOME", ".cache")?, data: folder("XDG_DATA_HOME", ".local/share")? })
}
