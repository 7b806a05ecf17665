//! Whether an account is worth a call: active checks, passive marking, and pauses that a provider asked for.
//!
//! Two signals are kept apart, because a provider that lists its models well may still fail every chat: an active check
//! says "answers at all", consecutive failures of real calls eject the account for a while. A real success clears both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, ErrorKind, Retry},
    provider::Provider,
};

/// Consecutive failures of real calls that eject an account.
const EJECT_AFTER: u32 = 5;
/// How long the first ejection lasts; the n-th lasts n times as long.
const EJECT_FOR: Duration = Duration::from_secs(30);
/// The longest ejection.
const EJECT_MOST: Duration = Duration::from_secs(300);
/// The longest pause that a `Retry-After` imposes.
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// How active checks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckSettings {
    /// Between two checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Failed checks in a row that mark an account unhealthy.
    pub unhealthy_after: u32,
    /// Passed checks in a row that mark it healthy again.
    pub healthy_after: u32,
}

/// Why an account is not used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It failed its checks, or its recent calls.
    Unhealthy,
    /// It asked to be left alone (`Retry-After`).
    Paused,
}

/// The health of one account.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    answers: AtomicBool,
    /// When a real call last succeeded, in milliseconds after `start`; 0 for never.
    succeeded_ms: AtomicU64,
    failures: AtomicU32,
    ejections: AtomicU32,
    ejected_until_ms: AtomicU64,
    paused_until_ms: AtomicU64,
    probing: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            answers: AtomicBool::new(true),
            succeeded_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            paused_until_ms: AtomicU64::new(0),
            probing: AtomicBool::new(false),
        }
    }
}

impl Health {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Why the account is not used now; `None` if it is.
    pub fn away(&self) -> Option<Away> {
        let now = self.now_ms();
        if !self.answers.load(Relaxed) || now < self.ejected_until_ms.load(Relaxed) {
            Some(Away::Unhealthy)
        } else if now < self.paused_until_ms.load(Relaxed) {
            Some(Away::Paused)
        } else {
            None
        }
    }

    /// Whether its checks, or its calls since, say that it answers.
    pub fn answers(&self) -> bool {
        self.answers.load(Relaxed)
    }

    /// How long until a pause is over; zero if there is none.
    pub fn pause_left(&self) -> Duration {
        match self
            .paused_until_ms
            .load(Relaxed)
            .saturating_sub(self.now_ms())
        {
            0 => Duration::ZERO,
            // The clock is read in whole milliseconds: a moment more, so that it is over then.
            left => Duration::from_millis(left + 1),
        }
    }

    /// When the account became, or becomes, worth a try: smaller is better. Orders the least bad of several.
    pub fn badness(&self) -> (bool, u64) {
        (
            !self.answers.load(Relaxed),
            self.ejected_until_ms
                .load(Relaxed)
                .max(self.paused_until_ms.load(Relaxed)),
        )
    }

    /// Takes the one place for a probe of an account that is away.
    pub fn try_probe(self: &Arc<Self>) -> Option<Probe> {
        (!self.probing.swap(true, Relaxed)).then(|| Probe(Arc::clone(self)))
    }

    /// Tells that a real call succeeded.
    pub fn succeeded(&self) {
        self.succeeded_ms.store(self.now_ms().max(1), Relaxed);
        // Plain loads first: in the normal case nothing is written, so the line stays shared between cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if !self.answers.load(Relaxed) {
            self.answers.store(true, Relaxed);
        }
        if self.ejected_until_ms.load(Relaxed) != 0 {
            self.ejected_until_ms.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
        }
    }

    /// Tells that a real call failed.
    pub fn failed(&self, error: &Error) {
        if let Retry::After(pause) = error.retry() {
            let pause = u64::try_from(pause.min(PAUSE_MOST).as_millis()).unwrap_or(0);
            self.paused_until_ms
                .fetch_max(self.now_ms() + pause, Relaxed);
        }
        if error.counts_against_target() && self.failures.fetch_add(1, Relaxed) + 1 >= EJECT_AFTER {
            self.failures.store(0, Relaxed);
            let count = self.ejections.fetch_add(1, Relaxed) + 1;
            let length = EJECT_FOR.saturating_mul(count).min(EJECT_MOST);
            // Jitter, so that several instances do not come back at the same moment.
            let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            self.ejected_until_ms
                .store(self.now_ms() + ms + fastrand::u64(0..=ms / 10), Relaxed);
        }
    }
}

/// The right to try an account that is away, given back on drop.
#[derive(Debug)]
pub struct Probe(Arc<Health>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.probing.store(false, Relaxed);
    }
}

/// Checks one account until cancelled. `report` is told every change.
pub async fn check(
    provider: Arc<dyn Provider>,
    health: Arc<Health>,
    settings: CheckSettings,
    cancel: CancellationToken,
    report: impl Fn(bool, Option<&Error>) + Send,
) {
    let (mut failed, mut passed) = (0_u32, 0_u32);
    let mut reported = health.answers();
    loop {
        let began = health.now_ms();
        let outcome = tokio::select! {
            () = cancel.cancelled() => return,
            outcome = tokio::time::timeout(settings.timeout, provider.health_check()) => outcome,
        };
        let error = match outcome {
            Ok(Ok(())) => None,
            // A refused key is an answer: the account is up, and every call will say what is wrong.
            Ok(Err(error)) if error.kind() == ErrorKind::UpstreamAuthFailed => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::new(
                ErrorKind::UpstreamTimeout,
                "the health check was not answered in time",
            )),
        };
        // A service that answers real calls is up, whatever it makes of the question for its models.
        let interval = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
        let served = health.succeeded_ms.load(Relaxed);
        let serves = served > 0 && served + interval >= began;
        match &error {
            Some(_) if !serves => (failed, passed) = (failed.saturating_add(1), 0),
            _ => (failed, passed) = (0, passed.saturating_add(1)),
        }
        if failed >= settings.unhealthy_after {
            health.answers.store(false, Relaxed);
        } else if passed >= settings.healthy_after {
            health.answers.store(true, Relaxed);
        }
        let answers = health.answers();
        if answers != reported {
            reported = answers;
            report(answers, error.as_ref());
        }
        // Jitter of a tenth, so that checks of many instances spread.
        let pause = settings.interval.mul_f64(0.95 + fastrand::f64() / 10.0);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn failure() -> Error {
        Error::new(ErrorKind::UpstreamError, "x")
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_forgives() {
        let health = Health::default();
        for _ in 0..4 {
            health.failed(&failure());
        }
        assert_eq!(health.away(), None);
        health.succeeded();
        for _ in 0..4 {
            health.failed(&failure());
        }
        assert_eq!(health.away(), None, "the success started the count again");
        health.failed(&failure());
        assert_eq!(health.away(), Some(Away::Unhealthy));
        health.succeeded();
        assert_eq!(health.away(), None);
    }

    #[test]
    fn a_callers_mistake_and_a_rate_limit_do_not_eject() {
        let health = Health::default();
        for _ in 0..50 {
            health.failed(&Error::new(ErrorKind::InvalidValue, "x"));
            health.failed(&Error::new(ErrorKind::RateLimited, "x").with_retry(Retry::Elsewhere));
        }
        assert_eq!(health.away(), None);
        health.failed(
            &Error::new(ErrorKind::RateLimited, "x")
                .with_retry(Retry::After(Duration::from_secs(600))),
        );
        assert_eq!(health.away(), Some(Away::Paused));
        assert!(health.pause_left() <= PAUSE_MOST + Duration::from_millis(1));
    }

    #[test]
    fn one_probe_at_a_time() {
        let health = Arc::new(Health::default());
        let probe = health.try_probe().unwrap();
        assert!(health.try_probe().is_none());
        drop(probe);
        assert!(health.try_probe().is_some());
    }
}
