//! Counters in the database, PostgreSQL or SQLite: each step one transaction, the counters' rows locked in the order of
//! their names.

pub(crate) mod rollup;
mod spent;

pub(super) use spent::spent;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::store::{
    Asked, Balance, BudgetStore, Claim, LastAnswer, Open, Outcome, Page, Settlement, Source,
};
use crate::{
    database::{
        Database, Pool, QueryResult,
        transaction::{Transaction, on},
        within,
    },
    error::Result,
    price::Exchange,
    types::RequestId,
};

/// How long one step may take: a request waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Open reservations that are read at once.
const OPEN_AT_ONCE: usize = 1000;
/// Before every id.
const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// The row's new sums, so that nobody else changes it before the transaction ends.
const TAKE: &str =
    "UPDATE budget_counters SET reserved_nano = reserved_nano + $2 WHERE counter = $1
     RETURNING spent_nano, reserved_nano";
const BEGIN: &str =
    "INSERT INTO budget_counters (counter, spent_nano, reserved_nano, ends_ms) VALUES ($1, $2, 0, $3)
     ON CONFLICT (counter) DO NOTHING";
const MOVE: &str =
    "UPDATE budget_counters SET reserved_nano = reserved_nano - $2, spent_nano = spent_nano + $3
     WHERE counter = $1";
const BALANCE: &str = "SELECT spent_nano, reserved_nano FROM budget_counters WHERE counter = $1";
const FORGET: &str = "DELETE FROM budget_counters WHERE ends_ms < $1";

/// In place of a counter's name: what a request cost is counted, of which another may tell the same. That is one that
/// went on without a reservation, and has one all the same.
const MARK: &str = "";

/// A [`BudgetStore`] in the database.
pub(crate) struct DatabaseBudgetStore {
    database: Database,
    /// Requests that are at the database at once: others of the gateway need connections, too, and SQLite has one
    /// writer anyway, for which this queue is fair.
    turns: Semaphore,
    answer: LastAnswer,
}

impl DatabaseBudgetStore {
    /// A store in a migrated database.
    pub fn new(database: Database) -> Self {
        let at_once = match database.driver() {
            "sqlite" => 1,
            _ => 4,
        };
        Self {
            database,
            turns: Semaphore::new(at_once),
            answer: LastAnswer::default(),
        }
    }

    /// Takes a turn, then runs a step. A failure of the semaphore cannot be: it is never closed.
    async fn in_turn<T>(&self, step: impl Future<Output = QueryResult<T>>) -> Result<T> {
        let turn = self.turns.acquire().await;
        let done = within(PATIENCE, step).await;
        drop(turn);
        if done.is_ok() {
            self.answer.note();
        }
        done
    }

    /// What the log says. Goes on when the request that needs it does not wait so long: the log keeps what was read.
    async fn spent(&self, claim: &Claim, exchange: &Arc<Exchange>) -> Result<i64> {
        let (database, counter) = (self.database.clone(), Arc::clone(&claim.counter));
        let exchange = Arc::clone(exchange);
        let counted = tokio::spawn(async move { spent(&database, &counter, &exchange, &[]).await });
        counted
            .await
            .unwrap_or_else(|error| Err(crate::database::unavailable(error)))
    }

    async fn try_reserve(&self, asked: &Asked<'_>, order: &[usize]) -> QueryResult<Tried> {
        let mut transaction = Transaction::begin(&self.database).await?;
        let mut left = vec![0; asked.claims.len()];
        let mut short = false;
        for at in order {
            let Some(claim) = asked.claims.get(*at) else {
                continue;
            };
            let Some((spent, reserved)) = transaction.take(claim).await? else {
                return Ok(Tried::Unknown(*at));
            };
            let rest = claim.limit - spent - reserved;
            short |= rest < 0;
            if let Some(left) = left.get_mut(*at) {
                *left = rest + claim.amount;
            }
        }
        for claim in asked.claims {
            // It is reserved already: the answer to it was lost.
            if !short
                && !transaction
                    .enter(&asked.id, &claim.key, claim.amount)
                    .await?
            {
                return Ok(Tried::Done(Outcome::Granted));
            }
        }
        if short {
            return Ok(Tried::Done(Outcome::Short(left)));
        }
        transaction.commit().await?;
        Ok(Tried::Done(Outcome::Granted))
    }

    async fn try_settle(&self, settlements: &[Settlement]) -> QueryResult<()> {
        // In one order everywhere, so that nobody waits for whom he holds up.
        let mut settlements: Vec<&Settlement> = settlements.iter().collect();
        settlements.sort_by_key(|one| one.id);
        settlements.dedup_by_key(|one| one.id);
        let mut charges: Vec<(&Arc<str>, &Settlement, i64)> = settlements
            .iter()
            .flat_map(|one| one.charges.iter().map(|(key, charge)| (key, *one, *charge)))
            .collect();
        charges.sort_by_key(|(key, ..)| *key);
        let mut transaction = Transaction::begin(&self.database).await?;
        // A holder's reservation goes, and with it the charge that could be counted again. Of the others a mark stays.
        let mut marked = HashMap::new();
        for one in &settlements {
            if one.source != Source::Holder {
                marked.insert(one.id, transaction.enter(&one.id, MARK, 0).await?);
            }
        }
        let mut moves: Vec<(&Arc<str>, i64, i64)> = Vec::new();
        for (key, one, charge) in charges {
            let held = transaction.leave(&one.id, key).await?;
            let amount = match one.source {
                Source::Holder | Source::Log if held.is_none() => continue,
                _ => held.unwrap_or(0),
            };
            let counted = marked.get(&one.id).is_some_and(|new| !new);
            let charge = if counted { 0 } else { charge };
            match moves.last_mut() {
                Some((last, reserved, spent)) if *last == key => {
                    *reserved += amount;
                    *spent += charge;
                }
                _ => moves.push((key, amount, charge)),
            }
        }
        for (key, reserved, spent) in moves {
            on!(Transaction, &mut transaction, |transaction| sqlx::query(
                MOVE
            )
            .bind(&**key)
            .bind(reserved)
            .bind(spent)
            .execute(&mut **transaction)
            .await
            .map(drop))?;
        }
        transaction.commit().await
    }
}

/// What came of a try.
enum Tried {
    Done(Outcome),
    /// The counter of this claim has no row.
    Unknown(usize),
}

impl Transaction {
    async fn take(&mut self, claim: &Claim) -> QueryResult<Option<(i64, i64)>> {
        on!(Transaction, self, |transaction| sqlx::query_as(TAKE)
            .bind(&*claim.key)
            .bind(claim.amount)
            .fetch_optional(&mut **transaction)
            .await)
    }

    /// Notes a reservation; says whether it was not there.
    async fn enter(&mut self, id: &RequestId, key: &str, amount: i64) -> QueryResult<bool> {
        macro_rules! enter {
            ($id:literal) => {
                concat!(
                    "INSERT INTO budget_reservations (request_id, counter, amount_nano) VALUES (",
                    $id,
                    ", $2, $3) ON CONFLICT (request_id, counter) DO NOTHING"
                )
            };
        }
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(transaction) => sqlx::query(enter!("$1::text::uuid"))
                .bind(id.to_string())
                .bind(key)
                .bind(amount)
                .execute(&mut **transaction)
                .await
                .map(|done| done.rows_affected() > 0),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(transaction) => sqlx::query(enter!("$1"))
                .bind(id.to_string())
                .bind(key)
                .bind(amount)
                .execute(&mut **transaction)
                .await
                .map(|done| done.rows_affected() > 0),
        }
    }

    /// Removes a reservation; the amount if it was there.
    async fn leave(&mut self, id: &RequestId, key: &str) -> QueryResult<Option<i64>> {
        macro_rules! leave {
            ($id:literal) => {
                concat!(
                    "DELETE FROM budget_reservations WHERE request_id = ",
                    $id,
                    " AND counter = $2 RETURNING amount_nano"
                )
            };
        }
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(transaction) => {
                sqlx::query_scalar(leave!("$1::text::uuid"))
                    .bind(id.to_string())
                    .bind(key)
                    .fetch_optional(&mut **transaction)
                    .await
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(transaction) => {
                sqlx::query_scalar(leave!("$1"))
                    .bind(id.to_string())
                    .bind(key)
                    .fetch_optional(&mut **transaction)
                    .await
            }
        }
    }
}

#[async_trait]
impl BudgetStore for DatabaseBudgetStore {
    async fn reserve(&self, asked: Asked<'_>) -> Result<Outcome> {
        let mut order: Vec<usize> = (0..asked.claims.len()).collect();
        order.sort_unstable_by_key(|at| asked.claims.get(*at).map(|claim| &claim.key));
        // Each counter may have to be begun.
        for _ in 0..=asked.claims.len() {
            let unknown = match self.in_turn(self.try_reserve(&asked, &order)).await? {
                Tried::Done(outcome) => return Ok(outcome),
                Tried::Unknown(at) => at,
            };
            let Some(claim) = asked.claims.get(unknown) else {
                continue;
            };
            let spent = self.spent(claim, asked.exchange).await?;
            self.in_turn(async {
                on!(Pool, &self.database.pool, |pool| sqlx::query(BEGIN)
                    .bind(&*claim.key)
                    .bind(spent)
                    .bind(claim.counter.span.end_ms)
                    .execute(pool)
                    .await
                    .map(drop))
            })
            .await?;
        }
        Err(crate::database::unavailable(
            "counters of budgets are removed as they are made",
        ))
    }

    async fn settle(&self, settlements: &[Settlement], _exchange: &Arc<Exchange>) -> Result<()> {
        self.in_turn(self.try_settle(settlements)).await
    }

    fn answered_since(&self, time: Instant) -> bool {
        self.answer.is_since(time)
    }

    async fn open_before(&self, unix_ms: i64, from: Option<&str>) -> Result<Page> {
        let before = first_id(unix_ms);
        let after = from.unwrap_or(NO_ID);
        macro_rules! page {
            ($id:literal, $after:literal, $before:literal) => {
                concat!(
                    "SELECT ",
                    $id,
                    ", counter, amount_nano FROM budget_reservations
                     WHERE counter <> '' AND request_id IN (
                         SELECT DISTINCT request_id FROM budget_reservations
                         WHERE request_id > ",
                    $after,
                    " AND request_id < ",
                    $before,
                    " AND counter <> '' ORDER BY request_id LIMIT $3)
                     ORDER BY request_id, counter"
                )
            };
        }
        let rows: Vec<(String, String, i64)> = within(PATIENCE, async {
            match &self.database.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => {
                    sqlx::query_as(page!(
                        "request_id::text",
                        "$1::text::uuid",
                        "$2::text::uuid"
                    ))
                    .bind(after)
                    .bind(before)
                    .bind(OPEN_AT_ONCE as i64)
                    .fetch_all(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool) => {
                    sqlx::query_as(page!("request_id", "$1", "$2"))
                        .bind(after)
                        .bind(before)
                        .bind(OPEN_AT_ONCE as i64)
                        .fetch_all(pool)
                        .await
                }
            }
        })
        .await?;
        let mut open: Vec<Open> = Vec::new();
        for (id, key, amount) in rows {
            let Some(id) = RequestId::parse(&id) else {
                continue;
            };
            let amount = (key.into(), amount);
            match open.last_mut() {
                Some(last) if last.id == id => last.amounts.push(amount),
                _ => open.push(Open {
                    id,
                    amounts: vec![amount],
                }),
            }
        }
        let last = open.last().map(|open| open.id.to_string());
        let next = last.filter(|_| open.len() >= OPEN_AT_ONCE);
        Ok(Page { open, next })
    }

    async fn balances(&self, counters: &[Arc<str>]) -> Result<Vec<Option<Balance>>> {
        let mut balances = Vec::with_capacity(counters.len());
        for key in counters {
            let row: Option<(i64, i64)> = within(PATIENCE, async {
                on!(Pool, &self.database.pool, |pool| sqlx::query_as(BALANCE)
                    .bind(&**key)
                    .fetch_optional(pool)
                    .await)
            })
            .await?;
            balances.push(row.map(|(spent, reserved)| Balance { spent, reserved }));
        }
        Ok(balances)
    }

    async fn forget_before(&self, unix_ms: i64) -> Result<()> {
        let before = first_id(unix_ms);
        self.in_turn(async {
            on!(Pool, &self.database.pool, |pool| sqlx::query(FORGET)
                .bind(unix_ms)
                .execute(pool)
                .await
                .map(drop))?;
            match &self.database.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => sqlx::query(
                    "DELETE FROM budget_reservations WHERE counter = '' AND request_id < $1::text::uuid",
                )
                .bind(before)
                .execute(pool)
                .await
                .map(drop),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool) => sqlx::query(
                    "DELETE FROM budget_reservations WHERE counter = '' AND request_id < $1",
                )
                .bind(before)
                .execute(pool)
                .await
                .map(drop),
            }
        })
        .await
    }
}

/// The least id of a time: it is in the first 48 bits, so ids are in the order of their times.
fn first_id(unix_ms: i64) -> String {
    format!(
        "{:08x}-{:04x}-7000-8000-000000000000",
        unix_ms >> 16,
        unix_ms & 0xffff
    )
}
