//! The table `encryption_keys`: which keys data was sealed with, and which pepper API keys were hashed under.

use super::{Database, QUERY_TIMEOUT, within};
use crate::Result;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A key that data was sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub id: String,
    /// A text that the key has sealed.
    pub check_value: String,
    /// Whether nothing has been sealed with it since another key took its place.
    pub retired: bool,
}

impl Database {
    /// The keys that data was sealed with.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn known_keys(&self) -> Result<Vec<KnownKey>> {
        const SQL: &str = "SELECT id, check_value, CASE WHEN retired_ms IS NULL THEN 0 ELSE 1 END FROM encryption_keys
            WHERE id <> 'pepper' ORDER BY id";
        let rows: Vec<(String, String, i32)> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query_as(SQL).fetch_all(pool).await,
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query_as(SQL).fetch_all(pool).await,
            }
        })
        .await?;
        let known = |(id, check_value, retired)| KnownKey {
            id,
            check_value,
            retired: retired != 0,
        };
        Ok(rows.into_iter().map(known).collect())
    }

    /// Notes that a key seals data from now on.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn know_key(&self, id: &str, check_value: &str) -> Result<()> {
        const SQL: &str = "INSERT INTO encryption_keys (id, check_value) VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET retired_ms = NULL WHERE encryption_keys.retired_ms IS NOT NULL";
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = sqlx::query(SQL).bind(id).bind(check_value);
                    query.execute(pool).await.map(drop)
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = sqlx::query(SQL).bind(id).bind(check_value);
                    query.execute(pool).await.map(drop)
                }
            }
        })
        .await
    }

    /// Notes that a key only opens what it has sealed.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn retire_key(&self, id: &str, now_ms: i64) -> Result<()> {
        const SQL: &str =
            "UPDATE encryption_keys SET retired_ms = $2 WHERE id = $1 AND retired_ms IS NULL";
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = sqlx::query(SQL).bind(id).bind(now_ms);
                    query.execute(pool).await.map(drop)
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = sqlx::query(SQL).bind(id).bind(now_ms);
                    query.execute(pool).await.map(drop)
                }
            }
        })
        .await
    }

    /// The check value of the pepper that the API keys were hashed under. It becomes the one given while there is none,
    /// and while no key is in use.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn pepper_in_use(&self, check_value: &str) -> Result<String> {
        // One id for every pepper, and longer than that of a key that seals: there is one at a time.
        const NOTE: &str = "INSERT INTO encryption_keys (id, check_value) VALUES ('pepper', $1)
            ON CONFLICT (id) DO UPDATE SET check_value = excluded.check_value
            WHERE encryption_keys.check_value <> excluded.check_value
            AND NOT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at IS NULL)";
        const READ: &str = "SELECT check_value FROM encryption_keys WHERE id = 'pepper'";
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query(NOTE).bind(check_value).execute(pool).await?;
                    sqlx::query_scalar(READ).fetch_one(pool).await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query(NOTE).bind(check_value).execute(pool).await?;
                    sqlx::query_scalar(READ).fetch_one(pool).await
                }
            }
        })
        .await
    }
}
