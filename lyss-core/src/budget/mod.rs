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
mod listing;
mod period;
#[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
mod redis;
mod refusal;
mod reservation;
mod settling;
mod store;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod stored;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sweep;
#[cfg(test)]
mod tests;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use database::rollup;
pub use definition::{Budget, EACH, Scope, Spender};
pub use listing::{BudgetDefinition, BudgetState};
pub use reservation::Reservation;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::{
    book::{Book, Bound},
    counter::{nano, pico},
    refusal::Refusal,
    reservation::{Asking, Held, Part},
    settling::Settling,
    store::{Asked, BudgetStore, Claim, Outcome},
};
use crate::{
    billing::Ledger,
    config::{self, Config},
    error::{Error, ErrorKind, Result},
    price::Exchange,
    telemetry::budgets::BudgetMetrics,
    types::{Pico, RequestId},
};

/// How long a request waits for its reservation. A store that has answered anybody meanwhile is busy, not away.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an amount that is just left is asked for, before it is left to others.
const TRIES: usize = 8;

/// The budgets of a gateway.
pub struct Budgets {
    book: Arc<ArcSwap<Book>>,
    sources: Mutex<Sources>,
    store: Arc<dyn BudgetStore>,
    settling: Arc<Settling>,
    metrics: BudgetMetrics,
    /// Whether calls go on while the store is away.
    goes_on: AtomicBool,
    /// Whether a reservation was ever asked for.
    used: AtomicBool,
    /// Where the next sweep goes on.
    swept: Mutex<Option<String>>,
}

/// What the book is made of.
#[derive(Debug, Default)]
struct Sources {
    configured: Vec<Arc<Budget>>,
    stored: Vec<(i64, Arc<Budget>)>,
    zone: Option<jiff::tz::TimeZone>,
    exchange: Arc<Exchange>,
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
    fn new(store: Arc<dyn BudgetStore>, metrics: BudgetMetrics) -> Self {
        Self {
            book: Arc::default(),
            sources: Mutex::default(),
            store,
            settling: Arc::default(),
            metrics,
            goes_on: AtomicBool::new(false),
            used: AtomicBool::new(false),
            swept: Mutex::default(),
        }
    }

    /// With the counters in the database.
    pub(crate) fn in_database(database: crate::database::Database, metrics: BudgetMetrics) -> Self {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        return Self::new(
            Arc::new(database::DatabaseBudgetStore::new(database)),
            metrics,
        );
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        match database.pool {}
    }

    /// With the counters in Redis, over the request log in the database.
    #[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
    pub(crate) fn in_redis(
        redis: crate::redis::RedisHandle,
        database: crate::database::Database,
        metrics: BudgetMetrics,
    ) -> Self {
        let store = redis::RedisBudgetStore::new(redis, database);
        Self::new(Arc::new(store), metrics)
    }

    /// Refuses a Redis that removes counters when its memory is full.
    ///
    /// # Errors
    /// `invalid_value`.
    #[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
    pub(crate) async fn check_policy(redis: &crate::redis::RedisHandle) -> Result<()> {
        redis::RedisBudgetStore::check_policy(redis).await
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
        let exchange = Exchange::new(&config.billing);
        let mut sources = self.sources.lock();
        sources.configured = configured;
        sources.zone = Some(zone);
        sources.exchange = Arc::new(exchange);
        self.rebuild(&sources);
        let open = config.billing.on_store_down == config::OnStoreDown::Open;
        self.goes_on.store(open, Relaxed);
        Ok(())
    }

    /// Takes over the budgets of the table.
    pub(crate) fn use_stored(&self, stored: Vec<(i64, Arc<Budget>)>) {
        let mut sources = self.sources.lock();
        sources.stored = stored;
        self.rebuild(&sources);
    }

    fn rebuild(&self, sources: &Sources) {
        let budgets = sources
            .configured
            .iter()
            .chain(sources.stored.iter().map(|(_, budget)| budget))
            .cloned();
        let zone = sources.zone.clone().unwrap_or(jiff::tz::TimeZone::UTC);
        let book = Book::new(budgets, zone, Arc::clone(&sources.exchange));
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
    /// rate into a budget's; `budget_store_unavailable`; `overloaded` if others take what is left, again and again.
    pub async fn reserve(
        &self,
        id: RequestId,
        applying: Applying,
        currency: &str,
        asked: Pico,
        least: Pico,
    ) -> Result<Reservation> {
        let tried = self.try_reserve(id, applying, currency, asked, least).await;
        tried.map_err(|refusal| self.refused(refusal))
    }

    /// A request is refused in the end: it is counted, once.
    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        if let Some(scope) = refusal.scope {
            self.metrics.refused(scope.as_str());
        }
        if refusal.kind() == ErrorKind::BudgetStoreUnavailable {
            self.metrics.unavailable();
        }
        refusal.error
    }

    /// As [`reserve`](Self::reserve), for a request that may ask for less if it is refused: if it does not,
    /// [`refused`](Self::refused) is told.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub(crate) async fn try_reserve(
        &self,
        id: RequestId,
        applying: Applying,
        currency: &str,
        asked: Pico,
        least: Pico,
    ) -> Result<Reservation, Refusal> {
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
        self.used.store(true, Relaxed);
        let asking = Asking::new(id, &self.settling, &*self.store);
        let begun = Instant::now();
        let granting = self.grant(&request, asked, least.min(asked));
        let granted = tokio::time::timeout(PATIENCE, granting)
            .await
            .unwrap_or_else(|_| Err(Refusal::late(self.store.answered_since(begun))));
        let (granted, unchecked) = match granted {
            Ok(granted) => (granted, false),
            Err(refusal) if refusal.away && self.goes_on.load(Relaxed) => {
                self.go_on(&request, asked, &refusal.error)?;
                (asked, true)
            }
            Err(refusal) => return Err(refusal),
        };
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
            store: Arc::clone(&self.store),
            metrics: self.metrics.clone(),
            unchecked,
        };
        asking.holds();
        Ok(Reservation::held(granted, held))
    }

    /// Lets a call go on; what it costs is counted when the store is back.
    fn go_on(&self, request: &Request<'_>, amount: Pico, error: &Error) -> Result<()> {
        self.metrics.unchecked();
        tracing::warn!(request_id = %request.id, ?error, "a call goes on without its budgets being asked");
        self.settling.opened(request.id);
        self.store.reserved_unchecked(Asked {
            id: request.id,
            claims: &request.claims(amount)?,
            exchange: &request.book.exchange,
        });
        Ok(())
    }

    /// How much is reserved.
    async fn grant(
        &self,
        request: &Request<'_>,
        mut asked: Pico,
        least: Pico,
    ) -> Result<Pico, Refusal> {
        let needed = request.claims(least)?;
        self.settling.opened(request.id);
        for _ in 0..TRIES {
            let claims = request.claims(asked)?;
            let asking = Asked {
                id: request.id,
                claims: &claims,
                exchange: &request.book.exchange,
            };
            let outcome = self.store.reserve(asking).await;
            let left = match outcome.map_err(Refusal::away)? {
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
                let least = needed.get(at).map_or(0, |claim| claim.amount);
                return Err(Refusal::exceeded(bound, pico(left), pico(least)));
            }
            // What is left affords less than was asked, and enough. Others may be faster.
            asked = request
                .affordable(&left)
                .unwrap_or(least)
                .clamp(least, asked);
        }
        Err(refusal::contended().into())
    }

    /// Whether no budget was ever used: then the store is left alone.
    fn is_idle(&self) -> bool {
        self.is_empty() && !self.used.load(Relaxed)
    }

    /// Whether a budget bounds anybody, the keys' own aside.
    pub fn is_empty(&self) -> bool {
        self.book.load().is_empty()
    }

    /// The task that sends settlements to the store.
    pub(crate) fn settling(&self) -> impl Future<Output = ()> + Send + 'static {
        let (settling, store) = (Arc::clone(&self.settling), Arc::clone(&self.store));
        let book = Arc::clone(&self.book);
        async move { settling.run(&*store, &book).await }
    }

    /// What the store does several times a second, where there are budgets.
    pub(crate) async fn keep(&self, ledger: &Ledger) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        self.store.keep(ledger).await
    }

    /// Takes over the budgets of the table, if its version is another than the one that was seen; the version.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn follow(
        &self,
        database: &crate::database::Database,
        seen: Option<i64>,
    ) -> Result<i64> {
        // The version first: a change in between is then seen at the next look, never missed.
        let version = database.config_version("budgets").await?;
        if seen != Some(version) {
            let stored = database.list_budgets().await?;
            self.use_stored(stored.into_iter().map(|one| (one.id, one.budget)).collect());
        }
        Ok(version)
    }

    /// Every budget that is defined, and how it stands: those of the table, then those of the configuration.
    ///
    /// # Errors
    /// `budget_store_unavailable`.
    pub(crate) async fn list(&self) -> Result<Vec<BudgetState>> {
        let budgets: Vec<(Option<i64>, Arc<Budget>)> = {
            let sources = self.sources.lock();
            let stored = sources.stored.iter();
            let configured = sources.configured.iter();
            stored
                .map(|(id, budget)| (Some(*id), Arc::clone(budget)))
                .chain(configured.map(|budget| (None, Arc::clone(budget))))
                .collect()
        };
        let bounds: Vec<Bound> = budgets.iter().map(|(_, budget)| self.now(budget)).collect();
        let single: Vec<Arc<str>> = bounds
            .iter()
            .filter(|bound| listing::is_single(&bound.budget))
            .map(|bound| Arc::clone(&bound.key))
            .collect();
        let mut balances = self.balances(&single).await?.into_iter();
        let each = budgets.iter().zip(&bounds).map(|((id, _), bound)| {
            let balance = listing::is_single(&bound.budget)
                .then(|| balances.next().flatten().unwrap_or_default());
            listing::state(*id, bound, balance)
        });
        Ok(each.collect())
    }

    /// How a budget of the table stands; without its balance, if that cannot be known at the moment.
    pub(crate) async fn state(&self, id: i64, budget: &Budget) -> BudgetState {
        let bound = self.now(&Arc::new(budget.clone()));
        let mut balance = None;
        if listing::is_single(budget)
            && let Ok(balances) = self.balances(&[Arc::clone(&bound.key)]).await
        {
            balance = Some(balances.into_iter().next().flatten().unwrap_or_default());
        }
        listing::state(Some(id), &bound, balance)
    }

    /// A budget with the counter of its own subject in the period of now.
    fn now(&self, budget: &Arc<Budget>) -> Bound {
        let now = crate::session::now_ms();
        self.book.load().bound(budget, &budget.subject, now)
    }

    async fn balances(&self, keys: &[Arc<str>]) -> Result<Vec<Option<store::Balance>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::timeout(PATIENCE, self.store.balances(keys))
            .await
            .unwrap_or_else(|_| Err(refusal::unavailable(None)))
            .map_err(|error| refusal::unavailable(Some(error)))
    }

    /// Puts how the budgets stand into the metrics: of the first hundred that have one counter.
    pub(crate) async fn measure(&self) -> Result<()> {
        const MOST: usize = 100;
        if self.is_empty() {
            self.metrics.clear();
            return Ok(());
        }
        let units =
            |amount: Option<Pico>| amount.map(|amount| amount.0 as f64 / Pico::ONE.0 as f64);
        let states = self.list().await?;
        self.metrics.clear();
        for (at, state) in states.iter().enumerate().take(MOST) {
            let definition = &state.definition;
            let (Some(spent), Some(reserved)) = (units(state.spent), units(state.reserved)) else {
                continue;
            };
            let name = match definition.id {
                Some(id) => format!("api.{id}"),
                None => format!("config.{at}"),
            };
            let currency = definition.currency.as_deref().unwrap_or_default();
            let amount = units(Some(definition.amount)).unwrap_or_default();
            self.metrics
                .stands(&name, currency, amount, spent, reserved);
        }
        Ok(())
    }

    /// Settles what nobody else settles; how many reservations.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) async fn sweep(&self, database: &crate::database::Database) -> Result<usize> {
        if self.is_idle() {
            return Ok(0);
        }
        let book = self.book.load_full();
        let from = &self.swept;
        sweep::sweep(&*self.store, database, &self.settling, &book.exchange, from).await
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
            let Some(amount) = self.book.exchange.convert(amount, self.currency, to) else {
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
            self.book.exchange.most(pico(*left), self.currency, to)
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
