//! Keeps a session on the target whose prompt cache is warm, whatever strategy serves the rest.
//!
//! # Source
//! Weighted rendezvous hashing: D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates"
//! (1998), with the weights of "Weighted Distributed Hash Tables" (Schindelhauer and Schomaker, 2005): each target
//! scores `-weight / ln(hash)` for a session and the highest wins. Nothing is remembered: every instance chooses alike,
//! a target that is away loses only its own sessions, and gets them back.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{BalancerFactory, Candidate, LoadBalancer, Outcome, PickContext};
use crate::types::SessionKey;

/// A strategy that sessions are exempt from.
pub struct SessionAffinity {
    others: Box<dyn LoadBalancer>,
}

impl SessionAffinity {
    /// Calls without a session go by `others`.
    pub fn new(others: Box<dyn LoadBalancer>) -> Self {
        Self { others }
    }

    /// Makes every balancer of a factory keep sessions.
    pub fn over(factory: BalancerFactory) -> BalancerFactory {
        Arc::new(move |size| Box::new(Self::new(factory(size))))
    }
}

impl LoadBalancer for SessionAffinity {
    fn pick(&self, candidates: &[Candidate], context: &PickContext<'_>) -> Option<usize> {
        let Some(session) = context.session else {
            return self.others.pick(candidates, context);
        };
        let session = digest(session);
        candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.weight > 0)
            .map(|(at, candidate)| (at, score(candidate, session)))
            .max_by(|(_, left), (_, right)| left.total_cmp(right))
            .map(|(at, _)| at)
    }

    fn observe(&self, index: usize, outcome: &Outcome) {
        self.others.observe(index, outcome);
    }
}

fn score(candidate: &Candidate, session: u64) -> f64 {
    let hash = mixed(candidate.id ^ session);
    // In (0, 1): the upper 53 bits are what a double holds.
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(candidate.weight) / unit.ln()
}

/// The same on every machine, and in every version.
fn digest(session: &SessionKey) -> u64 {
    let mut hash = Sha256::new();
    hash.update((session.user_id.len() as u64).to_le_bytes());
    hash.update(&session.user_id);
    hash.update(&session.id);
    hash.finalize()
        .iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{
        balance::builtin,
        testing::conformance::load_balancer::{self, Claim},
    };

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let candidate = |(index, &weight): (usize, &u32)| Candidate {
            index,
            id: mixed(index as u64),
            weight,
            in_flight: 0,
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    fn session(n: usize) -> SessionKey {
        SessionKey {
            user_id: format!("u{}", n % 10),
            id: n.to_string(),
        }
    }

    fn place(balancer: &dyn LoadBalancer, candidates: &[Candidate], session: &SessionKey) -> usize {
        let context = PickContext {
            session: Some(session),
        };
        candidates[balancer.pick(candidates, &context).unwrap()].index
    }

    fn affinity() -> BalancerFactory {
        SessionAffinity::over(builtin("weighted_round_robin").unwrap())
    }

    #[test]
    fn calls_without_a_session_go_by_the_strategy_below() {
        load_balancer::all(&affinity(), Claim::ExactShares);
    }

    #[test]
    fn sessions_stay_and_spread_by_weight() {
        let (one, other) = (affinity()(3), affinity()(3));
        let all = candidates(&[100, 50, 0]);
        let mut counts = [0; 3];
        for n in 0..9_000 {
            let session = session(n);
            let at = place(&*one, &all, &session);
            assert_eq!(at, place(&*one, &all, &session));
            assert_eq!(at, place(&*other, &all, &session), "every instance alike");
            counts[at] += 1;
        }
        assert_eq!(counts[2], 0, "weight 0");
        assert!((5_700..6_300).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn only_the_sessions_of_a_lost_target_move_and_they_come_back() {
        let balancer = affinity()(3);
        let all = candidates(&[1, 1, 1]);
        let without: Vec<_> = all.iter().filter(|c| c.index != 1).cloned().collect();
        let mut moved = [0; 3];
        for n in 0..3_000 {
            let session = session(n);
            let (before, during) = (
                place(&*balancer, &all, &session),
                place(&*balancer, &without, &session),
            );
            if before == 1 {
                moved[during] += 1;
            } else {
                assert_eq!(before, during);
            }
            assert_eq!(place(&*balancer, &all, &session), before);
        }
        assert!(moved[0] > 350 && moved[2] > 350, "{moved:?}");
    }
}
