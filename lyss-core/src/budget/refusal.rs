//! What a caller is told whose request is not covered.

use std::time::Duration;

use super::{Scope, book::Bound};
use crate::{
    error::{Error, ErrorKind, Retry},
    types::{Pico, log::rfc3339},
};

/// Why nothing is reserved.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub error: Error,
    /// Whose budget it is that does not afford it.
    pub scope: Option<Scope>,
    /// Whether the store has failed: then a call may go on (`billing.on_store_down`).
    pub away: bool,
}

impl Refusal {
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// A budget does not afford the least that the request needs.
    pub(super) fn exceeded(bound: Option<&Bound>, left: Pico, needed: Pico) -> Self {
        Self {
            scope: bound.map(|bound| bound.budget.scope),
            ..exceeded(bound, left, needed).into()
        }
    }

    /// The store has failed.
    pub(super) fn away(cause: Error) -> Self {
        Self {
            away: true,
            ..unavailable(Some(cause)).into()
        }
    }

    /// The time is over in which a request gets its reservation. A store that has answered others meanwhile is there: it
    /// has a queue, or counts what was spent.
    pub(super) fn late(answered: bool) -> Self {
        Self {
            away: !answered,
            ..unavailable(None).into()
        }
    }
}

/// One that the request has to take.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            scope: None,
            away: false,
        }
    }
}

/// What the caller is told whom a budget does not afford.
fn exceeded(bound: Option<&Bound>, left: Pico, needed: Pico) -> Error {
    let Some(bound) = bound else {
        return Error::new(ErrorKind::BudgetExceeded, "a budget is used up");
    };
    let renews = match bound.counter.span.end_ms {
        Some(end) => format!("it renews at {}", rfc3339(end)),
        None => "it does not renew".to_owned(),
    };
    let left = left.max(Pico::ZERO);
    let budget = &bound.budget;
    Error::new(
        ErrorKind::BudgetExceeded,
        format!(
            "the budget of {budget} does not cover this request: it needs at least {needed} {currency}, and \
             {left} {currency} are left; {renews}",
            currency = budget.currency
        ),
    )
}

/// The price is in a currency that the budget's cannot be compared with.
pub(super) fn no_rate(from: &str, to: &str) -> Error {
    Error::new(
        ErrorKind::UnpricedModel,
        format!(
            "the model is priced in {from} and a budget is in {to}: set `billing.exchange_rates`, or a price in {to}"
        ),
    )
}

/// Nobody knows what is left.
pub(super) fn unavailable(cause: Option<Error>) -> Error {
    let error = Error::new(
        ErrorKind::BudgetStoreUnavailable,
        "what is left of a budget cannot be known at the moment; try again",
    )
    .with_retry(Retry::After(Duration::from_secs(1)));
    match cause {
        Some(cause) => error.with_source(cause),
        None => error,
    }
}

/// What was left was taken by others, again and again: the store is there, and the next time may be luckier.
pub(super) fn contended() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "many requests share the rest of a budget at the moment; try again",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
}
