//! The table `api_keys`.
#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(
        unused_variables,
        reason = "without a driver no database can be opened"
    )
)]

use std::time::Duration;

use serde::Deserialize;

use super::{Database, QUERY_TIMEOUT, within};
use crate::{
    Error, Result,
    admission::{KeyBudget, KeyRecord, NewKey, PreviousSecret, Scope, Scopes},
    types::OnDisconnect,
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A key as JSON, member for column, so that both dialects are read by the same `Deserialize`. A time that cannot be
/// read is one long ago: when in doubt a key is refused.
#[cfg(feature = "postgres")]
macro_rules! postgres_key {
    () => {
        "SELECT id, json_build_object('id', id, 'hash', encode(hash, 'hex'), 'user_id', user_id, 'name', name,
         'admin', is_admin, 'scopes', scopes, 'models', models, 'rpm', rpm, 'tpm', tpm, 'concurrent', concurrent,
         'budget', CASE WHEN budget_amount IS NOT NULL THEN json_build_object('amount', budget_amount::text,
           'currency', budget_currency, 'period', budget_period) END,
         'on_disconnect', on_disconnect, 'previous_hash', encode(previous_hash, 'hex'),
         'previous_until_ms', CASE WHEN previous_until IS NULL THEN NULL WHEN isfinite(previous_until)
           THEN round(extract(epoch FROM previous_until) * 1000)::bigint ELSE 0 END,
         'expires_ms', CASE expires_at WHEN 'infinity' THEN NULL WHEN '-infinity' THEN 0
           ELSE round(extract(epoch FROM expires_at) * 1000)::bigint END,
         'revoked_ms', CASE WHEN revoked_at IS NULL THEN NULL WHEN isfinite(revoked_at)
           THEN round(extract(epoch FROM revoked_at) * 1000)::bigint ELSE 0 END,
         'created_ms', CASE WHEN isfinite(created_at)
           THEN round(extract(epoch FROM created_at) * 1000)::bigint ELSE 0 END,
         'revision', revision)::text FROM api_keys"
    };
}
#[cfg(feature = "sqlite")]
macro_rules! sqlite_key {
    () => {
        "SELECT id, json_object('id', id, 'hash', lower(hex(hash)), 'user_id', user_id, 'name', name,
         'admin', json(iif(is_admin, 'true', 'false')), 'scopes', json(scopes), 'models', json(models), 'rpm', rpm,
         'tpm', tpm, 'concurrent', concurrent,
         'budget', iif(budget_amount IS NULL, NULL, json_object('amount', budget_amount,
           'currency', budget_currency, 'period', budget_period)),
         'on_disconnect', json(on_disconnect),
         'previous_hash', iif(previous_hash IS NULL, NULL, lower(hex(previous_hash))),
         'previous_until_ms', iif(previous_until IS NULL, NULL,
           CAST(round(coalesce(unixepoch(previous_until, 'subsec'), 0) * 1000) AS INTEGER)),
         'expires_ms', iif(expires_at IS NULL, NULL,
           CAST(round(coalesce(unixepoch(expires_at, 'subsec'), 0) * 1000) AS INTEGER)),
         'revoked_ms', iif(revoked_at IS NULL, NULL,
           CAST(round(coalesce(unixepoch(revoked_at, 'subsec'), 0) * 1000) AS INTEGER)),
         'created_ms', CAST(round(coalesce(unixepoch(created_at, 'subsec'), 0) * 1000) AS INTEGER),
         'revision', revision) FROM api_keys"
    };
}

/// Binds what `Columns` holds, in the order of its members.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
macro_rules! bind_columns {
    ($query:expr, $columns:expr) => {{
        let columns = $columns;
        $query
            .bind(columns.name)
            .bind(columns.admin)
            .bind(columns.scopes)
            .bind(columns.models)
            .bind(columns.rpm)
            .bind(columns.tpm)
            .bind(columns.concurrent)
            .bind(columns.budget_amount)
            .bind(columns.budget_currency)
            .bind(columns.budget_period)
            .bind(columns.on_disconnect)
            .bind(columns.expires_ms)
    }};
}

#[derive(Deserialize)]
struct Row {
    id: String,
    hash: String,
    user_id: Option<String>,
    name: String,
    admin: bool,
    scopes: Option<Vec<String>>,
    models: Option<Vec<String>>,
    rpm: Option<u64>,
    tpm: Option<u64>,
    concurrent: Option<u64>,
    budget: Option<KeyBudget>,
    on_disconnect: Option<OnDisconnect>,
    previous_hash: Option<String>,
    previous_until_ms: Option<i64>,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
    created_ms: i64,
    revision: i64,
}

/// What can be changed of a key, as the columns hold it.
struct Columns {
    name: String,
    admin: bool,
    scopes: Option<String>,
    models: Option<String>,
    rpm: Option<i64>,
    tpm: Option<i64>,
    concurrent: Option<i64>,
    budget_amount: Option<String>,
    budget_currency: Option<String>,
    budget_period: Option<String>,
    on_disconnect: Option<String>,
    expires_ms: Option<i64>,
}

impl Columns {
    fn of(key: &NewKey) -> Result<Self> {
        let limit = |limit: Option<u64>| limit.and_then(|limit| i64::try_from(limit).ok());
        let budget = key.budget.as_ref();
        Ok(Self {
            name: key.name.clone(),
            admin: key.effective_scopes().has(Scope::Admin),
            // The column of its own says `admin`.
            scopes: json(key.scopes.map(|scopes| scopes.without(Scope::Admin)))?,
            models: json(key.models.as_ref())?,
            rpm: limit(key.rpm),
            tpm: limit(key.tpm),
            concurrent: limit(key.concurrent),
            budget_amount: budget.map(|budget| budget.amount.to_string()),
            budget_currency: budget.map(|budget| budget.currency.to_string()),
            budget_period: budget.map(|budget| budget.period.name().to_owned()),
            on_disconnect: json(key.on_disconnect)?,
            expires_ms: key.expires_ms,
        })
    }
}

fn json<T: serde::Serialize>(value: Option<T>) -> Result<Option<String>> {
    let text = value.map(|value| serde_json::to_string(&value)).transpose();
    text.map_err(|error| Error::invalid("key", "cannot be written as JSON").with_source(error))
}

impl Database {
    pub(crate) async fn insert_key(&self, id: &str, hash: &[u8; 32], new: &NewKey) -> Result<()> {
        let columns = Columns::of(new)?;
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = sqlx::query(
                        "INSERT INTO api_keys (id, hash, user_id, name, is_admin, scopes, models, rpm, tpm, concurrent,
                         budget_amount, budget_currency, budget_period, on_disconnect, expires_at)
                         VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10, $11::numeric, $12, $13,
                         $14::jsonb, to_timestamp($15::bigint / 1000.0))",
                    )
                    .bind(id)
                    .bind(&hash[..])
                    .bind(&new.user_id);
                    bind_columns!(query, columns)
                        .execute(pool)
                        .await
                        .map(drop)
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = sqlx::query(
                        "INSERT INTO api_keys (id, hash, user_id, name, is_admin, scopes, models, rpm, tpm, concurrent,
                         budget_amount, budget_currency, budget_period, on_disconnect, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
                         strftime('%Y-%m-%dT%H:%M:%fZ', ?15 / 1000.0, 'unixepoch'))",
                    )
                    .bind(id)
                    .bind(&hash[..])
                    .bind(&new.user_id);
                    bind_columns!(query, columns)
                        .execute(pool)
                        .await
                        .map(drop)
                }
            }
        })
        .await
    }

    /// All keys, oldest first. A row that cannot be read is left out and logged: its key is refused, the others work.
    pub(crate) async fn list_keys(&self) -> Result<Vec<KeyRecord>> {
        let rows: Vec<(String, String)> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_as(concat!(postgres_key!(), " ORDER BY created_at, id"))
                        .fetch_all(pool)
                        .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_as(concat!(sqlite_key!(), " ORDER BY created_at, id"))
                        .fetch_all(pool)
                        .await
                }
            }
        })
        .await?;
        Ok(rows.iter().filter_map(read).collect())
    }

    /// One key; `None` also if its row cannot be read.
    pub(crate) async fn key(&self, id: &str) -> Result<Option<KeyRecord>> {
        let row: Option<(String, String)> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_as(concat!(postgres_key!(), " WHERE id = $1"))
                        .bind(id)
                        .fetch_optional(pool)
                        .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_as(concat!(sqlite_key!(), " WHERE id = ?1"))
                        .bind(id)
                        .fetch_optional(pool)
                        .await
                }
            }
        })
        .await?;
        Ok(row.as_ref().and_then(read))
    }

    /// Changes a key that is still what it was at this revision; whether it was, and is not revoked.
    pub(crate) async fn update_key(&self, id: &str, revision: i64, to: &NewKey) -> Result<bool> {
        let columns = Columns::of(to)?;
        let changed: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = sqlx::query(
                        "UPDATE api_keys SET name = $3, is_admin = $4, scopes = $5::jsonb, models = $6::jsonb, rpm = $7,
                         tpm = $8, concurrent = $9, budget_amount = $10::numeric, budget_currency = $11,
                         budget_period = $12, on_disconnect = $13::jsonb, expires_at = to_timestamp($14::bigint / 1000.0),
                         revision = revision + 1, updated_at = now()
                         WHERE id = $1 AND revision = $2 AND revoked_at IS NULL",
                    )
                    .bind(id)
                    .bind(revision);
                    bind_columns!(query, columns)
                        .execute(pool)
                        .await
                        .map(|done| done.rows_affected())
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = sqlx::query(
                        "UPDATE api_keys SET name = ?3, is_admin = ?4, scopes = ?5, models = ?6, rpm = ?7, tpm = ?8,
                         concurrent = ?9, budget_amount = ?10, budget_currency = ?11, budget_period = ?12,
                         on_disconnect = ?13,
                         expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', ?14 / 1000.0, 'unixepoch'),
                         revision = revision + 1, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                         WHERE id = ?1 AND revision = ?2 AND revoked_at IS NULL",
                    )
                    .bind(id)
                    .bind(revision);
                    bind_columns!(query, columns)
                        .execute(pool)
                        .await
                        .map(|done| done.rows_affected())
                }
            }
        })
        .await?;
        Ok(changed > 0)
    }

    /// Puts a new secret in place of a key's, which stays good for `grace`; whether there is such a key, not revoked.
    pub(crate) async fn rotate_key(
        &self,
        id: &str,
        hash: &[u8; 32],
        grace: Duration,
    ) -> Result<bool> {
        let grace = grace.as_secs_f64();
        let changed: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query(
                    "UPDATE api_keys SET hash = $2, previous_hash = CASE WHEN $3::double precision > 0 THEN hash END,
                     previous_until = CASE WHEN $3::double precision > 0
                       THEN now() + make_interval(secs => $3::double precision) END,
                     revision = revision + 1, updated_at = now() WHERE id = $1 AND revoked_at IS NULL",
                )
                .bind(id)
                .bind(&hash[..])
                .bind(grace)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query(
                    "UPDATE api_keys SET hash = ?2, previous_hash = iif(?3 > 0, hash, NULL),
                     previous_until = iif(?3 > 0, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3 || ' seconds'), NULL),
                     revision = revision + 1, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                     WHERE id = ?1 AND revoked_at IS NULL",
                )
                .bind(id)
                .bind(&hash[..])
                .bind(grace)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
            }
        })
        .await?;
        Ok(changed > 0)
    }

    /// Revokes a key; whether there is one.
    pub(crate) async fn revoke_key(&self, id: &str) -> Result<bool> {
        let found: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query(
                    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), revision = revision + 1,
                     updated_at = now() WHERE id = $1",
                )
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query(
                    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
                     revision = revision + 1, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?1",
                )
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
            }
        })
        .await?;
        Ok(found > 0)
    }
}

fn read((id, json): &(String, String)) -> Option<KeyRecord> {
    let record = decode(json);
    if record.is_none() {
        tracing::error!(%id, "a row of `api_keys` cannot be read; its key is refused");
    }
    record
}

fn decode(json: &str) -> Option<KeyRecord> {
    let row: Row = serde_json::from_str(json).ok()?;
    let previous = match (&row.previous_hash, row.previous_until_ms) {
        (Some(hash), Some(until_ms)) => Some(PreviousSecret {
            until_ms,
            hash: decode_hash(hash)?,
        }),
        _ => None,
    };
    let scopes = match row.scopes {
        Some(names) => Scopes::of_names(names.iter().map(String::as_str)),
        None => Scopes::CALLER,
    };
    Some(KeyRecord {
        id: row.id.into(),
        user_id: row.user_id.map(Into::into),
        name: row.name,
        admin: row.admin,
        scopes: match row.admin {
            true => scopes.with(Scope::Admin),
            false => scopes.without(Scope::Admin),
        },
        models: row.models.map(Into::into),
        rpm: row.rpm,
        tpm: row.tpm,
        concurrent: row.concurrent,
        budget: row.budget,
        on_disconnect: row.on_disconnect,
        expires_ms: row.expires_ms,
        revoked_ms: row.revoked_ms,
        created_ms: row.created_ms,
        previous,
        revision: row.revision,
        hash: decode_hash(&row.hash)?,
    })
}

fn decode_hash(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}
