//! What a call can go to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use crate::{
    balance::LoadBalancer,
    context::model_windows::known_window,
    price::{Catalog, Price, PriceBook},
    provider::{Provider, preset},
    resilience::{health::Health, limit::RateLimit, timeout::Timeouts},
    types::Model,
};

/// One provider with one of its keys: what is limited, timed and found healthy or not.
pub struct Account {
    /// The provider's configured id.
    pub id: Arc<str>,
    /// Which of the provider's keys, from 0.
    pub key: usize,
    /// The protocol.
    pub provider: Arc<dyn Provider>,
    /// The share of this provider where no rule says so.
    pub weight: u32,
    /// The deadlines.
    pub timeouts: Timeouts,
    /// `max_rps` of the provider, over all its keys.
    pub limit: Option<Arc<RateLimit>>,
    /// Whether it is worth a call.
    pub health: Arc<Health>,
    /// The kind, for what it is known to serve.
    pub kind: String,
    /// The preset, likewise.
    pub preset: Option<String>,
    /// Whose list prices hold for it.
    pub catalog: Option<Catalog>,
    /// Most calls at once, over all keys of the provider.
    pub max_concurrent: Option<usize>,
    /// Calls running now, over all keys of the provider.
    pub running: Arc<AtomicUsize>,
    /// The models it listed when last asked.
    pub models: ArcSwap<Vec<Model>>,
    /// How many tokens of prompt its models take, as configured, by the name that goes upstream.
    pub context_windows: BTreeMap<String, u64>,
    /// Calls running on it now.
    pub in_flight: AtomicUsize,
    /// Shares over the keys of the provider, kept at its first account.
    pub(crate) key_balancer: OnceLock<Arc<dyn LoadBalancer>>,
}

impl Account {
    /// Whether the provider is known for a model of this name.
    pub fn knows(&self, model: &str) -> bool {
        preset::knows(&self.kind, self.preset.as_deref(), model)
    }

    /// How many tokens of prompt a model takes, as far as it is known: as configured, else as the provider lists it,
    /// else as it is known of the name.
    pub fn window(&self, upstream_model: &str) -> Option<u64> {
        let listed = || {
            let models = self.models.load();
            let model = models.iter().find(|model| model.id == upstream_model)?;
            model.max_tokens.filter(|tokens| *tokens > 0)
        };
        self.context_windows
            .get(upstream_model)
            .copied()
            .or_else(listed)
            .or_else(|| known_window(upstream_model))
    }

    /// Whether as many calls run as may.
    pub fn is_full(&self) -> bool {
        self.max_concurrent
            .is_some_and(|most| self.running.load(Relaxed) >= most)
    }

    /// Counts a call as running until the guard is dropped: for a stream, until its end.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.running.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A running call on an account.
pub struct InFlight(Arc<Account>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.running.fetch_sub(1, Relaxed);
    }
}

/// One target of a model: an account and the model name that goes upstream.
#[derive(Clone)]
pub struct Target {
    /// Whom to call.
    pub account: Arc<Account>,
    /// What to ask for.
    pub upstream_model: Arc<str>,
    /// The share within the tier, over all keys.
    pub weight: u32,
    /// The weight as the rule gives it.
    pub rule_weight: u32,
    /// `max_rps` of the rule.
    pub rule_rps: Option<u32>,
    /// Its window, shared by the keys of the provider.
    pub rule_limit: Option<Arc<RateLimit>>,
}

impl Target {
    /// What tells it from the other targets of a tier, on every instance alike: account and model.
    pub(crate) fn id(&self) -> u64 {
        let parts = [
            self.account.id.as_bytes(),
            &(self.account.key as u64).to_le_bytes(),
            self.upstream_model.as_bytes(),
        ];
        // FNV-1a, 64 bits; a 255 between the parts is in no UTF-8.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in parts.iter().flat_map(|part| part.iter().chain(&[255])) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash
    }

    /// How many tokens of prompt it takes, as far as it is known.
    pub fn window(&self) -> Option<u64> {
        self.account.window(&self.upstream_model)
    }

    /// What a request of a time (milliseconds of Unix time) costs there; `None` if it has no price.
    pub fn price(&self, prices: &PriceBook, at_ms: i64) -> Option<Arc<Price>> {
        let account = &self.account;
        prices.find(&account.id, account.catalog, &self.upstream_model, at_ms)
    }

    /// Whether two targets take the same share of the same work.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.account.id == other.account.id
            && self.account.key == other.account.key
            && self.upstream_model == other.upstream_model
            && self.weight == other.weight
            && self.rule_rps == other.rule_rps
    }

    /// What a call to it needs a place in: the rule's window and the provider's.
    pub fn limits(&self) -> impl Iterator<Item = &RateLimit> {
        [&self.rule_limit, &self.account.limit]
            .into_iter()
            .flatten()
            .map(Arc::as_ref)
    }
}
