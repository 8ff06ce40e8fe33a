//! `[[llm]]` and `[routes.answer…]`: who answers, and in which order they are asked.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{PinnedFile, Routes, Source, catalog::check_files};

/// `[[llm]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LlmEntry {
    Openai(OpenAiEntry),
    Candle(GgufEntry),
}

impl LlmEntry {
    /// Name of the entry.
    pub fn name(&self) -> &str {
        match self {
            LlmEntry::Openai(entry) => &entry.name,
            LlmEntry::Candle(entry) => &entry.name,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            LlmEntry::Openai(entry) => entry.check(),
            LlmEntry::Candle(entry) => entry.check(),
        }
    }
}

/// An OpenAI-compatible server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAiEntry {
    pub name: String,
    pub base_url: url::Url,
    /// The model's name on that server.
    pub model: String,
    /// Environment variable with the key; absent for a server that wants none.
    pub api_key_env: Option<String>,
    pub context_tokens: usize,
    /// Absent: its answers cost nothing.
    pub price: Option<Price>,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub breaker: BreakerSettings,
}

impl OpenAiEntry {
    /// An entry with the defaults, for a server that wants no key.
    pub fn new(name: &str, base_url: url::Url, model: &str, context_tokens: usize) -> Self {
        Self {
            name: name.to_owned(),
            base_url,
            model: model.to_owned(),
            api_key_env: None,
            context_tokens,
            price: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            breaker: BreakerSettings::default(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("llm `{}`: {what}", self.name));
        let (timeouts, breaker) = (self.timeouts, self.breaker);
        if self.context_tokens == 0 {
            return wrong("context_tokens must be at least 1");
        }
        if timeouts.connect_ms == 0 || timeouts.first_byte_ms == 0 || timeouts.whole_ms == 0 {
            return wrong("timeouts: each must be at least 1 ms");
        }
        if self.limits.max_concurrent == 0 {
            return wrong("limits.max_concurrent must be at least 1");
        }
        if !(breaker.error_ratio > 0.0 && breaker.error_ratio <= 1.0) {
            return wrong("breaker.error_ratio must be more than 0 and at most 1");
        }
        if breaker.minimum == 0 || breaker.window_ms == 0 || breaker.open_ms == 0 {
            return wrong("breaker: minimum, window_ms and open_ms must be at least 1");
        }
        match self.price {
            Some(price) if !price.is_valid() => wrong("price: must be numbers of 0 or more"),
            _ => Ok(()),
        }
    }
}

/// What a million tokens cost, in whatever currency all entries use.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input_per_million: f64,
    pub output_per_million: f64,
}

impl Price {
    fn is_valid(self) -> bool {
        [self.input_per_million, self.output_per_million]
            .iter()
            .all(|price| price.is_finite() && *price >= 0.0)
    }
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection.
    pub connect_ms: u64,
    /// For the first byte of an answer and, in a stream, for each further event.
    pub first_byte_ms: u64,
    /// From the request to the end of the answer.
    pub whole_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, first_byte_ms: 20_000, whole_ms: 120_000 }
    }
}

/// How much is asked of a backend at once and how often.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests under way, from their start to the end of their answers.
    pub max_concurrent: usize,
    /// Requests that may wait for one of those to end; one more goes to the next backend.
    pub queue: usize,
    /// Times that a request is sent again when the failure may pass.
    pub retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_concurrent: 64, queue: 64, retries: 2 }
    }
}

/// When a backend is left alone.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// Share of failures, 0 to 1, from which on it opens.
    pub error_ratio: f64,
    /// Requests in the window below which it never opens.
    pub minimum: u32,
    pub window_ms: u64,
    /// Until it is tried again; doubles while that fails, up to 8 times as long.
    pub open_ms: u64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { error_ratio: 0.5, minimum: 3, window_ms: 30_000, open_ms: 10_000 }
    }
}

/// A GGUF model run in-process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GgufEntry {
    pub name: String,
    #[serde(default)]
    pub licence: String,
    pub context_tokens: usize,
    /// Exactly one: the GGUF file.
    pub files: Vec<PinnedFile>,
    pub sources: Vec<Source>,
    /// Requests that may wait for the model; one more is refused.
    #[serde(default = "eight")]
    pub queue: usize,
}

impl GgufEntry {
    fn check(&self) -> Result<(), String> {
        check_files(&self.name, &self.files, &self.sources)?;
        if self.files.len() != 1 || self.context_tokens < 512 || self.queue == 0 {
            return Err(format!(
                "llm `{}`: needs exactly one file, context_tokens of 512 or more and a queue of 1 or more",
                self.name
            ));
        }
        Ok(())
    }
}

fn eight() -> usize {
    8
}

/// `[routes.answer]` and `[routes.answer_by_name.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRoute {
    #[serde(default)]
    pub policy: Policy,
    pub backends: Vec<String>,
    /// For the policy `weighted`: how often each is asked first, 1 where it is not named. 0: only when others fail.
    #[serde(default)]
    pub weights: BTreeMap<String, u32>,
    /// Asks the next backend too when there is no byte after this time; who is first answers.
    pub hedge_after_ms: Option<u64>,
    /// For the whole request: all that is tried, and the answer to its end. Questions also have `ask.deadline_ms`.
    #[serde(default = "two_minutes")]
    pub deadline_ms: u64,
}

impl Default for AnswerRoute {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            backends: Vec::new(),
            weights: BTreeMap::new(),
            hedge_after_ms: None,
            deadline_ms: two_minutes(),
        }
    }
}

fn two_minutes() -> u64 {
    120_000
}

/// Who is asked first; the others follow when it fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// In the order given.
    #[default]
    Fallback,
    /// By chance, as often as the weights say.
    Weighted,
    /// The one with the fewest requests under way.
    LeastBusy,
}

/// `[[routes.answer_rules]]`: sends some requests to a route of their own. All conditions given
/// must hold; of several rules the first that holds counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRule {
    /// A name of `answer_by_name`.
    pub route: String,
    /// The `model` that the client names. A rule without it is for those who name none.
    #[serde(default)]
    pub models: Vec<String>,
    #[serde(default)]
    pub collections: Vec<String>,
    #[serde(default)]
    pub tenants: Vec<uuid::Uuid>,
    /// Languages of the question.
    #[serde(default)]
    pub languages: Vec<Language>,
    /// Length of the question, in characters.
    pub min_chars: Option<usize>,
    pub max_chars: Option<usize>,
}

/// A language that can be told from a text as short as a question, one of 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Language(whichlang::Lang);

impl Language {
    /// The language of a text. One in a language that is not recognised is taken for another;
    /// one without letters has none.
    pub fn of(text: &str) -> Option<Self> {
        text.chars().any(char::is_alphabetic).then(|| Self(whichlang::detect_language(text)))
    }
}

impl TryFrom<String> for Language {
    type Error = String;

    fn try_from(code: String) -> Result<Self, String> {
        let known = whichlang::LANGUAGES;
        known.into_iter().find(|language| language.three_letter_code() == code).map(Self).ok_or_else(|| {
            let codes = known.map(|language| language.three_letter_code()).join(", ");
            format!("`{code}` is no language that is recognised; by ISO 639-3 there are: {codes}")
        })
    }
}

/// The name of `[routes.answer]` among those of `[routes.answer_by_name]`.
pub const DEFAULT_ANSWER_ROUTE: &str = "default";

pub(super) fn check_routes(routes: &Routes, llms: &[LlmEntry]) -> Result<(), String> {
    let known: BTreeSet<&str> = llms.iter().map(LlmEntry::name).collect();
    check_route("routes.answer", &routes.answer, &known)?;
    for (name, route) in &routes.answer_by_name {
        let place = format!("routes.answer_by_name.{name}");
        if name == DEFAULT_ANSWER_ROUTE {
            return Err(format!("{place}: this name stands for routes.answer"));
        }
        if known.contains(name.as_str()) {
            return Err(format!("{place}: an llm has this name; a client that names it could mean either"));
        }
        if route.backends.is_empty() {
            return Err(format!("{place}: backends is empty"));
        }
        check_route(&place, route, &known)?;
    }
    for (index, rule) in routes.answer_rules.iter().enumerate() {
        rule.check(routes).map_err(|what| format!("routes.answer_rules[{index}]: {what}"))?;
    }
    Ok(())
}

fn check_route(place: &str, route: &AnswerRoute, known: &BTreeSet<&str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in &route.backends {
        if !known.contains(name.as_str()) {
            return Err(format!("{place}: unknown model `{name}`"));
        }
        if !seen.insert(name) {
            return Err(format!("{place}: backends names `{name}` twice"));
        }
    }
    if let Some(name) = route.weights.keys().find(|name| !seen.contains(name)) {
        return Err(format!("{place}.weights: `{name}` is none of its backends"));
    }
    if !route.weights.is_empty() && route.policy != Policy::Weighted {
        return Err(format!("{place}.weights: only policy = \"weighted\" reads them"));
    }
    if route.policy == Policy::Weighted && seen.iter().all(|name| route.weights.get(*name) == Some(&0)) {
        return Err(format!("{place}.weights: one must be more than 0"));
    }
    if route.hedge_after_ms == Some(0) || route.deadline_ms == 0 {
        return Err(format!("{place}: hedge_after_ms and deadline_ms must be at least 1"));
    }
    Ok(())
}

impl AnswerRule {
    fn check(&self, routes: &Routes) -> Result<(), String> {
        if !routes.answer_by_name.contains_key(&self.route) {
            return Err(format!("route: there is no routes.answer_by_name.{}", self.route));
        }
        let given = !self.models.is_empty()
            || !self.collections.is_empty()
            || !self.tenants.is_empty()
            || !self.languages.is_empty();
        if !given && self.min_chars.is_none() && self.max_chars.is_none() {
            return Err("it has no condition; a route for everything is routes.answer".into());
        }
        if let Some(name) = self.models.iter().find(|name| *name == DEFAULT_ANSWER_ROUTE) {
            return Err(format!("models: `{name}` stands for routes.answer"));
        }
        if self.min_chars.zip(self.max_chars).is_some_and(|(min, max)| min > max) {
            return Err("min_chars is more than max_chars".into());
        }
        Ok(())
    }
}
