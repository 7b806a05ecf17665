//! The tables, read with plain SQL: what an operator sees, not what the gateway says of itself.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use sqlx::{
    Connection,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

/// Which database.
#[derive(Clone, Debug)]
pub enum Store {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// The URL of a PostgreSQL database.
    Postgres(String),
}

impl Store {
    /// The rows of the request log in order of their ids, each a JSON object of its columns.
    pub async fn rows(&self) -> Vec<Value> {
        let rows = match self {
            Self::Postgres(_) => {
                self.texts("SELECT to_jsonb(log)::text FROM request_logs log ORDER BY request_id")
                    .await
            }
            Self::Sqlite(_) => {
                self.texts(
                    "SELECT json_object('request_id', request_id, 'created_at', created_at, 'user_id', user_id, \
                     'session_id', session_id, 'model_name', model_name, 'provider_id', provider_id, \
                     'input_tokens', input_tokens, 'output_tokens', output_tokens, 'usage_source', usage_source, \
                     'status', status, 'error_code', error_code, 'attempts', attempts) \
                     FROM request_logs ORDER BY request_id",
                )
                .await
            }
        };
        rows.unwrap_or_default()
            .iter()
            .map(|row| serde_json::from_str(row).expect("a row is JSON"))
            .collect()
    }

    /// The rows, once they are as wanted, or as they are after the time.
    pub async fn rows_when(
        &self,
        limit: Duration,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let rows = self.rows().await;
            if wanted(&rows) || tokio::time::Instant::now() >= end {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The first column of a query, as text.
    ///
    /// # Errors
    /// The database is away, or the table not made yet.
    pub async fn texts(&self, query: &'static str) -> Result<Vec<String>, sqlx::Error> {
        match self {
            Self::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let texts = sqlx::query_scalar(query).fetch_all(&mut connection).await;
                connection.close().await?;
                texts
            }
            Self::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .busy_timeout(Duration::from_secs(5));
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let texts = sqlx::query_scalar(query).fetch_all(&mut connection).await;
                connection.close().await?;
                texts
            }
        }
    }

    /// Runs statements, as an operator would with a database client.
    pub async fn execute(&self, statements: &str) {
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()));
        let done = match self {
            Self::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url)
                    .await
                    .expect("PostgreSQL answers");
                statements.execute(&mut connection).await.map(drop)
            }
            Self::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .busy_timeout(Duration::from_secs(5));
                let mut connection = SqliteConnection::connect_with(&options)
                    .await
                    .expect("the file can be read");
                statements.execute(&mut connection).await.map(drop)
            }
        };
        done.expect("the statements are good");
    }
}

/// The rows of a model.
pub fn of_model<'a>(rows: &'a [Value], model: &str) -> Vec<&'a Value> {
    rows.iter()
        .filter(|row| row["model_name"] == model)
        .collect()
}
