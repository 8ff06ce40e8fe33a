//! Tokens and cost of each caller, and what a caller may still use.
//!
//! Who is refused is asked before any model is ([`Ledger::admit`]); what a model read and wrote is
//! charged afterwards, by what it says of it, else by an estimate, which is told apart.
//!
//! Counts are added up in memory, so that a request writes nothing for them, and
//! go to the database every few seconds and when ragway stops. A replica that is
//! killed loses what it had not written.

mod meter;
mod quota;

pub use meter::Charge;
pub(super) use meter::Meter;
pub use quota::{Allowance, QuotaExceeded};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join};
use time::{Date, OffsetDateTime};
use tokio::sync::OnceCell;

use self::quota::{Spent, Subject};
use super::{
    Caller, Rag, RagError,
    sweep::{Stop, sweep},
};
use crate::{
    config::{Catalog, LlmEntry, Price, Quota},
    store::{Store, StoreError, UsageAccount, UsageCounts, UsageGrouping, UsageQuery, UsageSum},
};

/// Longest time that a report is of, in days.
const MAX_DAYS: i64 = 400;
/// Old answers that are removed at once.
const SWEEP_PORTION: i64 = 500;

/// What tokens are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Embed,
    Search,
    Ask,
    /// A question is made whole, with the conversation before it, to be asked.
    Rewrite,
    Ingest,
    Reembed,
    /// A backend goes on with a conversation, without documents.
    Chat,
    Rerank,
}

impl Operation {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Embed => "embed",
            Operation::Search => "search",
            Operation::Ask => "ask",
            Operation::Rewrite => "rewrite",
            Operation::Ingest => "ingest",
            Operation::Reembed => "reembed",
            Operation::Chat => "chat",
            Operation::Rerank => "rerank",
        }
    }
}

/// Tokens of one use of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub embedded: usize,
    pub prompt: usize,
    pub completion: usize,
    /// Whether these numbers are ragway's own guess.
    pub estimated: bool,
}

/// What was used from one day to another, both included.
#[derive(Debug, Clone)]
pub struct UsageReport {
    pub from: Date,
    pub to: Date,
    pub sums: Vec<UsageSum>,
    /// What the caller's quotas leave.
    pub allowances: Vec<Allowance>,
}

/// What this replica has counted since it started.
#[derive(Debug, Clone, Default)]
pub struct LedgerTotals {
    /// By operation and backend, of all tenants.
    pub counts: HashMap<(&'static str, String), UsageCounts>,
    /// Requests that a quota refused.
    pub refused: u64,
}

/// The accounts of one replica.
pub struct Ledger {
    store: Store,
    prices: HashMap<String, Price>,
    quotas: Vec<Quota>,
    books: Mutex<Books>,
    /// One writer: what a second one would read would not yet hold what the first one writes.
    writing: tokio::sync::Mutex<()>,
    /// What the database knew when quotas were first asked about.
    loaded: OnceCell<()>,
}

#[derive(Default)]
struct Books {
    /// Not yet written.
    pending: HashMap<UsageAccount, UsageCounts>,
    /// As the database and `pending` have it; kept where there are quotas.
    spent: HashMap<Subject, Spent>,
    totals: LedgerTotals,
}

impl Ledger {
    /// An empty one.
    pub fn new(catalog: &Catalog, store: Store) -> Self {
        Self {
            store,
            prices: prices(catalog),
            quotas: catalog.quotas.clone(),
            books: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            loaded: OnceCell::new(),
        }
    }

    /// Counts a request of a caller that this backend served.
    pub fn record(&self, caller: Caller, operation: Operation, backend: &str, tokens: Tokens) {
        self.add(caller, operation, backend, 1, tokens);
    }

    /// Counts what a request used beside the backend that [`Ledger::record`] names.
    pub fn record_beside(&self, caller: Caller, operation: Operation, backend: &str, tokens: Tokens) {
        self.add(caller, operation, backend, 0, tokens);
    }

    /// What it cost is returned, in billionths.
    fn add(&self, caller: Caller, operation: Operation, backend: &str, requests: i64, tokens: Tokens) -> i64 {
        let cost_nano = self.prices.get(backend).map_or(0, |price| cost_nano(*price, tokens));
        let counts = UsageCounts {
            requests,
            embed_tokens: whole(tokens.embedded),
            prompt_tokens: whole(tokens.prompt),
            completion_tokens: whole(tokens.completion),
            estimated_tokens: if tokens.estimated { whole(tokens.total()) } else { 0 },
            cost_nano,
        };
        let account = UsageAccount {
            day: today(),
            tenant: caller.tenant,
            key: caller.key,
            operation: operation.name(),
            backend: backend.to_owned(),
        };
        let mut books = self.books();
        let use_of = (account.operation, backend.to_owned());
        *books.totals.counts.entry(use_of).or_default() += counts;
        if !self.quotas.is_empty() {
            books.spend(caller, account.day, counts);
        }
        *books.pending.entry(account).or_default() += counts;
        cost_nano
    }

    /// Since the start.
    pub fn totals(&self) -> LedgerTotals {
        self.books().totals.clone()
    }

    /// Writes what was counted. Dropped, it goes on: a request that is given up must not take counts along.
    pub async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        let ledger = Arc::clone(self);
        let written = tokio::spawn(async move { ledger.write().await }).await;
        written.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    async fn write(&self) -> Result<(), StoreError> {
        let _one = self.writing.lock().await;
        let pending = std::mem::take(&mut self.books().pending);
        if !pending.is_empty() {
            let usage: Vec<_> = pending.into_iter().collect();
            if let Err(error) = self.store.add_usage(&usage).await {
                let mut books = self.books();
                for (account, counts) in usage {
                    *books.pending.entry(account).or_default() += counts;
                }
                return Err(error);
            }
        }
        if self.quotas.is_empty() { Ok(()) } else { self.read_spent().await }
    }

    /// Takes over what all replicas have written; the caller holds `writing`.
    async fn read_spent(&self) -> Result<(), StoreError> {
        let day = today();
        let rows = self.store.usage_spent(day, quota::first_of_month(day)).await?;
        let mut books = self.books();
        books.spent.clear();
        for row in rows {
            let caller = Caller { tenant: row.tenant, key: row.key };
            for subject in Subject::of(caller) {
                books.spent.entry(subject).or_insert_with(|| Spent::new(day)).add_read(&row);
            }
        }
        let unwritten: Vec<_> =
            books.pending.iter().map(|(account, counts)| (account.clone(), *counts)).collect();
        for (account, counts) in unwritten {
            books.spend(Caller { tenant: account.tenant, key: account.key }, account.day, counts);
        }
        Ok(())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In billionths. Only answer backends have prices; an embedder may bear the name of one.
fn cost_nano(price: Price, tokens: Tokens) -> i64 {
    let input = tokens.prompt as f64 * price.input_per_million;
    let output = tokens.completion as f64 * price.output_per_million;
    // A unit for a million tokens is 1,000 billionths for one.
    ((input + output) * 1000.0).round() as i64
}

impl Tokens {
    /// What an embedder read.
    pub fn embedded(tokens: usize) -> Self {
        Self { embedded: tokens, ..Self::default() }
    }

    fn total(self) -> usize {
        self.embedded + self.prompt + self.completion
    }
}

impl Books {
    fn spend(&mut self, caller: Caller, day: Date, counts: UsageCounts) {
        for subject in Subject::of(caller) {
            self.spent.entry(subject).or_insert_with(|| Spent::new(day)).add(day, counts);
        }
    }
}

impl Rag {
    /// The accounts, for what does not go through a use case of this module.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What a tenant used; both days included.
    pub async fn usage(
        &self,
        caller: Caller,
        from: Option<Date>,
        to: Option<Date>,
        grouping: UsageGrouping,
    ) -> Result<UsageReport, RagError> {
        let to = to.unwrap_or_else(today);
        let from = from.unwrap_or_else(|| quota::first_of_month(to));
        if from > to || (to - from).whole_days() > MAX_DAYS {
            return Err(RagError::Invalid(format!(
                "from, to: {from} to {to} is no time of at most {MAX_DAYS} days; `from` is the earlier day"
            )));
        }
        self.ledger.flush().await?;
        let query = UsageQuery { tenant: caller.tenant, from, to, grouping };
        let sums = self.store.usage(query).await?;
        Ok(UsageReport { from, to, sums, allowances: self.ledger.allowances(caller) })
    }

    /// Writes what was counted, and removes answers that are too old, until `stop` is done.
    ///
    /// Counts of requests that end after that are for [`Ledger::flush`] to write.
    pub async fn run_accounts(self, stop: impl Future<Output = ()> + Send + 'static) {
        let stop: Stop = stop.boxed().shared();
        let days = self.catalog.ask.record_days;
        let old =
            sweep("old answers", SWEEP_PORTION, stop.clone(), |most| self.store.sweep_answers(days, most));
        join(self.keep_writing(stop.clone()), old).await;
    }

    async fn keep_writing(&self, stop: Stop) {
        let pause = Duration::from_millis(self.catalog.usage.flush_ms);
        while stop.peek().is_none() {
            if let Err(error) = self.ledger.flush().await {
                tracing::warn!(%error, "usage stays in memory for now: {error}");
            }
            tokio::select! {
                () = stop.clone() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Prices by backend; what has none costs nothing.
fn prices(catalog: &Catalog) -> HashMap<String, Price> {
    let price = |entry: &LlmEntry| match entry {
        LlmEntry::Openai(entry) => entry.price.map(|price| (entry.name.clone(), price)),
        LlmEntry::Candle(_) => None,
    };
    catalog.llms.iter().filter_map(price).collect()
}

/// The day in UTC.
fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

pub(super) fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_for_a_million_tokens() {
        let price = Price { input_per_million: 0.15, output_per_million: 0.6 };
        let tokens = |prompt, completion| Tokens { prompt, completion, ..Tokens::default() };
        assert_eq!(cost_nano(price, tokens(1, 0)), 150);
        assert_eq!(cost_nano(price, tokens(1_000_000, 1_000_000)), 750_000_000);
        assert_eq!(cost_nano(price, Tokens::embedded(2)), 0, "embedders have no price");
    }

    #[test]
    fn prices_are_those_of_the_catalog() {
        let text = crate::config::BUILT_IN.replace(
            "context_tokens = 128_000",
            "context_tokens = 128_000\nprice = { input_per_million = 0.15, output_per_million = 0.6 }",
        );
        let prices = prices(&Catalog::parse(&text, "models.toml").unwrap());
        let wanted = Price { input_per_million: 0.15, output_per_million: 0.6 };
        assert_eq!(prices, HashMap::from([("openai".to_owned(), wanted)]));
    }
}
