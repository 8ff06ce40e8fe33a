//! `/usage`: tokens and cost, and what quotas leave.

use actix_web::{get, web};
use serde::{Deserialize, Serialize};
use time::{Date, format_description::well_known::Iso8601};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Gateway,
    error::{ApiError, Problem},
};
use crate::{
    rag::{Caller, usage::Allowance},
    store::{UsageCounts, UsageGrouping, UsageSum},
};

/// Which days, and how they are told apart.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParameters {
    /// First day, in UTC. Absent: the first of the month of `to`.
    #[param(example = "2026-11-01")]
    from: Option<String>,
    /// Last day. Absent: today.
    #[param(example = "2026-11-30")]
    to: Option<String>,
    /// One or more of `day`, `backend`, `operation`, `key` and `tenant`, separated by commas. Absent: one sum.
    #[param(example = "day,backend")]
    group_by: Option<String>,
}

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageResponse {
    #[schema(example = "2026-11-01")]
    from: String,
    #[schema(example = "2026-11-30")]
    to: String,
    /// In the order of what they are told apart by.
    rows: Vec<UsageRow>,
    /// Of all rows.
    total: UsageNumbers,
    /// The quotas that apply to the caller, as they stand now.
    quotas: Vec<QuotaBody>,
}

/// A sum; what it is not told apart by is left out.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-24")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Uuid>,
    /// Null: requests without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<Uuid>>,
    /// `ask`, `rewrite` (of a question that goes on from earlier ones), `chat` (a conversation without
    /// documents), `search`, `embed`, `ingest` or `reembed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "ask")]
    operation: Option<String>,
    /// A model of models.toml, or `extractive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "smollm2-135m-instruct")]
    backend: Option<String>,
    #[serde(flatten)]
    numbers: UsageNumbers,
}

/// How much.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageNumbers {
    /// Each counts once, for the backend that served it.
    #[schema(example = 12)]
    requests: i64,
    /// Read by embedders.
    #[schema(example = 140)]
    embed_tokens: i64,
    /// Read by answer backends.
    #[schema(example = 9000)]
    prompt_tokens: i64,
    #[schema(example = 600)]
    completion_tokens: i64,
    #[schema(example = 9740)]
    total_tokens: i64,
    /// Of these, those that the backend did not count: ragway's estimate, on the high side.
    #[schema(example = 0)]
    estimated_tokens: i64,
    /// By the prices of the backends, in their unit.
    #[schema(example = 0.00171)]
    cost: f64,
}

/// A quota as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaBody {
    /// Whose use is added up: `tenant` or `key`.
    #[schema(example = "tenant")]
    per: &'static str,
    /// `day` or `month`, in UTC.
    #[schema(example = "month")]
    period: &'static str,
    /// First day of the next period.
    #[schema(example = "2026-12-01")]
    resets_at: String,
    /// What may be used; null: any number of tokens.
    #[schema(example = 10000000)]
    tokens: Option<u64>,
    #[schema(example = 9740)]
    tokens_used: i64,
    /// What may be spent; null: any amount.
    cost: Option<f64>,
    #[schema(example = 0.00171)]
    cost_used: f64,
}

/// Usage
///
/// Tokens and cost of the caller's tenant by day, backend, operation or key; at most 400 days. Other replicas
/// add what they counted every few seconds (`usage.flush_ms`).
#[utoipa::path(tag = "usage", params(UsageParameters), responses(
    (status = 200, description = "The sums", body = UsageResponse),
    (status = 400, description = "A day that is none, too many days, an unknown `group_by`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/usage")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    parameters: web::Query<UsageParameters>,
) -> Result<web::Json<UsageResponse>, ApiError> {
    let UsageParameters { from, to, group_by } = parameters.into_inner();
    let (from, to) = (day("from", from.as_deref())?, day("to", to.as_deref())?);
    let grouping = grouping(group_by.as_deref().unwrap_or_default())?;
    let report = gateway.rag.usage(caller, from, to, grouping).await?;
    let mut total = UsageCounts::default();
    report.sums.iter().for_each(|sum| total += sum.counts);
    Ok(web::Json(UsageResponse {
        from: report.from.to_string(),
        to: report.to.to_string(),
        rows: report.sums.into_iter().map(|sum| UsageRow::of(sum, grouping)).collect(),
        total: total.into(),
        quotas: report.allowances.into_iter().map(QuotaBody::from).collect(),
    }))
}

impl UsageRow {
    fn of(sum: UsageSum, grouping: UsageGrouping) -> Self {
        Self {
            day: sum.day.map(|day| day.to_string()),
            tenant: sum.tenant.map(|tenant| tenant.0),
            key: grouping.key.then_some(sum.key),
            operation: sum.operation,
            backend: sum.backend,
            numbers: sum.counts.into(),
        }
    }
}

impl From<UsageCounts> for UsageNumbers {
    fn from(counts: UsageCounts) -> Self {
        Self {
            requests: counts.requests,
            embed_tokens: counts.embed_tokens,
            prompt_tokens: counts.prompt_tokens,
            completion_tokens: counts.completion_tokens,
            total_tokens: counts.tokens(),
            estimated_tokens: counts.estimated_tokens,
            cost: counts.cost(),
        }
    }
}

impl From<Allowance> for QuotaBody {
    fn from(allowance: Allowance) -> Self {
        Self {
            per: allowance.quota.per.name(),
            period: allowance.quota.period.name(),
            resets_at: allowance.resets_at.to_string(),
            tokens: allowance.quota.tokens,
            tokens_used: allowance.used.tokens(),
            cost: allowance.quota.cost,
            cost_used: allowance.used.cost(),
        }
    }
}

fn day(field: &str, text: Option<&str>) -> Result<Option<Date>, ApiError> {
    let parse = |text| {
        Date::parse(text, &Iso8601::DATE)
            .map_err(|_| ApiError::invalid(format!("{field}: `{text}` is no day such as 2026-11-24")))
    };
    text.map(parse).transpose()
}

fn grouping(names: &str) -> Result<UsageGrouping, ApiError> {
    let mut grouping = UsageGrouping::default();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "day" => grouping.day = true,
            "backend" => grouping.backend = true,
            "operation" => grouping.operation = true,
            "key" => grouping.key = true,
            "tenant" => grouping.tenant = true,
            _ => {
                return Err(ApiError::invalid(format!(
                    "group_by: unknown `{name}`; known are day, backend, operation, key, tenant"
                )));
            }
        }
    }
    Ok(grouping)
}
