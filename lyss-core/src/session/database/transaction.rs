//! A transaction of whichever database it is.

use super::dialect::Dialect;
use crate::database::{Database, Pool, QueryResult};

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
pub(super) use on;

/// Rolled back when it is dropped.
pub(super) enum Transaction {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
}

impl Transaction {
    /// Begins one that will write.
    pub async fn begin(database: &Database) -> QueryResult<Self> {
        let begin = Dialect::of(database).begin;
        Ok(match &database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => Self::Postgres(pool.begin_with(begin).await?),
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => Self::Sqlite(pool.begin_with(begin).await?),
        })
    }

    pub async fn commit(self) -> QueryResult<()> {
        on!(Transaction, self, |transaction| transaction.commit().await)
    }
}
