//! Months of the request log: PostgreSQL keeps each in a partition of its own; SQLite just deletes old rows.

use std::time::Duration;

use super::Database;
use crate::Result;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::budget::rollup as budget;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::{Pool, unavailable};
#[cfg(feature = "postgres")]
use {
    super::within,
    jiff::{ToSpan, civil::Date, tz::TimeZone},
};

/// Partitions exist for the current month and so many after it.
#[cfg(feature = "postgres")]
const MONTHS_AHEAD: i32 = 2;

/// Above the server's `statement_timeout` for these statements.
#[cfg(feature = "postgres")]
const DDL_TIMEOUT: Duration = Duration::from_secs(330);

/// Key of the advisory lock under which partitions are made and dropped ("lysspart").
#[cfg(feature = "postgres")]
const LOCK: i64 = 0x6c79_7373_7061_7274;

impl Database {
    /// Makes the partitions of the current and the next two months where they are missing, and returns their names.
    /// Any number of instances may do so at once. Rows that already wait in the default partition move into the new
    /// one. `now_ms` is in milliseconds since the Unix epoch. Nothing to do on SQLite.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn ensure_partitions(&self, now_ms: i64) -> Result<Vec<String>> {
        match self.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(ref pool) => {
                let mut made = Vec::new();
                let first = month_of(now_ms)?;
                for ahead in 0..=MONTHS_AHEAD {
                    let month = first.checked_add(ahead.months()).map_err(unavailable)?;
                    if within(DDL_TIMEOUT, make_partition(pool, month)).await? {
                        made.push(partition_name(month));
                    }
                }
                Ok(made)
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => {
                let _ = now_ms;
                Ok(Vec::new())
            }
        }
    }

    /// Drops what is older than the retention, and returns how many partitions (PostgreSQL) or rows (SQLite) went. A
    /// PostgreSQL partition goes when its last row is too old, so a row may live up to a month longer.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn drop_expired_logs(&self, now_ms: i64, retention: Duration) -> Result<u64> {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let cutoff = now_ms.saturating_sub(retention).max(0);
        match self.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(ref pool) => {
                let cutoff_month = month_of(cutoff)?;
                within(DDL_TIMEOUT, drop_partitions(pool, cutoff, cutoff_month)).await
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(ref pool) => {
                let cutoff = crate::types::log::rfc3339(cutoff);
                let mut deleted = 0;
                loop {
                    // In portions, so that the write lock is never held for long.
                    let portion = delete_portion(pool, &cutoff).await.map_err(unavailable)?;
                    deleted += portion;
                    if portion == 0 {
                        break;
                    }
                }
                sqlx::query("DELETE FROM billing_adjustments WHERE created_at < ?1")
                    .bind(&cutoff)
                    .execute(pool)
                    .await
                    .map_err(unavailable)?;
                Ok(deleted)
            }
        }
    }
}

/// Deletes the oldest rows from before a time; how many.
#[cfg(feature = "sqlite")]
async fn delete_portion(pool: &sqlx::SqlitePool, cutoff: &str) -> sqlx::Result<u64> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(budget::ROLL_UP_PORTION)
        .bind(cutoff)
        .execute(&mut *transaction)
        .await?;
    let deleted = sqlx::query(budget::DELETE_PORTION)
        .bind(cutoff)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(deleted.rows_affected())
}

/// The first day of the month, in UTC.
#[cfg(feature = "postgres")]
fn month_of(unix_ms: i64) -> Result<Date> {
    let time = jiff::Timestamp::from_millisecond(unix_ms).map_err(unavailable)?;
    Ok(time.to_zoned(TimeZone::UTC).date().first_of_month())
}

#[cfg(feature = "postgres")]
fn partition_name(month: Date) -> String {
    format!("request_logs_{:04}_{:02}", month.year(), month.month())
}

/// The month that a partition is named after.
#[cfg(feature = "postgres")]
fn partition_month(name: &str) -> Option<Date> {
    let (year, month) = name.strip_prefix("request_logs_")?.split_once('_')?;
    let month = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
    (partition_name(month) == name).then_some(month)
}

/// Makes one month's partition; false if it is there already.
#[cfg(feature = "postgres")]
async fn make_partition(pool: &sqlx::PgPool, month: Date) -> sqlx::Result<bool> {
    let name = partition_name(month);
    if exists(pool, &name).await? {
        return Ok(false);
    }
    let mut transaction = super::transaction::begin_on_postgres(pool).await?;
    begin_ddl(&mut transaction).await?;
    if exists(&mut *transaction, &name).await? {
        return Ok(false);
    }
    let end = month
        .checked_add(1.month())
        .map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
    // Not `CREATE TABLE … PARTITION OF`: that fails for as long as the default partition holds a row of the month, and
    // it locks the whole table against writes, where ATTACH locks the default partition only.
    // A read that was planned before and runs after the commit does not know the new partition, and misses the rows
    // that moved, once. `migrate` makes the first months before there are rows, so only a long idle gap leads here.
    // The interpolated parts are a name and two dates computed above; DDL takes no parameters.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "LOCK TABLE request_logs_default IN ACCESS EXCLUSIVE MODE;
         CREATE TABLE {name} (LIKE request_logs INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
         WITH moved AS (
             DELETE FROM request_logs_default
             WHERE created_at >= '{month}T00:00:00Z' AND created_at < '{end}T00:00:00Z'
             RETURNING *
         ) INSERT INTO {name} SELECT * FROM moved;
         ALTER TABLE request_logs ATTACH PARTITION {name}
             FOR VALUES FROM ('{month}T00:00:00Z') TO ('{end}T00:00:00Z');"
    )))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(true)
}

#[cfg(feature = "postgres")]
async fn drop_partitions(
    pool: &sqlx::PgPool,
    cutoff_ms: i64,
    cutoff_month: Date,
) -> sqlx::Result<u64> {
    let mut transaction = super::transaction::begin_on_postgres(pool).await?;
    begin_ddl(&mut transaction).await?;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT child.relname::text FROM pg_inherits
         JOIN pg_class child ON child.oid = inhrelid
         WHERE inhparent = 'request_logs'::regclass",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let mut dropped = 0;
    for name in names {
        if partition_month(&name).is_some_and(|month| month < cutoff_month) {
            budget::roll_up_partition(&mut transaction, &name).await?;
            // The name has just been parsed: it is a prefix and two numbers.
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE {name}")))
                .execute(&mut *transaction)
                .await?;
            dropped += 1;
        }
    }
    sqlx::query(budget::ROLL_UP_DEFAULT)
        .bind(crate::types::log::rfc3339(cutoff_ms))
        .execute(&mut *transaction)
        .await?;
    // The corrections of the rows that went.
    sqlx::query("DELETE FROM billing_adjustments WHERE created_at < $1::text::timestamptz")
        .bind(format!("{cutoff_month}T00:00:00Z"))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(dropped)
}

/// One instance at a time; and rather later than in the way of requests: who waits for an exclusive lock makes all
/// that come after it wait as well.
#[cfg(feature = "postgres")]
async fn begin_ddl(transaction: &mut sqlx::PgTransaction<'_>) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut **transaction)
        .await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '5min'")
        .execute(&mut **transaction)
        .await
        .map(drop)
}

#[cfg(feature = "postgres")]
async fn exists<'c>(executor: impl sqlx::PgExecutor<'c>, name: &str) -> sqlx::Result<bool> {
    // Not `to_regclass`: under the advisory lock alone it answers from a cache that has not heard of what another
    // session has just committed. A scan of the catalogue has a snapshot of its own.
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND relnamespace =
         (SELECT relnamespace FROM pg_class WHERE oid = 'request_logs'::regclass))",
    )
    .bind(name)
    .fetch_one(executor)
    .await
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::database::testing;

    fn ms(time: &str) -> i64 {
        time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    async fn insert(database: &Database, time: &str) {
        let Pool::Postgres(ref pool) = database.pool else {
            panic!("PostgreSQL is meant")
        };
        sqlx::query(
            "INSERT INTO request_logs (request_id, created_at, user_id, model_name, provider_id, input_tokens,
             output_tokens, cached_tokens, reasoning_tokens, usage_source, latency_ms, status, attempts, purpose,
             stream, user_charge_pico, provider_cost_pico)
             VALUES (gen_random_uuid(), $1::text::timestamptz, '', 'm', 'p', 0, 0, 0, 0, 'counted', 0, 'success', 1,
             'chat', false, 0, 0)",
        )
        .bind(time)
        .execute(pool)
        .await
        .unwrap();
    }

    async fn places(database: &Database) -> Vec<(String, i64)> {
        let Pool::Postgres(ref pool) = database.pool else {
            panic!("PostgreSQL is meant")
        };
        sqlx::query_as(
            "SELECT tableoid::regclass::text, count(*) FROM request_logs GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(pool)
        .await
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn eight_instances_make_the_months_at_once_and_stray_rows_move_in() {
        let database = testing::postgres_without_months().await;
        insert(&database, "2026-12-31T23:59:59.999Z").await;
        insert(&database, "2027-01-01T00:00:00.000Z").await;
        insert(&database, "2031-05-05T00:00:00.000Z").await;
        let now = ms("2026-12-31T23:59:55Z");
        let runs = (0..8).map(|_| {
            let database = database.clone();
            tokio::spawn(async move { database.ensure_partitions(now).await })
        });
        let mut made = Vec::new();
        for run in futures::future::join_all(runs).await {
            made.extend(run.unwrap().unwrap());
        }
        made.sort();
        let months = [
            "request_logs_2026_12",
            "request_logs_2027_01",
            "request_logs_2027_02",
        ];
        assert_eq!(made, months);
        insert(&database, "2027-02-28T23:59:59.999Z").await;
        let one = |name: &str| (name.to_owned(), 1);
        let default = one("request_logs_default");
        let mut expected = vec![default];
        expected.splice(0..0, months.map(one));
        assert_eq!(places(&database).await, expected);
        assert!(database.ensure_partitions(now).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_month_goes_when_its_last_row_is_too_old() {
        let database = testing::postgres_without_months().await;
        database
            .ensure_partitions(ms("2026-01-15T00:00:00Z"))
            .await
            .unwrap();
        for time in [
            "2025-01-01T00:00:00Z",
            "2026-01-31T23:00:00Z",
            "2026-02-01T00:00:00Z",
        ] {
            insert(&database, time).await;
        }
        let day = Duration::from_secs(86_400);
        let now = ms("2026-03-10T00:00:00Z");
        assert_eq!(database.drop_expired_logs(now, 40 * day).await.unwrap(), 0);
        assert_eq!(places(&database).await.len(), 2, "the default is cleared");
        assert_eq!(database.drop_expired_logs(now, 30 * day).await.unwrap(), 1);
        assert_eq!(
            places(&database).await,
            [("request_logs_2026_02".into(), 1)]
        );
        assert_eq!(
            database
                .drop_expired_logs(now, Duration::MAX)
                .await
                .unwrap(),
            0
        );
    }

    #[test]
    fn only_own_names_are_months() {
        let month = Date::new(2026, 2, 1).unwrap();
        assert_eq!(partition_month("request_logs_2026_02"), Some(month));
        for other in [
            "request_logs_default",
            "request_logs_2026_2",
            "request_logs_2026_13",
            "request_logs_2026_02_old",
            "x",
        ] {
            assert_eq!(partition_month(other), None, "{other}");
        }
    }
}
