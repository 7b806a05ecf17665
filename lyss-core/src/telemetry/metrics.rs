//! The metrics of one engine, in the names of the contract. Each engine has a registry of its own, so that several in
//! one process stay apart.
//!
//! Label values are bounded: a model name becomes a label only after a provider has answered for it, and at most
//! [`MODEL_LABELS`] of a provider do; the rest are `other`.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    spool::OutboxStats,
    types::{Status, Usage},
};

/// How many model names of a provider become label values.
pub const MODEL_LABELS: usize = 200;

const LATENCY_BUCKETS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
const OVERHEAD_BUCKETS: [f64; 12] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.25, 1.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    provider: String,
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    provider: String,
    model: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    provider: String,
    model: String,
    r#type: String,
}

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

/// Handles by provider and model name.
type AllSeries = HashMap<(Arc<str>, String), Arc<Series>>;
type Seconds = Family<TargetLabels, Histogram, fn() -> Histogram>;

/// The metrics of one engine.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Seconds,
    overhead: Seconds,
    first_token: Seconds,
    tokens: Family<TokenLabels, Counter>,
    in_flight: Gauge,
    provider_up: Family<ProviderLabels, Gauge>,
    retries: Family<ProviderLabels, Counter>,
    rate_limited: Family<ProviderLabels, Counter>,
    limited_alone: Counter<u64, AtomicU64>,
    compressions: Family<OutcomeLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    spool_records: Gauge<i64>,
    stream_buffer: Gauge<i64>,
    dead_letters: Counter<u64, AtomicU64>,
    reload_failures: Counter,
    outbox: Outboxes,
    idempotency: Family<OutcomeLabels, Counter>,
    memory: MemoryCounters,
    series: RwLock<AllSeries>,
}

/// The handles of one provider and model, resolved once.
pub struct Series {
    requests: [Counter; 5],
    duration: Histogram,
    overhead: Histogram,
    first_token: Histogram,
    input_tokens: Counter,
    output_tokens: Counter,
    cached_tokens: Counter,
    reasoning_tokens: Counter,
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

/// What is known of a finished request.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// How it ended.
    pub status: Status,
    /// From arrival to end.
    pub duration: Duration,
    /// Of that, not spent waiting for a provider.
    pub overhead: Duration,
    /// From arrival to the first chunk.
    pub first_token: Option<Duration>,
    /// Tokens used.
    pub usage: Usage,
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn overhead() -> Histogram {
    Histogram::new(OVERHEAD_BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "gateway_requests",
            "Requests that ended, by provider, model and status",
            requests.clone(),
        );
        let duration = Seconds::new_with_constructor(latency);
        registry.register(
            "gateway_request_duration_seconds",
            "From arrival to end of a request",
            duration.clone(),
        );
        let overhead_seconds = Seconds::new_with_constructor(overhead);
        registry.register(
            "gateway_overhead_seconds",
            "Time of a request not spent waiting for a provider",
            overhead_seconds.clone(),
        );
        let first_token = Seconds::new_with_constructor(latency);
        registry.register(
            "gateway_time_to_first_token_seconds",
            "From arrival to the first chunk of a stream",
            first_token.clone(),
        );
        let tokens = Family::<TokenLabels, Counter>::default();
        registry.register(
            "gateway_tokens_used",
            "Tokens used, by type",
            tokens.clone(),
        );
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
        Self {
            registry,
            requests,
            duration,
            overhead: overhead_seconds,
            first_token,
            tokens,
            in_flight,
            provider_up,
            retries,
            rate_limited,
            limited_alone,
            compressions,
            refused,
            spool_records,
            stream_buffer,
            dead_letters,
            reload_failures,
            outbox,
            idempotency,
            memory,
            series: RwLock::default(),
        }
    }
}

impl Metrics {
    /// Records a request that ended. `answered`: a provider has accepted the model name.
    pub fn finished(&self, provider: &Arc<str>, model: &str, answered: bool, finished: &Finished) {
        let series = self.series(provider, model, answered);
        if let Some(counter) = series.requests.get(finished.status as usize) {
            counter.inc();
        }
        series.duration.observe(finished.duration.as_secs_f64());
        series.overhead.observe(finished.overhead.as_secs_f64());
        if let Some(first_token) = finished.first_token {
            series.first_token.observe(first_token.as_secs_f64());
        }
        let usage = &finished.usage;
        for (counter, tokens) in [
            (&series.input_tokens, usage.input_tokens),
            (&series.output_tokens, usage.output_tokens),
            (&series.cached_tokens, usage.cached_tokens),
            (&series.reasoning_tokens, usage.reasoning_tokens),
        ] {
            if tokens > 0 {
                counter.inc_by(tokens);
            }
        }
    }

    fn series(&self, provider: &Arc<str>, model: &str, answered: bool) -> Arc<Series> {
        let key = (Arc::clone(provider), model.to_owned());
        if let Some(series) = self.series.read().get(&key) {
            return Arc::clone(series);
        }
        let mut all = self.series.write();
        // By provider, so that one that answers to any name cannot use up the names of the others.
        let known = all.keys().filter(|(id, _)| *id == key.0).count();
        let key = if answered && known < MODEL_LABELS {
            key
        } else {
            (key.0, "other".to_owned())
        };
        let (provider, model) = (key.0.to_string(), key.1.clone());
        Arc::clone(
            all.entry(key)
                .or_insert_with(|| Arc::new(self.new_series(provider, model))),
        )
    }

    fn new_series(&self, provider: String, model: String) -> Series {
        let target = TargetLabels {
            provider: provider.clone(),
            model: model.clone(),
        };
        let requests = [
            Status::Success,
            Status::Error,
            Status::Cancelled,
            Status::Rejected,
            Status::Aborted,
        ]
        .map(|status| {
            self.requests
                .get_or_create(&RequestLabels {
                    provider: provider.clone(),
                    model: model.clone(),
                    status: status.as_str().into(),
                })
                .clone()
        });
        let tokens = |kind: &str| {
            self.tokens
                .get_or_create(&TokenLabels {
                    provider: provider.clone(),
                    model: model.clone(),
                    r#type: kind.into(),
                })
                .clone()
        };
        Series {
            requests,
            duration: self.duration.get_or_create(&target).clone(),
            overhead: self.overhead.get_or_create(&target).clone(),
            first_token: self.first_token.get_or_create(&target).clone(),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
            cached_tokens: tokens("cached"),
            reasoning_tokens: tokens("reasoning"),
        }
    }

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
    pub fn encode(&self, spool_records: u64, dead_letters: u64) -> String {
        self.spool_records
            .set(i64::try_from(spool_records).unwrap_or(i64::MAX));
        let known = self.dead_letters.get();
        self.dead_letters.inc_by(dead_letters.saturating_sub(known));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_model_names_share_one_label() {
        let metrics = Metrics::default();
        let finished = Finished {
            status: Status::Error,
            duration: Duration::from_millis(5),
            overhead: Duration::from_micros(40),
            first_token: None,
            usage: Usage {
                input_tokens: 3,
                ..Usage::default()
            },
        };
        let provider: Arc<str> = "p".into();
        for index in 0..1000 {
            metrics.finished(&provider, &format!("junk-{index}"), false, &finished);
        }
        metrics.finished(
            &provider,
            "real",
            true,
            &Finished {
                status: Status::Success,
                ..finished
            },
        );
        let text = metrics.encode(7, 0);
        assert!(
            text.contains(
                r#"gateway_requests_total{provider="p",model="other",status="error"} 1000"#
            ),
            "{text}"
        );
        assert!(
            text.contains(
                r#"gateway_requests_total{provider="p",model="real",status="success"} 1"#
            )
        );
        assert!(
            text.contains(r#"gateway_tokens_used_total{provider="p",model="real",type="input"} 3"#)
        );
        assert!(text.contains("gateway_log_spool_records 7"));
        assert!(!text.contains("junk"));
    }
}
