//! Whose turn it is, kept in a table: the rules are in [`Turns`], here they are read, applied and written back.
//!
//! A turn that nobody disputes costs two statements: one takes it, one, in the append's transaction, gives it up.
//! Who waits only reads, as long as there is nothing new to write.

use std::time::Duration;

use super::{
    DatabaseSessionStore,
    dialect::Dialect,
    guarded,
    transaction::{Transaction, on},
};
use crate::{
    database::{Pool, QueryResult},
    error::Result,
    session::turns::{FORGOTTEN, Step, Turns},
    types::{
        RequestId,
        session::{SessionKey, Ticket},
    },
};

/// How often an asking finds the row gone, or there, that a moment ago was not.
const TRIES: u32 = 8;

/// The state, and the time of the row's own clock.
type Row = (String, i64);

impl DatabaseSessionStore {
    /// Asks for a turn.
    pub(super) async fn ask(&self, key: &SessionKey, ticket: &Ticket) -> Result<Step> {
        // Over a network the lucky case is tried first; in a file, a look costs less than the write lock.
        let mut claim = self.dialect.is_remote;
        for _ in 0..TRIES {
            if claim && guarded(self.claim(key, ticket)).await? {
                return Ok(Step::Granted);
            }
            let Some(row) = guarded(self.look(key)).await? else {
                claim = true;
                continue;
            };
            let (mut turns, now) = parse(row);
            let before = turns.clone();
            let step = turns.begin(ticket, now);
            let unchanged = step == Step::Waiting && !turns.is_news(&before, ticket);
            if unchanged || step == Step::Busy {
                return Ok(step);
            }
            if let Some(step) = guarded(self.begin_in_row(key, ticket)).await? {
                return Ok(step);
            }
        }
        Ok(if ticket.wait {
            Step::Waiting
        } else {
            Step::Busy
        })
    }

    /// Takes a turn that nobody has or waits for.
    async fn claim(&self, key: &SessionKey, ticket: &Ticket) -> QueryResult<bool> {
        let mut turns = Turns::default();
        turns.begin(ticket, 0);
        on!(Pool, &self.database.pool, |pool| sqlx::query(
            self.dialect.claim
        )
        .bind(&key.user_id)
        .bind(&key.id)
        .bind(text(&turns))
        .bind(turns.sole_holder())
        .bind(life(ticket.lease))
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
    }

    async fn look(&self, key: &SessionKey) -> QueryResult<Option<Row>> {
        on!(Pool, &self.database.pool, |pool| sqlx::query_as(
            self.dialect.look
        )
        .bind(&key.user_id)
        .bind(&key.id)
        .fetch_optional(pool)
        .await)
    }

    /// `None` if the row is gone.
    async fn begin_in_row(&self, key: &SessionKey, ticket: &Ticket) -> QueryResult<Option<Step>> {
        self.change(key, ticket.lease, |turns, now| turns.begin(ticket, now))
            .await
    }

    pub(super) async fn renew_in_row(
        &self,
        key: &SessionKey,
        ticket: &Ticket,
    ) -> QueryResult<bool> {
        let held = self
            .change(key, ticket.lease, |turns, now| turns.renew(ticket, now))
            .await?;
        Ok(held.unwrap_or(false))
    }

    pub(super) async fn end_in_row(&self, key: &SessionKey, ticket: &Ticket) -> QueryResult<()> {
        let ended = on!(Pool, &self.database.pool, |pool| sqlx::query(END_ALONE)
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(ticket.request_id.to_string())
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1)?);
        if !ended {
            self.change(key, ticket.lease, |turns, now| {
                turns.end(ticket.request_id, now);
            })
            .await?;
        }
        Ok(())
    }

    /// Changes whose turn it is; `None` if there is nothing to change.
    async fn change<T>(
        &self,
        key: &SessionKey,
        lease: Duration,
        change: impl FnOnce(&mut Turns, i64) -> T + Send,
    ) -> QueryResult<Option<T>> {
        let mut transaction = Transaction::begin(&self.database).await?;
        let changed = transaction
            .change_turns(self.dialect, key, lease, change)
            .await?;
        if changed.is_some() {
            transaction.commit().await?;
        }
        Ok(changed)
    }

    /// Removes turns that nobody asks about.
    pub(super) async fn sweep_turns(&self) -> QueryResult<()> {
        on!(Pool, &self.database.pool, |pool| sqlx::query(
            self.dialect.sweep_turns
        )
        .execute(pool)
        .await
        .map(drop))
    }
}

/// Ends a turn that nobody waits behind.
const END_ALONE: &str = "DELETE FROM session_turns WHERE user_id = $1 AND id = $2 AND alone = $3";

impl Transaction {
    /// Gives a request's turn up; says whether the session was deleted under it.
    pub(super) async fn end_turn(
        &mut self,
        dialect: &Dialect,
        key: &SessionKey,
        request: RequestId,
    ) -> QueryResult<bool> {
        let alone = on!(Transaction, self, |transaction| sqlx::query(END_ALONE)
            .bind(&key.user_id)
            .bind(&key.id)
            .bind(request.to_string())
            .execute(&mut **transaction)
            .await
            .map(|done| done.rows_affected() == 1)?);
        if alone {
            return Ok(false);
        }
        let deleted = self
            .change_turns(dialect, key, Duration::ZERO, |turns, now| {
                let deleted = turns.was_deleted_under(request);
                match deleted {
                    true => turns.end_deleted(request, now),
                    false => turns.end(request, now),
                }
                deleted
            })
            .await?;
        Ok(deleted.unwrap_or(false))
    }

    /// Changes whose turn it is, under the lock of its row; `None` if there is none.
    pub(super) async fn change_turns<T>(
        &mut self,
        dialect: &Dialect,
        key: &SessionKey,
        lease: Duration,
        change: impl FnOnce(&mut Turns, i64) -> T,
    ) -> QueryResult<Option<T>> {
        let row: Option<Row> = on!(Transaction, self, |transaction| sqlx::query_as(
            dialect.lock
        )
        .bind(&key.user_id)
        .bind(&key.id)
        .fetch_optional(&mut **transaction)
        .await?);
        let Some(row) = row else {
            return Ok(None);
        };
        let (mut turns, now) = parse(row);
        let before = turns.clone();
        let outcome = change(&mut turns, now);
        if turns.is_idle() {
            on!(Transaction, self, |transaction| sqlx::query(FORGET)
                .bind(&key.user_id)
                .bind(&key.id)
                .execute(&mut **transaction)
                .await
                .map(drop)?);
        } else if turns != before {
            on!(Transaction, self, |transaction| sqlx::query(dialect.put)
                .bind(&key.user_id)
                .bind(&key.id)
                .bind(text(&turns))
                .bind(turns.sole_holder())
                .bind(life(lease))
                .execute(&mut **transaction)
                .await
                .map(drop)?);
        }
        Ok(Some(outcome))
    }
}

const FORGET: &str = "DELETE FROM session_turns WHERE user_id = $1 AND id = $2";

/// A state that cannot be read is begun anew: the version of the session keeps what matters.
fn parse((state, now): Row) -> (Turns, i64) {
    let turns = serde_json::from_str(&state).unwrap_or_else(|error| {
        tracing::warn!(%error, "whose turn it is in a session cannot be read");
        Turns::default()
    });
    (turns, now)
}

fn text(turns: &Turns) -> String {
    // Strings and numbers: nothing that JSON does not have.
    serde_json::to_string(turns).unwrap_or_default()
}

/// How long a row is kept that nobody changes, in milliseconds.
fn life(lease: Duration) -> i64 {
    i64::try_from(lease.saturating_add(FORGOTTEN).as_millis()).unwrap_or(i64::MAX / 2)
}
