//! The limits that all instances keep together, in Redis.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `lyss:limit:{<subject>}:requests` | sorted set | the cumulative number of starts, by the millisecond of the last of them |
//! | `lyss:limit:{<subject>}:tokens` | hash | tokens by second |
//! | `lyss:limit:{<subject>}:places` | sorted set | the ends of the leases of running requests |
//! | `lyss:instances` | sorted set | the instances that were there a moment ago |
//!
//! A subject is `k.` and the id of a key, or `u.` and a user in unpadded base64url. Its keys lie in one slot of a
//! cluster, and one script asks for a place under all three limits, in one round trip.

use std::time::Duration;

use ::redis::{Script, ScriptInvocation};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    subject::{Ended, Full, Limit, Limits, Subject},
    window::{WINDOW_MS, WINDOW_SECONDS},
};
use crate::{
    redis::{Failure, RedisHandle},
    types::{
        RequestId,
        rate::{RateStatus, WindowStatus},
    },
};

/// By how much a call may begin later than Redis has noted it: so long an overloaded process waits for its answer.
const SLACK: Duration = Duration::from_millis(500);
/// How long a place is held whose instance is not heard of.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How long an instance that is not heard of counts as one.
const PRESENCE: Duration = Duration::from_secs(7);
/// Ids of running requests in one command.
const RENEWED_AT_ONCE: usize = 1000;

/// Where the limits of all instances are.
#[derive(Debug)]
pub(super) struct SharedLimits {
    redis: RedisHandle,
    instance: String,
    caller: Script,
    presence: Script,
}

/// What Redis said to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub full: Option<Full>,
    pub status: RateStatus,
    /// The second that the tokens are noted in.
    pub second: u64,
}

impl SharedLimits {
    pub fn new(redis: RedisHandle) -> Self {
        Self {
            redis,
            instance: uuid::Uuid::new_v4().simple().to_string(),
            caller: Script::new(include_str!("caller.lua")),
            presence: Script::new(
                "local time = redis.call('TIME')
                 local now = time[1] * 1000 + math.floor(time[2] / 1000)
                 redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
                 redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
                 redis.call('PEXPIRE', KEYS[1], ARGV[2])
                 return redis.call('ZCARD', KEYS[1])",
            ),
        }
    }

    /// Asks for a place under every limit, and says what has ended. `None` if Redis did not answer in time.
    pub async fn take(
        &self,
        subject: &Subject,
        limits: Limits,
        tokens: u64,
        id: RequestId,
        ended: &[Ended],
    ) -> Option<Answer> {
        let call = self.call(subject, limits, tokens, Some(id), ended, &[]);
        let asked = self
            .redis
            .script::<(u8, u64, u64, u64, u64, u64, u64)>(&call, 0);
        let (full, wait, requests, reset, spent, token_reset, second) = asked.await.ok()?;
        let limit = match full {
            0 => None,
            1 => Some(Limit::Requests),
            2 => Some(Limit::Tokens),
            _ => Some(Limit::Concurrent),
        };
        let window = |limit: u64, used: u64, reset: u64| WindowStatus {
            limit,
            remaining: limit.saturating_sub(used),
            reset: Duration::from_millis(reset),
        };
        Some(Answer {
            full: limit.map(|limit| Full {
                limit,
                wait: Duration::from_millis(wait),
            }),
            status: RateStatus {
                requests: limits.rpm.map(|limit| window(limit, requests, reset)),
                tokens: limits.tpm.map(|limit| window(limit, spent, token_reset)),
                concurrent: None,
            },
            second,
        })
    }

    /// Says what has ended. If it is not heard, the places come free when their leases end.
    pub async fn tell(&self, subject: &Subject, ended: &[Ended]) {
        let call = self.call(subject, Limits::default(), 0, None, ended, &[]);
        let _ = self.redis.script::<Vec<u64>>(&call, 0).await;
    }

    /// Says what goes on.
    pub async fn renew(&self, subject: &Subject, open: &[RequestId]) {
        for open in open.chunks(RENEWED_AT_ONCE) {
            let call = self.call(subject, Limits::default(), 0, None, &[], open);
            if self.redis.script::<Vec<u64>>(&call, 0).await.is_err() {
                return;
            }
        }
    }

    /// Says that this instance is there; gives how many are.
    pub async fn present(&self) -> Result<u64, Failure> {
        let mut call = self.presence.key("lyss:instances");
        call.arg(&self.instance).arg(PRESENCE.as_millis() as u64);
        self.redis.script(&call, 0).await
    }

    fn call(
        &self,
        subject: &Subject,
        limits: Limits,
        tokens: u64,
        id: Option<RequestId>,
        ended: &[Ended],
        open: &[RequestId],
    ) -> ScriptInvocation<'_> {
        let mut call = self.caller.prepare_invoke();
        let name = match subject {
            Subject::Key(id) => format!("k.{id}"),
            Subject::User(user) => format!("u.{}", URL_SAFE_NO_PAD.encode(&**user)),
        };
        for part in ["requests", "tokens", "places"] {
            call.key(format!("lyss:limit:{{{name}}}:{part}"));
        }
        // The window is longer by the slack, so that never more than N begin in a minute.
        call.arg(WINDOW_MS + SLACK.as_millis() as u64)
            .arg(WINDOW_SECONDS)
            .arg(LEASE.as_millis() as u64)
            .arg(limits.rpm.unwrap_or(0))
            .arg(limits.tpm.unwrap_or(0))
            .arg(limits.concurrent.unwrap_or(0))
            .arg(tokens);
        match &id {
            Some(id) => call.arg(&id.as_bytes()[..]),
            None => call.arg(""),
        };
        call.arg(ended.len());
        for ended in ended {
            call.arg(&ended.id.as_bytes()[..])
                .arg(ended.second)
                .arg(ended.off);
        }
        for id in open {
            call.arg(&id.as_bytes()[..]);
        }
        call
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
