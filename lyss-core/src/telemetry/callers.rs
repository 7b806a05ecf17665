//! The metrics of the callers' limits. No caller is named: there are too many.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// What becomes of the callers' limits.
#[derive(Debug, Default)]
pub struct CallerMetrics {
    refused: Family<LimitLabels, Counter>,
    alone: Counter<u64, AtomicU64>,
    instances: Gauge<i64>,
}

impl CallerMetrics {
    /// The metrics, in a registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register(
            "gateway_caller_limited",
            "Requests refused because a limit of their caller was reached: rpm, tpm, concurrent",
            all.refused.clone(),
        );
        registry.register(
            "gateway_caller_limit_local_decisions",
            "Requests whose caller's limits this instance counted alone, because Redis did not answer in time",
            all.alone.clone(),
        );
        registry.register(
            "gateway_instances_seen",
            "Instances that were on this Redis when it answered last; 0 without Redis",
            all.instances.clone(),
        );
        all
    }

    /// A request was refused.
    pub fn refused(&self, limit: &'static str) {
        self.refused.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Takes over how many requests were counted alone, and how many instances were there last.
    pub fn shared(&self, alone: u64, instances: u64) {
        self.alone.inc_by(alone.saturating_sub(self.alone.get()));
        self.instances
            .set(i64::try_from(instances).unwrap_or(i64::MAX));
    }
}
