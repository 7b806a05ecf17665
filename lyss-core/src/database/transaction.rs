//! A transaction of whichever database it is.

use super::{Database, Pool, QueryResult};

/// Runs the same statements on whichever database it is: `$kind` is [`Pool`] or [`Transaction`].
macro_rules! on {
    ($kind:ident, $it:expr, |$one:pat_param| $body:expr) => {
        match $it {
            #[cfg(feature = "postgres")]
            $kind::Postgres($one) => $body,
            #[cfg(feature = "sqlite")]
            $kind::Sqlite($one) => $body,
        }
    };
}
pub(crate) use on;

/// Rolled back when it is dropped.
pub(crate) enum Transaction {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
}

impl Transaction {
    /// Begins one that will write.
    pub async fn begin(database: &Database) -> QueryResult<Self> {
        Ok(match &database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => Self::Postgres(begin_on_postgres(pool).await?),
            // The write lock is taken at once: one that is asked for later does not wait, but fails.
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => Self::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
        })
    }

    pub async fn commit(self) -> QueryResult<()> {
        on!(Transaction, self, |transaction| transaction.commit().await)
    }
}

/// Begins a transaction. Who leaves meanwhile leaves nothing behind: sqlx 0.9 (`PgTransactionManager::begin`) would give
/// the connection back with its transaction open if it were dropped while the server answers `BEGIN`, and what others
/// then do on it would never be committed. So a task of its own waits for the answer. (SQLite's driver rolls back.)
#[cfg(feature = "postgres")]
pub(crate) async fn begin_on_postgres(
    pool: &sqlx::PgPool,
) -> QueryResult<sqlx::Transaction<'static, sqlx::Postgres>> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin().await });
    begun
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::time::{Duration, Instant};

    use super::*;
    use crate::database::{DatabaseSource, testing};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_beginning_that_is_given_up_leaves_no_transaction_open() {
        let url = testing::new_postgres_url().await;
        let connect = || Database::open(DatabaseSource::PostgresUrl(url.clone()), 1).unwrap();
        let (database, onlooker) = (connect(), connect());
        let Pool::Postgres(onlooker) = &onlooker.pool else {
            panic!("it is PostgreSQL");
        };
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        drop(Transaction::begin(&database).await.unwrap());
        for microseconds in (0..4_000).step_by(25) {
            // A timer knows milliseconds only.
            let end = Instant::now() + Duration::from_micros(microseconds);
            let patience = async {
                while Instant::now() < end {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                begun = Transaction::begin(&database) => drop(begun.unwrap()),
                () = patience => {}
            }
            let end = Instant::now() + Duration::from_secs(2);
            // What is open for a moment is being rolled back.
            while sqlx::query_scalar::<_, i64>(open)
                .fetch_one(onlooker)
                .await
                .unwrap()
                > 0
            {
                assert!(
                    Instant::now() < end,
                    "given up after {microseconds} us, it stays open"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
