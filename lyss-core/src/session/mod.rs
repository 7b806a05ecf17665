//! Where conversations are kept.
//!
//! Used by `pipeline/assemble.rs` (load) and `pipeline/finish.rs` (append). An adapter is one file; it passes
//! `testing/conformance/session_store.rs`.

#[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
mod archive;
mod cursor;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod database;
mod memory;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod save;
mod turns;

#[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
pub(crate) use archive::{ArchivedSessionStore, TOPIC as ARCHIVE_TOPIC};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use database::DatabaseSessionStore;
pub use memory::MemorySessionStore;
pub(crate) use queue::{Patience, TurnLease, TurnQueue};
#[cfg(feature = "redis")]
pub use redis::RedisSessionStore;
pub(crate) use save::save;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;

use crate::{
    error::Result,
    types::{
        RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            Ticket, Turn, Version,
        },
    },
};

/// A store of sessions.
///
/// Every method finds a session by owner *and* id, so a foreign session looks like a missing one. A store that does
/// not answer is an error (`session_store_unavailable`), never an empty session; a stored value that cannot be read is
/// `session_corrupt` and is left as it is, until it is deleted. The time to live is given at construction; every `load`,
/// `create` and `append` renews it (a store may save the write while at least seven eighths of it are left). The last
/// activity is the creation or the last append: reading does not move a session in the listing. Hostile ids (any UTF-8 up to 256 bytes without control characters) are data.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Creates a session, or returns the one that exists (its metadata stays).
    async fn create(
        &self,
        key: &SessionKey,
        metadata: Option<serde_json::Map<String, serde_json::Value>>,
    ) -> Result<Session>;

    /// The session without its messages; `None` if there is none (or its time is over).
    async fn get(&self, key: &SessionKey) -> Result<Option<Session>>;

    /// The session as a turn needs it, without asking for the turn; `None` if there is none. Costs as much as the
    /// messages after the prefix, whatever lies before them.
    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>>;

    /// Asks for the session's next turn, and loads the session when it is granted. Asked again with the same ticket it
    /// says how things stand now.
    ///
    /// Turns are granted one at a time, in the order in which tickets came, over all instances. A turn that is not
    /// renewed within its lease is over; tickets of an instance that has not asked or renewed for a lease are
    /// passed over. The turn says who may work, not who may write: that is the version's part.
    ///
    /// A store that only one engine uses need not do anything about it: engines keep the order of their own turns.
    async fn begin_turn(&self, key: &SessionKey, _ticket: &Ticket) -> Result<Begun> {
        Ok(Begun::Granted(self.load(key).await?.map(Box::new)))
    }

    /// Holds a granted turn for another lease; says whether it was still held.
    async fn renew_turn(&self, _key: &SessionKey, _ticket: &Ticket) -> Result<bool> {
        Ok(true)
    }

    /// Gives a turn, or the place in its queue, up. Nothing to do is no error.
    async fn end_turn(&self, _key: &SessionKey, _ticket: &Ticket) -> Result<()> {
        Ok(())
    }

    /// Appends a turn, all of it or nothing, if the session is still at `expected` (0 also when it does not exist yet:
    /// it is then created), and gives the turn up that this request holds. Appending a turn whose `request_id` is the
    /// last one stored changes nothing and returns the version it made. Costs as much as the turn, whatever the
    /// history.
    ///
    /// # Errors
    /// `session_conflict` if another turn was stored in between, or the session is gone and was not deleted under this
    /// turn (its time was over, or the turn was not held).
    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended>;

    /// Marks the session as being compressed for `lease`, unless it is so already or does not exist; says whether it
    /// did. A store that does not compress says no.
    async fn begin_compression(
        &self,
        _key: &SessionKey,
        _by: RequestId,
        _lease: Duration,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Puts a new prefix in the place of the one before it (`prefix.version - 1`), if that is still there and the new
    /// one covers at least as much and no more than there is; says whether it did. Ends the compression `by` marks. An
    /// append at the same time does not disturb it, nor is disturbed.
    async fn compress(&self, _key: &SessionKey, _prefix: &Prefix, _by: RequestId) -> Result<bool> {
        Ok(false)
    }

    /// Ends a compression that came to nothing.
    async fn end_compression(&self, _key: &SessionKey, _by: RequestId) -> Result<()> {
        Ok(())
    }

    /// Messages with `seq > after`, oldest first, at most `limit`, those that are compressed as well; `None` if there
    /// is no such session.
    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>>;

    /// A user's sessions, newest activity first. `cursor` is a `next_cursor` of an earlier page.
    ///
    /// # Errors
    /// `invalid_value` (param `cursor`) for a cursor that this store did not make.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage>;

    /// Deletes a session and its messages; says whether it existed. Deleting a missing one is no error.
    async fn delete(&self, key: &SessionKey) -> Result<bool>;

    /// Removes what has expired and is invisible already; called now and then. Returns how many sessions.
    async fn sweep(&self) -> Result<u64> {
        Ok(0)
    }

    /// Whether the store answers.
    async fn ping(&self) -> Result<()>;
}

/// A shared store.
pub type SharedSessionStore = Arc<dyn SessionStore>;

/// How long a session lives after its last use.
#[derive(Debug, Clone, Copy)]
struct Ttl {
    ms: i64,
}

impl Ttl {
    /// A hundred years: beyond it the sums in Redis and in databases overflow, and nobody means it.
    const MAX_MS: i64 = 100 * 366 * 24 * 3600 * 1000;

    fn new(ttl: Duration) -> Self {
        let ms = i64::try_from(ttl.as_millis()).unwrap_or(Self::MAX_MS);
        Self {
            ms: ms.clamp(1, Self::MAX_MS),
        }
    }

    /// Whether so little is left that a use has to write the new end down.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn renewal_due(self, left_ms: i64) -> bool {
        left_ms < self.ms - self.ms / 8
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

#[cfg(any(feature = "postgres", feature = "sqlite", feature = "redis"))]
/// A session of which the stored value cannot be read. `what` goes to the logs.
fn corrupt(what: impl Into<String>) -> crate::Error {
    crate::Error::new(
        crate::ErrorKind::SessionCorrupt,
        "the stored session cannot be read; it was left as it is, delete it to start anew",
    )
    .with_source(what.into())
}

fn conflict() -> crate::Error {
    crate::Error::new(
        crate::ErrorKind::SessionConflict,
        "another turn of this session was stored meanwhile, or it was deleted",
    )
}
