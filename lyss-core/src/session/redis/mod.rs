//! Sessions in Redis.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `lyss:s:{<user>.<id>}:h` | hash | the header: `schema`, owner, `version` (the fence), counts, times, `request` and `before` (the last two turns'), `history`, `system`, `metadata`, the prefix, who compresses |
//! | `lyss:s:{<user>.<id>}:m` | list | one message an element: `<seq> <turn> <tokens> <json>` |
//! | `lyss:s:{<user>.<id>}:t` | hash | whose turn it is, and when each waiting instance was last heard of; gone when nobody has or wants it |
//! | `lyss:s:{<user>.<id>}:q` | sorted set | the places that wait: `<request> <instance>` by number |
//! | `lyss:s:{<user>.<id>}:d` | string | when sessions of this id were deleted last, if there is an archive to forget it |
//! | `lyss:s:{<user>.<id>}:r:<n>` | list | messages on their way back from the archive |
//! | `lyss:epoch` | hash | since when nothing was lost here, for the archive |
//! | `lyss:u:{<user>}` | sorted set | the user's session ids by last activity |
//!
//! `<user>` and `<id>` are in unpadded base64url: whatever they contain, they can neither end the hash tag nor run into
//! each other. The keys of a session share a slot and are only changed together, by one script; all expire by
//! themselves. The listing lies in a slot of its own; it is written after the session, and reading it removes what is
//! gone.

mod listing;
mod reply;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod restore;
mod scripts;
mod write;

use std::time::Duration;

use ::redis::{ScriptInvocation, Value};
use async_trait::async_trait;

use self::{
    reply::{Header, Read},
    scripts::{Scripts, session_call},
};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) use self::{restore::Epoch, write::StoredAt};
use super::{SessionStore, Ttl, corrupt};
use crate::{
    error::{Error, ErrorKind, Result},
    redis::{Failure, RedisHandle, RedisSource},
    types::{
        RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            Ticket, Turn, Version,
        },
    },
};

/// Bytes of messages that one command reads, about: a longer session is read in several.
const READ_BYTES: usize = 1 << 20;

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] in Redis 5 or later, a single server or a cluster.
#[derive(Debug)]
pub struct RedisSessionStore {
    redis: RedisHandle,
    ttl: Ttl,
    scripts: Scripts,
    /// Whether an archive has what is here, so that a deletion must be remembered until it is told.
    archived: bool,
}

/// Most messages that are asked for at once: Lua's numbers are doubles, and no session has so many.
const ALL: u64 = u32::MAX as u64;

/// What to read of a session.
struct Range {
    renew: bool,
    /// The index of the first message; `None`: the first after the prefix.
    from: Option<u64>,
    limit: u64,
}

impl RedisSessionStore {
    /// A store with a connection of its own; sessions live for `ttl` after their last use. A Redis that is away does
    /// not fail this: the store's methods fail until it is back.
    ///
    /// # Errors
    /// `invalid_value` if the source itself is wrong.
    pub async fn connect(source: RedisSource, ttl: Duration) -> Result<Self> {
        Ok(Self::new(RedisHandle::connect(source).await?, ttl))
    }

    /// A store on a connection that others use as well.
    pub fn new(redis: RedisHandle, ttl: Duration) -> Self {
        Self {
            redis,
            ttl: Ttl::new(ttl),
            scripts: Scripts::new(),
            archived: false,
        }
    }

    /// A session's life in milliseconds.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn ttl_ms(&self) -> i64 {
        self.ttl.ms
    }

    /// The same with an archive behind it.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn with_archive(self) -> Self {
        Self {
            archived: true,
            ..self
        }
    }

    async fn run(&self, invocation: &ScriptInvocation<'_>, payload: usize) -> Result<Vec<Value>> {
        self.redis
            .script(invocation, payload)
            .await
            .map_err(unavailable)
    }

    async fn read(&self, key: &SessionKey, range: Range) -> Result<Option<Read>> {
        let mut call = session_call(&self.scripts.read, key);
        call.arg(if range.renew { self.ttl.ms } else { 0 })
            .arg(range.from.map(|from| from.to_string()).unwrap_or_default())
            .arg(range.limit)
            .arg(READ_BYTES);
        let answer = self.run(&call, 0).await?;
        self.read_answer(key, answer).await
    }

    async fn read_answer(&self, key: &SessionKey, answer: Vec<Value>) -> Result<Option<Read>> {
        let read = Read::parse(key, answer)?;
        if let Some(read) = &read
            && read.header.renewed
        {
            self.touch(key, read.header.session.last_activity_ms).await;
        }
        Ok(read)
    }

    /// Reads on until `limit` messages from the index `from` are there, or all.
    async fn read_on(
        &self,
        key: &SessionKey,
        mut read: Read,
        from: u64,
        limit: u64,
    ) -> Result<Option<Read>> {
        let total = read.header.session.message_count;
        let wanted = total.saturating_sub(from).min(limit);
        while (read.messages.len() as u64) < wanted {
            let have = read.messages.len() as u64;
            let next = Range {
                renew: false,
                from: Some(from + have),
                limit: wanted - have,
            };
            // The history only grows, so that pages fit together, unless it is another session by now.
            match self.read(key, next).await? {
                Some(page)
                    if page.header.session.created_ms == read.header.session.created_ms
                        && page.header.version >= read.header.version
                        && !page.messages.is_empty() =>
                {
                    read.messages.extend(page.messages);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(read))
    }

    /// The rest of a session of which the first page after the prefix is there.
    async fn load_on(&self, key: &SessionKey, read: Read) -> Result<Option<LoadedSession>> {
        let from = read.header.session.compressed_count;
        let read = self.read_on(key, read, from, ALL).await?;
        Ok(read.map(|read| LoadedSession {
            session: read.header.session,
            version: read.header.version,
            history: read.history,
            system: read.system,
            prefix: read.prefix,
            messages: read.messages,
        }))
    }

    /// Runs a script that answers `ok` and perhaps a number; whether it is there and not zero.
    async fn tell(&self, call: &ScriptInvocation<'_>, payload: usize) -> Result<bool> {
        let answer = self.run(call, payload).await?;
        reply::check(&answer)?;
        Ok(reply::number(answer.get(1)).is_some_and(|number| number > 0))
    }
}

#[async_trait]
impl SessionStore for RedisSessionStore {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        let metadata = match metadata {
            Some(metadata) => serde_json::to_string(&metadata).map_err(|error| {
                Error::invalid("metadata", "cannot be written as JSON").with_source(error)
            })?,
            None => String::new(),
        };
        let mut call = session_call(&self.scripts.create, key);
        call.arg(self.ttl.ms).arg(metadata);
        let header = Header::parse(key, &self.run(&call, 0).await?)?
            .ok_or_else(|| corrupt("create answered none"))?;
        if header.renewed {
            self.touch(key, header.session.last_activity_ms).await;
        }
        Ok(header.session)
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        let header = Range {
            renew: false,
            from: Some(0),
            limit: 0,
        };
        let read = self.read(key, header).await?;
        Ok(read.map(|read| read.header.session))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let window = Range {
            renew: true,
            from: None,
            limit: ALL,
        };
        match self.read(key, window).await? {
            Some(read) => self.load_on(key, read).await,
            None => Ok(None),
        }
    }

    async fn begin_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<Begun> {
        let mut call = session_call(&self.scripts.begin_turn, key);
        call.arg(self.ttl.ms)
            .arg(ALL)
            .arg(READ_BYTES)
            .arg(ticket.request_id.to_string())
            .arg(&*ticket.instance)
            .arg(ms(ticket.lease))
            .arg(u8::from(ticket.first))
            .arg(u8::from(ticket.wait))
            .arg(ticket.queue_max);
        let answer = self.run(&call, 0).await?;
        match reply::text(answer.first()) {
            Some("waiting") => Ok(Begun::Waiting),
            Some("busy") => Ok(Begun::Busy),
            _ => {
                let loaded = match self.read_answer(key, answer).await? {
                    Some(read) => self.load_on(key, read).await?,
                    None => None,
                };
                Ok(Begun::Granted(loaded.map(Box::new)))
            }
        }
    }

    async fn renew_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<bool> {
        let mut call = session_call(&self.scripts.renew_turn, key);
        call.arg(ticket.request_id.to_string())
            .arg(&*ticket.instance)
            .arg(ms(ticket.lease));
        self.tell(&call, 0).await
    }

    async fn end_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<()> {
        let mut call = session_call(&self.scripts.end_turn, key);
        call.arg(ticket.request_id.to_string())
            .arg(&*ticket.instance);
        self.tell(&call, 0).await.map(drop)
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        let stored = self.append_turn(key, turn, expected).await?;
        Ok(stored.map_or(Appended::Deleted, |stored| Appended::At(stored.version)))
    }

    async fn begin_compression(
        &self,
        key: &SessionKey,
        by: RequestId,
        lease: Duration,
    ) -> Result<bool> {
        let mut call = session_call(&self.scripts.begin_compression, key);
        call.arg(by.to_string()).arg(ms(lease));
        self.tell(&call, 0).await
    }

    async fn compress(&self, key: &SessionKey, prefix: &Prefix, by: RequestId) -> Result<bool> {
        Ok(self.replace_prefix(key, prefix, by).await?.is_some())
    }

    async fn end_compression(&self, key: &SessionKey, by: RequestId) -> Result<()> {
        let mut call = session_call(&self.scripts.end_compression, key);
        call.arg(by.to_string());
        self.tell(&call, 0).await.map(drop)
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let (from, limit) = (after.min(ALL), (limit as u64).min(ALL));
        let page = Range {
            renew: false,
            from: Some(from),
            limit,
        };
        let Some(read) = self.read(key, page).await? else {
            return Ok(None);
        };
        let read = self.read_on(key, read, from, limit).await?;
        Ok(read.map(|read| MessagePage {
            session: read.header.session,
            messages: read.messages,
        }))
    }

    /// A session that cannot be read is left out, and logged.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        self.list_page(user_id, cursor, limit).await
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.remove(key).await?.0)
    }

    async fn ping(&self) -> Result<()> {
        self.redis.ping().await.map_err(|error| {
            Error::new(
                ErrorKind::SessionStoreUnavailable,
                "redis, which keeps the sessions, does not answer",
            )
            .with_source(error)
        })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(ALL)
}

fn unavailable(failure: Failure) -> Error {
    failure.into_error(
        ErrorKind::SessionStoreUnavailable,
        "redis, which keeps the sessions, does not answer",
    )
}

#[cfg(test)]
mod tests;
