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
            Pool::Postgres(pool) => Self::Postgres(pool.begin().await?),
            // The write lock is taken at once: one that is asked for later does not wait, but fails.
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => Self::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
        })
    }

    pub async fn commit(self) -> QueryResult<()> {
        on!(Transaction, self, |transaction| transaction.commit().await)
    }
}
