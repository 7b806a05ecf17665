//! The metrics of requests that ended: by provider and model.
//!
//! A model name becomes a label value only after a provider has answered for it, and at most [`MODEL_LABELS`] of a
//! provider do; the rest are `other`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::types::{Pico, Status, Usage};

/// How many model names of a provider become label values.
pub const MODEL_LABELS: usize = 200;

const LATENCY_BUCKETS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
const OVERHEAD_BUCKETS: [f64; 12] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.25, 1.0,
];

/// One report of tokens in so many is compared with the gateway's own count.
const DRIFT_SAMPLE: u64 = 50;
/// How much a new comparison of tokens counts against those before.
const DRIFT_SHARE: f64 = 0.1;

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
struct CostLabels {
    currency: String,
    model: String,
}

type Seconds = Family<TargetLabels, Histogram, fn() -> Histogram>;
type Ratio = Gauge<f64, AtomicU64>;
/// Handles by provider and model name.
type AllSeries = HashMap<(Arc<str>, String), Arc<Series>>;

/// What is known of a finished request.
#[derive(Debug, Clone)]
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
    /// What its caller is charged.
    pub charge: Charge,
}

/// What the caller of a request is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Charge {
    /// Nothing was used.
    Nothing,
    /// Something was used of a model without a price.
    Unpriced,
    /// An amount.
    Amount(Pico, Arc<str>),
}

/// The metrics of requests that ended.
pub struct Requests {
    ended: Family<RequestLabels, Counter>,
    duration: Seconds,
    overhead: Seconds,
    first_token: Seconds,
    tokens: Family<TokenLabels, Counter>,
    cost: Family<CostLabels, Counter<f64, AtomicU64>>,
    unpriced: Family<TargetLabels, Counter>,
    drift: Family<TokenLabels, Ratio>,
    reports: AtomicU64,
    series: RwLock<AllSeries>,
}

/// The handles of one provider and model, resolved once.
struct Series {
    target: TargetLabels,
    ended: [Counter; 5],
    duration: Histogram,
    overhead: Histogram,
    first_token: Histogram,
    input_tokens: Counter,
    output_tokens: Counter,
    cached_tokens: Counter,
    reasoning_tokens: Counter,
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

fn overhead() -> Histogram {
    Histogram::new(OVERHEAD_BUCKETS)
}

impl Requests {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self {
            ended: Family::default(),
            duration: Seconds::new_with_constructor(latency),
            overhead: Seconds::new_with_constructor(overhead),
            first_token: Seconds::new_with_constructor(latency),
            tokens: Family::default(),
            cost: Family::default(),
            unpriced: Family::default(),
            drift: Family::default(),
            reports: AtomicU64::new(0),
            series: RwLock::default(),
        };
        registry.register(
            "gateway_requests",
            "Requests that ended, by provider, model and status",
            all.ended.clone(),
        );
        registry.register(
            "gateway_request_duration_seconds",
            "From arrival to end of a request",
            all.duration.clone(),
        );
        registry.register(
            "gateway_overhead_seconds",
            "Time of a request not spent waiting for a provider",
            all.overhead.clone(),
        );
        registry.register(
            "gateway_time_to_first_token_seconds",
            "From arrival to the first chunk of a stream",
            all.first_token.clone(),
        );
        registry.register(
            "gateway_tokens_used",
            "Tokens used, by type",
            all.tokens.clone(),
        );
        registry.register(
            "gateway_cost",
            "What callers were charged, in units of the currency; rounded, the log has the exact amounts",
            all.cost.clone(),
        );
        registry.register(
            "gateway_unpriced_requests",
            "Requests that used a model without a price: they cost nothing here",
            all.unpriced.clone(),
        );
        registry.register(
            "gateway_usage_drift_ratio",
            "Tokens as the gateway counts them over tokens as the provider reports them, moving average of a sample",
            all.drift.clone(),
        );
        all
    }

    /// Records a request that ended. `answered`: a provider has accepted the model name.
    pub fn finished(&self, provider: &Arc<str>, model: &str, answered: bool, finished: &Finished) {
        let series = self.series(provider, model, answered);
        if let Some(counter) = series.ended.get(finished.status as usize) {
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
        match &finished.charge {
            Charge::Nothing => {}
            Charge::Unpriced => {
                self.unpriced.get_or_create(&series.target).inc();
            }
            Charge::Amount(amount, currency) => {
                let labels = CostLabels {
                    currency: currency.to_string(),
                    model: series.target.model.clone(),
                };
                // Shown, never computed with.
                let units = amount.0 as f64 / Pico::ONE.0 as f64;
                self.cost.get_or_create(&labels).inc_by(units.max(0.0));
            }
        }
    }

    /// Whether the next report of tokens is one to be compared: the first, and then a sample.
    pub fn compares(&self) -> bool {
        let before = self.reports.fetch_add(1, Ordering::Relaxed);
        before.is_multiple_of(DRIFT_SAMPLE)
    }

    /// Records how the tokens that the gateway counts compare with those that the provider reports, for one `kind` of
    /// them (`input`, `output`).
    pub fn drifted(
        &self,
        provider: &Arc<str>,
        model: &str,
        kind: &'static str,
        counted: u64,
        reported: u64,
    ) {
        if counted == 0 || reported == 0 {
            return;
        }
        let target = &self.series(provider, model, true).target;
        let gauge = self.drift.get_or_create(&TokenLabels {
            provider: target.provider.clone(),
            model: target.model.clone(),
            r#type: kind.into(),
        });
        let (ratio, before) = (counted as f64 / reported as f64, gauge.get());
        let next = match before == 0.0 {
            true => ratio,
            false => before + DRIFT_SHARE * (ratio - before),
        };
        gauge.set(next);
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
                .or_insert_with(|| Arc::new(self.new_series(TargetLabels { provider, model }))),
        )
    }

    fn new_series(&self, target: TargetLabels) -> Series {
        let ended = [
            Status::Success,
            Status::Error,
            Status::Cancelled,
            Status::Rejected,
            Status::Aborted,
        ]
        .map(|status| {
            self.ended
                .get_or_create(&RequestLabels {
                    provider: target.provider.clone(),
                    model: target.model.clone(),
                    status: status.as_str().into(),
                })
                .clone()
        });
        let tokens = |kind: &str| {
            self.tokens
                .get_or_create(&TokenLabels {
                    provider: target.provider.clone(),
                    model: target.model.clone(),
                    r#type: kind.into(),
                })
                .clone()
        };
        Series {
            ended,
            duration: self.duration.get_or_create(&target).clone(),
            overhead: self.overhead.get_or_create(&target).clone(),
            first_token: self.first_token.get_or_create(&target).clone(),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
            cached_tokens: tokens("cached"),
            reasoning_tokens: tokens("reasoning"),
            target,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{billing::LedgerStats, telemetry::metrics::Metrics};

    fn finished() -> Finished {
        Finished {
            status: Status::Error,
            duration: Duration::from_millis(5),
            overhead: Duration::from_micros(40),
            first_token: None,
            usage: Usage {
                input_tokens: 3,
                ..Usage::default()
            },
            charge: Charge::Unpriced,
        }
    }

    #[test]
    fn junk_model_names_share_one_label() {
        let metrics = Metrics::default();
        let provider: Arc<str> = "p".into();
        for index in 0..1000 {
            let model = format!("junk-{index}");
            metrics
                .requests
                .finished(&provider, &model, false, &finished());
        }
        let good = Finished {
            status: Status::Success,
            charge: Charge::Amount(Pico(1_250_000_000_000), "USD".into()),
            ..finished()
        };
        metrics.requests.finished(&provider, "real", true, &good);
        let text = metrics.encode(&LedgerStats {
            waiting_records: 7,
            ..LedgerStats::default()
        });
        for line in [
            r#"gateway_requests_total{provider="p",model="other",status="error"} 1000"#,
            r#"gateway_requests_total{provider="p",model="real",status="success"} 1"#,
            r#"gateway_tokens_used_total{provider="p",model="real",type="input"} 3"#,
            r#"gateway_cost_total{currency="USD",model="real"} 1.25"#,
            r#"gateway_unpriced_requests_total{provider="p",model="other"} 1000"#,
            "gateway_log_spool_records 7",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("junk"));
    }

    #[test]
    fn drift_is_a_moving_average() {
        let metrics = Metrics::default();
        let provider: Arc<str> = "p".into();
        let drifted = |counted, reported| {
            metrics
                .requests
                .drifted(&provider, "m", "input", counted, reported);
        };
        drifted(0, 5);
        drifted(10, 10);
        drifted(20, 10);
        let text = metrics.encode(&LedgerStats::default());
        let line = r#"gateway_usage_drift_ratio{provider="p",model="m",type="input"} 1.1"#;
        assert!(text.contains(line), "{text}");
    }
}
