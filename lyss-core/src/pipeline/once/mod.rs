//! A request with an idempotency key is done once: sent again it gets the answer that was given, from whatever instance
//! and whatever became of the first caller. A request without a key comes through here at no cost.
//!
//! The key is claimed before anything else is done, marked before anything is dispatched, and its answer is kept before
//! it is acknowledged. So a process that dies leaves either a key that another request may claim (nothing was
//! dispatched) or one whose outcome is not known, and which is never dispatched again.
//!
//! What is kept: answers, and failures after which the provider may have worked. A failure after which it surely has
//! not frees the key. A failure that is not the request's (429, 503) after which it may have is an unknown outcome.

mod hold;

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use hold::Once;

use super::finish::Record;
use crate::{
    engine::Inner,
    error::{Error, ErrorKind, Result, Retry, Work},
    idempotency::{Claim, Claimed, EntryId, Fingerprint, reply::Reply},
    types::{CallContext, Principal, RawObject},
};

/// Between two looks at a key that another request holds: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// How a request begins.
pub(crate) enum Begun {
    /// It is to be done.
    Run(Once),
    /// It has been done; its row is written.
    Replay(Reply),
}

/// Claims the key of a request, or finds its answer. A request that ends here has its row.
///
/// # Errors
/// `idempotency_key_reused`, `idempotency_in_progress`, `idempotency_outcome_unknown`, `store_unavailable`;
/// `cancelled` if the caller goes while it waits for another request.
pub(crate) async fn begin(
    inner: &Arc<Inner>,
    context: &CallContext,
    principal: &Principal,
    endpoint: &str,
    body: &RawObject,
    record: &mut Record,
    gone: &AtomicBool,
) -> Result<Begun> {
    if context.idempotency_key.is_none() {
        return Ok(Begun::Run(Once::none()));
    }
    let begun = claim(inner, context, principal, endpoint, body, record, gone).await;
    match &begun {
        Ok(Begun::Run(_)) => inner.metrics.idempotency("claimed"),
        Ok(Begun::Replay(reply)) => {
            inner.metrics.idempotency("replayed");
            record.end(reply.error());
        }
        Err(error) => {
            inner.metrics.idempotency(error.kind().code());
            record.end(Some(error));
        }
    }
    begun
}

async fn claim(
    inner: &Arc<Inner>,
    context: &CallContext,
    principal: &Principal,
    endpoint: &str,
    body: &RawObject,
    record: &mut Record,
    gone: &AtomicBool,
) -> Result<Begun> {
    let (Some(key), user) = (&context.idempotency_key, principal.user()?) else {
        return Ok(Begun::Run(Once::none()));
    };
    let scope = match &principal.api_key_id {
        Some(id) => format!("key:{id}"),
        None => format!("user:{user}"),
    };
    let claim = Claim {
        id: EntryId::new(&scope, key),
        fingerprint: Fingerprint::new(endpoint, user, body.received()),
        owner: context.request_id,
    };
    let settings = inner.settings().config.idempotency.clone();
    let deadline = Instant::now() + settings.wait;
    let mut pause = FIRST_PAUSE;
    loop {
        let store = &inner.idempotency;
        match twice(|| store.claim(&claim, settings.lease)).await? {
            Claimed::Granted => {
                return Ok(Begun::Run(Once::granted(inner, claim)));
            }
            Claimed::Done { reply, by } => {
                let Some(reply) = Reply::read(&reply, by, context.request_id) else {
                    tracing::warn!(request_id = %by, "the reply that was kept cannot be read");
                    return Err(unknown(
                        "the answer that was kept under this `Idempotency-Key` cannot be read",
                    ));
                };
                // What is known of a key's outcome is no answer of a request.
                if let Reply::Failure(error) = &reply
                    && error.kind() == ErrorKind::IdempotencyOutcomeUnknown
                {
                    return Err(unknown(error.message().to_owned()));
                }
                record.replays(by, reply.info());
                return Ok(Begun::Replay(reply));
            }
            Claimed::Reused => {
                return Err(Error::new(
                    ErrorKind::IdempotencyKeyReused,
                    "this `Idempotency-Key` was used for another request; take a new key for each request",
                )
                .with_param("Idempotency-Key"));
            }
            Claimed::Lost => {
                return Err(unknown(
                    "the request of this `Idempotency-Key` was sent to a provider by an instance that died before it had kept the answer: it may have been done and charged. To do it again, take a new key",
                ));
            }
            Claimed::Running => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(in_progress());
        }
        if gone.load(Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the caller has gone"));
        }
        let jitter = 0.75 + fastrand::f64() / 2.0;
        tokio::time::sleep(pause.mul_f64(jitter).min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn in_progress() -> Error {
    Error::new(
        ErrorKind::IdempotencyInProgress,
        "a request with this `Idempotency-Key` is still running; send it again later",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
}

fn unknown(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::IdempotencyOutcomeUnknown, message).with_work(Work::Unknown)
}

/// Asks a store, and once more if it did not answer: it may have done it, and the same call twice is one.
async fn twice<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    match call().await {
        Err(error) if error.kind() == ErrorKind::StoreUnavailable => call().await,
        answer => answer,
    }
}
