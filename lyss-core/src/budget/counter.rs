//! What is counted: the spending of one subject in one period, in one currency.
//!
//! Several budgets may bound one counter; a budget whose amount is changed goes on with what was spent.

use std::sync::Arc;

use super::{Scope, period::Span};
use crate::types::Pico;

/// 1e-12 of a currency in a unit of the stores' numbers, which are 1e-9: Redis computes in doubles, which are exact up
/// to 9e15 (nine million of the currency).
const PICO: i128 = 1000;

/// The largest amount of a budget, in 1e-9: exact in a double.
pub(crate) const MOST_NANO: i64 = 9_000_000_000_000_000;

/// An amount in the stores' unit, rounded up. What does not fit is beyond every budget.
pub(crate) fn nano(amount: Pico) -> i64 {
    let up = i128::from(amount.0.rem_euclid(PICO) > 0);
    let nano = amount.0.div_euclid(PICO) + up;
    i64::try_from(nano).map_or(MOST_NANO, |nano| nano.clamp(0, MOST_NANO))
}

/// An amount in the stores' unit as money.
pub(crate) fn pico(nano: i64) -> Pico {
    Pico(i128::from(nano) * PICO)
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Counter {
    pub scope: Scope,
    /// Whose spending: the key's id, the user; for a session user and id (see [`session_subject`]); empty for all.
    pub subject: Arc<str>,
    pub span: Span,
    pub currency: Arc<str>,
}

impl Counter {
    /// The name in the stores: `user:1764547200000-1767225600000:USD:u1`. The subject is last, since it may hold
    /// anything.
    pub fn key(&self) -> String {
        let end = self.span.end_ms.map(|ms| ms.to_string());
        format!(
            "{}:{}-{}:{}:{}",
            self.scope.as_str(),
            self.span.start_ms,
            end.unwrap_or_default(),
            self.currency,
            self.subject,
        )
    }

    /// Reads a name.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.splitn(4, ':');
        let scope = Scope::parse(parts.next()?)?;
        let (start, end) = parts.next()?.split_once('-')?;
        let end_ms = match end {
            "" => None,
            end => Some(end.parse().ok()?),
        };
        Some(Self {
            scope,
            span: Span {
                start_ms: start.parse().ok()?,
                end_ms,
            },
            currency: parts.next()?.into(),
            subject: parts.next()?.into(),
        })
    }
}

/// The subject of a session's counter: session ids are the user's own, and another user's session of the same id is
/// another session.
pub(crate) fn session_subject(user_id: &str, session_id: &str) -> String {
    format!("{}.{user_id}{session_id}", user_id.len())
}

/// User and session of a session's subject.
pub(crate) fn session_parts(subject: &str) -> Option<(&str, &str)> {
    let (length, rest) = subject.split_once('.')?;
    rest.split_at_checked(length.parse().ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_rounded_up() {
        assert_eq!(nano(Pico(0)), 0);
        assert_eq!(nano(Pico(1)), 1);
        assert_eq!(nano(Pico(1000)), 1);
        assert_eq!(nano(Pico(1001)), 2);
        assert_eq!(nano(Pico(-5)), 0);
        assert_eq!(nano(Pico(i128::MAX)), MOST_NANO);
        assert_eq!(pico(7), Pico(7000));
    }

    proptest! {
        #[test]
        fn names_are_read_back(subject in "\\PC*", end in any::<Option<i64>>(), start in 0_i64..i64::MAX) {
            let end_ms = end.map(|ms| ms.checked_abs().unwrap_or(0));
            let counter = Counter {
                scope: Scope::Key,
                subject: subject.into(),
                span: Span { start_ms: start, end_ms },
                currency: "USD".into(),
            };
            prop_assert_eq!(Counter::parse(&counter.key()), Some(counter));
        }

        #[test]
        fn sessions_of_two_users_never_meet(user in "\\PC*", session in "\\PC*") {
            let subject = session_subject(&user, &session);
            prop_assert_eq!(session_parts(&subject), Some((user.as_str(), session.as_str())));
        }
    }
}
