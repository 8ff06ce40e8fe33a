//! `models.toml`: parsed once, checked as a whole, plain data afterwards.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    AnswerRoute, AnswerRule, ConfigError, EmbedderEntry, EmbedderKind, EmbeddingSpace, JobSettings, LlmEntry,
    PinnedFile, RerankRoute, RerankerEntry, Source,
};

/// The catalog that the binary carries, used where no `models.toml` is found.
pub const BUILT_IN: &str = include_str!("../../models.toml");

/// Everything `models.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    #[serde(default)]
    pub http: HttpSettings,
    #[serde(default)]
    pub limits: super::LimitSettings,
    #[serde(default)]
    pub database: PoolSettings,
    #[serde(default)]
    pub ingest: IngestSettings,
    #[serde(default)]
    pub jobs: JobSettings,
    #[serde(default)]
    pub shutdown: super::ShutdownSettings,
    #[serde(default)]
    pub search: super::SearchSettings,
    #[serde(default)]
    pub ask: AskSettings,
    #[serde(default)]
    pub cache: super::CacheSettings,
    #[serde(default)]
    pub usage: super::UsageSettings,
    #[serde(rename = "quota", default)]
    pub quotas: Vec<super::Quota>,
    #[serde(rename = "embedder", default)]
    pub embedders: Vec<EmbedderEntry>,
    #[serde(rename = "llm", default)]
    pub llms: Vec<LlmEntry>,
    #[serde(rename = "reranker", default)]
    pub rerankers: Vec<RerankerEntry>,
    pub routes: Routes,
    #[serde(default)]
    pub postgres: Vec<PostgresWheel>,
}

/// Limits of the HTTP surface.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    pub max_body_bytes: usize,
    pub max_texts: usize,
    pub request_timeout_ms: u64,
    /// How long a body may take to come; one that goes on coming gets a second more for each 16 KiB.
    pub body_timeout_ms: u64,
    /// Requests served at once, answers that are streamed included; more are refused with 503.
    pub max_in_flight: usize,
    pub image_urls: ImageUrlSettings,
    pub cors: CorsSettings,
    pub mcp: McpSettings,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_texts: 2048,
            request_timeout_ms: 30_000,
            body_timeout_ms: 30_000,
            max_in_flight: 1024,
            image_urls: ImageUrlSettings::default(),
            cors: CorsSettings::default(),
            mcp: McpSettings::default(),
        }
    }
}

/// Whether images may be given as the URLs of public servers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageUrlSettings {
    /// Off: whoever may send a request could make this server ask others.
    pub allowed: bool,
    pub max_bytes: usize,
    /// Longest wait for one image, redirects included.
    pub timeout_ms: u64,
}

impl Default for ImageUrlSettings {
    fn default() -> Self {
        Self { allowed: false, max_bytes: 10 << 20, timeout_ms: 5_000 }
    }
}

/// Which pages of other origins may call the API from a browser.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsSettings {
    /// Empty: none. `"*"`: any.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub credentials: bool,
}

impl Default for CorsSettings {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: ["GET", "POST", "DELETE"].map(str::to_owned).to_vec(),
            headers: [
                "authorization",
                "content-type",
                "if-match",
                "x-request-id",
                "mcp-protocol-version",
                "mcp-method",
                "mcp-name",
            ]
            .map(str::to_owned)
            .to_vec(),
            credentials: false,
        }
    }
}

/// The endpoint of the Model Context Protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpSettings {
    /// What clients may call this server, with or without a port; `"*"`: anything. A web page that has its
    /// own name point here (DNS rebinding) is refused by it.
    pub hosts: Vec<String>,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self { hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec() }
    }
}

/// Limits of the database pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSettings {
    /// 0: two for each core, between 20 and 50.
    pub max_connections: u32,
    pub min_connections: u32,
    pub connect_timeout_ms: u64,
    /// How long a server that starts waits for a database that is not there yet.
    pub start_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub idle_timeout_ms: u64,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 0,
            min_connections: 5,
            connect_timeout_ms: 10_000,
            start_timeout_ms: 300_000,
            statement_timeout_ms: 60_000,
            idle_timeout_ms: 300_000,
        }
    }
}

/// How documents are cut into passages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    pub passage_tokens: usize,
    pub overlap_tokens: usize,
    pub readers: ReaderSettings,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self { passage_tokens: 200, overlap_tokens: 20, readers: ReaderSettings::default() }
    }
}

/// The processes that read files of foreign formats.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReaderSettings {
    /// Files that are read at once; more wait.
    pub processes: usize,
    /// Longest time for one file.
    pub timeout_ms: u64,
    /// Address space of a process, in MiB.
    pub memory_mb: u64,
}

impl Default for ReaderSettings {
    fn default() -> Self {
        Self { processes: 2, timeout_ms: 60_000, memory_mb: 1024 }
    }
}

impl ReaderSettings {
    fn check(&self) -> Result<(), String> {
        if self.processes == 0 || self.timeout_ms < 1000 || self.memory_mb < 512 {
            return Err("ingest.readers: processes must be at least 1, timeout_ms 1000, memory_mb 512".into());
        }
        Ok(())
    }
}

/// How questions are answered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskSettings {
    pub passages: usize,
    pub deadline_ms: u64,
    pub max_answer_tokens: usize,
    pub cache: super::AnswerCacheSettings,
    /// Whether the texts of questions and answers are kept, for feedback; the numbers always are.
    pub record: bool,
    /// How long an answer is kept.
    pub record_days: u32,
    /// Whether a reranker chooses the passages of questions that do not say.
    pub rerank: bool,
}

impl Default for AskSettings {
    fn default() -> Self {
        let cache = super::AnswerCacheSettings::default();
        Self {
            passages: 5,
            deadline_ms: 30_000,
            max_answer_tokens: 160,
            record: true,
            record_days: 90,
            cache,
            rerank: false,
        }
    }
}

/// `[routes.…]`: which model serves what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub embed: BTreeMap<String, EmbedRoute>,
    #[serde(default)]
    pub answer: AnswerRoute,
    #[serde(default)]
    pub answer_by_name: BTreeMap<String, AnswerRoute>,
    #[serde(default)]
    pub answer_rules: Vec<AnswerRule>,
    #[serde(default)]
    pub rerank: RerankRoute,
}

/// `[routes.embed.<model type>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedRoute {
    /// The first whose weights can be had serves the route; the choice is made once and recorded.
    pub candidates: Vec<String>,
    /// Tried in order while the chosen one is out of order; all of one embedding space.
    #[serde(default)]
    pub replicas: Vec<String>,
}

/// A build of PostgreSQL with pgvector for one platform.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresWheel {
    /// `<os>-<architecture>` in Rust's names.
    pub platform: String,
    pub package: String,
    pub version: String,
    pub wheel_sha256: String,
    pub file: String,
    pub file_sha256: String,
}

/// Model types that the router reserves for its static routes.
const RESERVED_TYPES: [&str; 3] = ["batch", "cached", "async"];

/// The route that documents and questions take.
pub const TEXT_ROUTE: &str = "text-embedding";

impl Catalog {
    /// Parses and checks; `origin` is named in messages.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let catalog: Catalog = toml::from_str(text)
            .map_err(|error| ConfigError::new(origin, error.to_string().trim_end().to_owned()))?;
        catalog.check().map_err(|message| ConfigError::new(origin, message))?;
        Ok(catalog)
    }

    /// The embedder entry of this name.
    pub fn embedder(&self, name: &str) -> Option<&EmbedderEntry> {
        self.embedders.iter().find(|entry| entry.name == name)
    }

    /// The space of an entry's vectors: its own, or that of the entry it says it shares.
    pub fn space_of(&self, entry: &EmbedderEntry) -> EmbeddingSpace {
        let shared = entry.remote.as_ref().and_then(|remote| remote.same_space_as.as_deref());
        match shared.and_then(|name| self.embedder(name)) {
            Some(other) => EmbeddingSpace::of(other),
            None => EmbeddingSpace::of(entry),
        }
    }

    /// The answer backend of this name.
    pub fn llm(&self, name: &str) -> Option<&LlmEntry> {
        self.llms.iter().find(|entry| entry.name() == name)
    }

    fn check(&self) -> Result<(), String> {
        self.check_cors()?;
        if self.http.body_timeout_ms == 0 || self.http.max_in_flight == 0 {
            return Err("http: body_timeout_ms and max_in_flight must be at least 1".into());
        }
        self.check_entries()?;
        self.check_routes()?;
        let passage = self.ingest.passage_tokens;
        if passage == 0 || self.ingest.overlap_tokens >= passage {
            return Err("ingest: overlap_tokens must be smaller than passage_tokens".into());
        }
        self.ingest.readers.check()?;
        if self.jobs.lease_ms < 1000 || self.jobs.poll_ms == 0 || self.jobs.max_attempts < 1 {
            return Err("jobs: lease_ms must be at least 1000, poll_ms and max_attempts at least 1".into());
        }
        if self.ask.passages == 0 {
            return Err("ask.passages must be at least 1".into());
        }
        self.ask.cache.check()?;
        self.search.rerank.check()?;
        if self.ask.rerank && self.routes.rerank.candidates.is_empty() {
            return Err("ask.rerank: there is no reranker; name one under [routes.rerank]".into());
        }
        if self.ask.record_days == 0 || self.usage.flush_ms == 0 {
            return Err("ask.record_days and usage.flush_ms must be at least 1".into());
        }
        self.quotas.iter().try_for_each(super::Quota::check)?;
        Ok(())
    }

    fn check_cors(&self) -> Result<(), String> {
        let cors = &self.http.cors;
        if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
            return Err("http.cors: origins \"*\" with credentials = true would let any site act \
                        with a visitor's credentials; name the origins"
                .into());
        }
        for origin in cors.origins.iter().filter(|origin| *origin != "*") {
            let shown = url::Url::parse(origin).map(|url| url.origin().ascii_serialization());
            if shown.as_deref() != Ok(origin) {
                return Err(format!(
                    "http.cors.origins: `{origin}` is not an origin such as `https://app.example`"
                ));
            }
        }
        Ok(())
    }

    fn check_entries(&self) -> Result<(), String> {
        let names = self.embedders.iter().map(|entry| entry.name.as_str());
        check_names("embedder", names)?;
        check_names("llm", self.llms.iter().map(LlmEntry::name))?;
        for entry in &self.embedders {
            entry.check()?;
            if entry.kind != EmbedderKind::Remote {
                check_files(&entry.name, &entry.files, &entry.sources)?;
            }
            self.check_shared_space(entry)?;
        }
        for entry in &self.llms {
            entry.check()?;
        }
        check_names("reranker", self.rerankers.iter().map(|entry| entry.name.as_str()))?;
        for entry in &self.rerankers {
            entry.check()?;
        }
        Ok(())
    }

    /// `same_space_as` names an in-process entry whose vectors are made in the same way.
    fn check_shared_space(&self, entry: &EmbedderEntry) -> Result<(), String> {
        let Some(name) = entry.remote.as_ref().and_then(|remote| remote.same_space_as.as_deref()) else {
            return Ok(());
        };
        let wrong = |why: &str| Err(format!("embedder `{}`: remote.same_space_as: {why}", entry.name));
        match self.embedder(name) {
            None => wrong(&format!("unknown model `{name}`")),
            Some(other) if other.kind == EmbedderKind::Remote => {
                wrong(&format!("`{name}` is itself remote; name the entry with the weights"))
            }
            Some(other) if other.dimension != entry.dimension => {
                wrong(&format!("`{name}` has {} dimensions, this entry {}", other.dimension, entry.dimension))
            }
            Some(other) if other.normalize != entry.normalize || other.prefixes != entry.prefixes => {
                wrong(&format!("`{name}` has another `normalize` or other `prefixes`"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Vectors of two spaces must not come out of one route.
    fn check_replicas(&self, model_type: &str, route: &EmbedRoute) -> Result<(), String> {
        if route.replicas.is_empty() {
            return Ok(());
        }
        let members = route.candidates.iter().chain(&route.replicas);
        let mut spaces = members
            .filter_map(|name| self.embedder(name))
            .map(|entry| (&entry.name, self.space_of(entry).id));
        let Some((first, space)) = spaces.next() else { return Ok(()) };
        match spaces.find(|(_, other)| *other != space) {
            Some((name, _)) => Err(format!(
                "routes.embed.{model_type}: with `replicas` all models must be of one embedding space, and \
                 `{name}` is not of that of `{first}`; a server that runs the same weights says so with \
                 remote.same_space_as"
            )),
            None => Ok(()),
        }
    }

    fn check_routes(&self) -> Result<(), String> {
        for (model_type, route) in &self.routes.embed {
            if RESERVED_TYPES.contains(&model_type.as_str()) {
                return Err(format!("routes.embed.{model_type}: this name is reserved"));
            }
            if route.candidates.is_empty() {
                return Err(format!("routes.embed.{model_type}: candidates is empty"));
            }
            for name in route.candidates.iter().chain(&route.replicas) {
                if self.embedder(name).is_none() {
                    return Err(format!("routes.embed.{model_type}: unknown model `{name}`"));
                }
            }
            self.check_replicas(model_type, route)?;
        }
        if !self.routes.embed.contains_key(TEXT_ROUTE) {
            return Err(format!("routes.embed.{TEXT_ROUTE} is missing: documents and questions need it"));
        }
        let known = |name: &String| self.rerankers.iter().any(|entry| entry.name == *name);
        if let Some(unknown) = self.routes.rerank.candidates.iter().find(|name| !known(name)) {
            return Err(format!("routes.rerank: unknown model `{unknown}`"));
        }
        super::llm::check_routes(&self.routes, &self.llms)?;
        Ok(())
    }
}

fn check_names<'a>(table: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        // The name becomes a folder of the cache, so it must not leave it.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!("{table}: `{name}` is not a name of letters, digits, `.`, `_` and `-`"));
        }
        if !seen.insert(name) {
            return Err(format!("{table}: the name `{name}` is used twice"));
        }
    }
    Ok(())
}

pub(super) fn check_files(model: &str, files: &[PinnedFile], sources: &[Source]) -> Result<(), String> {
    if files.is_empty() || sources.is_empty() {
        return Err(format!("model `{model}`: needs at least one file and one source"));
    }
    for file in files {
        if file.name.contains(['/', '\\']) || file.name.starts_with('.') {
            return Err(format!("model `{model}`: `{}` is not a plain file name", file.name));
        }
        check_sha256(&format!("model `{model}`, file `{}`", file.name), &file.sha256)?;
    }
    for source in sources {
        if let Source::Pypi { package, wheel_sha256, .. } = source {
            check_sha256(&format!("model `{model}`, package `{package}`"), wheel_sha256)?;
        }
    }
    Ok(())
}

fn check_sha256(what: &str, sum: &str) -> Result<(), String> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if sum.len() == 64 && sum.chars().all(hex) {
        Ok(())
    } else {
        Err(format!("{what}: sha256 must be 64 lower-case hexadecimal digits"))
    }
}
