//! Idempotency keys in Redis.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `lyss:i:{<id>}` | hash | `fingerprint`, `owner`, `state`, `lease` (its end in ms), `length` (of the reply) |
//! | `lyss:i:{<id>}:r` | string | the reply |
//!
//! `<id>` is the entry's hash in unpadded base64url. The two share a slot and are only changed together, by one script.

use std::time::Duration;

use ::redis::{Script, ScriptInvocation, Value};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};

use super::{Claim, Claimed, EntryId, IdempotencyStore, ms};
use crate::{
    error::{Error, ErrorKind, Result},
    redis::{Failure, RedisHandle},
    types::RequestId,
};

/// Bytes of a reply that one command reads: more would outlast a command's deadline.
const READ_BYTES: usize = 256 * 1024;

/// An [`IdempotencyStore`] in Redis 5 or later, a single server or a cluster.
#[derive(Debug)]
pub struct RedisIdempotencyStore {
    redis: RedisHandle,
    ttl_ms: i64,
    claim: Script,
    hold: Script,
    complete: Script,
    release: Script,
}

impl RedisIdempotencyStore {
    /// A store on a connection that others use as well; it forgets a key `ttl` after its use.
    pub fn new(redis: RedisHandle, ttl: Duration) -> Self {
        let of_entry = |body: &str| Script::new(&format!("{}\n{body}", include_str!("entry.lua")));
        Self {
            redis,
            ttl_ms: ms(ttl),
            claim: of_entry(include_str!("claim.lua")),
            hold: of_entry(include_str!("hold.lua")),
            complete: of_entry(include_str!("complete.lua")),
            release: of_entry(include_str!("release.lua")),
        }
    }

    async fn hold(&self, claim: &Claim, lease: Duration, state: &str) -> Result<bool> {
        let mut call = call(&self.hold, &claim.id);
        call.arg(claim.owner.as_bytes()).arg(ms(lease)).arg(state);
        self.said(&call, 0).await
    }

    /// Runs a script that says yes or no.
    async fn said(&self, call: &ScriptInvocation<'_>, payload: usize) -> Result<bool> {
        let yes: i64 = self
            .redis
            .script(call, payload)
            .await
            .map_err(unavailable)?;
        Ok(yes > 0)
    }

    /// Reads on from the first part of a reply; `None` if it is not there any more.
    async fn read_on(&self, id: &EntryId, first: &[u8], length: usize) -> Result<Option<Bytes>> {
        let mut reply = BytesMut::from(first);
        while reply.len() < length {
            let mut command = ::redis::cmd("GETRANGE");
            command
                .arg(reply_key(id))
                .arg(reply.len())
                .arg(reply.len() + READ_BYTES - 1);
            let part: Vec<u8> = self.redis.command(&command).await.map_err(unavailable)?;
            if part.is_empty() {
                return Ok(None);
            }
            reply.extend_from_slice(&part);
        }
        Ok(Some(reply.freeze()))
    }
}

#[async_trait]
impl IdempotencyStore for RedisIdempotencyStore {
    async fn claim(&self, claim: &Claim, lease: Duration) -> Result<Claimed> {
        let mut call = call(&self.claim, &claim.id);
        call.arg(claim.owner.as_bytes())
            .arg(&claim.fingerprint.0)
            .arg(ms(lease))
            .arg(self.ttl_ms)
            .arg(READ_BYTES);
        let answer: Vec<Value> = self.redis.script(&call, 0).await.map_err(unavailable)?;
        let bytes = |at: usize| match answer.get(at) {
            Some(Value::BulkString(bytes)) => Some(bytes.as_slice()),
            _ => None,
        };
        Ok(match (bytes(0), bytes(1), answer.get(2), bytes(3)) {
            (Some(b"granted"), ..) => Claimed::Granted,
            (Some(b"running"), ..) => Claimed::Running,
            (Some(b"reused"), ..) => Claimed::Reused,
            (Some(b"done"), Some(owner), Some(Value::Int(length)), Some(first)) => {
                let length = usize::try_from(*length).unwrap_or(0);
                let reply = self.read_on(&claim.id, first, length).await?;
                match (reply, <[u8; 16]>::try_from(owner)) {
                    (Some(reply), Ok(owner)) => Claimed::Done {
                        reply,
                        by: RequestId::from_bytes(owner),
                    },
                    _ => Claimed::Lost,
                }
            }
            _ => Claimed::Lost,
        })
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.hold(claim, lease, "").await
    }

    async fn dispatch(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        self.hold(claim, lease, "dispatched").await
    }

    async fn complete(&self, claim: &Claim, reply: Bytes) -> Result<bool> {
        let mut call = call(&self.complete, &claim.id);
        call.arg(claim.owner.as_bytes())
            .arg(&claim.fingerprint.0)
            .arg(self.ttl_ms)
            .arg(&reply[..]);
        self.said(&call, reply.len()).await
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        let mut call = call(&self.release, &claim.id);
        call.arg(claim.owner.as_bytes());
        self.said(&call, 0).await.map(drop)
    }
}

/// A call of a script on an entry, its keys given.
fn call<'a>(script: &'a Script, id: &EntryId) -> ScriptInvocation<'a> {
    let mut call = script.prepare_invoke();
    call.key(entry_key(id)).key(reply_key(id));
    call
}

fn entry_key(id: &EntryId) -> String {
    format!("lyss:i:{{{}}}", URL_SAFE_NO_PAD.encode(id.0))
}

fn reply_key(id: &EntryId) -> String {
    format!("lyss:i:{{{}}}:r", URL_SAFE_NO_PAD.encode(id.0))
}

fn unavailable(failure: Failure) -> Error {
    failure.into_error(
        ErrorKind::StoreUnavailable,
        "redis, which keeps idempotency keys, does not answer; send the request again",
    )
}

#[cfg(test)]
mod tests;
