//! Sessions in Redis.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `lyss:s:{<user>.<id>}:h` | hash | the header: `schema`, owner, `version` (the fence), counts, times, `request` (the last turn's), `system`, `metadata` |
//! | `lyss:s:{<user>.<id>}:m` | list | one message an element: `<seq> <turn> <tokens> <json>` |
//! | `lyss:u:{<user>}` | sorted set | the user's session ids by last activity |
//!
//! `<user>` and `<id>` are in unpadded base64url: whatever they contain, they can neither end the hash tag nor run into
//! each other. The two keys of a session share a slot and are only changed together, by one script. The listing lies in
//! a slot of its own; it is written after the session, and reading it removes what is gone.

mod reply;

use std::time::Duration;

use ::redis::{Script, ScriptInvocation, Value};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::join_all;

use self::reply::{Header, Read};
use super::{SessionStore, Ttl, conflict, corrupt, cursor::Cursor};
use crate::{
    error::{Error, ErrorKind, Result},
    redis::{Failure, RedisHandle, RedisSource},
    types::session::{
        Appended, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage, Turn,
        Version,
    },
};

/// Bytes of messages that one command reads, about: a longer session is read in several.
const READ_BYTES: usize = 1 << 20;
/// Sessions whose headers a listing asks for at once.
const LIST_BATCH: usize = 64;

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] in Redis 5 or later, a single server or a cluster.
#[derive(Debug)]
pub struct RedisSessionStore {
    redis: RedisHandle,
    ttl: Ttl,
    scripts: Scripts,
}

#[derive(Debug)]
struct Scripts {
    create: Script,
    read: Script,
    append: Script,
    delete: Script,
    touch: Script,
    heal: Script,
}

impl Scripts {
    fn new() -> Self {
        let of_session =
            |body: &str| Script::new(&format!("{}\n{body}", include_str!("session.lua")));
        Self {
            create: of_session(include_str!("create.lua")),
            read: of_session(include_str!("read.lua")),
            append: of_session(include_str!("append.lua")),
            delete: of_session(include_str!("delete.lua")),
            touch: Script::new(include_str!("touch.lua")),
            heal: Script::new(include_str!("heal.lua")),
        }
    }
}

/// What to read of a session.
struct Range {
    renew: bool,
    from: u64,
    limit: u64,
}

impl Range {
    const HEADER: Self = Self {
        renew: false,
        from: 0,
        limit: 0,
    };
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
            .arg(range.from)
            .arg(range.limit)
            .arg(READ_BYTES);
        let read = Read::parse(key, self.run(&call, 0).await?)?;
        if let Some(read) = &read
            && read.header.renewed
        {
            self.touch(key, read.header.session.last_activity_ms).await;
        }
        Ok(read)
    }

    /// Reads on until `limit` messages are there, or all.
    async fn read_all(&self, key: &SessionKey, range: Range) -> Result<Option<Read>> {
        let (from, limit) = (range.from, range.limit);
        let Some(mut read) = self.read(key, range).await? else {
            return Ok(None);
        };
        let total = read.header.session.message_count;
        let wanted = total.saturating_sub(from).min(limit);
        while (read.messages.len() as u64) < wanted {
            let have = read.messages.len() as u64;
            let next = Range {
                renew: false,
                from: from + have,
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

    /// Puts a session to its place in the listing. A failure is not the session's: its next use repairs it.
    async fn touch(&self, key: &SessionKey, activity_ms: i64) {
        let mut call = self.scripts.touch.key(listing_key(&key.user_id));
        // Twice a session's life, and renewed whenever a session's is: the listing outlives what it lists.
        call.arg(&key.id)
            .arg(activity_ms)
            .arg(self.ttl.ms.saturating_mul(2));
        if let Err(error) = self.redis.script::<Value>(&call, 0).await {
            tracing::debug!(?error, "a session is not in its user's listing yet");
        }
    }

    /// Ids and activities of a listing, from `cursor` down.
    async fn listing(
        &self,
        user_id: &str,
        cursor: Option<&Cursor>,
        offset: usize,
    ) -> Result<Vec<(String, f64)>> {
        let mut command = ::redis::cmd("ZREVRANGEBYSCORE");
        command.arg(listing_key(user_id));
        match cursor {
            Some(cursor) => command.arg(cursor.activity_ms),
            None => command.arg("+inf"),
        };
        command
            .arg("-inf")
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(offset)
            .arg(LIST_BATCH);
        self.redis.command(&command).await.map_err(unavailable)
    }

    async fn heal(&self, user_id: &str, gone: &[Cursor]) {
        if gone.is_empty() {
            return;
        }
        let mut call = self.scripts.heal.key(listing_key(user_id));
        for entry in gone {
            call.arg(&entry.id).arg(entry.activity_ms);
        }
        if let Err(error) = self.redis.script::<Value>(&call, 0).await {
            tracing::debug!(?error, "a listing keeps sessions that are gone");
        }
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
        let read = self.read(key, Range::HEADER).await?;
        Ok(read.map(|read| read.header.session))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let range = Range {
            renew: true,
            from: 0,
            limit: u64::from(u32::MAX),
        };
        Ok(self.read_all(key, range).await?.map(|read| LoadedSession {
            session: read.header.session,
            version: read.header.version,
            history: String::new(),
            system: read.system,
            prefix: Prefix::default(),
            messages: read.messages,
        }))
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        let tokens: u64 = turn.messages.iter().map(|(_, n)| u64::from(*n)).sum();
        let system = turn.system.as_deref();
        let mut call = session_call(&self.scripts.append, key);
        call.arg(self.ttl.ms)
            .arg(expected)
            .arg(turn.request_id.to_string())
            .arg(tokens)
            .arg(u8::from(system.is_some()))
            .arg(system.unwrap_or_default());
        let mut payload = system.map_or(0, <[u8]>::len);
        for (json, tokens) in &turn.messages {
            call.arg(*tokens).arg(&json[..]);
            payload += json.len();
        }
        let answer = self.run(&call, payload).await?;
        if reply::text(answer.first()) == Some("conflict") {
            return Err(conflict());
        }
        reply::check(&answer)?;
        let number = |at: usize| reply::number(answer.get(at));
        match (number(1), number(2), number(3)) {
            (Some(version), Some(used), Some(renewed)) => {
                if renewed > 0 {
                    self.touch(key, used.cast_signed()).await;
                }
                Ok(Appended::At(version))
            }
            _ => Err(corrupt("append answered without a version")),
        }
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let range = Range {
            renew: false,
            // Lua's numbers are doubles; no session has so many messages.
            from: after.min(u64::from(u32::MAX)),
            limit: (limit as u64).min(u64::from(u32::MAX)),
        };
        let read = self.read_all(key, range).await?;
        Ok(read.map(|read| MessagePage {
            session: read.header.session,
            messages: read.messages,
        }))
    }

    /// A session that cannot be read is left out, and logged.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        let limit = limit.max(1);
        let cursor = cursor.map(Cursor::decode).transpose()?;
        let mut page: Vec<(Cursor, Session)> = Vec::new();
        let mut gone = Vec::new();
        let mut offset = 0;
        // One more than the page holds says whether there is a next one.
        while page.len() <= limit {
            let batch = self.listing(user_id, cursor.as_ref(), offset).await?;
            let last = batch.len() < LIST_BATCH;
            offset += batch.len();
            let entries = batch.into_iter().map(|(id, activity)| Cursor {
                activity_ms: activity as i64,
                id,
            });
            let reads = entries
                .filter(|entry| {
                    cursor.as_ref().is_none_or(|cursor| {
                        (entry.activity_ms, &entry.id) < (cursor.activity_ms, &cursor.id)
                    })
                })
                .map(|entry| async {
                    let key = SessionKey {
                        user_id: user_id.to_owned(),
                        id: entry.id.clone(),
                    };
                    (entry, self.get(&key).await)
                });
            for (entry, session) in join_all(reads).await {
                match session {
                    Ok(Some(session)) => page.push((entry, session)),
                    Ok(None) => gone.push(entry),
                    Err(error) if error.kind() == ErrorKind::SessionCorrupt => {
                        tracing::warn!(?error, "a session is left out of a listing");
                    }
                    Err(error) => return Err(error),
                }
            }
            if last {
                break;
            }
        }
        self.heal(user_id, &gone).await;
        let more = page.len() > limit;
        page.truncate(limit);
        let next_cursor = page.last().filter(|_| more).map(|(at, _)| at.encode());
        Ok(SessionPage {
            sessions: page.into_iter().map(|(_, session)| session).collect(),
            next_cursor,
        })
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        let call = session_call(&self.scripts.delete, key);
        let found: u64 = self.redis.script(&call, 0).await.map_err(unavailable)?;
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(listing_key(&key.user_id)).arg(&key.id);
        if let Err(error) = self.redis.command::<Value>(&remove).await {
            tracing::debug!(?error, "a listing keeps a deleted session");
        }
        Ok(found > 0)
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

/// A call of a script on a session, its keys and its owner given.
fn session_call<'a>(script: &'a Script, key: &SessionKey) -> ScriptInvocation<'a> {
    let tag = format!("{}.{}", encoded(&key.user_id), encoded(&key.id));
    let mut call = script.prepare_invoke();
    call.key(format!("lyss:s:{{{tag}}}:h"))
        .key(format!("lyss:s:{{{tag}}}:m"))
        .arg(&key.user_id)
        .arg(&key.id);
    call
}

fn listing_key(user_id: &str) -> String {
    format!("lyss:u:{{{}}}", encoded(user_id))
}

fn encoded(text: &str) -> String {
    // An empty tag would let Redis hash the whole key: `-` is in the alphabet, but no encoding has one character.
    match text {
        "" => "-".to_owned(),
        text => URL_SAFE_NO_PAD.encode(text),
    }
}

fn unavailable(failure: Failure) -> Error {
    failure.into_error(
        ErrorKind::SessionStoreUnavailable,
        "redis, which keeps the sessions, does not answer",
    )
}

#[cfg(test)]
mod tests;
