//! Which limits hold for a request.

use std::{net::IpAddr, time::Duration};

use redis::RedisResult;
use secrecy::SecretString;
use uuid::Uuid;

use super::{
    address::counted,
    counter::{Counter, Standing, Subject},
};
use crate::{
    config::{GroupLimits, LimitSettings},
    redis_link::{Purpose, RedisLink},
};

/// Longest wait for Redis; then a request is counted in memory.
const REDIS_LIMIT: Duration = Duration::from_millis(100);

const PURPOSE: Purpose = Purpose {
    does: "count requests",
    meanwhile: "this replica counts requests by itself meanwhile",
    again: "requests are counted for all replicas together again",
};

/// Endpoints that may have limits of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Embedding,
    Search,
    Ask,
    Ingest,
    Other,
}

impl Group {
    /// That of an endpoint, by the path that actix matches.
    pub fn of(method: &str, path: &str) -> Self {
        let under = |prefixes: &[&str]| {
            let within = |prefix: &&str| {
                path.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            prefixes.iter().any(within)
        };
        let embedding =
            ["/api/v1/embed", "/embed", "/embeddings", "/v1/embeddings", "/similarity", "/tokenize"];
        match method {
            _ if under(&embedding) => Group::Embedding,
            "POST" if path == "/" => Group::Embedding,
            _ if under(&["/api/v1/search", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/vector_stores"]) => {
                Group::Search
            }
            _ if under(&["/api/v1/ask", "/v1/chat", "/mcp"]) => Group::Ask,
            "POST" | "DELETE" if under(&["/api/v1/documents"]) => Group::Ingest,
            _ => Group::Other,
        }
    }
}

/// All limits, and where they are counted.
pub struct Rates {
    address: ByGroup,
    key: ByGroup,
    tenant: ByGroup,
    redis: Option<RedisLink>,
}

impl Rates {
    pub fn new(settings: &LimitSettings, redis_url: Option<&SecretString>) -> RedisResult<Self> {
        Ok(Self {
            address: ByGroup::new("address", settings, settings.per_address, |group| group.per_address),
            key: ByGroup::new("key", settings, settings.per_key, |group| group.per_key),
            tenant: ByGroup::new("tenant", settings, settings.per_tenant, |group| group.per_tenant),
            redis: redis_url.map(|url| RedisLink::open(url, PURPOSE)).transpose()?,
        })
    }

    /// Whether keys or tenants are limited at all.
    pub fn limit_callers(&self) -> bool {
        !self.key.is_empty() || !self.tenant.is_empty()
    }

    /// Counts a request of an address; none where it is not limited.
    pub async fn count_address(&self, group: Group, address: IpAddr) -> Option<Standing> {
        self.count(&self.address, group, Subject::Address(counted(address))).await
    }

    /// Counts a request with a key; none where it has none or is not limited.
    pub async fn count_key(&self, group: Group, key: Option<Uuid>) -> Option<Standing> {
        self.count(&self.key, group, Subject::Key(key?)).await
    }

    /// Counts a request of a tenant; none where it is not limited.
    pub async fn count_tenant(&self, group: Group, tenant: Uuid) -> Option<Standing> {
        self.count(&self.tenant, group, Subject::Tenant(tenant)).await
    }

    async fn count(&self, counters: &ByGroup, group: Group, subject: Subject) -> Option<Standing> {
        let counter = counters.of(group)?;
        if let Some((redis, connection)) =
            self.redis.as_ref().and_then(|redis| Some((redis, redis.connection()?)))
            && let Some(answer) = redis.command(connection, &counter.command(subject), REDIS_LIMIT).await
        {
            return Some(counter.standing(answer));
        }
        Some(counter.count(subject))
    }
}

/// One kind of limit: the common counter, and those of groups that have their own.
struct ByGroup {
    common: Option<Counter>,
    own: Vec<(Group, Option<Counter>)>,
}

impl ByGroup {
    fn new(
        name: &str,
        settings: &LimitSettings,
        per_minute: u32,
        of: impl Fn(&GroupLimits) -> Option<u32>,
    ) -> Self {
        let groups = [
            (Group::Embedding, "embedding", &settings.embedding),
            (Group::Search, "search", &settings.search),
            (Group::Ask, "ask", &settings.ask),
            (Group::Ingest, "ingest", &settings.ingest),
        ];
        let own = groups.into_iter().filter_map(|(group, label, limits)| {
            Some((group, Counter::new(format!("{name}:{label}"), of(limits)?)))
        });
        Self { own: own.collect(), common: Counter::new(name.to_owned(), per_minute) }
    }

    fn is_empty(&self) -> bool {
        self.common.is_none() && self.own.iter().all(|(_, counter)| counter.is_none())
    }

    fn of(&self, group: Group) -> Option<&Counter> {
        let own = self.own.iter().find(|(known, _)| *known == group);
        own.map_or(&self.common, |(_, counter)| counter).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_that_works_is_in_a_group() {
        for (method, path, group) in [
            ("POST", "/api/v1/embed/batch", Group::Embedding),
            ("POST", "/embed/text-embedding", Group::Embedding),
            ("POST", "/", Group::Embedding),
            ("POST", "/v2/rerank", Group::Search),
            ("POST", "/v1/vector_stores/a/search", Group::Search),
            ("POST", "/v1/chat/completions", Group::Ask),
            ("POST", "/mcp", Group::Ask),
            ("DELETE", "/api/v1/documents/7", Group::Ingest),
            ("GET", "/api/v1/documents", Group::Other),
            ("GET", "/api/v1/asking", Group::Other),
            ("GET", "/v1/models", Group::Other),
        ] {
            assert_eq!(Group::of(method, path), group, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_group_with_a_limit_is_counted_apart_and_zero_is_no_limit() {
        let settings: LimitSettings =
            toml::from_str("per_address = 2\nper_key = 1\n[ask]\nper_address = 1\n[search]\nper_address = 0")
                .unwrap();
        let rates = Rates::new(&settings, None).unwrap();
        let address = IpAddr::from([1, 2, 3, 4]);
        let over = async |group| rates.count_address(group, address).await.map(|standing| standing.is_over());
        assert_eq!(over(Group::Ask).await, Some(false));
        assert_eq!(over(Group::Ask).await, Some(true));
        assert_eq!(over(Group::Search).await, None);
        // The common counter has seen nothing yet; all other groups share it.
        assert_eq!(over(Group::Embedding).await, Some(false));
        assert_eq!(over(Group::Other).await, Some(false));
        assert_eq!(over(Group::Ingest).await, Some(true));
        assert!(rates.limit_callers());
        assert_eq!(rates.count_key(Group::Ask, None).await.map(|standing| standing.limit), None);
        let [key, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        assert!(!rates.count_key(Group::Ask, Some(key)).await.unwrap().is_over());
        assert!(rates.count_key(Group::Other, Some(key)).await.unwrap().is_over());
        assert!(!rates.count_key(Group::Other, Some(other)).await.unwrap().is_over());
        assert!(rates.count_tenant(Group::Ask, key).await.is_none());
    }
}
