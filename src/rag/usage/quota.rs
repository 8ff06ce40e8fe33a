//! What a caller may still use.

use std::sync::Arc;

use time::{Date, OffsetDateTime, Time};
use uuid::Uuid;

use super::{Ledger, today};
use crate::{
    config::{Quota, QuotaPeriod, QuotaSubject},
    rag::{Caller, RagError},
    store::{TenantId, UsageCounts, UsageSpent},
};

/// A caller has used what it may; `retry_after_s` is when the period ends.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the {per}'s quota of {limit} a {period} is used up; it begins anew at {resets_at} (UTC), or raise it under \
     [[quota]] in models.toml"
)]
pub struct QuotaExceeded {
    per: &'static str,
    limit: String,
    period: &'static str,
    resets_at: Date,
    pub retry_after_s: u64,
}

/// A quota as it stands for one caller.
#[derive(Debug, Clone)]
pub struct Allowance {
    pub quota: Quota,
    pub used: UsageCounts,
    /// First day of the next period.
    pub resets_at: Date,
}

/// Whose use is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Tenant(TenantId),
    Key(TenantId, Uuid),
}

/// What a subject has used in the periods of the day it was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    day: Date,
    today: UsageCounts,
    month: UsageCounts,
}

impl Subject {
    /// Those that a caller's use is added to.
    pub(super) fn of(caller: Caller) -> impl Iterator<Item = Subject> {
        let key = caller.key.map(|key| Subject::Key(caller.tenant, key));
        std::iter::once(Subject::Tenant(caller.tenant)).chain(key)
    }
}

impl Spent {
    pub(super) fn new(day: Date) -> Self {
        Self { day, today: UsageCounts::default(), month: UsageCounts::default() }
    }

    pub(super) fn add_read(&mut self, row: &UsageSpent) {
        self.today += row.today;
        self.month += row.month;
    }

    /// What was used on a day that is over counts for its month only.
    pub(super) fn add(&mut self, day: Date, counts: UsageCounts) {
        if day > self.day {
            self.begin(day);
        }
        if day == self.day {
            self.today += counts;
        }
        if first_of_month(day) == first_of_month(self.day) {
            self.month += counts;
        }
    }

    fn begin(&mut self, day: Date) {
        let same_month = first_of_month(day) == first_of_month(self.day);
        let month = if same_month { self.month } else { UsageCounts::default() };
        *self = Self { day, today: UsageCounts::default(), month };
    }

    /// What was used of the period that `day` is in.
    fn within(mut self, period: QuotaPeriod, day: Date) -> UsageCounts {
        if day > self.day {
            self.begin(day);
        }
        match period {
            QuotaPeriod::Day => self.today,
            QuotaPeriod::Month => self.month,
        }
    }
}

impl Ledger {
    /// Refuses a caller that has used what it may.
    ///
    /// Who has something left may finish with more than that: what a request takes is known at its end.
    pub async fn admit(self: &Arc<Self>, caller: Caller) -> Result<(), RagError> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        self.loaded.get_or_try_init(|| self.flush()).await?;
        let now = OffsetDateTime::now_utc();
        let exceeded = self.allowances(caller).iter().find_map(|allowance| allowance.exceeded(now));
        match exceeded {
            Some(exceeded) => {
                self.books().totals.refused += 1;
                Err(exceeded.into())
            }
            None => Ok(()),
        }
    }

    /// The quotas that apply to a caller.
    pub(super) fn allowances(&self, caller: Caller) -> Vec<Allowance> {
        let (day, books) = (today(), self.books());
        let allowance = |quota: &Quota| {
            let subject = subject(quota, caller)?;
            let used = books
                .spent
                .get(&subject)
                .map_or_else(UsageCounts::default, |spent| spent.within(quota.period, day));
            Some(Allowance { quota: quota.clone(), used, resets_at: next(quota.period, day) })
        };
        self.quotas.iter().filter_map(allowance).collect()
    }
}

impl Allowance {
    fn exceeded(&self, now: OffsetDateTime) -> Option<QuotaExceeded> {
        let tokens = self
            .quota
            .tokens
            .filter(|most| u64::try_from(self.used.tokens()).is_ok_and(|used| used >= *most));
        let cost = self.quota.cost.filter(|most| self.used.cost() >= *most);
        let limit = match (tokens, cost) {
            (Some(tokens), _) => format!("{tokens} tokens"),
            (None, Some(cost)) => format!("a cost of {cost}"),
            (None, None) => return None,
        };
        let resets = self.resets_at.with_time(Time::MIDNIGHT).assume_utc();
        Some(QuotaExceeded {
            per: self.quota.per.name(),
            limit,
            period: self.quota.period.name(),
            resets_at: self.resets_at,
            retry_after_s: u64::try_from((resets - now).whole_seconds()).unwrap_or(0) + 1,
        })
    }
}

/// Whose use this quota limits when that caller asks; none: it is not about the caller.
fn subject(quota: &Quota, caller: Caller) -> Option<Subject> {
    let is_of = |wanted: Option<Uuid>, given: Uuid| wanted.is_none_or(|wanted| wanted == given);
    if !is_of(quota.tenant, caller.tenant.0) {
        return None;
    }
    match quota.per {
        QuotaSubject::Tenant => Some(Subject::Tenant(caller.tenant)),
        QuotaSubject::Key => {
            caller.key.filter(|key| is_of(quota.key, *key)).map(|key| Subject::Key(caller.tenant, key))
        }
    }
}

pub(super) fn first_of_month(day: Date) -> Date {
    day.replace_day(1).unwrap_or(day)
}

/// First day of the next period.
fn next(period: QuotaPeriod, day: Date) -> Date {
    match period {
        QuotaPeriod::Day => day.next_day().unwrap_or(day),
        QuotaPeriod::Month => {
            // Every month has ended 31 days after its first day, and the next one has not.
            let later = first_of_month(day).saturating_add(time::Duration::days(31));
            first_of_month(later)
        }
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::{Iso8601, Rfc3339};

    use super::*;

    fn date(day: &str) -> Date {
        Date::parse(day, &Iso8601::DATE).unwrap()
    }

    fn used(tokens: i64, cost_nano: i64) -> UsageCounts {
        UsageCounts { prompt_tokens: tokens, cost_nano, ..UsageCounts::default() }
    }

    fn quota(text: &str) -> Quota {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn periods_end_with_the_calendar() {
        assert_eq!(next(QuotaPeriod::Day, date("2026-12-31")), date("2027-01-01"));
        assert_eq!(next(QuotaPeriod::Month, date("2026-12-31")), date("2027-01-01"));
        assert_eq!(next(QuotaPeriod::Month, date("2027-02-01")), date("2027-03-01"));
        assert_eq!(next(QuotaPeriod::Month, date("2028-01-31")), date("2028-02-01"));
    }

    #[test]
    fn a_new_day_begins_at_nothing_and_a_new_month_too() {
        let mut spent = Spent::new(date("2026-11-29"));
        spent.add(date("2026-11-29"), used(10, 0));
        spent.add(date("2026-11-30"), used(5, 0));
        let tokens = |period, day| spent.within(period, day).tokens();
        assert_eq!(tokens(QuotaPeriod::Day, date("2026-11-30")), 5);
        assert_eq!(tokens(QuotaPeriod::Month, date("2026-11-30")), 15);
        assert_eq!(tokens(QuotaPeriod::Day, date("2026-12-01")), 0);
        assert_eq!(tokens(QuotaPeriod::Month, date("2026-12-01")), 0);
        // Counted just before midnight, written just after it.
        spent.add(date("2026-11-29"), used(1, 0));
        assert_eq!((spent.today.tokens(), spent.month.tokens()), (5, 16));
    }

    #[test]
    fn the_limit_is_told_with_the_time_until_it_ends() {
        let now = OffsetDateTime::parse("2026-11-24T23:00:00Z", &Rfc3339).unwrap();
        let allowance = |quota: Quota, used| {
            let resets_at = next(quota.period, now.date());
            Allowance { quota, used, resets_at }.exceeded(now)
        };
        let tokens = "per = \"tenant\"\nperiod = \"day\"\ntokens = 100";
        assert!(allowance(quota(tokens), used(99, 0)).is_none());
        let exceeded = allowance(quota(tokens), used(100, 0)).unwrap();
        assert_eq!(exceeded.retry_after_s, 3601);
        assert!(exceeded.to_string().contains("quota of 100 tokens a day"), "{exceeded}");
        let cost = "per = \"key\"\nperiod = \"month\"\ncost = 0.5";
        assert!(allowance(quota(cost), used(0, 499_999_999)).is_none());
        let exceeded = allowance(quota(cost), used(0, 500_000_000)).unwrap();
        assert!(exceeded.to_string().contains("2026-12-01"), "{exceeded}");
    }

    #[test]
    fn a_quota_is_about_those_it_names() {
        let (tenant, key) = (TenantId(Uuid::from_u128(1)), Uuid::from_u128(2));
        let caller = Caller { tenant, key: Some(key) };
        let about =
            |text: &str, caller| subject(&quota(&format!("{text}\nperiod = \"day\"\ntokens = 1")), caller);
        assert_eq!(about("per = \"tenant\"", caller), Some(Subject::Tenant(tenant)));
        assert_eq!(about("per = \"key\"", caller), Some(Subject::Key(tenant, key)));
        assert_eq!(about("per = \"key\"", tenant.into()), None);
        let other = Uuid::from_u128(9);
        assert_eq!(about(&format!("per = \"tenant\"\ntenant = \"{other}\""), caller), None);
        assert_eq!(about(&format!("per = \"key\"\nkey = \"{other}\""), caller), None);
    }
}
