//! Choosing one of several targets of a tier. One file a strategy.
//!
//! A balancer is synchronous, does no IO and holds state for one tier of one model. It is told how each call ended.

mod session_affinity;
mod weighted_round_robin;

use std::{sync::Arc, time::Duration};

use crate::types::SessionKey;

pub use session_affinity::SessionAffinity;
pub use weighted_round_robin::WeightedRoundRobin;

/// What a balancer sees of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Stable within the tier: position of the target in it.
    pub index: usize,
    /// The target's identity: the same on every instance, and after a restart.
    pub id: u64,
    /// The configured weight; a target of weight 0 is never picked.
    pub weight: u32,
    /// Calls running on it now.
    pub in_flight: usize,
}

/// What is known of the call that a target is picked for.
#[derive(Debug, Clone, Default)]
pub struct PickContext<'a> {
    /// The session, for strategies that keep one where its cache is warm.
    pub session: Option<&'a SessionKey>,
}

/// How a call on a target ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it succeeded.
    pub success: bool,
    /// Time to the answer, or to the first chunk of a stream.
    pub latency: Duration,
}

/// A strategy, with its state for one tier.
pub trait LoadBalancer: Send + Sync + 'static {
    /// Picks one of the candidates: the position *in the slice*. `None` if none may be picked (all weights 0).
    fn pick(&self, candidates: &[Candidate], context: &PickContext<'_>) -> Option<usize>;

    /// Tells how a call ended. `index` is [`Candidate::index`].
    fn observe(&self, index: usize, outcome: &Outcome) {
        let _ = (index, outcome);
    }
}

/// Makes a balancer for a tier of `size` targets.
pub type BalancerFactory = Arc<dyn Fn(usize) -> Box<dyn LoadBalancer> + Send + Sync>;

/// The strategies by their configured name.
pub fn builtin(name: &str) -> Option<BalancerFactory> {
    match name {
        "weighted_round_robin" => Some(Arc::new(|size| Box::new(WeightedRoundRobin::new(size)))),
        _ => None,
    }
}
