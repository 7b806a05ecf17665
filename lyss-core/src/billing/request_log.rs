//! Reads of the request log: one row, a listing. Whose rows may be seen is part of each statement.

use serde::de::DeserializeOwned;

use crate::{
    Error, ErrorKind, Result,
    database::{Database, QUERY_TIMEOUT, within},
    gateway::{RequestPage, RequestQuery},
    types::{
        LogRow, RequestId,
        log::{rfc3339, unix_ms},
    },
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::database::{Pool, QueryResult};

/// Entries of a page, if none are asked for, and the most.
const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 1_000;

/// A row as JSON, member for column, so that both dialects are read by the `Deserialize` of [`LogRow`].
macro_rules! row_members {
    ($created_at:literal, $stream:literal, $decision:literal) => {
        concat!(
            "'request_id', request_id, 'created_at', ", $created_at, ", 'user_id', user_id, 'session_id', session_id,
             'api_key_id', api_key_id, 'model_name', model_name, 'provider_id', provider_id,
             'input_tokens', input_tokens, 'output_tokens', output_tokens, 'cached_tokens', cached_tokens,
             'cache_write_tokens', cache_write_tokens, 'reasoning_tokens', reasoning_tokens, 'usage_source', usage_source, 'latency_ms', latency_ms,
             'ttft_ms', ttft_ms, 'status', status, 'error_code', error_code, 'error_message', error_message,
             'attempts', attempts, 'purpose', purpose, 'stream', ", $stream, ",
             'client_request_id', client_request_id, 'user_charge_pico', user_charge_pico,
             'provider_cost_pico', provider_cost_pico, 'currency', currency, 'price_id', price_id,
             'decision', ", $decision
        )
    };
}

/// A part of a statement.
pub(super) enum Part {
    /// SQL text that both dialects understand.
    Sql(&'static str),
    /// SQL text that they do not share: PostgreSQL's, SQLite's.
    #[cfg_attr(not(all(feature = "postgres", feature = "sqlite")), allow(dead_code))]
    Either(&'static str, &'static str),
    /// A bound text.
    Text(String),
    /// A bound time, RFC 3339.
    Time(String),
    /// A bound request id.
    Id(RequestId),
}
use Part::{Either, Id, Sql, Text, Time};

const ROW: Part = Either(
    concat!(
        "SELECT json_build_object(",
        row_members!(
            "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
            "stream",
            "decision"
        ),
        ")::text FROM request_logs WHERE true"
    ),
    concat!(
        "SELECT json_object(",
        row_members!(
            "created_at",
            "json(iif(stream, 'true', 'false'))",
            "json(decision)"
        ),
        ") FROM request_logs WHERE true"
    ),
);

impl Database {
    /// One row of the log. `owner`: only if it belongs to this user; `None` for admins.
    ///
    /// # Errors
    /// `not_found` (also for another user's row, and for a request that still runs); `store_unavailable`.
    pub async fn request(&self, id: &str, owner: Option<&str>) -> Result<LogRow> {
        let absent = || Error::new(ErrorKind::NotFound, "no request has this id");
        let id = RequestId::parse(id).ok_or_else(absent)?;
        // The time is in the id: with it PostgreSQL looks into one partition only.
        let mut parts = vec![
            ROW,
            Sql(" AND request_id = "),
            Id(id),
            Sql(" AND created_at = "),
            Time(rfc3339(id.unix_ms())),
        ];
        owned_by(&mut parts, owner)?;
        self.select::<LogRow>(parts).await?.pop().ok_or_else(absent)
    }

    /// The log, newest first. `owner`: only this user's rows, whatever the query names; `None` for admins.
    ///
    /// # Errors
    /// `invalid_value` with the member's name; `store_unavailable`.
    pub async fn requests(&self, query: &RequestQuery, owner: Option<&str>) -> Result<RequestPage> {
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MOST).contains(&limit) {
            return Err(Error::invalid("limit", "`limit` must be from 1 to 1000"));
        }
        let mut parts = vec![ROW];
        owned_by(&mut parts, owner)?;
        equals(&mut parts, "user_id", " AND user_id = ", &query.user_id)?;
        equals(
            &mut parts,
            "session_id",
            " AND session_id = ",
            &query.session_id,
        )?;
        equals(&mut parts, "status", " AND status = ", &query.status)?;
        equals(&mut parts, "model", " AND model_name = ", &query.model)?;
        between(&mut parts, query.from.as_deref(), query.to.as_deref())?;
        if let Some(cursor) = &query.cursor {
            // The cursor is the last row's id: it holds the row's time, so it is the whole sort key.
            let id = RequestId::parse(cursor)
                .ok_or_else(|| Error::invalid("cursor", "not a cursor of an earlier page"))?;
            parts.extend([
                Sql(" AND (created_at, request_id) < ("),
                Time(rfc3339(id.unix_ms())),
                Sql(", "),
                Id(id),
                Sql(")"),
            ]);
        }
        parts.extend([
            Sql(" ORDER BY created_at DESC, request_id DESC LIMIT "),
            // One more than asked for tells whether there is a next page.
            Either("CAST(", "CAST("),
            Text((limit + 1).to_string()),
            Either(" AS bigint)", " AS INTEGER)"),
        ]);
        let mut data = self.select::<LogRow>(parts).await?;
        let more = data.len() > limit;
        data.truncate(limit);
        let last = data.last().filter(|_| more);
        Ok(RequestPage {
            next_cursor: last.map(|row| row.request_id.clone()),
            data,
        })
    }

    pub(super) async fn select<T: DeserializeOwned>(&self, parts: Vec<Part>) -> Result<Vec<T>> {
        let rows: Vec<String> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => select_postgres(pool, parts).await,
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => select_sqlite(pool, parts).await,
            }
        })
        .await?;
        rows.iter()
            .map(|row| {
                serde_json::from_str(row).map_err(|error| {
                    Error::new(
                        ErrorKind::StoreUnavailable,
                        "a row of the log cannot be read",
                    )
                    .with_source(error)
                })
            })
            .collect()
    }
}

#[cfg(feature = "postgres")]
async fn select_postgres(pool: &sqlx::PgPool, parts: Vec<Part>) -> QueryResult<Vec<String>> {
    let mut query = sqlx::QueryBuilder::<sqlx::Postgres>::new("");
    for part in parts {
        match part {
            Sql(sql) | Either(sql, _) => query.push(sql),
            Text(text) => query.push_bind(text),
            Time(time) => query.push_bind(time).push("::timestamptz"),
            Id(id) => query.push_bind(id.to_string()).push("::uuid"),
        };
    }
    query.build_query_scalar().fetch_all(pool).await
}

#[cfg(feature = "sqlite")]
async fn select_sqlite(pool: &sqlx::SqlitePool, parts: Vec<Part>) -> QueryResult<Vec<String>> {
    let mut query = sqlx::QueryBuilder::<sqlx::Sqlite>::new("");
    for part in parts {
        match part {
            Sql(sql) | Either(_, sql) => query.push(sql),
            Text(text) | Time(text) => query.push_bind(text),
            Id(id) => query.push_bind(id.to_string()),
        };
    }
    query.build_query_scalar().fetch_all(pool).await
}

pub(super) fn owned_by(parts: &mut Vec<Part>, owner: Option<&str>) -> Result<()> {
    equals(
        parts,
        "user_id",
        " AND user_id = ",
        &owner.map(str::to_owned),
    )
}

pub(super) fn equals(
    parts: &mut Vec<Part>,
    member: &'static str,
    clause: &'static str,
    value: &Option<String>,
) -> Result<()> {
    if let Some(value) = value {
        if value.contains('\0') {
            return Err(Error::invalid(member, format!("`{member}` contains NUL")));
        }
        parts.extend([Sql(clause), Text(value.clone())]);
    }
    Ok(())
}

pub(super) fn between(parts: &mut Vec<Part>, from: Option<&str>, to: Option<&str>) -> Result<()> {
    for (member, clause, time) in [
        ("from", " AND created_at >= ", from),
        ("to", " AND created_at < ", to),
    ] {
        if let Some(time) = time {
            parts.extend([Sql(clause), Time(parse_time(member, time)?)]);
        }
    }
    Ok(())
}

fn parse_time(member: &'static str, text: &str) -> Result<String> {
    unix_ms(text).map(rfc3339).ok_or_else(|| {
        Error::invalid(
            member,
            format!("`{member}` must be a time as 2026-11-22T10:00:00Z, or a date as 2026-11-22"),
        )
    })
}
