//! The rows that are archived to, under one lock a session.

use super::{SessionRow, StoredTurn};
use crate::{
    database::QueryResult,
    session::{
        database::{
            DatabaseSessionStore,
            rows::MessageRow,
            transaction::{Transaction, on},
        },
        now_ms,
    },
    types::session::SessionKey,
};

impl DatabaseSessionStore {
    /// The row of a session that was made at a time, locked; made if it is missing. `None` if that session is deleted,
    /// over, or another one by now.
    pub(super) async fn archived(
        &self,
        transaction: &mut Transaction,
        key: &SessionKey,
        created_ms: i64,
        used_ms: i64,
    ) -> QueryResult<Option<SessionRow>> {
        if used_ms.saturating_add(self.ttl.ms) <= now_ms() {
            return Ok(None);
        }
        transaction.lock_archive(self, key).await?;
        if transaction.deleted_at(key).await? >= created_ms {
            return Ok(None);
        }
        let mut row = transaction.session(self, key).await?;
        if let Some((reference, _, created, _)) = row {
            if created > created_ms {
                return Ok(None);
            }
            if created < created_ms {
                transaction.drop_session(reference).await?;
                row = None;
            }
        }
        if row.is_none() {
            transaction
                .begin_session(key, created_ms, used_ms.saturating_add(self.ttl.ms))
                .await?;
            row = transaction.session(self, key).await?;
        }
        Ok(row)
    }
}

impl Transaction {
    pub(super) async fn lock_archive(
        &mut self,
        store: &DatabaseSessionStore,
        key: &SessionKey,
    ) -> QueryResult<()> {
        let Some(sql) = store.dialect.lock_archive else {
            return Ok(());
        };
        on!(Transaction, self, |transaction| sqlx::query(sql)
            .bind(&key.user_id)
            .bind(&key.id)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }

    async fn deleted_at(&mut self, key: &SessionKey) -> QueryResult<i64> {
        const SQL: &str = "SELECT at_ms FROM session_deletions WHERE user_id = $1 AND id = $2";
        let at: Option<i64> = on!(Transaction, self, |transaction| sqlx::query_scalar(SQL)
            .bind(&key.user_id)
            .bind(&key.id)
            .fetch_optional(&mut **transaction)
            .await?);
        Ok(at.unwrap_or(i64::MIN))
    }

    async fn session(
        &mut self,
        store: &DatabaseSessionStore,
        key: &SessionKey,
    ) -> QueryResult<Option<SessionRow>> {
        on!(Transaction, self, |transaction| sqlx::query_as(
            store.dialect.lock_session
        )
        .bind(&key.user_id)
        .bind(&key.id)
        .fetch_optional(&mut **transaction)
        .await)
    }

    async fn drop_session(&mut self, reference: i64) -> QueryResult<()> {
        const SQL: &str = "DELETE FROM sessions WHERE ref = $1";
        on!(Transaction, self, |transaction| sqlx::query(SQL)
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }

    async fn begin_session(
        &mut self,
        key: &SessionKey,
        created_ms: i64,
        expires_ms: i64,
    ) -> QueryResult<()> {
        const SQL: &str =
            "INSERT INTO sessions (user_id, id, version, message_count, token_count, created_ms,
            last_activity_ms, expires_ms) VALUES ($1, $2, 0, 0, 0, $3, $3, $4)";
        on!(Transaction, self, |transaction| sqlx::query(SQL)
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(created_ms)
            .bind(expires_ms)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }

    /// Makes a turn the newest one.
    pub(super) async fn head(
        &mut self,
        reference: i64,
        turn: &StoredTurn<'_>,
        version: i64,
        expires_ms: i64,
    ) -> QueryResult<()> {
        const SQL: &str = "UPDATE sessions SET version = $1, message_count = $2, token_count = $3, last_request = $4,
            history = $5, last_activity_ms = $6,
            expires_ms = CASE WHEN expires_ms > $7 THEN expires_ms ELSE $7 END WHERE ref = $8";
        on!(Transaction, self, |transaction| sqlx::query(SQL)
            .bind(version)
            .bind(turn.message_count.cast_signed())
            .bind(turn.token_count.cast_signed())
            .bind(turn.request)
            .bind(turn.history)
            .bind(turn.used_ms)
            .bind(expires_ms)
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }

    pub(super) async fn prompt(
        &mut self,
        reference: i64,
        system: &[u8],
        version: i64,
    ) -> QueryResult<()> {
        const SQL: &str =
            "UPDATE sessions SET system = $1, system_turn = $2 WHERE ref = $3 AND system_turn < $2";
        on!(Transaction, self, |transaction| sqlx::query(SQL)
            .bind(system)
            .bind(version)
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }

    pub(super) async fn messages_of(
        &mut self,
        reference: i64,
        after: i64,
        last: i64,
    ) -> QueryResult<Vec<MessageRow>> {
        const SQL: &str = "SELECT seq, turn, tokens, json FROM session_messages
            WHERE session_ref = $1 AND seq > $2 AND seq <= $3 ORDER BY seq";
        on!(Transaction, self, |transaction| sqlx::query_as(SQL)
            .bind(reference)
            .bind(after)
            .bind(last)
            .fetch_all(&mut **transaction)
            .await)
    }
}
