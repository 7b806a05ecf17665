//! A request with an idempotency key is done once: sent again it gets the answer that was given, from whatever instance
//! and whatever became of the first caller. A request without a key comes through here at no cost.
//!
//! The key is claimed before anything else is done, marked before anything is dispatched, and its answer is kept before
//! it is acknowledged. So a process that dies leaves either a key that another request may claim (nothing was
//! dispatched) or one whose outcome is not known, and which is never dispatched again.
//!
//! What is kept: answers, and failures after which the provider may have worked. A failure after which it surely has
//! not frees the key. A failure that is not the request's (429, 503) after which it may have is an unknown outcome.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::finish::Record;
use crate::{
    engine::Inner,
    error::{Error, ErrorKind, Result, Retry, Work},
    idempotency::{
        Claim, Claimed, EntryId, Fingerprint, SharedIdempotencyStore,
        reply::{self, Reply},
    },
    types::{
        CallContext, ChatChunk, ChatResponse, ChatStream, EmbeddingResponse, Principal, RawObject,
        ReplyInfo, Usage,
    },
};

/// Between two looks at a key that another request holds: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// When a key that could not be settled, because its store was away, is tried again.
const TRY_AGAIN: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// How a request begins.
pub(crate) enum Begun {
    /// It is to be done.
    Run(Once),
    /// It has been done; its row is written.
    Replay(Reply),
}

/// A request's hold on its idempotency key; empty without a key. Dropped unsettled, it frees the key if nothing was
/// dispatched, and leaves an unknown outcome otherwise.
pub(crate) struct Once(Option<Held>);

struct Held {
    inner: Arc<Inner>,
    claim: Claim,
    dispatched: bool,
    max_bytes: usize,
    /// What has left of a stream.
    sent: Option<Sent>,
    /// What is being done about the key, once that is known.
    settlement: Option<Settlement>,
    _heartbeat: AbortOnDropHandle<()>,
}

struct Sent {
    info: ReplyInfo,
    frames: BytesMut,
    too_large: bool,
}

/// How a hold ends.
#[derive(Clone)]
enum Settlement {
    Release,
    Complete(Bytes),
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
        return Ok(Begun::Run(Once(None)));
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
        return Ok(Begun::Run(Once(None)));
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
                let heartbeat = heartbeat(Arc::clone(store), claim, settings.lease);
                return Ok(Begun::Run(Once(Some(Held {
                    inner: Arc::clone(inner),
                    claim,
                    dispatched: false,
                    max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX),
                    sent: None,
                    settlement: None,
                    _heartbeat: AbortOnDropHandle::new(tokio::spawn(heartbeat)),
                }))));
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

/// Keeps a claim alive.
async fn heartbeat(store: SharedIdempotencyStore, claim: Claim, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 3).await;
        if let Ok(false) = store.renew(&claim, lease).await {
            return;
        }
    }
}

impl Once {
    /// Whether there is a key, not settled yet.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Marks that the request is about to leave; durable when it returns.
    ///
    /// # Errors
    /// `store_unavailable`, and `idempotency_in_progress` if this process was stalled for so long that another request
    /// has taken the key over. Nothing may be dispatched then.
    pub async fn dispatching(&mut self) -> Result<()> {
        let Some(held) = &mut self.0 else {
            return Ok(());
        };
        let lease = held.inner.settings().config.idempotency.lease;
        let store = &held.inner.idempotency;
        if twice(|| store.dispatch(&held.claim, lease)).await? {
            held.dispatched = true;
            return Ok(());
        }
        Err(in_progress())
    }

    /// Keeps how a unary request ended, before its caller hears of it.
    pub async fn settle(&mut self, outcome: Result<(&ReplyInfo, Usage, &RawObject), &Error>) {
        let Some(held) = &self.0 else { return };
        let settlement = match outcome {
            Ok((info, usage, body)) => held.bounded(reply::answer(info, usage, body)),
            Err(error) => held.failed(error, || reply::failure(error)),
        };
        self.end(settlement).await;
    }

    /// Notes what is told of a stream whose chunks follow.
    pub fn opened(&mut self, info: &ReplyInfo) {
        if let Some(held) = &mut self.0 {
            held.sent = Some(Sent {
                info: info.clone(),
                frames: BytesMut::new(),
                too_large: false,
            });
        }
    }

    /// Notes a chunk that leaves.
    pub fn send(&mut self, chunk: &ChatChunk) {
        let Some(held) = &mut self.0 else { return };
        let Some(sent) = &mut held.sent else { return };
        let frame = chunk.frame();
        if sent.too_large || sent.frames.len() + frame.len() > held.max_bytes {
            sent.too_large = true;
            sent.frames = BytesMut::new();
        } else {
            // A copy: the slice may keep the whole receive buffer alive.
            sent.frames.extend_from_slice(&frame);
        }
    }

    /// Keeps how a stream ended, before its caller hears of it.
    pub async fn settle_stream(&mut self, error: Option<&Error>) {
        let Some(held) = &self.0 else { return };
        let Some(sent) = &held.sent else { return };
        let kept = || match sent.too_large {
            true => too_large(),
            false => reply::stream(&sent.info, &sent.frames, error),
        };
        let settlement = match error {
            None => held.bounded(kept()),
            Some(error) => held.failed(error, kept),
        };
        self.end(settlement).await;
    }

    async fn end(&mut self, settlement: Settlement) {
        let Some(held) = &mut self.0 else { return };
        // If this is cut short, it is still done.
        held.settlement = Some(settlement.clone());
        let done = held.carry_out(&settlement).await;
        let Some(held) = self.0.take() else { return };
        if let Err(error) = done {
            // The caller gets the answer it has paid for; sent again, the request finds an unknown outcome.
            tracing::warn!(%error, request_id = %held.claim.owner, "an idempotency key is not settled yet; trying on");
            held.inner.metrics.idempotency("not_kept");
            held.try_on(settlement);
        }
    }
}

fn too_large() -> Bytes {
    reply::failure(&unknown(
        "the request of this `Idempotency-Key` was done, but its answer is larger than `idempotency.max_bytes` and was not kept",
    ))
}

impl Held {
    fn bounded(&self, reply: Bytes) -> Settlement {
        Settlement::Complete(if reply.len() > self.max_bytes {
            too_large()
        } else {
            reply
        })
    }

    fn failed(&self, error: &Error, kept: impl FnOnce() -> Bytes) -> Settlement {
        if !self.dispatched || error.work() == Work::None {
            Settlement::Release
        } else if matches!(error.status(), 429 | 503) {
            Settlement::Complete(reply::failure(&unknown(
                "the request of this `Idempotency-Key` failed after a provider had worked on it: it may have been charged. To do it again, take a new key",
            )))
        } else {
            self.bounded(kept())
        }
    }

    async fn carry_out(&self, settlement: &Settlement) -> Result<()> {
        let store = &self.inner.idempotency;
        match settlement {
            Settlement::Release => store.release(&self.claim).await,
            Settlement::Complete(reply) => {
                if !store.complete(&self.claim, reply.clone()).await? {
                    tracing::warn!(request_id = %self.claim.owner, "an idempotency key belongs to another request by now");
                }
                Ok(())
            }
        }
    }

    /// Settles in the background, and holds the key as long as it takes.
    fn try_on(self, settlement: Settlement) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let tasks = self.inner.tasks().clone();
        let cancel = self.inner.cancelled();
        let work = async move {
            for pause in TRY_AGAIN {
                if self.carry_out(&settlement).await.is_ok() {
                    return;
                }
                if cancel
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    return;
                }
            }
            tracing::warn!(request_id = %self.claim.owner, "an idempotency key is not settled: its outcome is not known");
        };
        tasks.spawn_on(work, &runtime);
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        let Some(mut held) = self.0.take() else {
            return;
        };
        let settlement = if let Some(settlement) = held.settlement.take() {
            settlement
        } else if held.dispatched {
            Settlement::Complete(reply::failure(&unknown(
                "the request of this `Idempotency-Key` was given up before its answer was complete: it may have been charged. To do it again, take a new key",
            )))
        } else {
            Settlement::Release
        };
        held.try_on(settlement);
    }
}

impl Reply {
    fn info(&self) -> Option<&ReplyInfo> {
        match self {
            Self::Answer { info, .. } | Self::Stream { info, .. } => Some(info),
            Self::Failure(_) => None,
        }
    }

    fn error(&self) -> Option<&Error> {
        match self {
            Self::Answer { .. } => None,
            Self::Stream { error, .. } => error.as_ref(),
            Self::Failure(error) => Some(error),
        }
    }

    /// The answer to a unary chat call.
    pub fn into_chat(self) -> Result<ChatResponse> {
        let (info, usage, body) = self.into_answer()?;
        Ok(ChatResponse { info, body, usage })
    }

    /// The answer to an embeddings call.
    pub fn into_embedding(self) -> Result<EmbeddingResponse> {
        let (info, usage, body) = self.into_answer()?;
        Ok(EmbeddingResponse { info, body, usage })
    }

    fn into_answer(self) -> Result<(ReplyInfo, Usage, RawObject)> {
        match self {
            Self::Answer { info, usage, body } => Ok((info, usage, body)),
            Self::Failure(error) => Err(error),
            Self::Stream { .. } => Err(other_form()),
        }
    }

    /// The answer to a streamed call.
    pub fn into_stream(self) -> Result<ChatStream> {
        match self {
            Self::Stream {
                info,
                chunks,
                error,
            } => Ok(ChatStream {
                info,
                chunks: futures::stream::iter(chunks.into_iter().map(Ok).chain(error.map(Err)))
                    .boxed(),
            }),
            Self::Failure(error) => Err(error),
            Self::Answer { .. } => Err(other_form()),
        }
    }
}

/// Cannot be: whether a stream is asked for is in the body, and with it in the fingerprint.
fn other_form() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the answer that was kept has another form",
    )
    .with_work(Work::Unknown)
}
