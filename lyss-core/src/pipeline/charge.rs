//! What a request costs: each attempt by the price of its target, and of these the delivered one for the caller.
//!
//! | what happened | caller | provider |
//! |---|---|---|
//! | an answer, or the delivered part of one | its tokens | its tokens |
//! | a failed attempt whose provider reports usage | nothing | the reported tokens |
//! | a failed attempt that the provider may have worked on (timeout, broken connection) | nothing | the prompt, at least |
//! | a refused attempt (4xx, 5xx, no connection) | nothing | nothing |
//! | given up before the first byte of an answer | the prompt, at least | the prompt, at least |

use std::sync::Arc;

use crate::{
    context::tokens::Counter,
    error::{Error, Result, Work},
    price::{Exchange, Price},
    telemetry::requests::Charge,
    types::{LogRow, Pico, Usage, UsageSource, log::Cost},
};

/// What stands for a price where a model has none.
pub(super) const UNPRICED: &str = "unpriced";

/// The tokens of a row.
pub(super) fn usage_of(row: &LogRow) -> Usage {
    Usage {
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        cached_tokens: row.cached_tokens,
        cache_write_tokens: row.cache_write_tokens,
        reasoning_tokens: row.reasoning_tokens,
    }
}

/// Sets what the attempt tried last has used, and what that costs.
///
/// # Errors
/// `internal` if the cost is larger than an amount can be; the row is then charged the largest there is.
pub(super) fn charge(
    row: &mut LogRow,
    usage: Usage,
    source: UsageSource,
    price: Option<&Price>,
) -> Result<()> {
    let (cost, outcome) = match cost(usage, source, price) {
        Ok(cost) => (cost, Ok(())),
        Err(error) => {
            let largest = Cost {
                pico: i64::MAX,
                ..unpriced(usage, source)
            };
            (priced(largest, price), Err(error))
        }
    };
    row.input_tokens = usage.input_tokens;
    row.output_tokens = usage.output_tokens;
    row.cached_tokens = usage.cached_tokens;
    row.cache_write_tokens = usage.cache_write_tokens;
    row.reasoning_tokens = usage.reasoning_tokens;
    row.usage_source = source;
    row.user_charge_pico = cost.pico;
    row.currency.clone_from(&cost.currency);
    row.price_id = Some(Arc::clone(&cost.price_id));
    let decision = row.decision.as_mut();
    if let Some(attempt) = decision.and_then(|decision| decision.attempts.last_mut()) {
        let counted = source != UsageSource::Reported;
        let tokenizer = counted.then(|| Counter::for_model(&attempt.model_name).tokenizer());
        attempt.cost = Some(Cost { tokenizer, ..cost });
    } else {
        row.provider_cost_pico = cost.pico;
    }
    outcome
}

/// Sets what a row is charged of which no more is known than the least that its prompt and its answer have.
pub(super) fn at_least(
    row: &mut LogRow,
    input_tokens: u64,
    output_tokens: u64,
    price: Option<&Price>,
) {
    let usage = Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    };
    // What does not fit is held at the largest.
    let _ = charge(row, usage, UsageSource::Partial, price);
}

/// Takes back what [`at_least`] has set on a row of which nothing was known before.
pub(super) fn nothing(row: &mut LogRow) {
    row.input_tokens = 0;
    row.output_tokens = 0;
    row.usage_source = UsageSource::default();
    row.user_charge_pico = 0;
    row.provider_cost_pico = 0;
    row.currency = None;
    row.price_id = None;
}

/// What a failed attempt cost, as far as that is known.
pub(super) fn of_failure(
    error: &Error,
    input_at_least: u64,
    price: Option<&Price>,
) -> Option<Cost> {
    let (usage, source) = match error.usage() {
        Some(usage) => (usage, UsageSource::Reported),
        None if error.work() == Work::Unknown && error.upstream().is_none() => {
            let usage = Usage {
                input_tokens: input_at_least,
                ..Usage::default()
            };
            (usage, UsageSource::Partial)
        }
        None => return None,
    };
    cost(usage, source, price).ok()
}

/// Sums up what all attempts cost. One in a currency that cannot be converted into the row's stands with the attempt
/// only.
pub(super) fn sum_up(row: &mut LogRow, exchange: &Exchange) {
    let Some(decision) = &row.decision else {
        return;
    };
    let costs = || {
        decision
            .attempts
            .iter()
            .filter_map(|attempt| attempt.cost.as_ref())
    };
    if row.currency.is_none() {
        row.currency = costs().find_map(|cost| cost.currency.clone());
    }
    let Some(currency) = &row.currency else {
        return;
    };
    let amount = |cost: &Cost| {
        let of = cost.currency.as_deref().unwrap_or(currency);
        exchange.convert(Pico(cost.pico.into()), of, currency)
    };
    let sum: Pico = costs().filter_map(amount).sum();
    row.provider_cost_pico = sum.to_row().unwrap_or(i64::MAX);
}

/// What the caller is charged, in the currency that was reserved in. Where that cannot be told, all that was reserved.
pub(super) fn reserved_of(row: &LogRow, exchange: &Exchange) -> Pico {
    let charge = Pico(row.user_charge_pico.into());
    let reserved = row
        .decision
        .as_ref()
        .and_then(|decision| decision.reserved.as_ref());
    match (reserved, &row.currency) {
        (Some(reserved), Some(currency)) => exchange
            .convert(charge, currency, &reserved.currency)
            .unwrap_or(reserved.amount),
        _ => charge,
    }
}

/// What the caller is charged, for the metrics.
pub(super) fn told(row: &LogRow) -> Charge {
    match (&row.price_id, &row.currency) {
        (Some(id), _) if &**id == UNPRICED && (row.input_tokens | row.output_tokens) > 0 => {
            Charge::Unpriced
        }
        (_, Some(currency)) if row.user_charge_pico > 0 => {
            Charge::Amount(Pico(row.user_charge_pico.into()), Arc::clone(currency))
        }
        _ => Charge::Nothing,
    }
}

fn cost(usage: Usage, source: UsageSource, price: Option<&Price>) -> Result<Cost> {
    let cost = unpriced(usage, source);
    let Some(of) = price else {
        return Ok(cost);
    };
    let amount = of.cost(&usage)?;
    let pico = amount.to_row().ok_or(crate::price::NoCost::Overflow)?;
    Ok(priced(Cost { pico, ..cost }, price))
}

fn unpriced(usage: Usage, usage_source: UsageSource) -> Cost {
    Cost {
        usage,
        usage_source,
        tokenizer: None,
        pico: 0,
        currency: None,
        price_id: UNPRICED.into(),
    }
}

fn priced(cost: Cost, price: Option<&Price>) -> Cost {
    match price {
        Some(price) => Cost {
            currency: Some(Arc::clone(&price.currency)),
            price_id: Arc::clone(&price.id),
            ..cost
        },
        None => cost,
    }
}
