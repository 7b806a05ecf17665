//! What a caller is told whose request is not covered.

use std::time::Duration;

use super::book::Bound;
use crate::{
    error::{Error, ErrorKind, Retry},
    types::{Pico, log::rfc3339},
};

/// A budget does not afford the least that the request needs.
pub(super) fn exceeded(bound: Option<&Bound>, left: Pico) -> Error {
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
            "the budget of {budget} does not cover this request: {left} {} are left; {renews}",
            budget.currency
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

/// What was left was taken by others, again and again.
pub(super) fn contended() -> Error {
    Error::new(
        ErrorKind::BudgetStoreUnavailable,
        "many requests share the rest of a budget at the moment; try again",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
}
