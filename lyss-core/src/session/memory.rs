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
    turns::{Step, Turns},
};
use crate::{
    error::Result,
    types::{
        call::RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            SessionStatus, StoredMessage, Ticket, Turn, Version,
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
    /// Whose turn it is, also in sessions that do not exist yet.
    turns: HashMap<SessionKey, Turns>,
    writes: u32,
}

#[derive(Debug)]
struct Stored {
    session: Session,
    version: Version,
    history: String,
    system: Option<Bytes>,
    prefix: Prefix,
    messages: Vec<StoredMessage>,
    last_request: Option<RequestId>,
    /// Who compresses it, and until when it counts as doing so.
    compression: Option<(RequestId, Instant)>,
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

    /// Changes whose turn it is; a queue that is empty is not kept.
    fn on_turns<T>(&mut self, key: &SessionKey, change: impl FnOnce(&mut Turns) -> T) -> T {
        let mut turns = self.turns.remove(key).unwrap_or_default();
        let outcome = change(&mut turns);
        if !turns.is_idle() {
            self.turns.insert(key.clone(), turns);
        }
        outcome
    }

    fn sweep(&mut self, now: Instant) -> usize {
        self.writes = 0;
        let now_ms = now_ms();
        self.turns.retain(|_, turns| !turns.is_over(now_ms));
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
                compressed_count: 0,
                status: SessionStatus::Active,
                metadata: None,
            },
            version: 0,
            history: String::new(),
            system: None,
            prefix: Prefix::default(),
            messages: Vec::new(),
            last_request: None,
            compression: None,
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
        self.history.clone_from(&turn.history);
        self.last_request = Some(turn.request_id);
        self.session.last_activity_ms = now_ms().max(self.session.last_activity_ms);
    }

    fn show(&self) -> Session {
        let mut session = self.session.clone();
        if self.is_compressing() {
            session.status = SessionStatus::Compressing;
        }
        session
    }

    fn is_compressing(&self) -> bool {
        self.compression
            .is_some_and(|(_, until)| until > Instant::now())
    }

    fn load(&self) -> LoadedSession {
        let covered = usize::try_from(self.prefix.upto).unwrap_or(usize::MAX);
        LoadedSession {
            session: self.show(),
            version: self.version,
            history: self.history.clone(),
            system: self.system.clone(),
            prefix: self.prefix.clone(),
            messages: self.messages.iter().skip(covered).cloned().collect(),
        }
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
            stored.show()
        }))
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        Ok(self.with_shard(&key.user_id, |shard| {
            shard.find(key).map(|stored| stored.show())
        }))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let expires = self.expires();
        Ok(self.with_shard(&key.user_id, |shard| {
            let stored = shard.find(key)?;
            stored.expires = expires;
            Some(stored.load())
        }))
    }

    async fn begin_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<Begun> {
        let expires = self.expires();
        Ok(self.with_shard(&key.user_id, |shard| {
            let step = shard.on_turns(key, |turns| turns.begin(ticket, now_ms()));
            match step {
                Step::Granted => Begun::Granted(shard.find(key).map(|stored| {
                    stored.expires = expires;
                    Box::new(stored.load())
                })),
                Step::Waiting => Begun::Waiting,
                Step::Busy => Begun::Busy,
            }
        }))
    }

    async fn renew_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<bool> {
        Ok(self.with_shard(&key.user_id, |shard| {
            shard.on_turns(key, |turns| turns.renew(ticket, now_ms()))
        }))
    }

    async fn end_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<()> {
        self.with_shard(&key.user_id, |shard| {
            shard.on_turns(key, |turns| turns.end(ticket.request_id, now_ms()));
        });
        Ok(())
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        let expires = self.expires();
        self.with_shard(&key.user_id, |shard| {
            if shard.find(key).is_none() {
                let turns = shard.turns.get(key);
                if turns.is_some_and(|turns| turns.was_deleted_under(turn.request_id)) {
                    shard.on_turns(key, |turns| turns.end(turn.request_id, now_ms()));
                    return Ok(Appended::Deleted);
                }
                if expected > 0 {
                    return Err(conflict());
                }
            }
            let (stored, _) = shard.find_or_create(key, expires);
            if stored.last_request != Some(turn.request_id) {
                if stored.version != expected {
                    return Err(conflict());
                }
                stored.append(turn);
            }
            stored.expires = expires;
            let version = stored.version;
            shard.on_turns(key, |turns| turns.end(turn.request_id, now_ms()));
            Ok(Appended::At(version))
        })
    }

    async fn begin_compression(
        &self,
        key: &SessionKey,
        by: RequestId,
        lease: Duration,
    ) -> Result<bool> {
        Ok(self.with_shard(&key.user_id, |shard| {
            let Some(stored) = shard.find(key).filter(|stored| !stored.is_compressing()) else {
                return false;
            };
            stored.compression = Some((by, Instant::now() + lease));
            true
        }))
    }

    async fn compress(&self, key: &SessionKey, prefix: &Prefix, by: RequestId) -> Result<bool> {
        Ok(self.with_shard(&key.user_id, |shard| {
            let Some(stored) = shard.find(key) else {
                return false;
            };
            stored.compression.take_if(|(who, _)| *who == by);
            let follows = prefix.version == stored.prefix.version + 1
                && (stored.prefix.upto..=stored.session.message_count).contains(&prefix.upto);
            if follows {
                stored.prefix = prefix.clone();
                stored.session.compressed_count = prefix.upto;
            }
            follows
        }))
    }

    async fn end_compression(&self, key: &SessionKey, by: RequestId) -> Result<()> {
        self.with_shard(&key.user_id, |shard| {
            if let Some(stored) = shard.find(key) {
                stored.compression.take_if(|(who, _)| *who == by);
            }
        });
        Ok(())
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        Ok(self.with_shard(&key.user_id, |shard| {
            let stored = shard.find(key)?;
            let skip = usize::try_from(after).unwrap_or(usize::MAX);
            let page = stored.messages.iter().skip(skip).take(limit);
            Some(MessagePage {
                session: stored.show(),
                messages: page.cloned().collect(),
            })
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
                .map(Stored::show)
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
            if let Some(turns) = shard.turns.get_mut(key) {
                turns.deleted();
            }
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

    async fn sweep(&self) -> Result<u64> {
        Ok(Self::sweep(self) as u64)
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
    async fn keeps_the_order_of_turns() {
        session_store::turns(async |ttl| {
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
