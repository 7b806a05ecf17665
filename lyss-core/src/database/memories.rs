//! The table `memories`: what the built-in memory remembers of users.

use super::{Database, QUERY_TIMEOUT, within};
use crate::{Result, types::RequestId};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A memory that is to be stored.
pub(crate) struct NewMemory {
    pub text: String,
    /// Little-endian float32.
    pub embedding: Vec<u8>,
}

impl Database {
    /// Whether there is any memory of a user with embeddings of a model.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn has_memories(&self, user_id: &str, model: &str) -> Result<bool> {
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM memories WHERE user_id = $1 AND model = $2)",
                    )
                    .bind(user_id)
                    .bind(model)
                    .fetch_one(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM memories WHERE user_id = ?1 AND model = ?2)",
                    )
                    .bind(user_id)
                    .bind(model)
                    .fetch_one(pool)
                    .await
                }
            }
        })
        .await
    }

    /// The newest memories of a user: the requests they are of, texts, and embeddings of a model.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn memories(
        &self,
        user_id: &str,
        model: &str,
        most: u32,
    ) -> Result<Vec<(String, String, Vec<u8>)>> {
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_as(
                        "SELECT request_id, text, embedding FROM memories WHERE user_id = $1 AND model = $2
                         ORDER BY request_id DESC, ordinal DESC LIMIT $3",
                    )
                    .bind(user_id)
                    .bind(model)
                    .bind(i64::from(most))
                    .fetch_all(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_as(
                        "SELECT request_id, text, embedding FROM memories WHERE user_id = ?1 AND model = ?2
                         ORDER BY request_id DESC, ordinal DESC LIMIT ?3",
                    )
                    .bind(user_id)
                    .bind(model)
                    .bind(i64::from(most))
                    .fetch_all(pool)
                    .await
                }
            }
        })
        .await
    }

    /// Stores the memories of a turn, and removes what is more than `most` of the user's. The same turn twice is once.
    ///
    /// # Errors
    /// `store_unavailable`; `invalid_value` for what the database does not take.
    pub(crate) async fn remember(
        &self,
        user_id: &str,
        session_id: Option<&str>,
        request_id: RequestId,
        model: &str,
        memories: &[NewMemory],
        most: u32,
    ) -> Result<()> {
        let id = request_id.to_string();
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let mut transaction = super::transaction::begin_on_postgres(pool).await?;
                    for (ordinal, memory) in (0_i32..).zip(memories) {
                        sqlx::query(
                            "INSERT INTO memories (user_id, request_id, ordinal, session_id, model, text, embedding)
                             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
                        )
                        .bind(user_id)
                        .bind(&id)
                        .bind(ordinal)
                        .bind(session_id)
                        .bind(model)
                        .bind(&memory.text)
                        .bind(&memory.embedding)
                        .execute(&mut *transaction)
                        .await?;
                    }
                    sqlx::query(
                        "DELETE FROM memories WHERE user_id = $1 AND (request_id, ordinal) IN (
                             SELECT request_id, ordinal FROM memories WHERE user_id = $1
                             ORDER BY request_id DESC, ordinal DESC OFFSET $2)",
                    )
                    .bind(user_id)
                    .bind(i64::from(most))
                    .execute(&mut *transaction)
                    .await?;
                    transaction.commit().await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let mut transaction = pool.begin().await?;
                    for (ordinal, memory) in (0_i32..).zip(memories) {
                        sqlx::query(
                            "INSERT INTO memories (user_id, request_id, ordinal, session_id, model, text, embedding)
                             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                        )
                        .bind(user_id)
                        .bind(&id)
                        .bind(ordinal)
                        .bind(session_id)
                        .bind(model)
                        .bind(&memory.text)
                        .bind(&memory.embedding)
                        .execute(&mut *transaction)
                        .await?;
                    }
                    sqlx::query(
                        "DELETE FROM memories WHERE user_id = ?1 AND (request_id, ordinal) IN (
                             SELECT request_id, ordinal FROM memories WHERE user_id = ?1
                             ORDER BY request_id DESC, ordinal DESC LIMIT -1 OFFSET ?2)",
                    )
                    .bind(user_id)
                    .bind(i64::from(most))
                    .execute(&mut *transaction)
                    .await?;
                    transaction.commit().await
                }
            }
        })
        .await
    }

    /// Removes what came from a session of a user.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn forget_session(&self, user_id: &str, session_id: &str) -> Result<()> {
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query("DELETE FROM memories WHERE user_id = $1 AND session_id = $2")
                        .bind(user_id)
                        .bind(session_id)
                        .execute(pool)
                        .await
                        .map(drop)
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query("DELETE FROM memories WHERE user_id = ?1 AND session_id = ?2")
                        .bind(user_id)
                        .bind(session_id)
                        .execute(pool)
                        .await
                        .map(drop)
                }
            }
        })
        .await
    }
}
