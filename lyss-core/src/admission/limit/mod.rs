//! `limits`: what a caller may ask for in any 60 s, and at once.
//!
//! With Redis the limits hold for all instances together (`shared.rs`), in one round trip at admission; without it each
//! instance keeps its own (`window.rs`), exactly. While Redis is away each instance gives out its share: the limit by
//! the number of instances that were there last. A caller without limits costs nothing here.

mod estimate;
#[cfg(feature = "redis")]
mod shared;
mod subject;
mod window;

use std::{collections::HashMap, fmt, sync::Arc, time::Instant};
#[cfg(feature = "redis")]
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
#[cfg(feature = "redis")]
use tokio_util::task::TaskTracker;

pub(crate) use estimate::estimate;
use subject::{Full, State};
pub(crate) use subject::{Limit, Limits, Subject};

use crate::{
    error::{Error, ErrorKind, Result, Retry},
    types::{RequestId, rate::RateStatus},
};

/// Callers that one instance keeps apart, at most. Those idle for a minute are forgotten.
const SUBJECTS_MOST: usize = 1_000_000;
/// Callers before the first look for idle ones.
const SWEEP_LEAST: usize = 1024;
/// Between two words of an instance that it is there.
#[cfg(feature = "redis")]
const PRESENT_EVERY: Duration = Duration::from_secs(2);
/// Between two words about the requests that go on.
#[cfg(feature = "redis")]
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The limits of callers.
#[derive(Debug)]
pub(crate) struct CallerLimits {
    born: Instant,
    subjects: Mutex<Subjects>,
    #[cfg(feature = "redis")]
    shared: Option<Shared>,
}

#[cfg(feature = "redis")]
#[derive(Debug)]
struct Shared {
    limits: shared::SharedLimits,
    tasks: TaskTracker,
    /// How many instances were there last.
    instances: AtomicU64,
    /// Whether Redis did not answer the last time.
    away: AtomicBool,
    alone: AtomicU64,
}

#[derive(Debug, Default)]
struct Subjects {
    all: HashMap<Subject, Arc<Mutex<State>>>,
    /// How many there may be before idle ones are looked for.
    sweep_at: usize,
}

/// What a request asks its limits for.
#[derive(Debug)]
pub(crate) struct Asking {
    pub subject: Subject,
    pub limits: Limits,
    pub id: RequestId,
    /// The tokens that it may take; at most the limit of tokens.
    pub tokens: u64,
}

/// A place is not there.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The limit that is reached; `None` if there is no room to count another caller.
    pub limit: Option<Limit>,
    pub error: Error,
    pub status: RateStatus,
}

/// The places of a running request. They are given back when it is dropped.
pub(crate) struct Admitted {
    callers: Arc<CallerLimits>,
    subject: Subject,
    state: Arc<Mutex<State>>,
    id: RequestId,
    /// Whether it holds a place among those at once.
    holds_place: bool,
    /// Tokens noted, and the second here and among all instances; `None` there if it was counted alone.
    noted: u64,
    second: u64,
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    shared_second: Option<u64>,
    used: Option<u64>,
}

impl CallerLimits {
    /// Limits that this instance keeps alone.
    pub fn local() -> Self {
        Self {
            born: Instant::now(),
            subjects: Mutex::default(),
            #[cfg(feature = "redis")]
            shared: None,
        }
    }

    /// Limits that the instances on this Redis keep together.
    #[cfg(feature = "redis")]
    pub fn shared(redis: crate::redis::RedisHandle, tasks: TaskTracker) -> Self {
        Self {
            shared: Some(Shared {
                limits: shared::SharedLimits::new(redis),
                tasks,
                instances: AtomicU64::new(1),
                away: AtomicBool::new(false),
                alone: AtomicU64::new(0),
            }),
            ..Self::local()
        }
    }

    /// Takes a place under every limit, or none. Waits for Redis as long as any command may take (50 ms,
    /// or longer if it is this process that is slow).
    pub async fn admit(
        self: &Arc<Self>,
        asking: Asking,
    ) -> Result<(Admitted, RateStatus), Box<Refused>> {
        let now = self.now();
        let Some(state) = self.state(&asking.subject, now) else {
            return Err(Box::new(crowded()));
        };
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared {
            return self.admit_shared(shared, asking, state).await;
        }
        self.admit_here(asking, state, None)
    }

    /// By what this instance knows. `share`: the limits that it goes by, if not those asked for.
    fn admit_here(
        self: &Arc<Self>,
        asking: Asking,
        state: Arc<Mutex<State>>,
        share: Option<Limits>,
    ) -> Result<(Admitted, RateStatus), Box<Refused>> {
        let now = self.now();
        let limits = share.unwrap_or(asking.limits);
        let tokens = asking.tokens.min(limits.tpm.unwrap_or(u64::MAX));
        let (taken, status) = {
            let mut state = state.lock();
            let taken = state.take(now, limits, tokens, asking.id);
            (taken, state.status(now, limits))
        };
        match taken {
            Ok(second) => Ok((self.admitted(asking, state, tokens, second, None), status)),
            Err(full) => Err(Box::new(refused(full, &asking, status))),
        }
    }

    fn admitted(
        self: &Arc<Self>,
        asking: Asking,
        state: Arc<Mutex<State>>,
        noted: u64,
        second: u64,
        shared_second: Option<u64>,
    ) -> Admitted {
        Admitted {
            callers: Arc::clone(self),
            holds_place: asking.limits.concurrent.is_some(),
            noted: asking.limits.tpm.map_or(0, |_| noted),
            subject: asking.subject,
            state,
            id: asking.id,
            second,
            shared_second,
            used: None,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is known of a caller; `None` if there are too many.
    fn state(&self, subject: &Subject, now: u64) -> Option<Arc<Mutex<State>>> {
        let mut subjects = self.subjects.lock();
        if let Some(state) = subjects.all.get(subject) {
            return Some(Arc::clone(state));
        }
        if subjects.all.len() >= subjects.sweep_at {
            // What nobody else holds cannot change while the map is locked.
            subjects
                .all
                .retain(|_, state| Arc::strong_count(state) > 1 || !state.lock().is_idle(now));
            subjects.sweep_at = (2 * subjects.all.len()).clamp(SWEEP_LEAST, SUBJECTS_MOST);
        }
        if subjects.all.len() >= SUBJECTS_MOST {
            return None;
        }
        let state = Arc::<Mutex<State>>::default();
        subjects.all.insert(subject.clone(), Arc::clone(&state));
        Some(state)
    }
}

#[cfg(feature = "redis")]
impl CallerLimits {
    async fn admit_shared(
        self: &Arc<Self>,
        shared: &Shared,
        asking: Asking,
        state: Arc<Mutex<State>>,
    ) -> Result<(Admitted, RateStatus), Box<Refused>> {
        let Asking {
            ref subject,
            limits,
            tokens,
            id,
        } = asking;
        let ended = {
            let (now, mut state) = (self.now(), state.lock());
            // Whoever hammers on a full window is answered here.
            if let Some((until, rpm)) = state.full_until
                && now < until
                && limits.rpm == Some(rpm)
            {
                let mut status = state.status(now, limits);
                if let Some(requests) = &mut status.requests {
                    requests.remaining = 0;
                    requests.reset = requests.reset.max(Duration::from_millis(until - now));
                }
                let full = Full {
                    limit: Limit::Requests,
                    wait: Duration::from_millis(until - now),
                };
                return Err(Box::new(refused(full, &asking, status)));
            }
            std::mem::take(&mut state.ended)
        };
        let unheard = Unheard {
            callers: self,
            subject,
            state: &state,
            id,
        };
        let answer = shared
            .limits
            .take(subject, limits, tokens, id, &ended)
            .await;
        let Some(answer) = answer else {
            drop(unheard);
            shared.is_away(true);
            shared.alone.fetch_add(1, Relaxed);
            let share = limits.share(shared.instances.load(Relaxed));
            return self.admit_here(asking, state, Some(share));
        };
        std::mem::forget(unheard);
        shared.is_away(false);
        let now = self.now();
        if let Some(full) = answer.full {
            if let (Limit::Requests, Some(rpm)) = (full.limit, limits.rpm) {
                let wait = u64::try_from(full.wait.as_millis()).unwrap_or(u64::MAX);
                state.lock().full_until = Some((now.saturating_add(wait), rpm));
            }
            return Err(Box::new(refused(full, &asking, answer.status)));
        }
        // Noted here as well: it is what this instance goes by when Redis goes away.
        let second = state.lock().note(now, limits, tokens, id);
        Ok((
            self.admitted(asking, state, tokens, second, Some(answer.second)),
            answer.status,
        ))
    }

    /// Whether each instance goes by its share, because Redis is away, and callers are limited.
    pub fn is_alone(&self) -> bool {
        let away = |shared: &Shared| shared.away.load(Relaxed);
        self.shared.as_ref().is_some_and(away) && !self.subjects.lock().all.is_empty()
    }

    /// How many requests were counted by this instance alone because Redis did not answer in time, and how many instances
    /// were there last; `None` without Redis.
    pub fn stats(&self) -> Option<(u64, u64)> {
        let shared = self.shared.as_ref()?;
        Some((shared.alone.load(Relaxed), shared.instances.load(Relaxed)))
    }

    /// Says again and again that this instance is there, and which requests go on.
    pub async fn keep_in_touch(self: Arc<Self>) {
        let Some(shared) = &self.shared else { return };
        let mut renewed = Instant::now();
        loop {
            if let Ok(instances) = shared.limits.present().await {
                shared.instances.store(instances.max(1), Relaxed);
                shared.is_away(false);
            }
            if renewed.elapsed() >= RENEW_EVERY {
                renewed = Instant::now();
                for (subject, open) in self.open() {
                    shared.limits.renew(&subject, &open).await;
                }
            }
            tokio::time::sleep(PRESENT_EVERY).await;
        }
    }

    /// The requests that hold a place, by caller.
    fn open(&self) -> Vec<(Subject, Vec<RequestId>)> {
        let subjects: Vec<_> = {
            let subjects = self.subjects.lock();
            let all = subjects.all.iter();
            all.map(|(subject, state)| (subject.clone(), Arc::clone(state)))
                .collect()
        };
        let open = |(subject, state): (Subject, Arc<Mutex<State>>)| {
            let open: Vec<_> = state.lock().open.iter().copied().collect();
            (!open.is_empty()).then_some((subject, open))
        };
        subjects.into_iter().filter_map(open).collect()
    }

    /// Tells the other instances what has ended; a request that comes meanwhile takes it along.
    fn tell(self: &Arc<Self>, subject: Subject, state: Arc<Mutex<State>>) {
        let (Some(shared), Ok(runtime)) = (&self.shared, tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let this = Arc::clone(self);
        let telling = async move {
            let ended = std::mem::take(&mut state.lock().ended);
            if let (false, Some(shared)) = (ended.is_empty(), &this.shared) {
                shared.limits.tell(&subject, &ended).await;
            }
        };
        shared.tasks.spawn_on(telling, &runtime);
    }
}

/// A question to Redis whose answer is not heard: it came too late, or the caller has gone. If a place was taken all the
/// same, it is given back.
#[cfg(feature = "redis")]
struct Unheard<'a> {
    callers: &'a Arc<CallerLimits>,
    subject: &'a Subject,
    state: &'a Arc<Mutex<State>>,
    id: RequestId,
}

#[cfg(feature = "redis")]
impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.state.lock().ended.push(subject::Ended {
            id: self.id,
            second: 0,
            off: 0,
        });
        self.callers
            .tell(self.subject.clone(), Arc::clone(self.state));
    }
}

#[cfg(not(feature = "redis"))]
impl CallerLimits {
    /// Without Redis an instance is always alone, and nothing is amiss.
    pub fn is_alone(&self) -> bool {
        false
    }

    pub fn stats(&self) -> Option<(u64, u64)> {
        None
    }
}

#[cfg(feature = "redis")]
impl Shared {
    fn is_away(&self, away: bool) {
        // Read first: what all requests write is slow.
        if self.away.load(Relaxed) == away || self.away.swap(away, Relaxed) == away {
            return;
        }
        if away {
            let instances = self.instances.load(Relaxed);
            tracing::warn!(
                instances,
                "redis does not answer: this instance gives out its share of the callers' limits"
            );
        } else {
            tracing::info!("the callers' limits hold for all instances together again");
        }
    }
}

impl Admitted {
    /// Says what the request has used; if nothing is said, what was estimated stands.
    pub fn used(&mut self, tokens: u64) {
        self.used = Some(tokens);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let used = self.used.unwrap_or(self.noted);
        // Without a limit of tokens none are noted.
        let counted = self.noted > 0;
        let mut state = self.state.lock();
        if self.holds_place {
            state.open.remove(&self.id);
        }
        if counted && used < self.noted {
            state.tokens.give_back(self.second, self.noted - used);
        } else if counted && used > self.noted {
            state.tokens.add(self.callers.now(), used - self.noted);
        }
        #[cfg(feature = "redis")]
        if self.callers.shared.is_some() {
            // Redis does not know the tokens of a request that was counted alone.
            let off = match self.shared_second {
                Some(_) if counted => saturating_difference(used, self.noted),
                _ => 0,
            };
            if !self.holds_place && off == 0 {
                return;
            }
            state.ended.push(subject::Ended {
                id: self.id,
                second: self.shared_second.unwrap_or(0),
                off,
            });
            drop(state);
            self.callers
                .tell(self.subject.clone(), Arc::clone(&self.state));
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("subject", &self.subject)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "redis")]
fn saturating_difference(used: u64, noted: u64) -> i64 {
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(used).saturating_sub(signed(noted))
}

fn refused(full: Full, asking: &Asking, mut status: RateStatus) -> Refused {
    let (limits, name) = (asking.limits, full.limit.name());
    let whose = match asking.subject {
        Subject::Key(_) => "this API key",
        Subject::User(_) => "this user",
    };
    let what = match full.limit {
        Limit::Requests => format!("{} requests in 60 s", limits.rpm.unwrap_or(0)),
        Limit::Tokens => format!(
            "{} tokens in 60 s, and the request may take {}",
            limits.tpm.unwrap_or(0),
            asking.tokens
        ),
        Limit::Concurrent => format!("{} requests at once", limits.concurrent.unwrap_or(0)),
    };
    let error = Error::new(
        ErrorKind::RateLimited,
        format!("the limit of {whose} is reached: {what} (`{name}`)"),
    );
    if full.limit == Limit::Concurrent {
        status.concurrent = asking.limits.concurrent;
    }
    Refused {
        limit: Some(full.limit),
        error: error.with_retry(Retry::After(full.wait)),
        status,
    }
}

fn crowded() -> Refused {
    Refused {
        limit: None,
        error: Error::new(
            ErrorKind::Overloaded,
            "too many callers at once to count the requests of another",
        ),
        status: RateStatus::default(),
    }
}

#[cfg(test)]
mod tests;
