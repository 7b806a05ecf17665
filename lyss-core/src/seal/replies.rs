//! Kept replies that the store below does not see.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Place, SealRing, is_sealed, run};
use crate::{
    error::Result,
    idempotency::{Claim, Claimed, IdempotencyStore, SharedIdempotencyStore},
    types::RequestId,
};

/// An [`IdempotencyStore`] over another one: replies are sealed on their way down, and opened on their way up. What was
/// stored in the clear before is read as it is.
pub(crate) struct SealedReplies {
    below: SharedIdempotencyStore,
    ring: SealRing,
    /// Whether new replies are sealed, or only old ones opened.
    seals: bool,
}

impl SealedReplies {
    /// Seals what goes into a store, or with `seals: false` only opens what comes out.
    pub fn new(below: SharedIdempotencyStore, ring: SealRing, seals: bool) -> Self {
        Self { below, ring, seals }
    }
}

/// The entry, what was asked, and the request that did it.
fn place(claim: &Claim, by: RequestId) -> Place {
    let Claim {
        id, fingerprint, ..
    } = claim;
    Place::new(&[b"reply", &id.0, &fingerprint.0, by.as_bytes()])
}

#[async_trait]
impl IdempotencyStore for SealedReplies {
    /// A reply that cannot be opened is lost: nobody can say what it was, and the request is not made again.
    async fn claim(&self, claim: &Claim, lease: Duration) -> Result<Claimed> {
        let (reply, by) = match self.below.claim(claim, lease).await? {
            Claimed::Done { reply, by } if is_sealed(&reply) => (reply, by),
            claimed => return Ok(claimed),
        };
        let (ring, place) = (self.ring.clone(), place(claim, by));
        let opened = run(reply.len(), move || ring.open(&place, &reply)).await?;
        Ok(match opened {
            Ok(reply) => Claimed::Done {
                reply: reply.into(),
                by,
            },
            Err(why) => {
                tracing::error!(%why, "the answer kept for an idempotency key cannot be read");
                Claimed::Lost
            }
        })
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.below.renew(claim, lease).await
    }

    async fn dispatch(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.below.dispatch(claim, lease).await
    }

    async fn complete(&self, claim: &Claim, reply: Bytes) -> Result<bool> {
        if !self.seals {
            return self.below.complete(claim, reply).await;
        }
        let (ring, place) = (self.ring.clone(), place(claim, claim.owner));
        let sealed = run(reply.len(), move || ring.seal(&place, &reply)).await?;
        self.below.complete(claim, sealed.into()).await
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        self.below.release(claim).await
    }

    async fn sweep(&self) -> Result<u64> {
        self.below.sweep().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        idempotency::MemoryIdempotencyStore,
        seal::SealKey,
        testing::conformance::idempotency_store::{self as promises, LEASE, fresh_claim},
    };

    const LIFE: Duration = Duration::from_secs(600);

    fn ring(key: u8) -> SealRing {
        SealRing::new(SealKey::new(&[key; 32]), vec![])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises_of_a_store() {
        promises::run_all(async |ttl| {
            let below = Arc::new(MemoryIdempotencyStore::new(ttl, 64 << 20));
            Arc::new(SealedReplies::new(below, ring(1), true)) as SharedIdempotencyStore
        })
        .await;
    }

    #[tokio::test]
    async fn the_store_below_has_no_reply_and_a_wrong_key_loses_it() {
        let below: SharedIdempotencyStore = Arc::new(MemoryIdempotencyStore::new(LIFE, 1 << 20));
        let above = SealedReplies::new(Arc::clone(&below), ring(1), true);
        let claim = fresh_claim();
        assert_eq!(above.claim(&claim, LEASE).await.unwrap(), Claimed::Granted);
        assert!(
            above
                .complete(&claim, Bytes::from_static(b"SECRET"))
                .await
                .unwrap()
        );
        let again = Claim {
            owner: RequestId::new(),
            ..claim
        };
        let Claimed::Done { reply, by } = below.claim(&again, LEASE).await.unwrap() else {
            unreachable!()
        };
        assert!(is_sealed(&reply) && by == claim.owner);
        let opened = above.claim(&again, LEASE).await.unwrap();
        let reply = Bytes::from_static(b"SECRET");
        assert_eq!(opened, Claimed::Done { reply, by });
        let wrong = SealedReplies::new(Arc::clone(&below), ring(2), true);
        assert_eq!(wrong.claim(&again, LEASE).await.unwrap(), Claimed::Lost);
    }
}
