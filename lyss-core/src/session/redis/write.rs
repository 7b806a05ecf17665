//! Writing sessions, with what an archive has to know of it.

use super::{RedisSessionStore, reply, scripts::session_call};
use crate::{
    error::Result,
    session::{conflict, corrupt},
    types::{
        RequestId,
        session::{Prefix, SessionKey, Turn, Version},
    },
};

/// How a session is after an append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))]
pub(in crate::session) struct StoredAt {
    pub version: Version,
    pub used_ms: i64,
    pub created_ms: i64,
    pub message_count: u64,
    pub token_count: u64,
    /// The request of the turn before.
    pub after: Option<String>,
}

impl RedisSessionStore {
    /// Appends a turn and says how the session then is; `None` if it was deleted under the turn.
    pub(in crate::session) async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        expected: Version,
    ) -> Result<Option<StoredAt>> {
        let tokens: u64 = turn.messages.iter().map(|(_, n)| u64::from(*n)).sum();
        let system = turn.system.as_deref();
        let mut call = session_call(&self.scripts.append, key);
        call.arg(self.ttl.ms)
            .arg(expected)
            .arg(turn.request_id.to_string())
            .arg(&turn.history)
            .arg(tokens)
            .arg(u8::from(system.is_some()))
            .arg(system.unwrap_or_default());
        let mut payload = system.map_or(0, <[u8]>::len);
        for (json, tokens) in &turn.messages {
            call.arg(*tokens).arg(&json[..]);
            payload += json.len();
        }
        let answer = self.run(&call, payload).await?;
        match reply::text(answer.first()) {
            Some("conflict") => return Err(conflict()),
            Some("deleted") => return Ok(None),
            _ => {}
        }
        reply::check(&answer)?;
        let number = |at: usize| reply::number(answer.get(at));
        let read = || {
            Some(StoredAt {
                version: number(1)?,
                used_ms: number(2)?.cast_signed(),
                created_ms: number(4)?.cast_signed(),
                message_count: number(5)?,
                token_count: number(6)?,
                after: reply::text(answer.get(7))
                    .filter(|request| !request.is_empty())
                    .map(str::to_owned),
            })
        };
        let stored = read().ok_or_else(|| corrupt("append answered without a version"))?;
        if number(3).is_some_and(|renewed| renewed > 0) {
            self.touch(key, stored.used_ms).await;
        }
        Ok(Some(stored))
    }

    /// Deletes a session and says whether there was one, and until when those made under its id are deleted.
    pub(in crate::session) async fn remove(&self, key: &SessionKey) -> Result<(bool, i64)> {
        let mut call = session_call(&self.scripts.delete, key);
        call.arg(if self.archived { self.ttl.ms } else { 0 });
        let answer = self.run(&call, 0).await?;
        self.untouch(key).await;
        match (reply::number(answer.first()), reply::number(answer.get(1))) {
            (Some(found), Some(at)) => Ok((found > 0, at.cast_signed())),
            _ => Err(corrupt("delete answered without a time")),
        }
    }

    /// Replaces a prefix as [`compress`](crate::session::SessionStore::compress) does; the creation of the session if it did.
    pub(in crate::session) async fn replace_prefix(
        &self,
        key: &SessionKey,
        prefix: &Prefix,
        by: RequestId,
    ) -> Result<Option<i64>> {
        let summary = prefix.summary.as_deref();
        let mut call = session_call(&self.scripts.compress, key);
        call.arg(by.to_string())
            .arg(prefix.version)
            .arg(prefix.upto)
            .arg(prefix.covered_tokens)
            .arg(u8::from(summary.is_some()))
            .arg(summary.unwrap_or_default())
            .arg(prefix.summary_tokens);
        let answer = self.run(&call, summary.map_or(0, <[u8]>::len)).await?;
        reply::check(&answer)?;
        let created = reply::number(answer.get(2)).map(u64::cast_signed);
        Ok(created.filter(|_| reply::number(answer.get(1)) == Some(1)))
    }
}
