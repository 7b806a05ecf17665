//! What a store of counters promises. An adapter is one folder.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::counter::Counter;
use crate::{billing::Ledger, error::Result, price::Exchange, types::RequestId};

/// A part of a reservation: what one counter is asked for. Amounts are in 1e-9 of the counter's currency.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub counter: Arc<Counter>,
    /// [`Counter::key`].
    pub key: Arc<str>,
    /// What may be spent and reserved in all.
    pub limit: i64,
    /// What is asked for.
    pub amount: i64,
}

/// A reservation that is asked for. The claims are on different counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub id: RequestId,
    pub claims: &'a [Claim],
    /// For what was spent before in other currencies, where a counter is new.
    pub exchange: &'a Arc<Exchange>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for is reserved.
    Granted,
    /// Nothing is: this is left of each claim's limit, in order; negative where more was spent.
    Short(Vec<i64>),
}

/// An amount in each of several counters, by their names.
pub(crate) type Amounts = Arc<[(Arc<str>, i64)]>;

/// The end of a reservation: what the request cost, in each counter.
#[derive(Debug, Clone)]
pub(crate) struct Settlement {
    pub id: RequestId,
    pub charges: Amounts,
    pub source: Source,
}

/// Who settles a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The request that holds it.
    Holder,
    /// A request that went on without one, since the store was away. It may have one all the same, if only the store's
    /// answer was lost.
    Unchecked,
    /// The request log ([`Open`] and the request's row).
    Log,
}

/// A reservation that is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub id: RequestId,
    pub amounts: Vec<(Arc<str>, i64)>,
}

/// Some of the open reservations.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub open: Vec<Open>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// When a store has answered last.
#[derive(Debug, Default)]
pub(crate) struct LastAnswer(Mutex<Option<Instant>>);

impl LastAnswer {
    pub fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    pub fn is_since(&self, time: Instant) -> bool {
        self.0.lock().is_some_and(|last| last >= time)
    }
}

/// How a counter stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// What ended requests cost.
    pub spent: i64,
    /// What running ones may cost.
    pub reserved: i64,
}

/// A store of counters, shared by all instances.
///
/// A reservation is an entry by request id, in all of its counters or in none, and its amounts are part of the
/// counters' reserved sums until it is settled: then the entry goes, and the charge becomes part of the spent sums,
/// once, however often and by whomever it is settled. A counter that is not known begins with what the request log
/// says was spent in its period.
#[async_trait]
pub(crate) trait BudgetStore: Send + Sync + 'static {
    /// Reserves, if of every counter enough is left. Asked again with the same id it changes nothing.
    async fn reserve(&self, asked: Asked<'_>) -> Result<Outcome>;

    /// Settles reservations. Those that are not open are left alone; those of requests that went on without one are
    /// counted, once.
    async fn settle(&self, settlements: &[Settlement], exchange: &Arc<Exchange>) -> Result<()>;

    /// Whether the store has answered anybody since a time: whoever waits that long is in a queue, or waits for a count,
    /// and the store is not away.
    fn answered_since(&self, time: Instant) -> bool;

    /// Notes a request that goes on without a reservation, since the store is away.
    fn reserved_unchecked(&self, asked: Asked<'_>) {
        let _ = asked;
    }

    /// A reservation of this instance is left to be settled by what the request log says.
    fn dropped(&self, id: &RequestId) {
        let _ = id;
    }

    /// Reservations that were made before a time and are not settled, each with all of its counters: a page of them,
    /// `from` where the page before says, or from the beginning.
    async fn open_before(&self, unix_ms: i64, from: Option<&str>) -> Result<Page>;

    /// How counters stand, by their names; `None` where nothing was ever reserved.
    async fn balances(&self, counters: &[Arc<str>]) -> Result<Vec<Option<Balance>>>;

    /// Removes counters whose period ended before a time.
    async fn forget_before(&self, unix_ms: i64) -> Result<()> {
        let _ = unix_ms;
        Ok(())
    }

    /// What is to be done several times a second, where anything is.
    async fn keep(&self, ledger: &Ledger) -> Result<()> {
        let _ = ledger;
        Ok(())
    }
}
