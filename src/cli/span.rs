//! Times as people write and read them.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// A length of time: `90d`, `12h`, `30m`, `45s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no length of time; write 90d, 12h, 30m or 45s");
        let (count, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = count.parse().map_err(|_| wrong())?;
        let seconds = count.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(wrong)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl Span {
    /// The moment that lies this much later.
    pub fn from(self, start: OffsetDateTime) -> Result<OffsetDateTime> {
        let span = time::Duration::try_from(self.0).ok();
        span.and_then(|span| start.checked_add(span)).context("that is too far away")
    }
}

/// To the second, in UTC.
pub fn shown(at: OffsetDateTime) -> String {
    let whole = at.to_offset(UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("45s", 45), ("30m", 1_800), ("12h", 43_200), ("90d", 7_776_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))));
        }
        for text in
            ["", "d", "90", "0d", "-1d", "1.5h", "1w", "1é", "99999999999999999999d", "999999999999999999d"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let long: Span = "99999999999999d".parse().unwrap();
        assert!(long.from(OffsetDateTime::UNIX_EPOCH).is_err());
    }
}
