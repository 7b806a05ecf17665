//! Bringing sessions back from an archive, and knowing when that may be needed.

use ::redis::Value;
use uuid::Uuid;

use super::{READ_BYTES, RedisSessionStore, reply, scripts::session_keys, unavailable};
use crate::{
    error::Result,
    session::corrupt,
    types::session::{LoadedSession, SessionKey, Version},
};

/// How long messages lie ready for a restoration that did not come to its end, in milliseconds.
const READY_MS: u64 = 60_000;

/// What Redis knows of its own memory, in milliseconds of its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Epoch {
    /// Since when nothing that was stored has been lost; 0: ever.
    pub lost_ms: i64,
    /// Since when this very server is asked: what was stored before may be older here; 0: ever.
    pub moved_ms: i64,
    /// Now.
    pub now_ms: i64,
    /// Whether it has just begun: Redis knew of none.
    pub begins: bool,
    /// Whether single keys go when the memory is full.
    pub evicts: bool,
}

impl RedisSessionStore {
    /// Puts a session, of which all messages are given, back to where none is, or in the place of `replaced`. Says
    /// whether it did: not if another instance was faster, or the session has been deleted.
    pub(in crate::session) async fn restore(
        &self,
        key: &SessionKey,
        session: &LoadedSession,
        last_request: Option<&str>,
        replaced: Option<Version>,
    ) -> Result<bool> {
        let [header, ..] = session_keys(key);
        let ready = format!(
            "{}r:{}",
            header.trim_end_matches('h'),
            Uuid::new_v4().simple()
        );
        self.lay_ready(&ready, session).await?;
        let head = &session.session;
        let mut call = self.scripts.restore.prepare_invoke();
        for key in session_keys(key) {
            call.key(key);
        }
        call.key(&ready)
            .arg(&key.user_id)
            .arg(&key.id)
            .arg(self.ttl.ms)
            .arg(
                replaced
                    .map(|version| version.to_string())
                    .unwrap_or_default(),
            )
            .arg(session.version)
            .arg(head.message_count)
            .arg(head.token_count)
            .arg(head.created_ms)
            .arg(head.last_activity_ms)
            .arg(session.prefix.version)
            .arg(session.prefix.upto)
            .arg(session.prefix.covered_tokens)
            .arg(session.prefix.summary_tokens)
            .arg("history")
            .arg(&session.history);
        let metadata = head
            .metadata
            .as_ref()
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| corrupt(format!("the metadata cannot be written: {error}")))?;
        let fields = [
            ("request", last_request.map(str::as_bytes)),
            ("system", session.system.as_deref()),
            ("summary", session.prefix.summary.as_deref()),
            ("metadata", metadata.as_deref()),
        ];
        let mut payload = 0;
        for (name, value) in fields {
            if let Some(value) = value {
                call.arg(name).arg(value);
                payload += value.len();
            }
        }
        let restored = self.tell(&call, payload).await?;
        if restored {
            self.touch(key, head.last_activity_ms).await;
        }
        Ok(restored)
    }

    /// Writes messages to a list of their own, a mebibyte a command: one long session must not hold up all others.
    async fn lay_ready(&self, ready: &str, session: &LoadedSession) -> Result<()> {
        let mut messages = session.messages.iter().peekable();
        while messages.peek().is_some() {
            let mut call = self.scripts.lay_ready.key(ready);
            call.arg(READY_MS);
            let (mut bytes, mut count) = (0, 0);
            while let Some(message) = messages.next_if(|_| bytes < READ_BYTES && count < 1000) {
                let mut element =
                    format!("{} {} {} ", message.seq, message.turn, message.tokens).into_bytes();
                element.extend_from_slice(&message.json);
                bytes += element.len();
                count += 1;
                call.arg(element);
            }
            self.redis
                .script::<Value>(&call, bytes)
                .await
                .map_err(unavailable)?;
        }
        Ok(())
    }

    /// While this number stays the same, so does the server.
    pub(in crate::session) fn interruptions(&self) -> u64 {
        self.redis.interruptions()
    }

    /// The epoch; one begins now if none is known, as if everything had just been lost. `nothing_lost`: the beginning
    /// of an epoch of which it is known by now that nothing was. In a cluster, or if Redis does not say what it is,
    /// single keys may go at any time.
    pub(in crate::session) async fn epoch(&self, nothing_lost: Option<i64>) -> Result<Epoch> {
        let info = match self.redis.is_cluster() {
            true => None,
            false => self.redis.info().await.map_err(unavailable)?,
        };
        let field = |name: &str| {
            info.as_deref()?
                .lines()
                .find_map(|line| line.trim_end().strip_prefix(name))
        };
        let run = field("run_id:").unwrap_or_default();
        let evicts = run.is_empty()
            || field("maxmemory_policy:").is_none_or(|policy| policy != "noeviction")
                && field("maxmemory:").is_none_or(|most| most != "0");
        let mut call = self.scripts.epoch.key("lyss:epoch");
        call.arg(run)
            .arg(nothing_lost.map(|at| at.to_string()).unwrap_or_default());
        let answer = self.run(&call, 0).await?;
        let number = |at: usize| reply::number(answer.get(at)).map(u64::cast_signed);
        let read = || {
            Some(Epoch {
                now_ms: number(0)?,
                lost_ms: number(1)?,
                moved_ms: number(2)?,
                begins: number(3)? > 0,
                evicts,
            })
        };
        read().ok_or_else(|| corrupt("redis does not say since when it remembers"))
    }
}
