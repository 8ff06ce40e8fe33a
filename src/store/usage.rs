//! What callers use, added up for each day.

use time::Date;
use tokio_postgres::{Row, Transaction, types::Type};
use uuid::Uuid;

use super::{FromRow, Store, StoreError, TenantId, see_tenant};

/// What is added up together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageAccount {
    /// In UTC.
    pub day: Date,
    pub tenant: TenantId,
    pub key: Option<Uuid>,
    pub operation: &'static str,
    /// Name of the catalog entry.
    pub backend: String,
}

/// How much was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageCounts {
    pub requests: i64,
    pub embed_tokens: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    /// Of all these, those that no backend counted.
    pub estimated_tokens: i64,
    /// Billionths of the unit of the prices.
    pub cost_nano: i64,
}

/// What is asked of the sums: both days included.
#[derive(Debug, Clone, Copy)]
pub struct UsageQuery {
    pub tenant: TenantId,
    pub from: Date,
    pub to: Date,
    pub grouping: UsageGrouping,
}

/// By what sums are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageGrouping {
    pub day: bool,
    pub tenant: bool,
    pub key: bool,
    pub operation: bool,
    pub backend: bool,
}

/// A sum; what it is not told apart by is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSum {
    pub day: Option<Date>,
    pub tenant: Option<TenantId>,
    pub key: Option<Uuid>,
    pub operation: Option<String>,
    pub backend: Option<String>,
    pub counts: UsageCounts,
}

/// What a key of a tenant has used today and this month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageSpent {
    pub tenant: TenantId,
    pub key: Option<Uuid>,
    pub today: UsageCounts,
    pub month: UsageCounts,
}

impl UsageCounts {
    /// In the unit of the prices.
    pub fn cost(&self) -> f64 {
        self.cost_nano as f64 / 1e9
    }

    /// Read and written.
    pub fn tokens(&self) -> i64 {
        self.embed_tokens + self.prompt_tokens + self.completion_tokens
    }
}

impl std::ops::AddAssign for UsageCounts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.embed_tokens += other.embed_tokens;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.estimated_tokens += other.estimated_tokens;
        self.cost_nano += other.cost_nano;
    }
}

impl FromRow for UsageCounts {
    fn from_row(row: &Row) -> Self {
        Self {
            requests: row.get("requests"),
            embed_tokens: row.get("embed_tokens"),
            prompt_tokens: row.get("prompt_tokens"),
            completion_tokens: row.get("completion_tokens"),
            estimated_tokens: row.get("estimated_tokens"),
            cost_nano: row.get("cost_nano"),
        }
    }
}

impl FromRow for UsageSum {
    fn from_row(row: &Row) -> Self {
        Self {
            day: row.get("day"),
            tenant: row.get::<_, Option<Uuid>>("tenant_id").map(TenantId),
            key: row.get("key_id"),
            operation: row.get("operation"),
            backend: row.get("backend"),
            counts: UsageCounts::from_row(row),
        }
    }
}

// The sum of bigints is numeric, which would need a crate to read.
const SUMS: &str = "
    sum(requests)::bigint AS requests, sum(embed_tokens)::bigint AS embed_tokens,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(estimated_tokens)::bigint AS estimated_tokens, sum(cost_nano)::bigint AS cost_nano";

impl Store {
    /// Adds to what is there; all of it or nothing.
    pub async fn add_usage(&self, usage: &[(UsageAccount, UsageCounts)]) -> Result<(), StoreError> {
        let mut usage: Vec<_> = usage.iter().collect();
        // Two replicas that lock rows in one order do not wait for each other in a circle.
        usage.sort_by_key(|(account, _)| (account.tenant, account));
        let mut connection = self.connection().await?;
        let transaction = connection.transaction().await?;
        for usage in usage.chunk_by(|(one, _), (other, _)| one.tenant == other.tenant) {
            add_usage_of_tenant(&transaction, usage).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// A tenant's sums, in the order of what they are told apart by.
    pub async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        let UsageGrouping { day, tenant, key, operation, backend } = query.grouping;
        let statement = format!(
            "SELECT CASE WHEN $4 THEN day END AS day, CASE WHEN $5 THEN tenant_id END AS tenant_id,
                    CASE WHEN $6 THEN key_id END AS key_id, CASE WHEN $7 THEN operation END AS operation,
                    CASE WHEN $8 THEN backend END AS backend, {SUMS}
             FROM usage_daily WHERE tenant_id = $1 AND day BETWEEN $2 AND $3
             GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
        );
        let parameters: [super::Parameter<'_>; 8] = [
            (&query.tenant.0, Type::UUID),
            (&query.from, Type::DATE),
            (&query.to, Type::DATE),
            (&day, Type::BOOL),
            (&tenant, Type::BOOL),
            (&key, Type::BOOL),
            (&operation, Type::BOOL),
            (&backend, Type::BOOL),
        ];
        let rows = self.tenant(query.tenant).await?.query_typed(&statement, &parameters).await?;
        Ok(rows.iter().map(UsageSum::from_row).collect())
    }

    /// What every key of every tenant has used on `today`, and since `month` began.
    pub async fn usage_spent(&self, today: Date, month: Date) -> Result<Vec<UsageSpent>, StoreError> {
        let rows = self
            .connection()
            .await?
            .query_typed(
                "SELECT * FROM usage_spent($1, $2) ORDER BY tenant_id, key_id",
                &[(&month, Type::DATE), (&today, Type::DATE)],
            )
            .await?;
        let spent = |row: &Row| {
            let counts = UsageCounts::from_row(row);
            let today = if row.get("is_today") { counts } else { UsageCounts::default() };
            UsageSpent {
                tenant: TenantId(row.get("tenant_id")),
                key: row.get("key_id"),
                today,
                month: counts,
            }
        };
        Ok(rows.iter().map(spent).collect())
    }
}

/// Adds what one tenant used; nothing where the tenant was erased meanwhile, for that must not keep
/// what others used from being written.
async fn add_usage_of_tenant(
    transaction: &Transaction<'_>,
    usage: &[&(UsageAccount, UsageCounts)],
) -> Result<(), StoreError> {
    let Some((UsageAccount { tenant, .. }, _)) = usage.first() else { return Ok(()) };
    see_tenant(transaction, *tenant)?;
    let days: Vec<Date> = usage.iter().map(|(account, _)| account.day).collect();
    let keys: Vec<Option<Uuid>> = usage.iter().map(|(account, _)| account.key).collect();
    let operations: Vec<&str> = usage.iter().map(|(account, _)| account.operation).collect();
    let backends: Vec<&str> = usage.iter().map(|(account, _)| account.backend.as_str()).collect();
    let numbers =
        |of: fn(&UsageCounts) -> i64| usage.iter().map(|(_, counts)| of(counts)).collect::<Vec<i64>>();
    transaction
        .execute_typed(
            "INSERT INTO usage_daily AS known (tenant_id, day, key_id, operation, backend, requests, embed_tokens,
                                               prompt_tokens, completion_tokens, estimated_tokens, cost_nano)
             SELECT t.id, new.* FROM tenants t,
                    unnest($2::date[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                           $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]) new
             WHERE t.id = $1
             ON CONFLICT (tenant_id, day, key_id, operation, backend) DO UPDATE
                 SET requests = known.requests + excluded.requests,
                     embed_tokens = known.embed_tokens + excluded.embed_tokens,
                     prompt_tokens = known.prompt_tokens + excluded.prompt_tokens,
                     completion_tokens = known.completion_tokens + excluded.completion_tokens,
                     estimated_tokens = known.estimated_tokens + excluded.estimated_tokens,
                     cost_nano = known.cost_nano + excluded.cost_nano",
            &[
                (&tenant.0, Type::UUID),
                (&days, Type::DATE_ARRAY),
                (&keys, Type::UUID_ARRAY),
                (&operations, Type::TEXT_ARRAY),
                (&backends, Type::TEXT_ARRAY),
                (&numbers(|counts| counts.requests), Type::INT8_ARRAY),
                (&numbers(|counts| counts.embed_tokens), Type::INT8_ARRAY),
                (&numbers(|counts| counts.prompt_tokens), Type::INT8_ARRAY),
                (&numbers(|counts| counts.completion_tokens), Type::INT8_ARRAY),
                (&numbers(|counts| counts.estimated_tokens), Type::INT8_ARRAY),
                (&numbers(|counts| counts.cost_nano), Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(())
}
