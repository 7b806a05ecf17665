//! The metrics of one engine, in the names of the contract. Each engine has a registry of its own, so that several in
//! one process stay apart.
//!
//! Label values are bounded; of model names see `requests.rs`.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{budgets::BudgetMetrics, callers::CallerMetrics, requests::Requests};
use crate::{billing::LedgerStats, spool::OutboxStats};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabels {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: String,
}

/// The metrics of one engine.
pub struct Metrics {
    registry: Registry,
    /// Of requests that ended.
    pub requests: Requests,
    in_flight: Gauge,
    provider_up: Family<ProviderLabels, Gauge>,
    retries: Family<ProviderLabels, Counter>,
    rate_limited: Family<ProviderLabels, Counter>,
    limited_alone: Counter<u64, AtomicU64>,
    compressions: Family<OutcomeLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    spool_records: Gauge<i64>,
    spool_bytes: Gauge<i64>,
    spool_max_bytes: Gauge<i64>,
    stream_buffer: Gauge<i64>,
    dead_letters: Counter<u64, AtomicU64>,
    reload_failures: Counter,
    outbox: Outboxes,
    idempotency: Family<OutcomeLabels, Counter>,
    memory: MemoryCounters,
    /// What budgets do.
    pub budgets: BudgetMetrics,
    /// The callers' limits.
    pub callers: CallerMetrics,
}

/// What waits to be handed on, by topic.
#[derive(Default)]
struct Outboxes {
    records: Family<TopicLabels, Gauge>,
    bytes: Family<TopicLabels, Gauge>,
    dropped: Family<TopicLabels, Counter>,
    set_aside: Family<TopicLabels, Counter>,
    failures: Family<TopicLabels, Counter>,
}

impl Outboxes {
    fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "gateway_outbox_records",
            "Records of this process that wait to be handed on",
            all.records.clone(),
        );
        registry.register(
            "gateway_outbox_bytes",
            "Bytes on disk of what waits to be handed on",
            all.bytes.clone(),
        );
        registry.register(
            "gateway_outbox_dropped",
            "Records that found no room, or could not be written or read",
            all.dropped.clone(),
        );
        registry.register(
            "gateway_outbox_set_aside",
            "Records that their destination refused",
            all.set_aside.clone(),
        );
        registry.register(
            "gateway_outbox_failures",
            "Attempts to hand on a record that failed",
            all.failures.clone(),
        );
        all
    }
}

/// What the memory does.
#[derive(Default)]
struct MemoryCounters {
    searches: Family<OutcomeLabels, Counter>,
    foreign: Counter,
    adds: Family<OutcomeLabels, Counter>,
}

impl MemoryCounters {
    fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "gateway_memory_searches",
            "Searches for memories: found, empty, timeout, error, paused",
            all.searches.clone(),
        );
        registry.register(
            "gateway_memory_foreign_dropped",
            "Memories of other users that the memory answered with; they were dropped. Any is an alarm",
            all.foreign.clone(),
        );
        registry.register(
            "gateway_memory_adds",
            "Turns handed to the memory: added, failed (tried again), withdrawn (the session was deleted), forgotten",
            all.adds.clone(),
        );
        all
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Requests::register(&mut registry);
        let in_flight = Gauge::default();
        registry.register(
            "gateway_in_flight_requests",
            "Requests running now",
            in_flight.clone(),
        );
        let provider_up = Family::<ProviderLabels, Gauge>::default();
        registry.register(
            "gateway_provider_up",
            "Whether a provider answers",
            provider_up.clone(),
        );
        let retries = Family::<ProviderLabels, Counter>::default();
        registry.register(
            "gateway_retries",
            "Attempts after the first, by provider that failed before",
            retries.clone(),
        );
        let rate_limited = Family::<ProviderLabels, Counter>::default();
        registry.register(
            "gateway_rate_limited",
            "Calls that a provider's 429 or our max_rps kept from it",
            rate_limited.clone(),
        );
        let limited_alone = Counter::default();
        registry.register(
            "gateway_rate_limit_local_decisions",
            "Calls whose max_rps this instance counted alone, because Redis did not answer in time",
            limited_alone.clone(),
        );
        let compressions = Family::<OutcomeLabels, Counter>::default();
        registry.register(
            "gateway_session_compressions",
            "Sessions whose older messages were to be compressed, by how that ended",
            compressions.clone(),
        );
        let refused = Family::<CodeLabels, Counter>::default();
        registry.register(
            "gateway_refused_requests",
            "Requests that make no log row: unreadable or not authenticated",
            refused.clone(),
        );
        let spool_records = Gauge::default();
        registry.register(
            "gateway_log_spool_records",
            "Log rows waiting for the database",
            spool_records.clone(),
        );
        let spool_bytes = Gauge::default();
        registry.register(
            "gateway_log_spool_bytes",
            "Bytes of log rows on disk that wait for the database",
            spool_bytes.clone(),
        );
        let spool_max_bytes = Gauge::default();
        registry.register(
            "gateway_log_spool_max_bytes",
            "Most of them (`data.spool_max_bytes`); at nine tenths new requests are refused",
            spool_max_bytes.clone(),
        );
        let stream_buffer = Gauge::default();
        registry.register(
            "gateway_stream_buffer_bytes",
            "Bytes of large events that streams hold (`server.stream_buffer_max`)",
            stream_buffer.clone(),
        );
        let dead_letters = Counter::default();
        registry.register(
            "gateway_log_dead_letters",
            "Log rows that the database refused",
            dead_letters.clone(),
        );
        let reload_failures = Counter::default();
        registry.register(
            "gateway_config_reload_failures",
            "Configurations that were refused",
            reload_failures.clone(),
        );
        let outbox = Outboxes::register(&mut registry);
        let idempotency = Family::<OutcomeLabels, Counter>::default();
        registry.register(
            "gateway_idempotency",
            "Requests with an idempotency key: claimed, replayed, not_kept, or the code of the error",
            idempotency.clone(),
        );
        let memory = MemoryCounters::register(&mut registry);
        let budgets = BudgetMetrics::register(&mut registry);
        let callers = CallerMetrics::register(&mut registry);
        Self {
            budgets,
            registry,
            requests,
            in_flight,
            provider_up,
            retries,
            rate_limited,
            limited_alone,
            compressions,
            refused,
            spool_records,
            spool_bytes,
            spool_max_bytes,
            stream_buffer,
            dead_letters,
            reload_failures,
            outbox,
            idempotency,
            memory,
            callers,
        }
    }
}

impl Metrics {
    /// One request more, or fewer, is running.
    pub fn in_flight(&self, change: i64) {
        self.in_flight.inc_by(change);
    }

    /// A provider answers, or does not.
    pub fn provider_up(&self, provider: &str, up: bool) {
        self.provider_up
            .get_or_create(&ProviderLabels {
                provider: provider.into(),
            })
            .set(i64::from(up));
    }

    /// Another attempt is made after one on this provider failed.
    pub fn retried(&self, provider: &str) {
        self.retries
            .get_or_create(&ProviderLabels {
                provider: provider.into(),
            })
            .inc();
    }

    /// A call was kept from a provider by a rate limit.
    pub fn rate_limited(&self, provider: &str) {
        self.rate_limited
            .get_or_create(&ProviderLabels {
                provider: provider.into(),
            })
            .inc();
    }

    /// The compression of a session has ended.
    pub fn compressed(&self, outcome: &'static str) {
        self.compressions
            .get_or_create(&OutcomeLabels {
                outcome: outcome.into(),
            })
            .inc();
    }

    /// A request was refused that makes no log row.
    pub fn refused(&self, code: &str) {
        self.refused
            .get_or_create(&CodeLabels { code: code.into() })
            .inc();
    }

    /// A configuration was refused.
    pub fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    /// A search for memories has ended.
    pub(crate) fn memory_searched(&self, outcome: &'static str, foreign: u64) {
        let labels = OutcomeLabels {
            outcome: outcome.into(),
        };
        self.memory.searches.get_or_create(&labels).inc();
        self.memory.foreign.inc_by(foreign);
    }

    /// A turn was handed to the memory, or not.
    pub(crate) fn memory_added(&self, outcome: &'static str) {
        let labels = OutcomeLabels {
            outcome: outcome.into(),
        };
        self.memory.adds.get_or_create(&labels).inc();
    }

    /// Takes over the numbers of a topic of the outbox.
    pub(crate) fn outbox(&self, topic: &'static str, stats: &OutboxStats) {
        let labels = TopicLabels { topic };
        let gauges = [
            (&self.outbox.records, stats.waiting),
            (&self.outbox.bytes, stats.bytes),
        ];
        for (family, number) in gauges {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            family.get_or_create(&labels).set(number);
        }
        let counters = [
            (&self.outbox.dropped, stats.dropped),
            (&self.outbox.set_aside, stats.set_aside),
            (&self.outbox.failures, stats.failures),
        ];
        for (family, number) in counters {
            let counter = family.get_or_create(&labels);
            counter.inc_by(number.saturating_sub(counter.get()));
        }
    }

    /// What became of an idempotency key.
    pub fn idempotency(&self, outcome: &str) {
        self.idempotency
            .get_or_create(&OutcomeLabels {
                outcome: outcome.into(),
            })
            .inc();
    }

    /// Takes over how many calls were counted without Redis.
    pub fn limited_alone(&self, calls: u64) {
        let known = self.limited_alone.get();
        self.limited_alone.inc_by(calls.saturating_sub(known));
    }

    /// Takes over how many bytes of the streams' budget are taken.
    pub fn stream_buffer(&self, bytes: u64) {
        self.stream_buffer
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All metrics as OpenMetrics text. `spool_records` and `dead_letters` are read at this moment.
    pub fn encode(&self, spool: &LedgerStats) -> String {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.spool_records.set(gauge(spool.waiting_records));
        self.spool_bytes.set(gauge(spool.bytes));
        self.spool_max_bytes.set(gauge(spool.max_bytes));
        let known = self.dead_letters.get();
        let more = spool.dead_letters.saturating_sub(known);
        self.dead_letters.inc_by(more);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
