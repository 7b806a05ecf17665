//! Charges computed anew by the prices that are in force now: what they differ by goes into `billing_adjustments`, the
//! rows of the log are never edited. Doing it twice changes nothing, also at once on two machines.

use std::collections::BTreeMap;

use serde::Serialize;

use super::adjustment::Adjustment;
use crate::{
    Error, ErrorKind, Result,
    config::Config,
    database::Database,
    gateway::{CurrencyCost, RequestQuery},
    price::{Catalog, Exchange, Price, PriceBook, UNPRICED},
    types::{
        LogRow, Pico, Usage,
        log::{Decision, unix_ms},
    },
};

/// Rows of the log that are looked at together.
const PAGE: usize = 500;

/// The `old_price_id` of a row whose caller was charged nothing.
const NONE: &str = "none";

/// Which rows are computed anew.
#[derive(Debug, Clone, Default)]
pub struct RerateQuery {
    /// From this time on (RFC 3339 or a date).
    pub from: String,
    /// Before this time (RFC 3339 or a date); absent: up to now.
    pub to: Option<String>,
    /// Only say what would change.
    pub dry_run: bool,
}

/// What was, or would be, changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rerated {
    /// Rows that were looked at.
    pub rows: u64,
    /// Those whose charge or cost changes.
    pub changed: u64,
    /// Those that stay as they are because a model has no price.
    pub unpriced: u64,
    /// By how much charges and costs change.
    pub by_currency: Vec<CurrencyCost>,
}

/// By what requests are rated.
struct Rater<'a> {
    book: PriceBook,
    exchange: Exchange,
    config: &'a Config,
}

/// What a request costs now.
enum Rating {
    Costs(Costs),
    /// A model that it used has no price.
    Unpriced,
    /// Nothing was used that could cost anything.
    Nothing,
}

struct Costs {
    currency: String,
    user_charge: Pico,
    provider_cost: Pico,
    price_id: String,
}

impl Database {
    /// Computes the charges of rows anew by the prices of a configuration and of the table, each by the price of its time.
    /// Rows of models without a price stay as they are. Budgets are not touched.
    ///
    /// # Errors
    /// `invalid_value` with the member's name; `store_unavailable`. What was written until then stays, and another run
    /// goes on from there.
    pub async fn rerate(&self, query: &RerateQuery, config: &Config) -> Result<Rerated> {
        let rater = Rater {
            book: self.price_book(&config.billing).await?,
            exchange: Exchange::new(&config.billing),
            config,
        };
        let mut page = RequestQuery {
            from: Some(query.from.clone()),
            to: query.to.clone(),
            limit: Some(PAGE),
            ..RequestQuery::default()
        };
        let mut rerated = Rerated::default();
        loop {
            let rows = self.requests(&page, None).await?;
            let mut earlier = self.adjustments(&rows.data).await?;
            let mut new = Vec::new();
            for row in &rows.data {
                rerated.rows += 1;
                match rater.rate(row)? {
                    Rating::Costs(costs) => {
                        let earlier = earlier.remove(&row.request_id).unwrap_or_default();
                        let corrections = corrections(row, &earlier, &costs)?;
                        rerated.changed += u64::from(!corrections.is_empty());
                        new.extend(corrections);
                    }
                    Rating::Unpriced => rerated.unpriced += 1,
                    Rating::Nothing => {}
                }
            }
            if !query.dry_run {
                self.write_adjustments(&new).await?;
            }
            new.iter().for_each(|correction| rerated.count(correction));
            if rows.next_cursor.is_none() {
                return Ok(rerated);
            }
            page.cursor = rows.next_cursor;
        }
    }
}

impl Rerated {
    fn count(&mut self, correction: &Adjustment) {
        let known = self
            .by_currency
            .iter()
            .position(|cost| cost.currency == correction.currency);
        let index = known.unwrap_or_else(|| {
            self.by_currency.push(CurrencyCost {
                currency: correction.currency.clone(),
                ..CurrencyCost::default()
            });
            self.by_currency.len() - 1
        });
        if let Some(cost) = self.by_currency.get_mut(index) {
            cost.user_charge.0 += i128::from(correction.user_charge_pico);
            cost.provider_cost.0 += i128::from(correction.provider_cost_pico);
        }
    }
}

impl Rater<'_> {
    /// What a row costs: the caller what it was charged for, the attempt that was delivered; the gateway all attempts of
    /// which usage is known.
    fn rate(&self, row: &LogRow) -> Result<Rating> {
        let Some(decision) = &row.decision else {
            return Ok(Rating::Nothing);
        };
        let used = used(row, decision);
        let mut costs = Vec::with_capacity(used.len());
        for (provider, model, usage) in used {
            let Some(price) = self.price(provider, model, row) else {
                return Ok(Rating::Unpriced);
            };
            costs.push((price.cost(&usage)?, price));
        }
        // What the caller is charged for was tried last.
        let delivered = row.price_id.as_ref().and(costs.last());
        let Some((_, of)) = delivered.or(costs.first()) else {
            return Ok(Rating::Nothing);
        };
        let provider_cost = costs
            .iter()
            .filter_map(|(cost, price)| self.exchange.convert(*cost, &price.currency, &of.currency))
            .sum();
        Ok(Rating::Costs(Costs {
            currency: of.currency.to_string(),
            user_charge: delivered.map_or(Pico::ZERO, |(cost, _)| *cost),
            provider_cost,
            price_id: of.id.to_string(),
        }))
    }

    fn price(&self, provider: &str, model: &str, row: &LogRow) -> Option<std::sync::Arc<Price>> {
        let configured = self.config.providers.get(provider);
        let catalog = configured.and_then(|configured| {
            let kind = configured.kind.as_deref().unwrap_or(provider);
            Catalog::of(
                kind,
                configured.preset.as_deref(),
                configured.base_url.as_deref(),
            )
        });
        let at_ms = unix_ms(&row.created_at)?;
        self.book.find(provider, catalog, model, at_ms)
    }
}

/// Provider, upstream model and usage of every attempt that used something.
fn used<'r>(row: &'r LogRow, decision: &'r Decision) -> Vec<(&'r str, &'r str, Usage)> {
    let attempts: Vec<_> = decision
        .attempts
        .iter()
        .filter_map(|attempt| {
            let cost = attempt.cost.as_ref()?;
            Some((&*attempt.provider_id, &*attempt.model_name, cost.usage))
        })
        .collect();
    if !attempts.is_empty() || row.price_id.is_none() || row.provider_id.is_empty() {
        return attempts;
    }
    let usage = Usage {
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        cached_tokens: row.cached_tokens,
        cache_write_tokens: row.cache_write_tokens,
        reasoning_tokens: row.reasoning_tokens,
    };
    vec![(&row.provider_id, &decision.model_name, usage)]
}

/// What must be added to a row and its earlier corrections to make it cost that.
fn corrections(row: &LogRow, earlier: &[Adjustment], costs: &Costs) -> Result<Vec<Adjustment>> {
    let mut difference: BTreeMap<&str, [i128; 2]> = BTreeMap::new();
    let mut add = |currency, charge: i128, cost: i128| {
        let [charges, providers] = difference.entry(currency).or_default();
        *charges += charge;
        *providers += cost;
    };
    add(&costs.currency, costs.user_charge.0, costs.provider_cost.0);
    if let Some(currency) = row.currency.as_deref() {
        add(
            currency,
            -i128::from(row.user_charge_pico),
            -i128::from(row.provider_cost_pico),
        );
    }
    for correction in earlier {
        add(
            &correction.currency,
            -i128::from(correction.user_charge_pico),
            -i128::from(correction.provider_cost_pico),
        );
    }
    let old_price_id = match earlier.last() {
        Some(last) => &last.new_price_id,
        None => row.price_id.as_deref().unwrap_or(NONE),
    };
    // A model that is free now is priced nonetheless.
    let now_priced = old_price_id == UNPRICED && difference.values().all(|by| *by == [0, 0]);
    difference
        .into_iter()
        .filter(|(currency, by)| *by != [0, 0] || now_priced && *currency == costs.currency)
        .map(|(currency, [charge, cost])| {
            let revisions = earlier.iter().filter(|one| one.currency == currency);
            let last = revisions.map(|one| one.revision).max();
            Ok(Adjustment {
                request_id: row.request_id.clone(),
                currency: currency.to_owned(),
                revision: last.unwrap_or(0) + 1,
                created_at: row.created_at.clone(),
                user_id: row.user_id.to_string(),
                api_key_id: row.api_key_id.as_deref().map(str::to_owned),
                model_name: row.model_name.clone(),
                provider_id: row.provider_id.to_string(),
                // What only moves to another currency has no price of its own.
                old_price_id: if currency == costs.currency {
                    old_price_id.to_owned()
                } else {
                    costs.price_id.clone()
                },
                new_price_id: costs.price_id.clone(),
                user_charge_pico: to_row(charge)?,
                provider_cost_pico: to_row(cost)?,
            })
        })
        .collect()
}

fn to_row(pico: i128) -> Result<i64> {
    Pico(pico).to_row().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "a correction is larger than an amount can be",
        )
    })
}
