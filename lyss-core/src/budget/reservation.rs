//! What a request may cost, held until it is known what it did cost.

use std::{fmt, sync::Arc};

use super::{
    book::Book,
    counter::{Counter, nano},
    settling::Settling,
    store::{BudgetStore, Settlement, Source},
};
use crate::{
    telemetry::budgets::BudgetMetrics,
    types::{Pico, RequestId},
};

/// An amount that is reserved. Settle it; if it is dropped instead, it counts as if it were spent until the request's
/// row is in the log, and then by what the row says.
#[must_use = "what is reserved must be settled"]
pub struct Reservation {
    granted: Pico,
    held: Option<Held>,
}

/// Where the amount is held.
pub(super) struct Held {
    pub id: RequestId,
    /// The currency of the amount.
    pub currency: Arc<str>,
    pub parts: Vec<Part>,
    pub book: Arc<Book>,
    pub settling: Arc<Settling>,
    pub store: Arc<dyn BudgetStore>,
    pub metrics: BudgetMetrics,
    /// Whether the store was away, and the amount is only noted.
    pub unchecked: bool,
}

/// The part of one counter.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub counter: Arc<Counter>,
    pub key: Arc<str>,
}

/// A reservation that is being asked for. Dropped before it holds (it is refused, or its caller goes away meanwhile), it
/// leaves what the store may have granted to be settled by the request's row.
pub(super) struct Asking<'a> {
    id: RequestId,
    settling: &'a Settling,
    store: &'a dyn BudgetStore,
    holds: bool,
}

impl<'a> Asking<'a> {
    pub fn new(id: RequestId, settling: &'a Settling, store: &'a dyn BudgetStore) -> Self {
        Self {
            id,
            settling,
            store,
            holds: false,
        }
    }

    /// A [`Reservation`] has it now.
    pub fn holds(mut self) {
        self.holds = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.holds {
            self.settling.forget(&self.id);
            self.store.dropped(&self.id);
        }
    }
}

impl Reservation {
    /// Where no budget applies.
    pub(super) fn unbounded(granted: Pico) -> Self {
        Self {
            granted,
            held: None,
        }
    }

    pub(super) fn held(granted: Pico, held: Held) -> Self {
        Self {
            granted,
            held: Some(held),
        }
    }

    /// How much is reserved, in the currency that was asked in: at least `least`, at most `asked`. Without a budget it
    /// is what was asked.
    pub fn granted(&self) -> Pico {
        self.granted
    }

    /// Ends the reservation: `charge` (in the same currency) is spent, the rest is given back. Waits for nothing; the
    /// store learns of it within moments, as soon as it answers. Write the row to the ledger before: after a loss of the
    /// counters they are counted anew from the log.
    pub fn settle(mut self, charge: Pico) {
        let Some(held) = self.held.take() else {
            return;
        };
        if charge > self.granted {
            held.metrics.excess();
            tracing::warn!(
                request_id = %held.id, charged = %charge, reserved = %self.granted, currency = &*held.currency,
                "a request cost more than was reserved for it; the excess counts against its budgets"
            );
        }
        let charges = held.parts.iter().map(|part| {
            let to = &part.counter.currency;
            // That there is a rate was seen when it was reserved.
            let charge = held.book.exchange.convert(charge, &held.currency, to);
            (Arc::clone(&part.key), charge.map_or(0, nano))
        });
        let settlement = Settlement {
            id: held.id,
            charges: charges.collect(),
            source: match held.unchecked {
                true => Source::Unchecked,
                false => Source::Holder,
            },
        };
        held.settling.settle(settlement);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.settling.forget(&held.id);
            held.store.dropped(&held.id);
        }
    }
}
