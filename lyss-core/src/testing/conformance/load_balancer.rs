//! The promises of a [`LoadBalancer`].

use std::sync::Arc;

use crate::balance::{BalancerFactory, Candidate, LoadBalancer, Outcome, PickContext};

/// What a strategy claims besides the promises that all keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Shares follow the weights, exactly over every full cycle.
    ExactShares,
    /// Shares follow something else.
    OtherShares,
}

/// Holds a strategy to all promises.
pub fn all(factory: &BalancerFactory, claim: Claim) {
    picks_only_what_is_there(factory);
    never_picks_weight_zero(factory);
    lives_with_a_changing_set(factory);
    many_threads_agree(factory, claim);
    if claim == Claim::ExactShares {
        shares_are_exact(factory);
        comes_back_to_its_shares(factory);
    }
}

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let candidate = |(index, &weight)| Candidate {
        index,
        id: index as u64,
        weight,
        in_flight: 0,
    };
    weights.iter().enumerate().map(candidate).collect()
}

fn pick(balancer: &dyn LoadBalancer, candidates: &[Candidate]) -> Option<usize> {
    let picked = balancer.pick(candidates, &PickContext::default());
    if let Some(position) = picked {
        let index = candidates[position].index;
        let latency = std::time::Duration::from_millis(1);
        let success = true;
        balancer.observe(index, &Outcome { success, latency });
    }
    picked
}

fn counts(balancer: &dyn LoadBalancer, candidates: &[Candidate], rounds: usize) -> Vec<usize> {
    let mut counts = vec![0; candidates.len()];
    for _ in 0..rounds {
        counts[pick(balancer, candidates).expect("there is something to pick")] += 1;
    }
    counts
}

/// The answer is a position in the slice; of nothing, nothing is picked.
pub fn picks_only_what_is_there(factory: &BalancerFactory) {
    let balancer = factory(3);
    assert_eq!(pick(&*balancer, &[]), None);
    let all = candidates(&[1, 2, 3]);
    for _ in 0..100 {
        assert!(pick(&*balancer, &all).expect("there is something to pick") < all.len());
        assert_eq!(pick(&*balancer, &all[1..2]), Some(0), "the only one");
    }
}

/// A target of weight 0 takes no traffic, whatever the others do.
pub fn never_picks_weight_zero(factory: &BalancerFactory) {
    let balancer = factory(3);
    assert_eq!(
        counts(&*balancer, &candidates(&[0, 5, 0]), 100),
        [0, 100, 0]
    );
    assert_eq!(counts(&*balancer, &candidates(&[3, 0, 1]), 100)[1], 0);
    assert_eq!(pick(&*balancer, &candidates(&[0, 0, 0])), None);
    assert_eq!(pick(&*balancer, &candidates(&[0])), None);
}

/// Targets come and go between picks.
pub fn lives_with_a_changing_set(factory: &BalancerFactory) {
    let balancer = factory(4);
    let all = candidates(&[4, 3, 2, 1]);
    for round in 0..1000_usize {
        let present: Vec<Candidate> = all
            .iter()
            .filter(|candidate| (round >> candidate.index) & 1 == 0)
            .cloned()
            .collect();
        assert_eq!(pick(&*balancer, &present).is_some(), !present.is_empty());
    }
}

/// Weights are shares, exactly over every full cycle.
pub fn shares_are_exact(factory: &BalancerFactory) {
    for weights in [[100, 50], [1, 1], [7, 3], [100, 1]] {
        let balancer = factory(2);
        let cycle: u32 = weights.iter().sum();
        for _ in 0..3 {
            let counts = counts(&*balancer, &candidates(&weights), cycle as usize);
            assert_eq!(counts, weights.map(|weight| weight as usize));
        }
    }
}

/// After a target was away, the shares are right again at once: it does not catch up.
pub fn comes_back_to_its_shares(factory: &BalancerFactory) {
    let balancer = factory(2);
    let both = candidates(&[1, 1]);
    counts(&*balancer, &both, 10);
    counts(&*balancer, &both[..1], 1000);
    let after = counts(&*balancer, &both, 10);
    assert!(after[0].abs_diff(after[1]) <= 2, "{after:?}");
}

/// Threads that pick at once neither block each other for long nor bend the shares.
pub fn many_threads_agree(factory: &BalancerFactory, claim: Claim) {
    let balancer: Arc<dyn LoadBalancer> = factory(3).into();
    let threads: Vec<_> = (0..32)
        .map(|_| {
            let balancer = Arc::clone(&balancer);
            std::thread::spawn(move || counts(&*balancer, &candidates(&[3, 2, 1]), 600))
        })
        .collect();
    let mut sum = [0; 3];
    for thread in threads {
        for (total, count) in sum.iter_mut().zip(thread.join().expect("no panic")) {
            *total += count;
        }
    }
    assert_eq!(sum.iter().sum::<usize>(), 32 * 600);
    if claim == Claim::ExactShares {
        assert_eq!(sum, [9600, 6400, 3200]);
    }
}
