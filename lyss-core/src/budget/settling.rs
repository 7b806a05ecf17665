//! The reservations of this instance, and those on their way to be settled.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    book::Book,
    store::{BudgetStore, Settlement},
};
use crate::types::RequestId;

/// Settlements of one call to the store.
const BATCH: usize = 128;
/// Most settlements that wait; of what is beyond the request log tells the store later (`sweep.rs`).
const WAITING_MOST: usize = 100_000;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What this instance has reserved.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: HashSet<RequestId>,
    waiting: VecDeque<Settlement>,
    /// Taken from `waiting` and not yet in the store.
    under_way: usize,
}

impl Settling {
    /// Notes a reservation, before the store is asked.
    pub fn opened(&self, id: RequestId) {
        self.state.lock().open.insert(id);
    }

    /// A reservation that was not granted, or whose end the request log will tell.
    pub fn forget(&self, id: &RequestId) {
        self.state.lock().open.remove(id);
    }

    /// Hands a settlement to the background task.
    pub fn settle(&self, settlement: Settlement) {
        let mut state = self.state.lock();
        state.open.remove(&settlement.id);
        if state.waiting.len() < WAITING_MOST {
            state.waiting.push_back(settlement);
            self.wake.notify_one();
        }
    }

    /// Whether a reservation of this instance is open.
    pub fn is_open(&self, id: &RequestId) -> bool {
        self.state.lock().open.contains(id)
    }

    /// Sends settlements to the store as they come, as many at once as have gathered, and each until it is in.
    pub async fn run(&self, store: &dyn BudgetStore, book: &ArcSwap<Book>) {
        let mut pause = FIRST_PAUSE;
        let mut failing = false;
        loop {
            let batch = self.take();
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            match store.settle(&batch, &book.load_full().exchange).await {
                Ok(()) => {
                    self.state.lock().under_way = 0;
                    pause = FIRST_PAUSE;
                    failing = false;
                }
                Err(error) => {
                    self.put_back(batch);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(?error, "reservations cannot be settled yet; trying on");
                    }
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn take(&self) -> Vec<Settlement> {
        let mut state = self.state.lock();
        let most = state.waiting.len().min(BATCH);
        let batch: Vec<_> = state.waiting.drain(..most).collect();
        state.under_way = batch.len();
        batch
    }

    fn put_back(&self, batch: Vec<Settlement>) {
        let mut state = self.state.lock();
        state.under_way = 0;
        for settlement in batch.into_iter().rev() {
            state.waiting.push_front(settlement);
        }
    }

    /// Waits until everything is settled, or the time is over; whether it is.
    pub async fn settled(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let waiting = {
                let state = self.state.lock();
                state.waiting.len() + state.under_way
            };
            if waiting == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
