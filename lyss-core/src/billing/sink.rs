//! Writes rows into `request_logs`: many with one statement, each at most once.
//!
//! The parameter of the statement is the spool's JSON as it is; no value is encoded again. Writing a row twice is no
//! error and changes nothing, so whatever is in doubt is written again.

use std::{io::Write, path::Path, time::Duration};

use super::reader::Row;
use crate::{
    Error, ErrorKind, Result,
    database::{Database, QUERY_TIMEOUT, within},
    spool::open_private,
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::database::Pool;

/// First pause after a failure of the database; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An aborted row that is there already is left alone when a settle comes. It cannot come: only who holds the lock of
/// a directory writes the aborted rows of it, which means that its process is dead and its records are complete; and
/// those rows are written last, after every settle of the directory.
#[cfg(feature = "postgres")]
const POSTGRES: &str = "
INSERT INTO request_logs (request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status, error_code,
    error_message, attempts, purpose, stream, client_request_id, user_charge_pico, provider_cost_pico, currency,
    price_id, decision)
SELECT request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status, error_code,
    error_message, attempts, purpose, stream, client_request_id, user_charge_pico, provider_cost_pico, currency,
    price_id, decision
FROM jsonb_to_recordset($1::text::jsonb) AS r(request_id uuid, created_at timestamptz, user_id text, session_id text,
    api_key_id text, model_name text, provider_id text, input_tokens bigint, output_tokens bigint,
    cached_tokens bigint, reasoning_tokens bigint, usage_source text, latency_ms bigint, ttft_ms bigint, status text,
    error_code text, error_message text, attempts bigint, purpose text, stream boolean, client_request_id text,
    user_charge_pico bigint, provider_cost_pico bigint, currency text, price_id text, decision jsonb)
ON CONFLICT (request_id, created_at) DO NOTHING";

/// Not `INSERT OR IGNORE`: that would also ignore rows that break a constraint, which are for the dead letters.
/// Materialised, because `json_each` renders `value` anew for each of the 26 columns: 60 µs a row, against 23 µs so,
/// and 20 µs for a statement a row with bound values.
#[cfg(feature = "sqlite")]
const SQLITE: &str = "
WITH rows(value) AS MATERIALIZED (SELECT value FROM json_each(?1))
INSERT INTO request_logs (request_id, created_at, user_id, session_id, api_key_id, model_name, provider_id,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, usage_source, latency_ms, ttft_ms, status, error_code,
    error_message, attempts, purpose, stream, client_request_id, user_charge_pico, provider_cost_pico, currency,
    price_id, decision)
SELECT value->>'request_id', value->>'created_at', value->>'user_id', value->>'session_id', value->>'api_key_id',
    value->>'model_name', value->>'provider_id', value->>'input_tokens', value->>'output_tokens',
    value->>'cached_tokens', value->>'reasoning_tokens', value->>'usage_source', value->>'latency_ms',
    value->>'ttft_ms', value->>'status', value->>'error_code', value->>'error_message', value->>'attempts',
    value->>'purpose', value->>'stream', value->>'client_request_id', value->>'user_charge_pico',
    value->>'provider_cost_pico', value->>'currency', value->>'price_id', value->>'decision'
FROM rows WHERE true
ON CONFLICT (request_id) DO NOTHING";

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

/// Writes the rows with one statement.
async fn insert(database: &Database, rows: &[Row]) -> Result<()> {
    let mut json = Vec::with_capacity(rows.iter().map(|row| row.len() + 1).sum::<usize>() + 2);
    for row in rows {
        json.push(if json.is_empty() { b'[' } else { b',' });
        json.extend_from_slice(row);
    }
    if json.is_empty() {
        return Ok(());
    }
    json.push(b']');
    let json = String::from_utf8(json)
        .map_err(|error| Error::invalid("row", "not UTF-8").with_source(error))?;
    within(QUERY_TIMEOUT, async {
        match database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(ref pool) => sqlx::query(POSTGRES)
                .bind(json)
                .execute(pool)
                .await
                .map(drop),
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(ref pool) => sqlx::query(SQLITE).bind(json).execute(pool).await.map(drop),
        }
    })
    .await
}

/// Puts a row aside that no database will take.
fn bury(path: &Path, row: &[u8], reason: &Error) -> std::io::Result<()> {
    #[derive(serde::Serialize)]
    struct Letter<'a> {
        reason: String,
        row: std::borrow::Cow<'a, str>,
    }
    let letter = Letter {
        reason: format!("{reason:?}"),
        row: String::from_utf8_lossy(row),
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
