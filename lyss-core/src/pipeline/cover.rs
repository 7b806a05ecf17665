//! Covers a call before anything is dispatched: what it may cost is reserved in the budgets that bound it, and its intent
//! is written, so that from here on even a killed process leaves a row.
//!
//! What is reserved is an upper bound over all targets that may serve the call. The prompt's tokens are first bounded by
//! its bytes, which costs nothing; only where that bound does not fit are they counted. What is then left of a budget
//! lowers the output limit (decision 20).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    bounds::{self, Bounds},
    finish::Record,
};
use crate::{
    budget::{Applying, Reservation, Spender},
    config::{BillingConfig, Durability, Unpriced},
    context::tokens::Counter,
    engine::Inner,
    error::{Error, ErrorKind, Result},
    price::Price,
    routing::{Route, Target},
    types::{ChatRequest, EmbeddingRequest, Pico, Principal, RequestId, SessionKey},
};

/// What the prompt of a text that is only estimated may have more than the estimate says: a third.
const ESTIMATE_MARGIN: u64 = 3;

/// Whether targets without a price may serve a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priced {
    /// They may.
    Any,
    /// They may not: somebody's budget could not be kept.
    Only,
}

/// For whom a call is made, as far as budgets care: where there are none, for nobody.
pub(crate) fn spender(
    inner: &Inner,
    principal: &Principal,
    session: Option<&SessionKey>,
) -> Spender {
    let own = principal.key.as_ref().and_then(|key| key.budget.as_ref());
    if inner.budgets.is_empty() && own.is_none() {
        return Spender::default();
    }
    Spender {
        user_id: principal.user_id.clone().unwrap_or_default(),
        api_key_id: principal.api_key_id.clone(),
        session_id: session.map(|key| key.id.as_str().into()),
        key_budget: own.cloned(),
    }
}

/// Covers a chat call; its output limit may be lowered, or set.
///
/// # Errors
/// `budget_exceeded`, `unpriced_model`, `budget_store_unavailable`, `billing_spool_full`, `store_unavailable`.
pub(crate) async fn chat(
    inner: &Inner,
    record: &mut Record,
    route: &Route,
    spender: &Spender,
    request: &mut ChatRequest,
) -> Result<Priced> {
    let call = Call::new(inner, record, route, spender)?;
    if !call.applying.is_empty() {
        let body = request.to_segments();
        let billing = &inner.settings().config.billing;
        let media = bounds::media_in(request);
        let bounds = Bounds {
            input: bounds::input_at_most(&body, media, &billing.worst_case),
            output: request.output_limit().unwrap_or(call.longest(billing)),
            choices: request.choices(),
            beyond: billing.worst_case.reasoning_tokens,
        };
        let least = bounds.output.min(billing.min_output_tokens);
        let count = || async {
            // Of media the count is a guess at best.
            if media > 0 {
                return None;
            }
            let mut most = 0;
            for counter in call.counters(inner) {
                let counted = counter.count_request(request.clone()).await.input_tokens;
                most = most.max(counted + counted / ESTIMATE_MARGIN);
            }
            Some(most)
        };
        record.reserving()?;
        let (reservation, limit) = call.reserve(inner, bounds, least, count).await?;
        let lowered = (limit < bounds.output).then_some(limit);
        request.set_output_limit(limit);
        record.reserved(reservation, &call.currency, lowered);
    }
    let least = bounds::input_at_least(request.body().get("messages"));
    call.begin(inner, record, least).await
}

/// Covers an embeddings call.
///
/// # Errors
/// As [`chat`].
pub(crate) async fn embeddings(
    inner: &Inner,
    record: &mut Record,
    route: &Route,
    spender: &Spender,
    request: &EmbeddingRequest,
) -> Result<Priced> {
    let call = Call::new(inner, record, route, spender)?;
    if !call.applying.is_empty() {
        let body = request.to_segments();
        let bounds = Bounds {
            input: body.len() as u64,
            output: 0,
            choices: 1,
            beyond: 0,
        };
        let count = || async {
            let mut most = 0;
            for counter in call.counters(inner) {
                let request = request.clone();
                let counting = counter.run(body.len(), move |counter| counter.inputs(&request));
                let counted = counting.await;
                most = most.max(counted + counted / ESTIMATE_MARGIN);
            }
            Some(most)
        };
        record.reserving()?;
        let (reservation, _) = call.reserve(inner, bounds, 0, count).await?;
        record.reserved(reservation, &call.currency, None);
    }
    let least = bounds::input_at_least(request.body().get("input"));
    call.begin(inner, record, least).await
}

/// A call that is to be covered.
struct Call<'a> {
    id: RequestId,
    /// The targets that may serve it, with their prices.
    targets: Vec<(&'a Target, Option<Arc<Price>>)>,
    applying: Applying,
    priced: Priced,
    /// The currency it is reserved in: that of the first price.
    currency: Arc<str>,
}

impl<'a> Call<'a> {
    fn new(inner: &Inner, record: &Record, route: &'a Route, spender: &Spender) -> Result<Self> {
        let (id, prices) = (record.request_id(), record.prices());
        let applying = inner.budgets.applying(spender, id.unix_ms());
        let usable = route.tiers.iter().flat_map(|tier| &tier.targets);
        let usable = usable.filter(|target| target.weight > 0);
        // Where no budget applies, only the likely target's price is wanted, for the intent.
        let wanted = match applying.is_empty() {
            true => 1,
            false => usize::MAX,
        };
        let priced_target =
            |target: &'a Arc<Target>| (&**target, target.price(prices, id.unix_ms()));
        let targets: Vec<_> = usable.map(priced_target).take(wanted).collect();
        let rule = inner.settings().config.billing.unpriced;
        let priced = match rule {
            Some(Unpriced::Allow) => Priced::Any,
            Some(Unpriced::Reject) => Priced::Only,
            None if applying.is_empty() => Priced::Any,
            None => Priced::Only,
        };
        let none_priced = || match applying.is_empty() {
            false => targets.iter().all(|(_, price)| price.is_none()),
            true => route
                .tiers
                .iter()
                .flat_map(|tier| &tier.targets)
                .all(|target| target.price(prices, id.unix_ms()).is_none()),
        };
        if priced == Priced::Only && none_priced() {
            return Err(Error::new(
                ErrorKind::UnpricedModel,
                "this model has no price here, so that no budget could be kept: add one (`billing.prices`, \
                 `/admin/prices`), or set `billing.unpriced: allow`",
            )
            .with_param("model"));
        }
        let currency = targets
            .iter()
            .find_map(|(_, price)| price.as_ref())
            .map(|price| Arc::clone(&price.currency));
        Ok(Self {
            id,
            targets,
            applying,
            priced,
            currency: currency.unwrap_or_default(),
        })
    }

    /// Writes the intent.
    async fn begin(
        &self,
        inner: &Inner,
        record: &mut Record,
        input_at_least: u64,
    ) -> Result<Priced> {
        let wants_database = inner.settings().config.billing.durability == Durability::Database;
        if wants_database && !inner.database_answers() {
            return Err(Error::new(
                ErrorKind::StoreUnavailable,
                "the database is away, and no answer may come without its row (`billing.durability: database`)",
            ));
        }
        record.begin(input_at_least, self.likely().as_deref())?;
        inner.ledger.begun().await?;
        Ok(self.priced)
    }

    fn likely(&self) -> Option<Arc<Price>> {
        self.targets.first().and_then(|(_, price)| price.clone())
    }

    /// What counts for the targets: each model once.
    fn counters(&self, inner: &Inner) -> Vec<Counter> {
        let models: BTreeSet<&str> = self
            .targets
            .iter()
            .map(|(target, _)| &*target.upstream_model)
            .collect();
        let counter = |model| inner.corrections.counter(model);
        models.into_iter().map(counter).collect()
    }

    /// The longest answer that any target may give where the request sets no limit.
    fn longest(&self, billing: &BillingConfig) -> u64 {
        let each = self.targets.iter().map(|(_, price)| {
            let known = price.as_ref().and_then(|price| price.max_output_tokens);
            known.unwrap_or(billing.worst_case.output_tokens)
        });
        each.max().unwrap_or(billing.worst_case.output_tokens)
    }

    /// Reserves, with the prompt bounded by its bytes, else counted; and gives the output limit that is covered.
    async fn reserve<F, Fut>(
        &self,
        inner: &Inner,
        mut bounds: Bounds,
        least: u64,
        count: F,
    ) -> Result<(Reservation, u64)>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Option<u64>>,
    {
        let whole = self.most(inner, &bounds, bounds.output)?;
        let (budgets, applying) = (&inner.budgets, || self.applying.clone());
        let first = budgets.try_reserve(self.id, applying(), &self.currency, whole, whole);
        match first.await {
            Ok(reservation) => return Ok((reservation, bounds.output)),
            // Not yet the end: less may be covered.
            Err(refusal) if refusal.kind() == ErrorKind::BudgetExceeded => {}
            Err(refusal) => return Err(budgets.refused(refusal)),
        }
        if let Some(counted) = count().await {
            bounds.input = bounds.input.min(counted);
        }
        let asked = self.most(inner, &bounds, bounds.output)?;
        let enough = self.most(inner, &bounds, least)?;
        let reservation = budgets
            .reserve(self.id, applying(), &self.currency, asked, enough)
            .await?;
        let limit = if reservation.granted() >= asked {
            bounds.output
        } else {
            let tokens = self.output_for(inner, reservation.granted(), bounds.input);
            bounds.limit_for(tokens).clamp(least, bounds.output)
        };
        Ok((reservation, limit))
    }

    /// The most that any target asks for such a call.
    fn most(&self, inner: &Inner, bounds: &Bounds, limit: u64) -> Result<Pico> {
        let output = bounds.all_output(limit);
        let exchange = &inner.settings().exchange;
        let mut most = Pico::ZERO;
        for (_, price) in &self.targets {
            let Some(price) = price else { continue };
            let amount = price.most(bounds.input, output).ok_or_else(too_large)?;
            let amount = exchange.convert(amount, &price.currency, &self.currency);
            most = most.max(amount.ok_or_else(|| no_rate(&price.currency, &self.currency))?);
        }
        Ok(most)
    }

    /// Output tokens that an amount affords on every target.
    fn output_for(&self, inner: &Inner, amount: Pico, input: u64) -> u64 {
        let exchange = &inner.settings().exchange;
        let each = self.targets.iter().filter_map(|(_, price)| {
            let price = price.as_ref()?;
            let amount = exchange.most(amount, &price.currency, &self.currency)?;
            price.output_tokens_for(amount, input)
        });
        each.min().unwrap_or(0)
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::BudgetExceeded,
        "what this call may cost is more than any budget can hold; lower `max_tokens`",
    )
}

fn no_rate(from: &str, to: &str) -> Error {
    Error::new(
        ErrorKind::UnpricedModel,
        format!("the model's targets are priced in {from} and {to}: set `billing.exchange_rates`"),
    )
}
