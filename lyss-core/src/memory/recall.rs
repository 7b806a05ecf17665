//! What the pipeline uses of a memory: a search that ends in time, and turns handed on after the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Memory, SpokenTurn, beginning, block, queue};
use crate::{
    error::{Error, ErrorKind, Origin, Result},
    seal::SealedMemories,
    spool::Outbox,
    telemetry::metrics::Metrics,
    types::log::MemoryNote,
};

/// Characters of the text that is searched with.
const QUERY_CHARS: usize = 2_000;
/// Failed searches in a row after which none is made for a while: nobody should wait in vain for the deadline.
const FAILURES: u32 = 3;
/// How long that is.
const PAUSE: Duration = Duration::from_secs(5);

/// How memories are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySettings {
    /// Most memories of one call.
    pub top_k: usize,
    /// How long a search may take.
    pub timeout: Duration,
    /// Most bytes of memories in a prompt.
    pub max_bytes: usize,
    /// Whether calls without a session have memories too.
    pub stateless: bool,
}

/// The memory in use.
pub(crate) struct Memories {
    memory: Arc<dyn Memory>,
    settings: MemorySettings,
    outbox: Arc<Outbox>,
    seal: SealedMemories,
    gate: Gate,
}

/// What a search gave.
#[derive(Debug)]
pub(crate) struct Recalled {
    /// The message for the model.
    pub block: Option<Bytes>,
    /// For the decision record.
    pub note: MemoryNote,
}

impl Memories {
    pub fn new(
        memory: Arc<dyn Memory>,
        settings: MemorySettings,
        outbox: Arc<Outbox>,
        seal: SealedMemories,
    ) -> Self {
        Self {
            memory,
            settings,
            outbox,
            seal,
            gate: Gate::default(),
        }
    }

    pub fn settings(&self) -> &MemorySettings {
        &self.settings
    }

    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// Searches what is remembered of a user. Never fails, and never takes longer than the deadline.
    pub async fn recall(&self, metrics: &Metrics, user_id: &str, text: &str) -> Recalled {
        let started = Instant::now();
        let (outcome, block, count, foreign) = self.search(user_id, text).await;
        metrics.memory_searched(outcome, foreign.into());
        Recalled {
            block,
            note: MemoryNote {
                outcome: outcome.into(),
                memories: count,
                foreign,
                latency_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    async fn search(&self, user_id: &str, text: &str) -> (&'static str, Option<Bytes>, u32, u32) {
        if !self.gate.lets_through() {
            return ("paused", None, 0, 0);
        }
        let settings = &self.settings;
        let query = beginning(text, QUERY_CHARS);
        let search = self.memory.search(user_id, query, settings.top_k);
        let found = match tokio::time::timeout(settings.timeout, search).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the memory cannot be searched");
                // What is wrong with one user's search says nothing about the next one's.
                if error.kind().origin() != Origin::Caller {
                    self.gate.failed();
                }
                return ("error", None, 0, 0);
            }
            Err(_) => {
                self.gate.failed();
                return ("timeout", None, 0, 0);
            }
        };
        self.gate.succeeded();
        let before = found.len();
        let mut own = found;
        own.retain(|memory| memory.user_id.as_deref() == Some(user_id));
        let foreign = u32::try_from(before - own.len()).unwrap_or(u32::MAX);
        if foreign > 0 {
            tracing::error!(
                foreign,
                "the memory answered with memories that are not the user's; they were dropped"
            );
        }
        own.truncate(settings.top_k);
        match block::message(&own, settings.max_bytes) {
            Some((block, count)) => ("found", Some(block), count, foreign),
            None => ("empty", None, 0, foreign),
        }
    }

    /// Hands a turn on; it survives the process from here on. What the outbox does not take is counted there.
    pub fn remember(&self, turn: &SpokenTurn) {
        match queue::turn(&self.seal.seal_turn(turn)) {
            Ok(record) => drop(self.outbox.push(&record)),
            Err(error) => tracing::error!(%error, "a turn cannot be written for the memory"),
        }
    }

    /// Has everything forgotten that came from a session, what is still on its way included.
    ///
    /// # Errors
    /// `store_unavailable`: the outbox does not take it, so nothing will be forgotten.
    pub fn forget(&self, user_id: &str, session_id: &str) -> Result<()> {
        let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(
                ErrorKind::StoreUnavailable,
                "the session is deleted, but the memory cannot be told yet; delete it again later",
            )
            .with_source(error)
        };
        let record = queue::forget(user_id, session_id).map_err(|error| refused(error.into()))?;
        let pushed = self.outbox.push(&record);
        pushed.map_err(|error| refused(format!("{error:?}").into()))
    }
}

/// Keeps calls from waiting for a memory that is away.
#[derive(Debug, Default)]
struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    failures: u32,
    closed_until: Option<Instant>,
}

impl Gate {
    /// Whether to search. When the pause is over one search finds out, and the others wait for what it finds.
    fn lets_through(&self) -> bool {
        let mut state = self.0.lock();
        match state.closed_until {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                state.closed_until = Some(Instant::now() + PAUSE);
                true
            }
        }
    }

    fn succeeded(&self) {
        *self.0.lock() = GateState::default();
    }

    fn failed(&self) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.closed_until = Some(Instant::now() + PAUSE);
        }
    }
}

/// The error of a memory that is switched off while something is on its way into it.
pub(super) fn switched_off() -> Error {
    Error::new(ErrorKind::StoreUnavailable, "the memory is switched off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_closes_after_failures_in_a_row_and_lets_one_look() {
        let gate = Gate::default();
        for _ in 0..2 {
            gate.failed();
            gate.failed();
            assert!(gate.lets_through());
            gate.succeeded();
        }
        gate.failed();
        gate.failed();
        gate.failed();
        assert!(!gate.lets_through());
        gate.0.lock().closed_until = Some(Instant::now());
        assert!(gate.lets_through(), "one finds out");
        assert!(!gate.lets_through(), "the others do not wait for it");
        gate.succeeded();
        assert!(gate.lets_through());
    }
}
