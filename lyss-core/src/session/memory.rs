//! Sessions in the memory of this process: for tests and small embedded uses. They end with the process.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    SessionStore, Ttl, conflict,
    cursor::{Cursor, cut_page},
    now_ms,
};
use crate::{
    error::Result,
    types::{
        call::RequestId,
        session::{
            LoadedSession, Session, SessionKey, SessionPage, SessionStatus, StoredMessage, Turn,
            Version,
        },
    },
};

const SHARDS: usize = 16;
/// Writes to a shard between two sweeps of it.
const SWEEP_EVERY: u32 = 1024;

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] in memory. What has expired is dropped by the writes that follow, and by
/// [`sweep`](Self::sweep).
#[derive(Debug)]
pub struct MemorySessionStore {
    /// All sessions of one user are in one shard, so that a listing takes one lock.
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    ttl: Ttl,
}

#[derive(Debug, Default)]
struct Shard {
    users: HashMap<String, HashMap<String, Stored>>,
    writes: u32,
}

#[derive(Debug)]
struct Stored {
    session: Session,
    version: Version,
    system: Option<Bytes>,
    messages: Vec<StoredMessage>,
    last_request: Option<RequestId>,
    expires: Instant,
}

impl MemorySessionStore {
    /// An empty store whose sessions live for `ttl` after their last use.
    pub fn new(ttl: Duration) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            ttl: Ttl::new(ttl),
        }
    }

    /// Drops what has expired. Returns how many sessions that were.
    pub fn sweep(&self) -> usize {
        let now = Instant::now();
        self.shards
            .iter()
            .map(|shard| shard.lock().sweep(now))
            .sum()
    }

    fn with_shard<T>(&self, user_id: &str, work: impl FnOnce(&mut Shard) -> T) -> T {
        let at = self.hasher.hash_one(user_id) as usize % self.shards.len();
        work(&mut self.shards[at].lock())
    }

    fn expires(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.ttl.ms.unsigned_abs())
    }
}

impl Shard {
    fn find(&mut self, key: &SessionKey) -> Option<&mut Stored> {
        let stored = self.users.get_mut(&key.user_id)?.get_mut(&key.id)?;
        (stored.expires > Instant::now()).then_some(stored)
    }

    /// The living session, or a new one in the place of none.
    fn find_or_create(&mut self, key: &SessionKey, expires: Instant) -> (&mut Stored, bool) {
        self.writes += 1;
        if self.writes >= SWEEP_EVERY {
            self.sweep(Instant::now());
        }
        let user = self.users.entry(key.user_id.clone()).or_default();
        match user.entry(key.id.clone()) {
            Entry::Occupied(entry) => {
                let stored = entry.into_mut();
                let fresh = stored.expires <= Instant::now();
                if fresh {
                    *stored = Stored::new(key, expires);
                }
                (stored, fresh)
            }
            Entry::Vacant(entry) => (entry.insert(Stored::new(key, expires)), true),
        }
    }

    fn sweep(&mut self, now: Instant) -> usize {
        self.writes = 0;
        let mut dropped = 0;
        self.users.retain(|_, sessions| {
            let before = sessions.len();
            sessions.retain(|_, stored| stored.expires > now);
            dropped += before - sessions.len();
            !sessions.is_empty()
        });
        dropped
    }
}

impl Stored {
    fn new(key: &SessionKey, expires: Instant) -> Self {
        let now = now_ms();
        Self {
            session: Session {
                id: key.id.clone(),
                user_id: key.user_id.clone(),
                message_count: 0,
                token_count: 0,
                created_ms: now,
                last_activity_ms: now,
                status: SessionStatus::Active,
                metadata: None,
            },
            version: 0,
            system: None,
            messages: Vec::new(),
            last_request: None,
            expires,
        }
    }

    fn append(&mut self, turn: &Turn) {
        self.version += 1;
        for (json, tokens) in &turn.messages {
            self.session.message_count += 1;
            self.session.token_count += u64::from(*tokens);
            self.messages.push(StoredMessage {
                seq: self.session.message_count,
                turn: self.version,
                // A copy: the slice may keep the whole buffer of a request alive.
                json: Bytes::copy_from_slice(json),
                tokens: *tokens,
            });
        }
        if let Some(system) = &turn.system {
            self.system = Some(Bytes::copy_from_slice(system));
        }
        self.last_request = Some(turn.request_id);
        self.session.last_activity_ms = now_ms().max(self.session.last_activity_ms);
    }
}

#[async_trait]
impl SessionStore for MemorySessionStore {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        let expires = self.expires();
        Ok(self.with_shard(&key.user_id, |shard| {
            let (stored, created) = shard.find_or_create(key, expires);
            if created {
                stored.session.metadata = metadata;
            }
            stored.expires = expires;
            stored.session.clone()
        }))
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        Ok(self.with_shard(&key.user_id, |shard| {
            shard.find(key).map(|stored| stored.session.clone())
        }))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let expires = self.expires();
        Ok(self.with_shard(&key.user_id, |shard| {
            let stored = shard.find(key)?;
            stored.expires = expires;
            Some(LoadedSession {
                session: stored.session.clone(),
                version: stored.version,
                system: stored.system.clone(),
                messages: stored.messages.clone(),
            })
        }))
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Version> {
        let expires = self.expires();
        self.with_shard(&key.user_id, |shard| {
            if expected > 0 && shard.find(key).is_none() {
                return Err(conflict());
            }
            let (stored, _) = shard.find_or_create(key, expires);
            if stored.last_request == Some(turn.request_id) {
                stored.expires = expires;
                return Ok(stored.version);
            }
            if stored.version != expected {
                return Err(conflict());
            }
            stored.append(turn);
            stored.expires = expires;
            Ok(stored.version)
        })
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<StoredMessage>>> {
        Ok(self.with_shard(&key.user_id, |shard| {
            let stored = shard.find(key)?;
            let skip = usize::try_from(after).unwrap_or(usize::MAX);
            let page = stored.messages.iter().skip(skip).take(limit);
            Some(page.cloned().collect())
        }))
    }

    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        let cursor = cursor.map(Cursor::decode).transpose()?;
        let now = Instant::now();
        let mut sessions = self.with_shard(user_id, |shard| {
            let Some(user) = shard.users.get(user_id) else {
                return Vec::new();
            };
            user.values()
                .filter(|stored| stored.expires > now)
                .map(|stored| stored.session.clone())
                .filter(|session| {
                    cursor.as_ref().is_none_or(|cursor| {
                        (session.last_activity_ms, session.id.as_str())
                            < (cursor.activity_ms, cursor.id.as_str())
                    })
                })
                .collect()
        });
        sessions
            .sort_unstable_by(|a, b| (b.last_activity_ms, &b.id).cmp(&(a.last_activity_ms, &a.id)));
        let next_cursor = cut_page(&mut sessions, limit.max(1));
        Ok(SessionPage {
            sessions,
            next_cursor,
        })
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.with_shard(&key.user_id, |shard| {
            let Entry::Occupied(mut user) = shard.users.entry(key.user_id.clone()) else {
                return false;
            };
            let removed = user.get_mut().remove(&key.id);
            if user.get().is_empty() {
                user.remove();
            }
            removed.is_some_and(|stored| stored.expires > Instant::now())
        }))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{session::SharedSessionStore, testing::conformance::session_store};

    #[tokio::test]
    async fn keeps_the_promises() {
        session_store::run_all(async |ttl| {
            Arc::new(MemorySessionStore::new(ttl)) as SharedSessionStore
        })
        .await;
    }

    #[tokio::test]
    async fn expired_sessions_leave_the_memory() {
        let store = MemorySessionStore::new(Duration::from_millis(20));
        for n in 0..100 {
            let key = SessionKey {
                user_id: format!("u{}", n % 7),
                id: n.to_string(),
            };
            store.create(&key, None).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(store.sweep(), 100);
        assert!(
            store
                .shards
                .iter()
                .all(|shard| shard.lock().users.is_empty())
        );
    }
}
