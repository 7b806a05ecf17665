//! The table `providers`: providers that were set up through the admin API.

use super::{Database, QUERY_TIMEOUT, within};
use crate::Result;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProviderRow {
    pub id: String,
    /// JSON: the members of a provider that are no secrets.
    pub settings: String,
    /// Its secrets, sealed.
    pub secrets: Option<String>,
    pub created_ms: i64,
    pub updated_ms: i64,
}

impl Database {
    /// All rows, by id.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn list_providers(&self) -> Result<Vec<ProviderRow>> {
        const SQL: &str =
            "SELECT id, settings, secrets, created_ms, updated_ms FROM providers ORDER BY id";
        let rows: Vec<(String, String, Option<String>, i64, i64)> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query_as(SQL).fetch_all(pool).await,
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query_as(SQL).fetch_all(pool).await,
            }
        })
        .await?;
        let row = |(id, settings, secrets, created_ms, updated_ms)| ProviderRow {
            id,
            settings,
            secrets,
            created_ms,
            updated_ms,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Writes a row. One that is there keeps the time of its creation; with `replaced` it is replaced only if it was
    /// last changed then. Says whether it was written.
    ///
    /// # Errors
    /// `store_unavailable`; `invalid_value` for what the database does not take.
    pub(crate) async fn write_provider(
        &self,
        row: &ProviderRow,
        replaced: Option<i64>,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO providers (id, settings, secrets, created_ms, updated_ms)
            VALUES ($1, $2, $3, $4, $4) ON CONFLICT (id) DO NOTHING";
        const UPDATE: &str = "UPDATE providers SET settings = $2, secrets = $3, updated_ms = $4
            WHERE id = $1 AND updated_ms = $5";
        within(QUERY_TIMEOUT, async {
            #[cfg(any(feature = "postgres", feature = "sqlite"))]
            macro_rules! write_to {
                ($pool:ident) => {{
                    let query = sqlx::query(if replaced.is_some() { UPDATE } else { INSERT })
                        .bind(&row.id)
                        .bind(&row.settings)
                        .bind(&row.secrets)
                        .bind(row.updated_ms);
                    let query = match replaced {
                        Some(at) => query.bind(at),
                        None => query,
                    };
                    let done = query.execute($pool).await?;
                    Ok(done.rows_affected() == 1)
                }};
            }
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => write_to!(pool),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => write_to!(pool),
            }
        })
        .await
    }

    /// Deletes a row; says whether there was one.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn delete_provider(&self, id: &str) -> Result<bool> {
        const SQL: &str = "DELETE FROM providers WHERE id = $1";
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let done = sqlx::query(SQL).bind(id).execute(pool).await?;
                    Ok(done.rows_affected() == 1)
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let done = sqlx::query(SQL).bind(id).execute(pool).await?;
                    Ok(done.rows_affected() == 1)
                }
            }
        })
        .await
    }
}
