//! Budgets: bounds on what keys, users, sessions and everybody together may spend in a period.
//!
//! ```text
//! applying ─▶ reserve ─────▶ store (all counters or none) ─▶ Reservation ─ settle ─▶ settling ─▶ store
//!    book        │ 402, 503                                       └ process died ─▶ sweep (from the log)
//! ```
//!
//! Before a request is dispatched the most that it may cost is reserved in a counter of each budget that bounds it; when
//! it has ended, what it did cost takes the reservation's place. So spent plus reserved is never above a budget, on any
//! number of instances, as long as no request costs more than was reserved for it; what it costs beyond counts too, and
//! holds up the next one. The counters are in Redis where there is one, else in the database; the truth behind them is
//! the request log.

#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    // Without a driver no `Database` can be made, and what needs one is never reached.
    allow(unreachable_code, unused_variables, dead_code)
)]

mod book;
mod counter;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod database;
mod definition;
mod period;
mod rates;
mod refusal;
mod reservation;
mod settling;
mod store;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sweep;
#[cfg(test)]
mod tests;

pub use definition::{Budget, EACH, Scope, Spender};
pub use reservation::Reservation;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::{
    book::{Book, Bound},
    counter::{nano, pico},
    rates::Rates,
    reservation::{Held, Part},
    settling::Settling,
    store::{Asked, BudgetStore, Claim, Outcome},
};
use crate::{
    config::{self, Config},
    error::{Error, Result},
    types::{Pico, RequestId},
};

/// How long a request waits for its reservation.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an amount that is just left is asked for, before it is left to others.
const TRIES: usize = 8;

/// The budgets of a gateway.
pub struct Budgets {
    book: ArcSwap<Book>,
    sources: Mutex<Sources>,
    store: Arc<dyn BudgetStore>,
    settling: Arc<Settling>,
}

/// What the book is made of.
#[derive(Debug, Default)]
struct Sources {
    configured: Vec<Arc<Budget>>,
    stored: Vec<Arc<Budget>>,
    zone: Option<jiff::tz::TimeZone>,
    rates: Rates,
}

/// The budgets that bound a request.
#[derive(Debug, Clone, Default)]
pub struct Applying {
    bounds: Vec<Bound>,
    book: Option<Arc<Book>>,
}

impl Applying {
    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }
}

impl Budgets {
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn new(store: Arc<dyn BudgetStore>) -> Self {
        Self {
            book: ArcSwap::default(),
            sources: Mutex::default(),
            store,
            settling: Arc::default(),
        }
    }

    /// With the counters in the database.
    pub(crate) fn in_database(database: crate::database::Database) -> Self {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        return Self::new(Arc::new(database::DatabaseBudgetStore::new(database)));
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        match database.pool {}
    }

    /// Puts the budgets of a configuration into force, in place of the ones before.
    ///
    /// # Errors
    /// `invalid_value`.
    pub(crate) fn configure(&self, config: &Config) -> Result<()> {
        let configured = config
            .budgets
            .iter()
            .map(|budget| configured(budget, &config.billing.currency).map(Arc::new))
            .collect::<Result<_>>()?;
        let zone = jiff::tz::TimeZone::get(&config.billing.timezone).map_err(|error| {
            Error::invalid("billing.timezone", "there is no such time zone").with_source(error)
        })?;
        let rates = Rates::of(&config.billing).map_err(|_| {
            Error::invalid(
                "billing.exchange_rates",
                "an exchange rate is a decimal above 0",
            )
        })?;
        let mut sources = self.sources.lock();
        sources.configured = configured;
        sources.zone = Some(zone);
        sources.rates = rates;
        self.rebuild(&sources);
        Ok(())
    }

    fn rebuild(&self, sources: &Sources) {
        let budgets = sources.configured.iter().chain(&sources.stored).cloned();
        let zone = sources.zone.clone().unwrap_or(jiff::tz::TimeZone::UTC);
        let book = Book::new(budgets, zone, sources.rates.clone());
        self.book.store(Arc::new(book));
    }

    /// The budgets that bound what a request spends that came at `at_ms`. Costs nothing where there are none.
    pub fn applying(&self, spender: &Spender, at_ms: i64) -> Applying {
        let book = self.book.load();
        if book.is_empty() && spender.key_budget.is_none() {
            return Applying::default();
        }
        Applying {
            bounds: book.bounds(spender, at_ms),
            book: Some(Arc::clone(&book)),
        }
    }

    /// Reserves what a request may cost, in all of its budgets or in none: `asked`, or, if that is not left, as much as
    /// is, but not less than `least`. What costs nothing needs no budget.
    ///
    /// # Errors
    /// `budget_exceeded`, with what is left and when the budget renews; `unpriced_model` if `currency` has no exchange
    /// rate into a budget's; `budget_store_unavailable`.
    pub async fn reserve(
        &self,
        id: RequestId,
        applying: Applying,
        currency: &str,
        asked: Pico,
        least: Pico,
    ) -> Result<Reservation> {
        let Some(book) = applying
            .book
            .filter(|_| !applying.bounds.is_empty() && asked > Pico::ZERO)
        else {
            return Ok(Reservation::unbounded(asked));
        };
        let request = Request {
            id,
            bounds: &applying.bounds,
            book: &book,
            currency,
        };
        let granted = tokio::time::timeout(PATIENCE, self.grant(&request, asked, least.min(asked)))
            .await
            .unwrap_or_else(|_| Err(refusal::unavailable(None)))
            .inspect_err(|_| self.settling.forget(&id))?;
        let parts = applying.bounds.iter().map(|bound| Part {
            counter: Arc::clone(&bound.counter),
            key: Arc::clone(&bound.key),
        });
        let held = Held {
            id,
            currency: currency.into(),
            parts: parts.collect(),
            settling: Arc::clone(&self.settling),
            book: Arc::clone(&book),
        };
        Ok(Reservation::held(granted, held))
    }

    /// How much is reserved.
    async fn grant(&self, request: &Request<'_>, mut asked: Pico, least: Pico) -> Result<Pico> {
        let needed = request.claims(least)?;
        self.settling.opened(request.id);
        for _ in 0..TRIES {
            let claims = request.claims(asked)?;
            let asking = Asked {
                id: request.id,
                claims: &claims,
                rates: &request.book.rates,
            };
            let outcome = self.store.reserve(asking).await;
            let left = match outcome.map_err(|error| refusal::unavailable(Some(error)))? {
                Outcome::Granted => return Ok(asked),
                Outcome::Short(left) => left,
            };
            let short = |at: &usize| {
                left.get(*at)
                    .zip(needed.get(*at))
                    .is_some_and(|(left, claim)| *left < claim.amount)
            };
            if let Some(at) = (0..left.len()).find(short) {
                let (bound, left) = (request.bounds.get(at), left.get(at).copied().unwrap_or(0));
                return Err(refusal::exceeded(bound, pico(left)));
            }
            // What is left affords less than was asked, and enough. Others may be faster.
            asked = request
                .affordable(&left)
                .unwrap_or(least)
                .clamp(least, asked);
        }
        Err(refusal::contended())
    }

    /// Whether a budget bounds anybody, the keys' own aside.
    pub fn is_empty(&self) -> bool {
        self.book.load().is_empty()
    }

    /// The task that sends settlements to the store.
    pub(crate) fn settling(&self) -> impl Future<Output = ()> + Send + 'static {
        let (settling, store) = (Arc::clone(&self.settling), Arc::clone(&self.store));
        async move { settling.run(&*store).await }
    }

    /// Settles what nobody else settles; how many reservations.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn sweep(&self, database: &crate::database::Database) -> Result<usize> {
        let book = self.book.load_full();
        sweep::sweep(&*self.store, database, &self.settling, &book.rates).await
    }

    /// Removes the counters of periods that are long over.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn forget(&self) -> Result<()> {
        sweep::forget(&*self.store).await
    }

    /// Waits until every settlement is in the store, or the time is over; whether it is.
    pub(crate) async fn settled(&self, limit: Duration) -> bool {
        self.settling.settled(limit).await
    }
}

/// A request that reserves.
struct Request<'a> {
    id: RequestId,
    bounds: &'a [Bound],
    book: &'a Book,
    currency: &'a str,
}

impl Request<'_> {
    /// What an amount is in each budget's currency.
    fn claims(&self, amount: Pico) -> Result<Vec<Claim>> {
        let claim = |bound: &Bound| {
            let to = &bound.budget.currency;
            let Some(amount) = self.book.rates.up(amount, self.currency, to) else {
                return Err(refusal::no_rate(self.currency, to));
            };
            Ok(Claim {
                counter: Arc::clone(&bound.counter),
                key: Arc::clone(&bound.key),
                limit: nano(bound.budget.amount),
                amount: nano(amount),
            })
        };
        self.bounds.iter().map(claim).collect()
    }

    /// The most that every budget affords.
    fn affordable(&self, left: &[i64]) -> Option<Pico> {
        let most = |(bound, left): (&Bound, &i64)| {
            let to = &bound.budget.currency;
            self.book.rates.most(pico(*left), self.currency, to)
        };
        let each = self.bounds.iter().zip(left).map(most);
        each.collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

/// An item of `budgets`.
fn configured(budget: &config::BudgetConfig, default_currency: &str) -> Result<Budget> {
    use config::BudgetScope;
    let (scope, subject) = match &budget.scope {
        BudgetScope::User(user) => (Scope::User, user.as_str()),
        BudgetScope::Key(key) => (Scope::Key, key.as_str()),
        BudgetScope::Session(session) => (Scope::Session, session.as_str()),
        BudgetScope::Total => (Scope::Total, ""),
    };
    let amount: Pico = budget
        .amount
        .parse()
        .map_err(|error: crate::types::NoAmount| {
            Error::invalid("budgets.amount", error.to_string())
        })?;
    Ok(Budget {
        scope,
        subject: subject.into(),
        amount,
        currency: budget
            .currency
            .as_deref()
            .unwrap_or(default_currency)
            .into(),
        period: budget.period,
    })
}
