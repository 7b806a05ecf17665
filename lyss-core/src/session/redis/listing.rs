//! A user's sessions by last activity. The listing lies in a slot of its own, so it can be behind the sessions: it is
//! written after them, and what it has too much is found and removed by reading it.

use ::redis::Value;
use futures::future::join_all;

use super::{RedisSessionStore, scripts::listing_key, unavailable};
use crate::{
    error::{ErrorKind, Result},
    session::{SessionStore, cursor::Cursor},
    types::session::{Session, SessionKey, SessionPage},
};

/// Sessions whose headers a listing asks for at once.
const LIST_BATCH: usize = 64;

impl RedisSessionStore {
    /// Puts a session to its place in the listing. A failure is not the session's: its next use repairs it.
    pub(super) async fn touch(&self, key: &SessionKey, activity_ms: i64) {
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

    /// Takes a deleted session out of its user's listing.
    pub(super) async fn untouch(&self, key: &SessionKey) {
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(listing_key(&key.user_id)).arg(&key.id);
        if let Err(error) = self.redis.command::<Value>(&remove).await {
            tracing::debug!(?error, "a listing keeps a deleted session");
        }
    }

    /// A page of a user's sessions; one that cannot be read is left out, and logged.
    pub(super) async fn list_page(
        &self,
        user_id: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<SessionPage> {
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
}
