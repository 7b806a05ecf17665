//! Writes rows into `request_logs`: many with one statement, each at most once.
//!
//! Writing a row twice is no error and changes nothing, so whatever is in doubt is written again.

use std::{io::Write, path::Path, time::Duration};

use super::{columns::Columns, reader::Row};
use crate::{Error, ErrorKind, Result, database::Database, spool::open_private, types::RequestId};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::database::{Pool, QUERY_TIMEOUT, within};

/// First pause after a failure of the database; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An aborted row that is there already is left alone when a settle comes. It cannot come: only who holds the lock of
/// a directory writes the aborted rows of it, which means that its process is dead and its records are complete; and
/// those rows are written last, after every settle of the directory.
#[cfg(feature = "postgres")]
const POSTGRES: &str = "
INSERT INTO request_logs (request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
    input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status, error_code,
    error_message, attempts, purpose, stream, client_request_id, user_charge_pico, provider_cost_pico, currency,
    price_id, decision)
SELECT request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
    input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status, error_code,
    error_message, attempts, purpose, stream, client_request_id, user_charge_pico, provider_cost_pico, currency,
    price_id, decision
FROM jsonb_to_recordset($1::text::jsonb) AS r(request_id uuid, created_at timestamptz, user_id text, session_id text,
    api_key_id text, model_name text, provider_id text, input_tokens bigint, output_tokens bigint,
    cached_tokens bigint, cache_write_tokens bigint, reasoning_tokens bigint, usage_source text, latency_ms bigint, ttft_ms bigint, status text,
    error_code text, error_message text, attempts bigint, purpose text, stream boolean, client_request_id text,
    user_charge_pico bigint, provider_cost_pico bigint, currency text, price_id text, decision jsonb)
ON CONFLICT (request_id, created_at) DO NOTHING";

/// Rows of one statement on SQLite. Each row has its own parameters: what the statement costs as a whole, and to hand
/// it to the connection's thread, is then nothing, and it needs some 150 KB of memory.
#[cfg(feature = "sqlite")]
const SQLITE_ROWS: usize = 64;

/// Bound values, because to take them out of JSON costs three times as much as to store them (11 µs against 4 a row);
/// and many rows a statement, because a statement a row costs as much again. The places that a short batch leaves
/// free are NULL.
///
/// Not `INSERT OR IGNORE`: that would also ignore rows that break a constraint, which are for the dead letters.
#[cfg(feature = "sqlite")]
static SQLITE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    let places = vec!["?"; 27].join(",");
    let rows = vec![format!("({places})"); SQLITE_ROWS].join(",");
    format!(
        "INSERT INTO request_logs (request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
            input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status,
            error_code, error_message, attempts, purpose, stream, client_request_id, user_charge_pico,
            provider_cost_pico, currency, price_id, decision)
        SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
        ON CONFLICT (request_id) DO NOTHING"
    )
});

/// Writes the rows, however long it takes: while the database is away it tries again, with growing pauses. Rows that
/// the database will never accept go to the dead letters with the reason; their number is returned.
pub(super) async fn write(database: &Database, dead_letters: &Path, rows: &[Row]) -> u64 {
    let mut dead = 0;
    let mut pause = FIRST_PAUSE;
    let mut failures = 0_u64;
    let mut waiting = vec![rows];
    while let Some(part) = waiting.pop() {
        let failure = match insert(database, part).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(failures, "request log: the database is back");
                }
                (pause, failures) = (FIRST_PAUSE, 0);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::InvalidValue => match part {
                [] => continue,
                [row] => match bury(dead_letters, row, &error) {
                    Ok(()) => {
                        dead += 1;
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                _ => {
                    let (left, right) = part.split_at(part.len() / 2);
                    waiting.extend([right, left]);
                    continue;
                }
            },
            Err(error) => format!("{error:?}"),
        };
        failures += 1;
        // The first, then about once a minute.
        if failures % 12 == 1 {
            tracing::warn!(
                error = failure,
                "request log: not written, rows stay in the spool"
            );
        }
        waiting.push(part);
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    dead
}

/// Writes the rows with as few statements as their number allows.
async fn insert(database: &Database, rows: &[Row]) -> Result<()> {
    let columns: Vec<Columns<'_>> = rows.iter().map(columns).collect::<Result<_>>()?;
    match database.pool {
        #[cfg(feature = "postgres")]
        Pool::Postgres(ref pool) => {
            let json = serde_json::to_string(&columns).map_err(unreadable)?;
            let query = sqlx::query(POSTGRES).bind(json).execute(pool);
            within(QUERY_TIMEOUT, async { query.await.map(drop) }).await
        }
        #[cfg(feature = "sqlite")]
        Pool::Sqlite(ref pool) => insert_sqlite(pool, columns).await,
    }
}

#[cfg(feature = "sqlite")]
async fn insert_sqlite(pool: &sqlx::SqlitePool, rows: Vec<Columns<'_>>) -> Result<()> {
    let number = |number: u64| i64::try_from(number).map_err(unreadable);
    let mut connection = within(QUERY_TIMEOUT, pool.acquire()).await?;
    for rows in rows.chunks(SQLITE_ROWS) {
        let mut query = sqlx::query(SQLITE.as_str());
        for row in rows {
            query = query
                .bind(row.request_id.as_str())
                .bind(row.created_at.as_str())
                .bind(row.user_id)
                .bind(row.session_id)
                .bind(row.api_key_id)
                .bind(row.model_name)
                .bind(row.provider_id)
                .bind(number(row.input_tokens)?)
                .bind(number(row.output_tokens)?)
                .bind(number(row.cached_tokens)?)
                .bind(number(row.cache_write_tokens)?)
                .bind(number(row.reasoning_tokens)?)
                .bind(row.usage_source)
                .bind(number(row.latency_ms)?)
                .bind(row.ttft_ms.map(number).transpose()?)
                .bind(row.status)
                .bind(row.error_code)
                .bind(row.error_message)
                .bind(number(row.attempts)?)
                .bind(row.purpose)
                .bind(row.stream)
                .bind(row.client_request_id)
                .bind(row.user_charge_pico)
                .bind(row.provider_cost_pico)
                .bind(row.currency)
                .bind(row.price_id)
                .bind(row.decision.map(serde_json::value::RawValue::get));
        }
        let done = query.execute(&mut *connection);
        within(QUERY_TIMEOUT, async { done.await.map(drop) }).await?;
    }
    Ok(())
}

fn columns(row: &Row) -> Result<Columns<'_>> {
    Columns::read(&row.id, &row.payload)
        .ok_or_else(|| Error::invalid("row", "the record cannot be read"))
}

/// A row that no repetition makes right.
fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::invalid("row", "a value does not fit").with_source(error)
}

/// Puts a row aside that no database will take.
fn bury(path: &Path, row: &Row, reason: &Error) -> std::io::Result<()> {
    #[derive(serde::Serialize)]
    struct Letter<'a> {
        reason: String,
        request_id: String,
        row: std::borrow::Cow<'a, str>,
    }
    let json = Columns::read(&row.id, &row.payload)
        .and_then(|columns| serde_json::to_string(&columns).ok());
    let letter = Letter {
        reason: format!("{reason:?}"),
        request_id: RequestId::from_bytes(row.id).to_string(),
        row: match json {
            Some(json) => json.into(),
            None => String::from_utf8_lossy(&row.payload),
        },
    };
    let mut line = serde_json::to_vec(&letter)?;
    line.push(b'\n');
    open_private(path)?.write_all(&line)?;
    tracing::error!(
        reason = letter.reason,
        path = %path.display(),
        "request log: a row was refused and put aside"
    );
    Ok(())
}
