//! The window of one instance: at most N starts in any second, exactly.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// A sliding log of the last N starts.
#[derive(Debug)]
pub struct RateWindow {
    limit: usize,
    starts: Mutex<VecDeque<Instant>>,
}

impl RateWindow {
    /// At most `limit` starts in any second.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: limit as usize,
            starts: Mutex::new(VecDeque::new()),
        }
    }

    /// Takes a place if there is one.
    pub fn try_take(&self, now: Instant) -> bool {
        let mut starts = self.starts.lock();
        while starts
            .front()
            .is_some_and(|start| now.saturating_duration_since(*start) >= WINDOW)
        {
            starts.pop_front();
        }
        let free = starts.len() < self.limit;
        if free {
            starts.push_back(now);
        }
        free
    }

    /// Gives back the place taken at `at`, when the call was not made after all.
    pub fn give_back(&self, at: Instant) {
        let mut starts = self.starts.lock();
        if let Some(position) = starts.iter().rposition(|start| *start == at) {
            starts.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_second(limit in 1_u32..20, gaps in prop::collection::vec(0_u64..300, 1..200)) {
            let window = RateWindow::new(limit);
            let mut now = Instant::now();
            let mut taken = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if window.try_take(now) {
                    taken.push(now);
                }
            }
            for start in &taken {
                let within = taken.iter().filter(|at| **at >= *start && **at < *start + WINDOW).count();
                prop_assert!(within <= limit as usize);
            }
        }
    }

    #[test]
    fn a_place_is_free_again_after_a_second_or_when_given_back() {
        let window = RateWindow::new(2);
        let now = Instant::now();
        assert!(window.try_take(now));
        assert!(window.try_take(now));
        assert!(!window.try_take(now + Duration::from_millis(999)));
        window.give_back(now);
        assert!(window.try_take(now + Duration::from_millis(999)));
        assert!(window.try_take(now + WINDOW));
    }
}
