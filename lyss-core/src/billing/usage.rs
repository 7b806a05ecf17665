//! Totals of the request log: requests, tokens, and what they cost with all corrections.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::request_log::{
    Part::{self, Either, Sql},
    between, equals, owned_by,
};
use crate::{
    Error, Result,
    database::Database,
    gateway::{CostTotal, CurrencyCost, UsageQuery, UsageTotal},
    price::Exchange,
    types::Pico,
};

/// What amounts are divided by before they are added up: SQLite's sums, and JSON's numbers, end at 64 bits.
const BILLION: i128 = 1_000_000_000;

/// Rows and their corrections, one below the other.
const ENTRIES: &str = " FROM (
    SELECT created_at, user_id, api_key_id, model_name, provider_id, currency, 1 AS request,
        CASE WHEN status <> 'success' THEN 1 ELSE 0 END AS failed,
        CASE WHEN price_id = 'unpriced' THEN 1 ELSE 0 END AS unpriced,
        input_tokens, output_tokens, cached_tokens, reasoning_tokens, user_charge_pico, provider_cost_pico
    FROM request_logs
    UNION ALL
    SELECT created_at, user_id, api_key_id, model_name, provider_id, currency, 0, 0,
        CASE WHEN old_price_id = 'unpriced' AND new_price_id <> 'unpriced' THEN -1 ELSE 0 END,
        0, 0, 0, 0, user_charge_pico, provider_cost_pico
    FROM billing_adjustments
) AS entries WHERE true";

macro_rules! sums {
    ($array:literal, $cast:literal, $end:literal) => {
        concat!(
            "'currency', coalesce(currency, ''), 'requests', sum(request)",
            $cast,
            ", 'failed_requests', sum(failed)",
            $cast,
            ", 'unpriced_requests', sum(unpriced)",
            $cast,
            ", 'input_tokens', sum(input_tokens)",
            $cast,
            ", 'output_tokens', sum(output_tokens)",
            $cast,
            ", 'cached_tokens', sum(cached_tokens)",
            $cast,
            ", 'reasoning_tokens', sum(reasoning_tokens)",
            $cast,
            ", 'charge', ",
            $array,
            "(sum(user_charge_pico / 1000000000)",
            $cast,
            ", sum(user_charge_pico % 1000000000)",
            $cast,
            "), 'cost', ",
            $array,
            "(sum(provider_cost_pico / 1000000000)",
            $cast,
            ", sum(provider_cost_pico % 1000000000)",
            $cast,
            "))",
            $end
        )
    };
}

const POSTGRES: &str = sums!("json_build_array", "::bigint", "::text");
const SQLITE: &str = sums!("json_array", "", "");

/// The totals of one group in one currency.
#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    group: BTreeMap<String, String>,
    currency: String,
    requests: u64,
    failed_requests: u64,
    unpriced_requests: i64,
    input_tokens: u64,
    output_tokens: u64,
    cached_tokens: u64,
    reasoning_tokens: u64,
    charge: [i64; 2],
    cost: [i64; 2],
}

impl Database {
    /// Totals, in groups. `owner`: only of this user's rows; `None` for admins.
    ///
    /// # Errors
    /// `invalid_value` with the member's name; `store_unavailable`.
    pub async fn usage(
        &self,
        query: &UsageQuery,
        owner: Option<&str>,
        exchange: &Exchange,
    ) -> Result<Vec<UsageTotal>> {
        let mut by = query.by.clone();
        by.sort();
        by.dedup();
        let mut parts = vec![Either("SELECT json_build_object(", "SELECT json_object(")];
        for name in &by {
            parts.extend(group(name)?.1);
        }
        parts.extend([Either(POSTGRES, SQLITE), Sql(ENTRIES)]);
        owned_by(&mut parts, owner)?;
        equals(&mut parts, "user_id", " AND user_id = ", &query.user_id)?;
        between(&mut parts, query.from.as_deref(), query.to.as_deref())?;
        for clause in [" GROUP BY ", " ORDER BY "] {
            parts.push(Sql(clause));
            for name in &by {
                parts.extend([group(name)?.0, Sql(", ")]);
            }
            parts.push(Sql("coalesce(currency, '')"));
        }
        let mut totals = Vec::new();
        for line in self.select::<Line>(parts).await? {
            add(&mut totals, line);
        }
        if totals.is_empty() && by.is_empty() {
            totals.push(UsageTotal::default());
        }
        for total in &mut totals {
            total.cost.sum_up(exchange);
        }
        Ok(totals)
    }
}

/// Adds a line to the totals of its group; lines of one group follow each other.
fn add(totals: &mut Vec<UsageTotal>, line: Line) {
    let amount =
        |[billions, rest]: [i64; 2]| Pico(i128::from(billions) * BILLION + i128::from(rest));
    let cost = CurrencyCost {
        currency: line.currency,
        user_charge: amount(line.charge),
        provider_cost: amount(line.cost),
    };
    if totals.last().is_none_or(|last| last.group != line.group) {
        totals.push(UsageTotal {
            group: line.group,
            ..UsageTotal::default()
        });
    }
    let Some(total) = totals.last_mut() else {
        return;
    };
    total.requests += line.requests;
    total.failed_requests += line.failed_requests;
    // Corrections may outlive the rows they correct by a moment.
    let unpriced = total
        .unpriced_requests
        .saturating_add_signed(line.unpriced_requests);
    total.unpriced_requests = unpriced;
    total.input_tokens += line.input_tokens;
    total.output_tokens += line.output_tokens;
    total.cached_tokens += line.cached_tokens;
    total.reasoning_tokens += line.reasoning_tokens;
    if !cost.currency.is_empty() {
        total.cost.by_currency.push(cost);
    }
}

impl CostTotal {
    /// Adds up the currencies in that of totals. A sum is converted once, so that it is rounded once.
    pub fn sum_up(&mut self, exchange: &Exchange) {
        let sum = |amount: fn(&CurrencyCost) -> Pico| {
            self.by_currency.iter().try_fold(Pico::ZERO, |sum, cost| {
                let converted =
                    exchange.convert(amount(cost), &cost.currency, exchange.currency())?;
                sum.checked_add(converted)
            })
        };
        self.user_charge = sum(|cost| cost.user_charge);
        self.provider_cost = sum(|cost| cost.provider_cost);
        self.currency = exchange.currency().to_owned();
    }
}

/// What a group is by, and its member of the result.
fn group(name: &str) -> Result<(Part, [Part; 3])> {
    let (key, by) = match name {
        "day" => (
            "'day', ",
            [
                "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
                "substr(created_at, 1, 10)",
            ],
        ),
        "model" => ("'model', ", ["model_name"; 2]),
        "user" => ("'user', ", ["user_id"; 2]),
        "key" => ("'key', ", ["coalesce(api_key_id, '')"; 2]),
        "provider" => ("'provider', ", ["provider_id"; 2]),
        _ => {
            return Err(Error::invalid(
                "by",
                format!("cannot group by `{name}`: one of day, model, user, key, provider"),
            ));
        }
    };
    let [postgres, sqlite] = by;
    Ok((
        Either(postgres, sqlite),
        [Sql(key), Either(postgres, sqlite), Sql(", ")],
    ))
}
