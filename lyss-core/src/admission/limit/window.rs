//! The windows of one caller on one instance: at most N in any 60 s.
//!
//! Times are milliseconds after the start of the limiter. A start is noted with the millisecond that it lies in and
//! leaves a millisecond late, so that no 60 s ever hold more than N, whatever the rounding.

use std::{collections::VecDeque, time::Duration};

/// After so many milliseconds a start counts no more.
pub(super) const WINDOW_MS: u64 = 60_001;
/// After so many seconds the tokens of a second count no more.
pub(super) const WINDOW_SECONDS: u64 = 61;

/// The starts of the last 60 s, those of one millisecond together: memory is bounded whatever the limit.
#[derive(Debug, Default)]
pub(super) struct RequestWindow {
    starts: VecDeque<(u64, u64)>,
    total: u64,
}

impl RequestWindow {
    /// Starts that count at this time.
    pub fn count(&mut self, now: u64) -> u64 {
        while let Some((at, count)) = self.starts.front().copied()
            && now.saturating_sub(at) >= WINDOW_MS
        {
            self.starts.pop_front();
            self.total -= count;
        }
        self.total
    }

    /// Notes a start.
    pub fn add(&mut self, now: u64) {
        match self.starts.back_mut() {
            // Of two threads the later may have read its clock earlier.
            Some((at, count)) if *at >= now => *count += 1,
            _ => self.starts.push_back((now, 1)),
        }
        self.total += 1;
    }

    /// How long until one more is within the limit.
    pub fn wait(&mut self, now: u64, limit: u64) -> Duration {
        let mut surplus = (self.count(now) + 1).saturating_sub(limit);
        for (at, count) in &self.starts {
            if surplus <= *count {
                return leaves(*at + WINDOW_MS, now, surplus > 0);
            }
            surplus -= count;
        }
        Duration::ZERO
    }

    /// How long until none counts.
    pub fn reset(&self, now: u64) -> Duration {
        let last = self.starts.back();
        last.map_or(Duration::ZERO, |(at, _)| leaves(at + WINDOW_MS, now, true))
    }
}

/// The tokens of the last 60 s by second; a second counts until all of it is 60 s ago.
#[derive(Debug, Default)]
pub(super) struct TokenWindow {
    seconds: VecDeque<(u64, u64)>,
    total: u64,
}

impl TokenWindow {
    /// Tokens that count at this time.
    pub fn count(&mut self, now: u64) -> u64 {
        while let Some((second, tokens)) = self.seconds.front().copied()
            && (now / 1000).saturating_sub(second) >= WINDOW_SECONDS
        {
            self.seconds.pop_front();
            self.total -= tokens;
        }
        self.total
    }

    /// Notes tokens; gives the second that they are noted in.
    pub fn add(&mut self, now: u64, tokens: u64) -> u64 {
        let now = now / 1000;
        self.total = self.total.saturating_add(tokens);
        match self.seconds.back_mut() {
            Some((second, sum)) if *second >= now => {
                *sum = sum.saturating_add(tokens);
                *second
            }
            _ => {
                self.seconds.push_back((now, tokens));
                now
            }
        }
    }

    /// Notes that of the tokens noted in a second this many were not used.
    pub fn give_back(&mut self, second: u64, tokens: u64) {
        let noted = self.seconds.iter_mut().find(|(at, _)| *at == second);
        if let Some((_, sum)) = noted {
            let back = tokens.min(*sum);
            *sum -= back;
            self.total -= back;
        }
    }

    /// How long until so many more are within the limit.
    pub fn wait(&mut self, now: u64, limit: u64, tokens: u64) -> Duration {
        let mut surplus = self.count(now).saturating_add(tokens).saturating_sub(limit);
        for (second, sum) in &self.seconds {
            if surplus <= *sum {
                return leaves((second + WINDOW_SECONDS) * 1000, now, surplus > 0);
            }
            surplus -= sum;
        }
        Duration::ZERO
    }

    /// How long until none counts.
    pub fn reset(&self, now: u64) -> Duration {
        let last = self.seconds.iter().rev().find(|(_, sum)| *sum > 0);
        last.map_or(Duration::ZERO, |(second, _)| {
            leaves((second + WINDOW_SECONDS) * 1000, now, true)
        })
    }
}

fn leaves(at: u64, now: u64, waits: bool) -> Duration {
    match waits {
        true => Duration::from_millis(at.saturating_sub(now)),
        false => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the list of all starts, in microseconds.
        #[test]
        fn never_more_starts_than_the_limit_in_any_60_s(
            limit in 1_u64..20,
            gaps in prop::collection::vec(0_u64..20_000_000, 1..300),
        ) {
            let mut window = RequestWindow::default();
            let (mut now, mut taken) = (5_000_000_u64, Vec::new());
            for gap in gaps {
                now += gap;
                let ms = now / 1000;
                let recent = taken.iter().filter(|at| now - **at < 60_000_000).count() as u64;
                if window.count(ms) < limit {
                    prop_assert!(recent < limit);
                    window.add(ms);
                    taken.push(now);
                } else {
                    // Refused for a reason: but for the rounding, the limit is used.
                    let nearly = taken.iter().filter(|at| now - **at < 60_002_000).count() as u64;
                    prop_assert!(nearly >= limit);
                    let wait = window.wait(ms, limit).as_millis() as u64;
                    prop_assert!(wait > 0);
                    prop_assert!(window.count(ms) >= limit);
                    let mut later = RequestWindow { starts: window.starts.clone(), total: window.total };
                    prop_assert_eq!(later.count(ms + wait - 1), window.count(ms).max(limit));
                    prop_assert!(later.count(ms + wait) < limit, "the wait is enough");
                }
            }
        }

        #[test]
        fn never_more_tokens_than_the_limit_in_any_60_s(
            limit in 100_u64..1000,
            calls in prop::collection::vec((0_u64..15_000_000, 1_u64..100, 0_u64..100), 1..300),
        ) {
            let mut window = TokenWindow::default();
            let (mut now, mut taken) = (5_000_000_u64, Vec::<(u64, u64)>::new());
            for (gap, asked, unused) in calls {
                now += gap;
                let ms = now / 1000;
                if window.count(ms) + asked <= limit {
                    let second = window.add(ms, asked);
                    let back = unused.min(asked);
                    window.give_back(second, back);
                    taken.push((now, asked - back));
                    let recent: u64 = taken
                        .iter()
                        .filter(|(at, _)| now - at < 60_000_000)
                        .map(|(_, tokens)| tokens)
                        .sum();
                    prop_assert!(recent <= limit);
                } else {
                    let wait = window.wait(ms, limit, asked).as_millis() as u64;
                    prop_assert!(wait > 0);
                    let mut later = TokenWindow { seconds: window.seconds.clone(), total: window.total };
                    prop_assert!(later.count(ms + wait - 1) + asked > limit);
                    prop_assert!(later.count(ms + wait) + asked <= limit, "the wait is enough");
                }
            }
        }
    }

    #[test]
    fn a_limit_of_millions_takes_little_memory() {
        let mut window = RequestWindow::default();
        for n in 0..5_000_000_u64 {
            window.add(n / 100);
        }
        assert_eq!(window.count(50_000), 5_000_000);
        assert_eq!(window.starts.len(), 50_000);
        assert_eq!(window.reset(50_000).as_millis(), 60_000);
        assert_eq!(window.count(49_999 + WINDOW_MS), 0);
        assert_eq!(window.reset(200_000), Duration::ZERO);
    }
}
