//! Picks a target, tries it, and goes on to the next until one answers or the attempts are used up.
//!
//! Another target is tried before the same one again; the same one only after a pause. What the provider refused as
//! the caller's mistake is never tried again.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{cover::Priced, finish::Record, fit::Prompt};
use crate::{
    balance::{Candidate as Choice, Outcome, PickContext},
    config::RetryOn,
    engine::Inner,
    error::{Error, ErrorKind, Result, Retry, Work},
    provider::ProviderCall,
    resilience::{
        health::{Away, Probe},
        retry::{LONGEST_WAIT, backoff},
    },
    routing::{InFlight, Route, Target},
    types::{SessionKey, log::Candidate},
};

/// What a provider must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Chat,
    Stream,
    Embeddings,
}

/// Who may answer a call.
#[derive(Clone, Copy)]
pub(crate) struct Eligible<'a> {
    pub route: &'a Route,
    pub need: Need,
    pub session: Option<&'a SessionKey>,
    /// Leaves out targets that are too small for it.
    pub prompt: Option<Prompt>,
    pub priced: Priced,
}

/// An answer, and who gave it.
pub(crate) struct Dispatched<T> {
    pub value: T,
    pub target: Arc<Target>,
    /// Counts the call as running on the account; a stream keeps it to its end.
    pub in_flight: InFlight,
}

/// What has become of a target during this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Tried and failed; may be tried again when all others have been.
    Failed,
    /// Will not work for this request, however often it is tried (its key is refused, it lacks the capability).
    Out(&'static str),
}

/// A picked target, with the place it holds if it is only being probed.
struct Picked {
    tier: usize,
    index: usize,
    target: Arc<Target>,
    _probe: Option<Probe>,
}

struct Choices<'a> {
    route: &'a Route,
    states: Vec<Vec<State>>,
    /// Why each target was passed over at the last pick.
    reasons: Vec<Vec<&'static str>>,
}

pub(crate) async fn dispatch<T, F, Fut>(
    inner: &Inner,
    record: &mut Record,
    eligible: &Eligible<'_>,
    call: F,
) -> Result<Dispatched<T>>
where
    F: Fn(Arc<Target>, ProviderCall) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let settings = inner.settings().clone();
    let most = settings.max_retries.saturating_add(1);
    let Eligible { route, need, .. } = *eligible;
    let context = PickContext {
        session: eligible.session,
    };
    let mut choices = Choices::new(record, eligible);
    let mut last: Option<Error> = None;
    let mut attempt = 0;
    while attempt < most {
        let picked = match choices.pick(inner, &context).await {
            Ok(picked) => picked,
            Err(nothing) => {
                // Every target has been tried: after a pause the same ones may be tried again.
                let again = match (&last, choices.reopen()) {
                    (Some(_), Some(pause)) => {
                        tokio::time::sleep(pause.max(backoff(attempt + 1))).await;
                        choices.pick(inner, &context).await.ok()
                    }
                    _ => None,
                };
                let Some(picked) = again else {
                    record.chose(route, choices.described());
                    return Err(last.map_or(nothing, Error::exhausted));
                };
                picked
            }
        };
        if record.is_gone() {
            // What has been dispatched goes on for a while; nothing new is begun for nobody.
            return Err(Error::new(ErrorKind::Cancelled, "the caller has gone"));
        }
        attempt += 1;
        if let Some(failed) = last.as_ref().and_then(Error::provider) {
            inner.metrics.retried(failed);
        }
        record.chose(route, choices.described());
        record.attempting(&picked.target);
        let account = Arc::clone(&picked.target.account);
        let in_flight = account.enter();
        let started = Instant::now();
        let told = ProviderCall {
            request_id: record.request_id(),
            attempt,
        };
        let outcome = call(Arc::clone(&picked.target), told).await;
        let latency = started.elapsed();
        let outcome = outcome.map_err(|error| error.with_provider(&*account.id));
        record.attempted(&picked.target, latency, outcome.as_ref().err());
        choices.observe(&picked, outcome.is_ok(), latency);
        match outcome {
            Ok(value) => {
                if need != Need::Stream {
                    account.health.succeeded();
                }
                return Ok(Dispatched {
                    value,
                    target: picked.target,
                    in_flight,
                });
            }
            Err(error) => {
                account.health.failed(&error);
                if error.kind() == ErrorKind::RateLimited {
                    inner.metrics.rate_limited(&account.id);
                }
                if !may_retry(&error, &settings.retry_on) {
                    return Err(error);
                }
                choices.failed(&picked, &error);
                last = Some(error);
            }
        }
    }
    Err(match last {
        Some(error) => error.exhausted(),
        None => Error::new(ErrorKind::Internal, "no attempt was made"),
    })
}

/// Whether another attempt may be made after a failure: the provider's answer allows it, and `routing.retry_on` wants
/// it. What is wrong with our account there (a refused key, no funds) says nothing about the other keys and targets,
/// which are tried whatever the setting.
fn may_retry(error: &Error, retry_on: &[RetryOn]) -> bool {
    if error.retry() == Retry::Never {
        return false;
    }
    if is_ours(error) {
        return true;
    }
    retry_on.iter().any(|item| match (error.upstream(), item) {
        (Some(upstream), item) => item.covers(upstream.status),
        (None, RetryOn::FirstChunkTimeout) => error.kind() == ErrorKind::UpstreamTimeout,
        (None, RetryOn::Connect) => error.work() == Work::None,
        // An answer that broke before its first byte is as good as a 500.
        (None, RetryOn::ServerErrors) => {
            error.work() == Work::Unknown && error.kind() != ErrorKind::UpstreamTimeout
        }
        (None, RetryOn::Status(_)) => false,
    })
}

/// Whether the provider refused because of our account or our settings.
fn is_ours(error: &Error) -> bool {
    let refused = error
        .upstream()
        .is_some_and(|upstream| !upstream.shown && upstream.status < 500);
    let passing = matches!(
        error.upstream().map(|upstream| upstream.status),
        Some(408 | 429)
    ) && error.kind() == ErrorKind::RateLimited;
    error.kind() == ErrorKind::UpstreamAuthFailed
        || (refused && !passing && error.work() == Work::None)
}

impl<'a> Choices<'a> {
    fn new(record: &Record, eligible: &Eligible<'a>) -> Self {
        let at_ms = record.request_id().unix_ms();
        let Eligible {
            route,
            need,
            prompt,
            priced,
            ..
        } = *eligible;
        let unpriced = |target: &Target| {
            priced == Priced::Only && target.price(record.prices(), at_ms).is_none()
        };
        let state = |target: &Arc<Target>| {
            let can = target.account.provider.capabilities();
            let able = match need {
                Need::Chat => can.chat,
                Need::Stream => can.stream,
                Need::Embeddings => can.embeddings,
            };
            if !able {
                State::Out("unsupported")
            } else if prompt.is_some_and(|prompt| !prompt.fits(target)) {
                State::Out("context_too_small")
            } else if unpriced(target) {
                State::Out("unpriced")
            } else {
                State::Fresh
            }
        };
        let states = route
            .tiers
            .iter()
            .map(|tier| tier.targets.iter().map(state).collect())
            .collect();
        let reasons = route
            .tiers
            .iter()
            .map(|tier| vec!["not_needed"; tier.targets.len()])
            .collect();
        Self {
            route,
            states,
            reasons,
        }
    }

    /// Picks the next target: the first tier that has a usable one decides; within it the balancer does.
    async fn pick(&mut self, inner: &Inner, context: &PickContext<'_>) -> Result<Picked> {
        for (tier_index, tier) in self.route.tiers.iter().enumerate() {
            let mut full = vec![false; tier.targets.len()];
            loop {
                let mut usable = Vec::with_capacity(tier.targets.len());
                for (index, target) in tier.targets.iter().enumerate() {
                    let reason = match self.state(tier_index, index) {
                        State::Out(reason) => reason,
                        State::Failed => "tried",
                        State::Fresh if target.weight == 0 => "weight_zero",
                        State::Fresh if full.get(index).copied().unwrap_or_default() => {
                            "rate_limited"
                        }
                        State::Fresh => match target.account.health.away() {
                            Some(Away::Unhealthy) => "unhealthy",
                            Some(Away::Paused) => "paused",
                            None if target.account.is_full() => "busy",
                            None => {
                                usable.push(Choice {
                                    index,
                                    id: target.id(),
                                    weight: target.weight,
                                    in_flight: target
                                        .account
                                        .in_flight
                                        .load(std::sync::atomic::Ordering::Relaxed),
                                });
                                "not_needed"
                            }
                        },
                    };
                    self.reason(tier_index, index, reason);
                }
                let Some(index) = tier
                    .balancer
                    .pick(&usable, context)
                    .and_then(|at| usable.get(at))
                    .map(|choice| choice.index)
                else {
                    break;
                };
                let Some(target) = tier.targets.get(index) else {
                    break;
                };
                if !take(inner, target).await {
                    inner.metrics.rate_limited(&target.account.id);
                    if let Some(flag) = full.get_mut(index) {
                        *flag = true;
                    }
                    continue;
                }
                self.reason(tier_index, index, "picked");
                return Ok(Picked {
                    tier: tier_index,
                    index,
                    target: Arc::clone(target),
                    _probe: None,
                });
            }
        }
        self.pick_least_bad(inner).await
    }

    /// When every target is away: the least bad one gets one call at a time, so that a model is never given up
    /// without trying, and a recovering provider is not flooded (decision 14).
    async fn pick_least_bad(&mut self, inner: &Inner) -> Result<Picked> {
        let mut away: Vec<(usize, usize, &Arc<Target>)> = Vec::new();
        let mut limited = false;
        let mut unsupported = false;
        for (tier_index, tier) in self.route.tiers.iter().enumerate() {
            for (index, target) in tier.targets.iter().enumerate() {
                match self
                    .reasons
                    .get(tier_index)
                    .and_then(|reasons| reasons.get(index))
                {
                    Some(&"unhealthy") => away.push((tier_index, index, target)),
                    Some(&("rate_limited" | "paused" | "busy")) => limited = true,
                    Some(&"unsupported") => unsupported = true,
                    _ => {}
                }
            }
        }
        away.sort_by_key(|(tier, _, target)| (target.account.health.badness(), *tier));
        for (tier, index, target) in &away {
            if let Some(probe) = target.account.health.try_probe()
                && take(inner, target).await
            {
                let (tier, index) = (*tier, *index);
                self.reason(tier, index, "picked");
                return Ok(Picked {
                    tier,
                    index,
                    target: Arc::clone(target),
                    _probe: Some(probe),
                });
            }
        }
        Err(if !away.is_empty() {
            Error::new(
                ErrorKind::NoHealthyProvider,
                "every provider of this model is failing; try again shortly",
            )
            .with_retry(Retry::After(Duration::from_secs(2)))
        } else if limited {
            Error::new(
                ErrorKind::Overloaded,
                "every provider of this model is at its rate limit (`max_rps`, or its own)",
            )
            .with_retry(Retry::After(self.pause_left().max(Duration::from_secs(1))))
        } else if unsupported {
            Error::invalid(
                "model",
                "the provider of this model does not serve this kind of call",
            )
        } else {
            Error::new(
                ErrorKind::NoHealthyProvider,
                "no provider of this model can take the call",
            )
        })
    }

    fn state(&self, tier: usize, index: usize) -> State {
        self.states
            .get(tier)
            .and_then(|states| states.get(index))
            .copied()
            .unwrap_or(State::Out("unsupported"))
    }

    fn reason(&mut self, tier: usize, index: usize, reason: &'static str) {
        if let Some(place) = self
            .reasons
            .get_mut(tier)
            .and_then(|reasons| reasons.get_mut(index))
        {
            *place = reason;
        }
    }

    fn failed(&mut self, picked: &Picked, error: &Error) {
        let state = match error.kind() {
            ErrorKind::UpstreamAuthFailed => State::Out("auth_failed"),
            _ if is_ours(error) => State::Out("account_refused"),
            _ => State::Failed,
        };
        if let Some(place) = self
            .states
            .get_mut(picked.tier)
            .and_then(|states| states.get_mut(picked.index))
        {
            *place = state;
        }
    }

    fn observe(&self, picked: &Picked, success: bool, latency: Duration) {
        if let Some(tier) = self.route.tiers.get(picked.tier) {
            tier.balancer
                .observe(picked.index, &Outcome { success, latency });
        }
    }

    /// The shortest pause among targets that may be tried again.
    fn pause_left(&self) -> Duration {
        self.route
            .tiers
            .iter()
            .flat_map(|tier| &tier.targets)
            .map(|target| target.account.health.pause_left())
            .filter(|pause| !pause.is_zero())
            .min()
            .unwrap_or_default()
    }

    /// Opens the failed targets again; says how long to wait for the first of them, `None` if waiting is no use.
    fn reopen(&mut self) -> Option<Duration> {
        let mut shortest: Option<Duration> = None;
        for (tier, states) in self.route.tiers.iter().zip(&mut self.states) {
            for (target, state) in tier.targets.iter().zip(states) {
                if *state == State::Failed {
                    *state = State::Fresh;
                }
                if *state == State::Fresh && target.weight > 0 {
                    let pause = target.account.health.pause_left();
                    shortest = Some(shortest.map_or(pause, |least| least.min(pause)));
                }
            }
        }
        shortest.filter(|pause| *pause <= LONGEST_WAIT)
    }

    /// Every target with the reason of the last pick, for the decision record.
    fn described(&self) -> Vec<Candidate> {
        let mut described = Vec::new();
        for (tier, reasons) in self.route.tiers.iter().zip(&self.reasons) {
            for (target, reason) in tier.targets.iter().zip(reasons) {
                described.push(Candidate {
                    provider_id: Arc::clone(&target.account.id),
                    model_name: Arc::clone(&target.upstream_model),
                    priority: tier.priority,
                    weight: target.rule_weight,
                    reason: (*reason).into(),
                });
            }
        }
        described
    }
}

/// Takes a place in the rule's and the provider's `max_rps`, both or none.
async fn take(inner: &Inner, target: &Target) -> bool {
    let limits: Vec<_> = target.limits().collect(); // allocates only if there is one
    limits.is_empty() || inner.limits.take(&limits).await
}
