//! Reading sessions.

use super::{
    DatabaseSessionStore, guarded,
    rows::{Context, HeaderRow, MessageRow, Stored, WholeRow, message},
    transaction::on,
};
use crate::{
    database::Pool,
    error::Result,
    session::{corrupt, cursor::Cursor, now_ms},
    types::session::{LoadedSession, SessionKey, SessionPage, StoredMessage},
};

impl DatabaseSessionStore {
    pub(super) async fn find(&self, key: &SessionKey) -> Result<Option<Stored>> {
        let row: Option<HeaderRow> = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_as(
                self.dialect.header
            )
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(now_ms())
            .fetch_optional(pool)
            .await)
        })
        .await?;
        row.map(|row| row.parse(&key.user_id)).transpose()
    }

    pub(super) async fn find_whole(&self, key: &SessionKey) -> Result<Option<(Stored, Context)>> {
        let row: Option<WholeRow> = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_as(
                self.dialect.whole
            )
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(now_ms())
            .fetch_optional(pool)
            .await)
        })
        .await?;
        row.map(|row| row.parse(&key.user_id)).transpose()
    }

    pub(super) async fn read(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let Some((stored, context)) = self.find_whole(key).await? else {
            return Ok(None);
        };
        let after = context.prefix.upto;
        let Some(messages) = self.page(&stored, after, usize::MAX).await? else {
            return Ok(None);
        };
        self.renew(&stored).await?;
        Ok(Some(LoadedSession {
            session: stored.session,
            version: stored.version,
            history: context.history,
            system: context.system,
            prefix: context.prefix,
            messages,
        }))
    }

    /// Writes a new end of life down, if an eighth of it is gone.
    pub(super) async fn renew(&self, stored: &Stored) -> Result<()> {
        const SQL: &str = "UPDATE sessions SET expires_ms = $1 WHERE ref = $2 AND expires_ms < $1";
        let now = now_ms();
        if !self.ttl.renewal_due(stored.expires_ms - now) {
            return Ok(());
        }
        guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
                .bind(now + self.ttl.ms)
                .bind(stored.reference)
                .execute(pool)
                .await
                .map(drop))
        })
        .await
    }

    /// The messages of a session after a position, at most so many. `None` if the session is gone by now.
    pub(super) async fn page(
        &self,
        stored: &Stored,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<StoredMessage>>> {
        let total = stored.session.message_count;
        // What was appended after the header was read is not part of this read.
        let wanted = total.saturating_sub(after).min(limit as u64);
        if wanted == 0 {
            return Ok(Some(Vec::new()));
        }
        let messages = self
            .read_messages(stored.reference, after.cast_signed(), wanted.cast_signed())
            .await?;
        if messages.len() as u64 == wanted {
            return Ok(Some(messages));
        }
        const SQL: &str = "SELECT COUNT(*) FROM sessions WHERE ref = $1";
        let there: i64 = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_scalar(SQL)
                .bind(stored.reference)
                .fetch_one(pool)
                .await)
        })
        .await?;
        if there == 0 {
            return Ok(None);
        }
        Err(corrupt("messages are missing"))
    }

    async fn read_messages(
        &self,
        reference: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<StoredMessage>> {
        const SQL: &str = "SELECT seq, turn, tokens, json FROM session_messages
            WHERE session_ref = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let rows: Vec<MessageRow> = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_as(SQL)
                .bind(reference)
                .bind(after)
                .bind(limit)
                .fetch_all(pool)
                .await)
        })
        .await?;
        rows.into_iter().map(message).collect()
    }

    /// A session that cannot be read is left out, and logged.
    pub(super) async fn page_of_sessions(
        &self,
        user_id: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<SessionPage> {
        let limit = limit.max(1);
        let (activity_ms, id) = match cursor.map(Cursor::decode).transpose()? {
            Some(cursor) => (cursor.activity_ms, cursor.id),
            None => (i64::MAX, String::new()),
        };
        let rows: Vec<HeaderRow> = guarded(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query_as(
                self.dialect.list
            )
            .bind(user_id)
            .bind(now_ms())
            .bind(activity_ms)
            .bind(&id)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
            .fetch_all(pool)
            .await)
        })
        .await?;
        let more = rows.len() > limit;
        let mut sessions = Vec::with_capacity(rows.len());
        let mut last = None;
        for row in rows.into_iter().take(limit) {
            last = Some(Cursor {
                activity_ms: row.last_activity_ms,
                id: row.id.clone(),
            });
            match row.parse(user_id) {
                Ok(stored) => sessions.push(stored.session),
                Err(error) => tracing::warn!(?error, "a session is left out of a listing"),
            }
        }
        Ok(SessionPage {
            sessions,
            next_cursor: last.filter(|_| more).map(|cursor| cursor.encode()),
        })
    }
}
