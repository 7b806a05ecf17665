//! A load balancer: the target with the fewest calls for its weight.

use lyss_core::balance::{Candidate, LoadBalancer, PickContext};

/// Picks the target that has the fewest calls running for its weight.
#[derive(Debug)]
pub struct LeastBusy;

impl LoadBalancer for LeastBusy {
    fn pick(&self, candidates: &[Candidate], _: &PickContext<'_>) -> Option<usize> {
        let usable = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.weight > 0);
        // a/b < c/d without fractions: a·d < c·b.
        let least = usable.min_by(|(_, one), (_, other)| {
            let load = |of: &Candidate, by: &Candidate| of.in_flight as u64 * u64::from(by.weight);
            load(one, other).cmp(&load(other, one))
        });
        least.map(|(position, _)| position)
    }
}
