//! Writing sessions.

use bytes::Bytes;
use sqlx::QueryBuilder;

use super::{
    DatabaseSessionStore, conflict, guarded,
    rows::number,
    transaction::{Transaction, on},
};
use crate::{
    database::{Pool, QueryResult},
    error::Result,
    session::now_ms,
    types::{
        RequestId,
        session::{Appended, Prefix, SessionKey, Turn, Version},
    },
};

/// Rows of one statement: five parameters each, far below what either database takes.
const ROWS_AT_ONCE: usize = 1000;
/// Sessions that one statement removes.
const SWEPT_AT_ONCE: u64 = 500;

/// How an append ended.
enum Outcome {
    At(i64),
    Conflict,
    Deleted,
}

/// A session row that a turn has been counted into.
struct Counted {
    reference: i64,
    version: i64,
    /// The last message before this turn.
    seq: i64,
}

const DELETE_EXPIRED: &str =
    "DELETE FROM sessions WHERE user_id = $1 AND id = $2 AND expires_ms <= $3";

const INSERT: &str =
    "INSERT INTO sessions (user_id, id, version, message_count, token_count, created_ms,
    last_activity_ms, expires_ms, metadata) VALUES ($1, $2, 0, 0, 0, $3, $3, $4, $5)
    ON CONFLICT (user_id, id) DO NOTHING";

const COUNT: &str = "UPDATE sessions SET version = version + 1, message_count = message_count + $7,
    token_count = token_count + $8, expires_ms = $5, last_request = $6, system = COALESCE($9, system), history = $10,
    last_activity_ms = CASE WHEN last_activity_ms > $4 THEN last_activity_ms ELSE $4 END
    WHERE user_id = $1 AND id = $2 AND version = $3 AND expires_ms > $4
    AND (last_request IS NULL OR last_request <> $6)
    RETURNING ref, version, message_count";

const STATE: &str = "SELECT ref, version, last_request FROM sessions
    WHERE user_id = $1 AND id = $2 AND expires_ms > $3";

impl DatabaseSessionStore {
    /// Makes the session unless there is one; one that has expired gives way.
    pub(super) async fn insert(&self, key: &SessionKey, metadata: Option<&str>) -> QueryResult<()> {
        let mut transaction = Transaction::begin(&self.database).await?;
        transaction
            .insert(key, now_ms(), self.ttl.ms, metadata)
            .await?;
        transaction.commit().await
    }

    pub(super) async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        expected: Version,
    ) -> Result<Appended> {
        let Ok(expected) = i64::try_from(expected) else {
            return Err(conflict());
        };
        match guarded(self.try_append(key, turn, expected)).await? {
            Outcome::At(version) => Ok(Appended::At(number(version)?)),
            Outcome::Deleted => Ok(Appended::Deleted),
            Outcome::Conflict => Err(conflict()),
        }
    }

    async fn try_append(
        &self,
        key: &SessionKey,
        turn: &Turn,
        expected: i64,
    ) -> QueryResult<Outcome> {
        let now = now_ms();
        let mut transaction = Transaction::begin(&self.database).await?;
        let deleted = transaction
            .end_turn(self.dialect, key, turn.request_id)
            .await?;
        let mut created = false;
        loop {
            let counted = transaction
                .count_turn(key, turn, expected, now, self.ttl.ms)
                .await?;
            if let Some(counted) = counted {
                let Counted {
                    reference,
                    version,
                    seq,
                } = counted;
                let messages = numbered(&turn.messages, seq, version);
                insert_messages(&mut transaction, reference, &messages).await?;
                transaction.commit().await?;
                return Ok(Outcome::At(version));
            }
            // Not at this version, or this turn already, or not there.
            match transaction.state(key, now).await? {
                Some((reference, version, last)) if last == Some(turn.request_id.to_string()) => {
                    transaction.renew(reference, now + self.ttl.ms).await?;
                    transaction.commit().await?;
                    return Ok(Outcome::At(version));
                }
                Some((_, version, _)) if version < 0 => return Ok(Outcome::At(version)),
                None if deleted => {
                    transaction.commit().await?;
                    return Ok(Outcome::Deleted);
                }
                None if expected == 0 && !created => {
                    created = true;
                    // Waits for another instance that is making the same session.
                    transaction.insert(key, now, self.ttl.ms, None).await?;
                }
                _ => return Ok(Outcome::Conflict),
            }
        }
    }

    /// Puts a prefix in its predecessor's place, if it follows it; says whether it did.
    pub(super) async fn replace_prefix(
        &self,
        key: &SessionKey,
        prefix: &Prefix,
        by: RequestId,
    ) -> QueryResult<bool> {
        const SQL: &str = "UPDATE sessions SET prefix_version = $4, prefix_upto = $5, prefix_tokens = $6,
            summary = $7, summary_tokens = $8,
            compressing_until_ms = CASE WHEN compressing_by = $9 THEN NULL ELSE compressing_until_ms END,
            compressing_by = CASE WHEN compressing_by = $9 THEN NULL ELSE compressing_by END
            WHERE user_id = $1 AND id = $2 AND expires_ms > $3 AND prefix_version = $4 - 1
            AND prefix_upto <= $5 AND message_count >= $5";
        let numbers = (
            i64::try_from(prefix.version),
            i64::try_from(prefix.upto),
            i64::try_from(prefix.covered_tokens),
        );
        let (Ok(version), Ok(upto), Ok(tokens)) = numbers else {
            return Ok(false);
        };
        on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(now_ms())
            .bind(version)
            .bind(upto)
            .bind(tokens)
            .bind(prefix.summary.as_deref())
            .bind(i64::from(prefix.summary_tokens))
            .bind(by.to_string())
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1))
    }

    /// Deletes a session, and says so to the turn that holds it. Until when it would have lived; `None` if it is not
    /// there.
    pub(super) async fn remove(&self, key: &SessionKey) -> QueryResult<Option<i64>> {
        const SQL: &str =
            "DELETE FROM sessions WHERE user_id = $1 AND id = $2 RETURNING expires_ms";
        let mut transaction = Transaction::begin(&self.database).await?;
        transaction
            .change_turns(self.dialect, key, std::time::Duration::ZERO, |turns, _| {
                turns.deleted();
            })
            .await?;
        let expires = on!(Transaction, &mut transaction, |transaction| {
            sqlx::query_scalar(SQL)
                .bind(&key.user_id)
                .bind(&key.id)
                .fetch_optional(&mut **transaction)
                .await?
        });
        transaction.commit().await?;
        Ok(expires)
    }

    /// Removes sessions that have expired; says whether more may be left.
    pub(super) async fn sweep_sessions(&self) -> QueryResult<(u64, bool)> {
        const SQL: &str = "DELETE FROM sessions WHERE ref IN
            (SELECT ref FROM sessions WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT $2)";
        let swept = on!(Pool, &self.database.pool, |pool| sqlx::query(SQL)
            .bind(now_ms())
            .bind(SWEPT_AT_ONCE.cast_signed())
            .execute(pool)
            .await?
            .rows_affected());
        Ok((swept, swept >= SWEPT_AT_ONCE))
    }
}

impl Transaction {
    async fn insert(
        &mut self,
        key: &SessionKey,
        now: i64,
        ttl_ms: i64,
        metadata: Option<&str>,
    ) -> QueryResult<()> {
        on!(Transaction, self, |transaction| {
            sqlx::query(DELETE_EXPIRED)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(now)
                .execute(&mut **transaction)
                .await?;
            sqlx::query(INSERT)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(now)
                .bind(now + ttl_ms)
                .bind(metadata)
                .execute(&mut **transaction)
                .await?;
        });
        Ok(())
    }

    /// Counts a turn into its session; `None` if the session is not there, or not as it is expected.
    async fn count_turn(
        &mut self,
        key: &SessionKey,
        turn: &Turn,
        expected: i64,
        now: i64,
        ttl_ms: i64,
    ) -> QueryResult<Option<Counted>> {
        let count = i64::try_from(turn.messages.len()).unwrap_or(i64::MAX);
        let tokens: i64 = turn.messages.iter().map(|(_, n)| i64::from(*n)).sum();
        let row: Option<(i64, i64, i64)> = on!(Transaction, self, |transaction| {
            sqlx::query_as(COUNT)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(expected)
                .bind(now)
                .bind(now + ttl_ms)
                .bind(turn.request_id.to_string())
                .bind(count)
                .bind(tokens)
                .bind(turn.system.as_deref())
                .bind(&turn.history)
                .fetch_optional(&mut **transaction)
                .await?
        });
        Ok(row.map(|(reference, version, total)| Counted {
            reference,
            version,
            seq: total - count,
        }))
    }

    /// Reference, version and last request of a session.
    async fn state(
        &mut self,
        key: &SessionKey,
        now: i64,
    ) -> QueryResult<Option<(i64, i64, Option<String>)>> {
        on!(Transaction, self, |transaction| sqlx::query_as(STATE)
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(now)
            .fetch_optional(&mut **transaction)
            .await)
    }

    async fn renew(&mut self, reference: i64, expires: i64) -> QueryResult<()> {
        const SQL: &str = "UPDATE sessions SET expires_ms = $1 WHERE ref = $2";
        on!(Transaction, self, |transaction| sqlx::query(SQL)
            .bind(expires)
            .bind(reference)
            .execute(&mut **transaction)
            .await
            .map(drop))
    }
}

/// Position, turn, tokens and JSON of a message that is to be written.
pub(super) type NewMessage<'a> = (i64, i64, u32, &'a [u8]);

/// The messages of a turn, which follow the one at `seq`.
pub(super) fn numbered(messages: &[(Bytes, u32)], seq: i64, turn: i64) -> Vec<NewMessage<'_>> {
    (seq + 1..)
        .zip(messages)
        .map(|(seq, (json, tokens))| (seq, turn, *tokens, &json[..]))
        .collect()
}

pub(super) async fn insert_messages(
    transaction: &mut Transaction,
    reference: i64,
    messages: &[NewMessage<'_>],
) -> QueryResult<()> {
    on!(Transaction, transaction, |transaction| {
        for chunk in messages.chunks(ROWS_AT_ONCE) {
            let mut insert = QueryBuilder::new(
                "INSERT INTO session_messages (session_ref, seq, turn, tokens, json) ",
            );
            insert.push_values(chunk, |mut row, (seq, turn, tokens, json)| {
                row.push_bind(reference)
                    .push_bind(*seq)
                    .push_bind(*turn)
                    .push_bind(i64::from(*tokens))
                    .push_bind(*json);
            });
            insert.build().execute(&mut **transaction).await?;
        }
    });
    Ok(())
}
