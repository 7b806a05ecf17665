//! When another attempt is made, and after which pause.

use std::time::Duration;

/// The longest pause that a call waits for the same target; a longer `Retry-After` is handed to the caller instead.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The pause before attempt `attempt` (2 for the first retry) on a target that has failed before: full jitter over
/// 100 ms, doubled with each attempt, at most 2 s.
///
/// # Source
/// "Exponential Backoff And Jitter", AWS Architecture Blog: full jitter spreads a herd best.
pub fn backoff(attempt: u32) -> Duration {
    let most = 100_u64
        .saturating_mul(1 << attempt.saturating_sub(2).min(10))
        .min(2_000);
    Duration::from_millis(fastrand::u64(0..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_bounded() {
        for attempt in 0..100 {
            assert!(backoff(attempt) <= Duration::from_secs(2));
        }
        assert!((0..100).all(|_| backoff(2) <= Duration::from_millis(100)));
    }
}
