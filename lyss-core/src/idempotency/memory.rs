//! Idempotency keys in the memory of this process: for tests and small embedded uses. They end with the process.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Claim, Claimed, EntryId, Fingerprint, IdempotencyStore};
use crate::{
    error::{Error, ErrorKind, Result},
    types::RequestId,
};

/// Most entries: of one some 200 bytes are kept, whatever its reply.
const MAX_ENTRIES: usize = 200_000;

/// An [`IdempotencyStore`] in memory. Its size is bounded: over it the oldest replies are dropped (their outcome is then
/// not known), and over 200,000 entries new keys are refused.
#[derive(Debug)]
pub struct MemoryIdempotencyStore {
    entries: Mutex<Entries>,
    ttl: Duration,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<EntryId, Entry>,
    /// Replies, oldest first; what was replaced or removed meanwhile is skipped by its owner.
    replies: VecDeque<(EntryId, RequestId)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    owner: RequestId,
    state: State,
    expires: Instant,
}

#[derive(Debug)]
enum State {
    Claimed { until: Instant },
    Dispatched { until: Instant },
    Done { reply: Option<Bytes> },
}

impl MemoryIdempotencyStore {
    /// An empty store that forgets a key `ttl` after its use and holds at most `max_bytes` of replies.
    pub fn new(ttl: Duration, max_bytes: usize) -> Self {
        Self {
            entries: Mutex::default(),
            ttl,
            max_bytes,
        }
    }
}

impl Entries {
    /// The living entry.
    fn find(&mut self, id: &EntryId) -> Option<&mut Entry> {
        self.by_id
            .get_mut(id)
            .filter(|entry| entry.expires > Instant::now())
    }

    fn owned(&mut self, claim: &Claim) -> Option<&mut Entry> {
        self.find(&claim.id)
            .filter(|entry| entry.owner == claim.owner)
    }

    fn remove(&mut self, id: &EntryId) {
        if let Some(Entry {
            state: State::Done { reply: Some(reply) },
            ..
        }) = self.by_id.remove(id)
        {
            self.bytes -= reply.len();
        }
    }

    fn sweep(&mut self) -> u64 {
        let now = Instant::now();
        let ended: Vec<EntryId> = self
            .by_id
            .iter()
            .filter(|(_, entry)| entry.expires <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in &ended {
            self.remove(id);
        }
        let Self { by_id, replies, .. } = self;
        replies.retain(|(id, owner)| by_id.get(id).is_some_and(|entry| entry.owner == *owner));
        ended.len() as u64
    }

    fn drop_oldest_replies(&mut self, max_bytes: usize) {
        while self.bytes > max_bytes {
            let Some((id, owner)) = self.replies.pop_front() else {
                return;
            };
            if let Some(entry) = self.by_id.get_mut(&id)
                && entry.owner == owner
                && let State::Done { reply } = &mut entry.state
                && let Some(reply) = reply.take()
            {
                self.bytes -= reply.len();
            }
        }
    }
}

#[async_trait]
impl IdempotencyStore for MemoryIdempotencyStore {
    async fn claim(&self, claim: &Claim, lease: Duration) -> Result<Claimed> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.find(&claim.id) {
            let free = match entry.state {
                State::Claimed { until } => until <= now || entry.owner == claim.owner,
                _ => false,
            };
            if !free {
                if entry.fingerprint != claim.fingerprint {
                    return Ok(Claimed::Reused);
                }
                return Ok(match &entry.state {
                    State::Claimed { .. } => Claimed::Running,
                    State::Dispatched { until } if *until > now => Claimed::Running,
                    State::Done { reply: Some(reply) } => Claimed::Done {
                        reply: reply.clone(),
                        by: entry.owner,
                    },
                    State::Dispatched { .. } | State::Done { reply: None } => Claimed::Lost,
                });
            }
        }
        entries.remove(&claim.id);
        if entries.by_id.len() >= MAX_ENTRIES {
            entries.sweep();
        }
        if entries.by_id.len() >= MAX_ENTRIES {
            return Err(Error::new(
                ErrorKind::StoreUnavailable,
                "too many idempotency keys are kept in memory; set `idempotency.store: database`",
            ));
        }
        let entry = Entry {
            fingerprint: claim.fingerprint,
            owner: claim.owner,
            state: State::Claimed { until: now + lease },
            expires: now + self.ttl,
        };
        entries.by_id.insert(claim.id, entry);
        Ok(Claimed::Granted)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        let mut entries = self.entries.lock();
        Ok(match entries.owned(claim).map(|entry| &mut entry.state) {
            Some(State::Claimed { until } | State::Dispatched { until }) => {
                *until = Instant::now() + lease;
                true
            }
            _ => false,
        })
    }

    async fn dispatch(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        let mut entries = self.entries.lock();
        Ok(match entries.owned(claim) {
            Some(entry) if !matches!(entry.state, State::Done { .. }) => {
                let until = Instant::now() + lease;
                entry.state = State::Dispatched { until };
                true
            }
            _ => false,
        })
    }

    async fn complete(&self, claim: &Claim, reply: Bytes) -> Result<bool> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.find(&claim.id)
            && entry.owner != claim.owner
        {
            return Ok(false);
        }
        entries.remove(&claim.id);
        entries.bytes += reply.len();
        entries.replies.push_back((claim.id, claim.owner));
        let entry = Entry {
            fingerprint: claim.fingerprint,
            owner: claim.owner,
            state: State::Done { reply: Some(reply) },
            expires: Instant::now() + self.ttl,
        };
        entries.by_id.insert(claim.id, entry);
        entries.drop_oldest_replies(self.max_bytes);
        Ok(true)
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        let mut entries = self.entries.lock();
        let held = entries
            .owned(claim)
            .is_some_and(|entry| !matches!(entry.state, State::Done { .. }));
        if held {
            entries.remove(&claim.id);
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<u64> {
        Ok(self.entries.lock().sweep())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        idempotency::SharedIdempotencyStore,
        testing::conformance::idempotency_store::{self as promises, LEASE, fresh_claim},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises() {
        promises::run_all(async |ttl| {
            Arc::new(MemoryIdempotencyStore::new(ttl, usize::MAX)) as SharedIdempotencyStore
        })
        .await;
    }

    #[tokio::test]
    async fn the_oldest_replies_give_way() {
        let store = MemoryIdempotencyStore::new(Duration::from_secs(60), 100);
        let claims: Vec<Claim> = (0..5).map(|_| fresh_claim()).collect();
        for claim in &claims {
            store.claim(claim, LEASE).await.unwrap();
            let reply = Bytes::from(vec![b'x'; 40]);
            assert!(store.complete(claim, reply).await.unwrap());
        }
        let mut kept = Vec::new();
        for claim in &claims {
            let other = promises::again(claim);
            kept.push(matches!(
                store.claim(&other, LEASE).await.unwrap(),
                Claimed::Done { .. }
            ));
            assert_ne!(store.claim(&other, LEASE).await.unwrap(), Claimed::Granted);
        }
        assert_eq!(kept, [false, false, false, true, true]);
        assert_eq!(store.entries.lock().bytes, 80);
    }

    #[tokio::test]
    async fn a_sweep_leaves_nothing_of_what_has_ended() {
        let store = MemoryIdempotencyStore::new(Duration::from_millis(20), 100);
        let claim = fresh_claim();
        store.claim(&claim, LEASE).await.unwrap();
        store.complete(&claim, "reply".into()).await.unwrap();
        store.claim(&fresh_claim(), LEASE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(store.sweep().await.unwrap(), 2);
        let entries = store.entries.lock();
        assert_eq!(
            (entries.by_id.len(), entries.replies.len(), entries.bytes),
            (0, 0, 0)
        );
    }
}
