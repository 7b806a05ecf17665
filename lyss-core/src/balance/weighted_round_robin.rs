//! Smooth weighted round robin: exact over every full cycle, and spread evenly within it.
//!
//! # Source
//! The algorithm of nginx's `ngx_http_upstream_round_robin.c`: every candidate gains its weight, the highest is picked
//! and pays the sum of all weights. (The loop of our specification is not exact: at weights 100 and 50 it gives 83:17.)

use parking_lot::Mutex;

use super::{Candidate, LoadBalancer, PickContext};

/// Smooth weighted round robin.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    current: Mutex<Vec<i64>>,
}

impl WeightedRoundRobin {
    /// For a tier of so many targets.
    pub fn new(size: usize) -> Self {
        Self {
            current: Mutex::new(vec![0; size]),
        }
    }
}

impl LoadBalancer for WeightedRoundRobin {
    fn pick(&self, candidates: &[Candidate], _: &PickContext<'_>) -> Option<usize> {
        if let [only] = candidates {
            return (only.weight > 0).then_some(0);
        }
        let mut current = self.current.lock();
        let mut total = 0;
        let mut best: Option<(usize, usize, i64)> = None;
        for (position, candidate) in candidates.iter().enumerate() {
            if candidate.weight == 0 {
                continue;
            }
            if candidate.index >= current.len() {
                current.resize(candidate.index + 1, 0);
            }
            let weight = i64::from(candidate.weight);
            total += weight;
            if let Some(value) = current.get_mut(candidate.index) {
                *value += weight;
                if best.is_none_or(|(_, _, highest)| *value > highest) {
                    best = Some((position, candidate.index, *value));
                }
            }
        }
        let (position, index, _) = best?;
        if let Some(value) = current.get_mut(index) {
            *value -= total;
        }
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| Candidate {
                index,
                id: index as u64,
                weight,
                in_flight: 0,
            })
            .collect()
    }

    #[test]
    fn two_to_one_is_two_to_one() {
        let balancer = WeightedRoundRobin::new(2);
        let picks: Vec<_> = (0..6)
            .map(|_| {
                balancer
                    .pick(&candidates(&[100, 50]), &PickContext::default())
                    .unwrap()
            })
            .collect();
        assert_eq!(picks, [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn keeps_the_promises() {
        use crate::testing::conformance::load_balancer::{Claim, all};
        let factory = crate::balance::builtin("weighted_round_robin").unwrap();
        all(&factory, Claim::ExactShares);
    }

    proptest! {
        #[test]
        fn exact_over_every_full_cycle(weights in prop::collection::vec(0_u32..20, 1..6), cycles in 1_usize..4) {
            let balancer = WeightedRoundRobin::new(weights.len());
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..cycles {
                for _ in 0..total {
                    counts[balancer.pick(&candidates(&weights), &PickContext::default()).unwrap()] += 1;
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, weight * cycles as u32);
            }
        }
    }
}
