//! Which targets a prompt fits, and how much the one of a session may hold.

use crate::{
    config::SessionConfig,
    context::window::TooLong,
    engine::Inner,
    routing::{Route, Target},
    types::ChatRequest,
};

/// What of a model's window is kept for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserve {
    /// The limit that the request sets.
    asked: Option<u64>,
    /// What is kept where it sets none: never more than a quarter of the window.
    default: u64,
}

/// A prompt, as far as windows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prompt {
    pub tokens: u64,
    pub reserve: Reserve,
}

impl Reserve {
    pub fn of(request: &ChatRequest, session: &SessionConfig) -> Self {
        Self {
            asked: request.output_limit(),
            default: u64::from(session.output_reserve),
        }
    }

    pub fn asked(tokens: u64) -> Self {
        Self {
            asked: Some(tokens),
            default: 0,
        }
    }

    /// Most tokens of a prompt.
    fn bound(self, window: u64) -> u64 {
        let reserved = self.asked.unwrap_or(self.default.min(window / 4));
        window.saturating_sub(reserved)
    }
}

impl Prompt {
    /// Whether a target's window holds it; one that is not known does.
    pub fn fits(&self, target: &Target) -> bool {
        target
            .window()
            .is_none_or(|window| self.tokens <= self.reserve.bound(window))
    }
}

/// Most tokens that every target of a route takes; `None` if no window is known.
pub(super) fn least(route: &Route, reserve: Reserve) -> Option<u64> {
    targets(route)
        .filter_map(|target| target.window())
        .map(|window| reserve.bound(window))
        .min()
}

/// The bound of a prompt of which `fixed` tokens cannot be left out: the smallest window of the first tier that has a
/// target for it, without those too small even for that. `None` if none is known there.
///
/// Later tiers do not make the bound smaller: a small fallback would else take the context from every turn that never
/// needs it. They are left out of the route where the prompt does not fit them.
///
/// # Errors
/// [`TooLong`] if no target holds it.
pub(super) fn bound(route: &Route, reserve: Reserve, fixed: u64) -> Result<Option<u64>, TooLong> {
    let mut largest = None;
    for healthy in [true, false] {
        for tier in &route.tiers {
            let bounds: Vec<Option<u64>> = tier
                .targets
                .iter()
                .filter(|target| target.weight > 0)
                .filter(|target| !healthy || target.account.health.away().is_none())
                .map(|target| target.window().map(|window| reserve.bound(window)))
                .collect();
            let able = || {
                bounds
                    .iter()
                    .filter(|bound| bound.is_none_or(|b| b >= fixed))
            };
            if able().next().is_some() {
                return Ok(able().copied().flatten().min());
            }
            largest = bounds.into_iter().flatten().max().max(largest);
        }
    }
    match largest {
        Some(bound) => Err(TooLong {
            needed: fixed,
            bound,
        }),
        // No target at all; the dispatcher says so.
        None => Ok(None),
    }
}

/// The prompt of a request that is sent as it came, if that decides among its targets. Where it fits none, the provider
/// is to say so: it counts better than the gateway.
pub(super) async fn stateless(
    inner: &Inner,
    route: &Route,
    request: &ChatRequest,
    session: &SessionConfig,
) -> Option<Prompt> {
    // Of one target there is nothing to choose.
    targets(route).nth(1)?;
    let reserve = Reserve::of(request, session);
    let bytes = request.body().to_segments().len() as u64;
    if least(route, reserve).is_none_or(|least| bytes <= least) {
        return None;
    }
    let model = &targets(route).next()?.upstream_model;
    let counter = inner.corrections.counter(model);
    let prompt = Prompt {
        tokens: counter.count_request(request.clone()).await.input_tokens,
        reserve,
    };
    targets(route)
        .any(|target| prompt.fits(target))
        .then_some(prompt)
}

fn targets(route: &Route) -> impl Iterator<Item = &Target> {
    route
        .tiers
        .iter()
        .flat_map(|tier| tier.targets.iter().map(|target| &**target))
}
