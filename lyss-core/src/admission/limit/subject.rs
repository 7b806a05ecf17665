//! Who is limited, by what, and what one instance knows of it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::window::{RequestWindow, TokenWindow};
use crate::{
    admission::KeyRecord,
    config::LimitsConfig,
    types::{
        Principal, RequestId,
        rate::{RateStatus, WindowStatus},
    },
};

/// At most so many requests, tokens, and requests at once; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub rpm: Option<u64>,
    pub tpm: Option<u64>,
    pub concurrent: Option<u64>,
}

/// Whose calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A key that has a limit of its own.
    Key(Arc<str>),
    /// A user, with all its other keys.
    User(Arc<str>),
}

impl Limits {
    /// Whose calls count, against which limits: a key's own, each missing one filled from the defaults; for all others
    /// the defaults, by user. `None` without any.
    pub fn of(principal: &Principal, defaults: &LimitsConfig) -> Option<(Subject, Self)> {
        let own = principal.key.as_deref().filter(|key| has_own(key));
        let limits = Self {
            rpm: own.and_then(|key| key.rpm).or(defaults.rpm.map(Into::into)),
            tpm: own.and_then(|key| key.tpm).or(defaults.tpm),
            concurrent: own
                .and_then(|key| key.concurrent)
                .or(defaults.concurrent.map(Into::into)),
        };
        if limits == Self::default() {
            return None;
        }
        let subject = match own {
            Some(key) => Subject::Key(Arc::clone(&key.id)),
            None => Subject::User(Arc::clone(principal.user_id.as_ref()?)),
        };
        Some((subject, limits))
    }

    /// What one of several instances may give out by itself.
    #[cfg(any(feature = "redis", test))]
    pub fn share(self, instances: u64) -> Self {
        let share = |limit: Option<u64>| limit.map(|limit| (limit / instances.max(1)).max(1));
        Self {
            rpm: share(self.rpm),
            tpm: share(self.tpm),
            concurrent: share(self.concurrent),
        }
    }
}

fn has_own(key: &KeyRecord) -> bool {
    key.rpm.is_some() || key.tpm.is_some() || key.concurrent.is_some()
}

/// One of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Requests,
    Tokens,
    Concurrent,
}

impl Limit {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::Concurrent => "concurrent",
        }
    }
}

/// A place that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub limit: Limit,
    /// How long until there is one, as far as is known.
    pub wait: Duration,
}

/// A request that has ended, to be told to the other instances.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub id: RequestId,
    /// The second that its tokens are noted in, by the clock of all instances.
    pub second: u64,
    /// By how many its tokens are off.
    pub off: i64,
}

/// Nobody knows when a place comes free.
pub(super) const RETRY_CONCURRENT: Duration = Duration::from_secs(1);

/// What this instance knows of a caller. Times are milliseconds after the start of the limiter.
#[derive(Debug, Default)]
pub(super) struct State {
    pub requests: RequestWindow,
    pub tokens: TokenWindow,
    /// Requests that run here and hold a place.
    pub open: HashSet<RequestId>,
    /// What the others do not know yet.
    #[cfg(feature = "redis")]
    pub ended: Vec<Ended>,
    /// Until when there is surely no place under this limit of requests, all instances together.
    #[cfg(feature = "redis")]
    pub full_until: Option<(u64, u64)>,
}

impl State {
    /// Takes a place under every limit, or none. Gives the second that the tokens are noted in.
    pub fn take(
        &mut self,
        now: u64,
        limits: Limits,
        tokens: u64,
        id: RequestId,
    ) -> Result<u64, Full> {
        let mut full: Option<Full> = None;
        let mut refuse = |limit, wait| {
            if full.is_none_or(|full| wait > full.wait) {
                full = Some(Full { limit, wait });
            }
        };
        if let Some(rpm) = limits.rpm
            && self.requests.count(now) >= rpm
        {
            refuse(Limit::Requests, self.requests.wait(now, rpm));
        }
        if let Some(tpm) = limits.tpm
            && self.tokens.count(now).saturating_add(tokens) > tpm
        {
            refuse(Limit::Tokens, self.tokens.wait(now, tpm, tokens));
        }
        if let Some(concurrent) = limits.concurrent
            && self.open.len() as u64 >= concurrent
        {
            refuse(Limit::Concurrent, RETRY_CONCURRENT);
        }
        match full {
            Some(full) => Err(full),
            None => Ok(self.note(now, limits, tokens, id)),
        }
    }

    /// Notes a request that has its places.
    pub fn note(&mut self, now: u64, limits: Limits, tokens: u64, id: RequestId) -> u64 {
        if limits.rpm.is_some() {
            self.requests.count(now);
            self.requests.add(now);
        }
        let second = match limits.tpm {
            Some(_) => {
                self.tokens.count(now);
                self.tokens.add(now, tokens)
            }
            None => 0,
        };
        if limits.concurrent.is_some() {
            self.open.insert(id);
        }
        second
    }

    /// What is left.
    pub fn status(&mut self, now: u64, limits: Limits) -> RateStatus {
        RateStatus {
            requests: limits.rpm.map(|limit| WindowStatus {
                limit,
                remaining: limit.saturating_sub(self.requests.count(now)),
                reset: self.requests.reset(now),
            }),
            tokens: limits.tpm.map(|limit| WindowStatus {
                limit,
                remaining: limit.saturating_sub(self.tokens.count(now)),
                reset: self.tokens.reset(now),
            }),
            concurrent: None,
        }
    }

    /// Whether forgetting it changes nothing.
    pub fn is_idle(&mut self, now: u64) -> bool {
        #[cfg(feature = "redis")]
        if !self.ended.is_empty() {
            return false;
        }
        self.open.is_empty() && self.requests.count(now) == 0 && self.tokens.count(now) == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_or_nothing() {
        let mut state = State::default();
        let limits = Limits {
            rpm: Some(3),
            tpm: Some(100),
            concurrent: Some(2),
        };
        let id = RequestId::new;
        let (first, second) = (id(), id());
        state.take(0, limits, 40, first).unwrap();
        let full = state.take(10, limits, 61, id()).unwrap_err();
        assert_eq!(full.limit, Limit::Tokens);
        state.take(10, limits, 60, second).unwrap();
        assert_eq!(state.requests.count(10), 2, "the refusal took nothing");
        // Tokens come back later than places.
        let full = state.take(20, limits, 1, id()).unwrap_err();
        assert_eq!(full.limit, Limit::Tokens);
        state.tokens.give_back(0, 100);
        let full = state.take(20, limits, 1, id()).unwrap_err();
        assert_eq!(
            (full.limit, full.wait),
            (Limit::Concurrent, RETRY_CONCURRENT)
        );
        state.open.remove(&first);
        state.take(20, limits, 1, id()).unwrap();
        state.open.clear();
        let full = state.take(30, limits, 1, id()).unwrap_err();
        assert_eq!(full.limit, Limit::Requests);
        assert_eq!(full.wait.as_millis(), 59_971);
        assert!(!state.is_idle(60_000));
        assert!(state.is_idle(61_020));
        let status = state.status(30, limits);
        assert_eq!(status.requests.unwrap().remaining, 3);
    }

    #[test]
    fn a_share_is_never_nothing() {
        let limits = Limits {
            rpm: Some(10),
            tpm: Some(1),
            concurrent: None,
        };
        let share = limits.share(3);
        assert_eq!(
            (share.rpm, share.tpm, share.concurrent),
            (Some(3), Some(1), None)
        );
        assert_eq!(limits.share(0), limits);
    }
}
