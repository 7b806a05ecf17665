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
    /// Begins one that will write. Who leaves meanwhile leaves nothing behind: the driver would give a connection back
    /// with its transaction open if it were dropped while the server answers `BEGIN`, and what others then do on that
    /// connection would never be committed. So a task of its own waits for the answer.
    pub async fn begin(database: &Database) -> QueryResult<Self> {
        let database = database.clone();
        let begun = tokio::spawn(async move {
            Ok(match &database.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => Self::Postgres(pool.begin().await?),
                // The write lock is taken at once: one that is asked for later does not wait, but fails.
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool) => Self::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            })
        });
        begun
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))
    }

    pub async fn commit(self) -> QueryResult<()> {
        on!(Transaction, self, |transaction| transaction.commit().await)
    }
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::time::Duration;

    use super::*;
    use crate::database::testing;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_leaves_while_it_begins_leaves_no_transaction_open() {
        let database = testing::postgres().await;
        for patience in 0..200_u64 {
            let patience = Duration::from_micros(patience % 40 * 25);
            let _ = tokio::time::timeout(patience, Transaction::begin(&database)).await;
        }
        let open = || async {
            let Pool::Postgres(pool) = &database.pool else {
                panic!("it is PostgreSQL");
            };
            sqlx::query_scalar::<_, i64>(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in%'",
            )
            .fetch_one(pool)
            .await
            .unwrap()
        };
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while open().await > 0 {
            assert!(std::time::Instant::now() < end, "transactions stay open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
