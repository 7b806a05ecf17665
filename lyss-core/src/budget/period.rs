//! The calendar periods that budgets renew in.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

use crate::config::BudgetPeriod;

/// One period: from its start to the start of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Its first millisecond since the Unix epoch.
    pub start_ms: i64,
    /// The first millisecond of the next; `None` if there is none.
    pub end_ms: Option<i64>,
}

impl Span {
    /// The one period of a budget that never renews.
    pub const FOREVER: Self = Self {
        start_ms: 0,
        end_ms: None,
    };

    /// The period of the zone's calendar that a time lies in.
    pub fn containing(at_ms: i64, period: BudgetPeriod, zone: &TimeZone) -> Self {
        // A time outside the calendar (the year 10000) has no period: it counts for ever.
        Self::calendar(at_ms, period, zone).unwrap_or(Self::FOREVER)
    }

    fn calendar(at_ms: i64, period: BudgetPeriod, zone: &TimeZone) -> Option<Self> {
        let date = Timestamp::from_millisecond(at_ms)
            .ok()?
            .to_zoned(zone.clone())
            .date();
        let (first, next) = match period {
            BudgetPeriod::Day => (date, date.tomorrow().ok()?),
            BudgetPeriod::Month => {
                let first = date.first_of_month();
                (first, first.checked_add(1.month()).ok()?)
            }
            BudgetPeriod::Total => return None,
        };
        Some(Self {
            start_ms: midnight(first, zone)?,
            end_ms: Some(midnight(next, zone)?),
        })
    }
}

/// The first moment of a day; not always 0:00, where clocks are put forward at night.
fn midnight(date: Date, zone: &TimeZone) -> Option<i64> {
    let start = date.to_zoned(zone.clone()).ok()?;
    Some(start.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn ms(time: &str) -> i64 {
        time.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[track_caller]
    fn is(zone: &str, period: BudgetPeriod, at: &str, start: &str, end: &str) {
        let zone = TimeZone::get(zone).unwrap();
        let expected = Span {
            start_ms: ms(start),
            end_ms: Some(ms(end)),
        };
        assert_eq!(Span::containing(ms(at), period, &zone), expected);
    }

    #[test]
    fn periods_are_those_of_the_zones_calendar() {
        let (day, month) = (BudgetPeriod::Day, BudgetPeriod::Month);
        is(
            "UTC",
            day,
            "2026-11-26T23:59:59.999Z",
            "2026-11-26T00:00:00Z",
            "2026-11-27T00:00:00Z",
        );
        is(
            "UTC",
            month,
            "2028-02-29T12:00:00Z",
            "2028-02-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        );
        is(
            "Asia/Shanghai",
            month,
            "2026-10-31T16:00:00Z",
            "2026-10-31T16:00:00Z",
            "2026-11-30T16:00:00Z",
        );
        // Clocks go forward: the day has 23 hours; in Beirut it begins at 1:00.
        is(
            "Europe/Berlin",
            day,
            "2026-03-29T12:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
        );
        is(
            "Asia/Beirut",
            day,
            "2026-03-29T12:00:00Z",
            "2026-03-28T22:00:00Z",
            "2026-03-29T21:00:00Z",
        );
    }

    #[test]
    fn a_total_never_renews() {
        let span = Span::containing(1_700_000_000_000, BudgetPeriod::Total, &TimeZone::UTC);
        assert_eq!(span, Span::FOREVER);
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_period_and_the_next_follows(
            at in 0_i64..4_000_000_000_000,
            zone in prop::sample::select(vec!["UTC", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kolkata"]),
            period in prop::sample::select(vec![BudgetPeriod::Day, BudgetPeriod::Month]),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let span = Span::containing(at, period, &zone);
            let end = span.end_ms.unwrap();
            prop_assert!(span.start_ms <= at && at < end);
            prop_assert_eq!(Span::containing(end, period, &zone).start_ms, end);
            prop_assert_eq!(Span::containing(span.start_ms, period, &zone), span);
        }
    }
}
