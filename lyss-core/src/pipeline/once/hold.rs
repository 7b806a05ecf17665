//! A request's hold on its idempotency key: from the claim to what is kept.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio_util::task::AbortOnDropHandle;

use super::{in_progress, twice, unknown};
use crate::{
    engine::Inner,
    error::{Error, Result, Work},
    idempotency::{Claim, SharedIdempotencyStore, reply},
    types::{ChatChunk, RawObject, ReplyInfo, Usage},
};

/// When a key that could not be settled, because its store was away, is tried again.
const TRY_AGAIN: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

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
    /// The hold of a request without a key.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The hold on a claim that was granted.
    pub(super) fn granted(inner: &Arc<Inner>, claim: Claim) -> Self {
        let settings = &inner.settings().config.idempotency;
        let heartbeat = heartbeat(Arc::clone(&inner.idempotency), claim, settings.lease);
        Self(Some(Held {
            inner: Arc::clone(inner),
            claim,
            dispatched: false,
            max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX),
            sent: None,
            settlement: None,
            _heartbeat: AbortOnDropHandle::new(tokio::spawn(heartbeat)),
        }))
    }

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
