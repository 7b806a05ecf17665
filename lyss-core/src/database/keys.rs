//! The table `api_keys`.
#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(
        unused_variables,
        reason = "without a driver no database can be opened"
    )
)]

use serde::Deserialize;

use super::{Database, QUERY_TIMEOUT, within};
use crate::{
    Error, ErrorKind, Result,
    admission::{KeyRecord, NewKey},
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A key as JSON, member for column, so that both dialects are read by the same `Deserialize`.
#[derive(Deserialize)]
struct Row {
    id: String,
    hash: String,
    user_id: Option<String>,
    name: String,
    admin: bool,
    models: Option<Vec<String>>,
    rpm: Option<u64>,
    tpm: Option<u64>,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
    created_ms: i64,
}

impl Database {
    pub(crate) async fn insert_key(&self, id: &str, hash: &[u8; 32], new: &NewKey) -> Result<()> {
        let models = new
            .models
            .as_ref()
            .map(serde_json::to_string)
            .transpose()
            .map_err(|error| {
                Error::invalid("models", "cannot be written as JSON").with_source(error)
            })?;
        let limit = |limit: Option<u64>| limit.and_then(|limit| i64::try_from(limit).ok());
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query(
                    "INSERT INTO api_keys (id, hash, user_id, name, is_admin, models, rpm, tpm, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8, to_timestamp($9::double precision / 1000))",
                )
                .bind(id)
                .bind(&hash[..])
                .bind(&new.user_id)
                .bind(&new.name)
                .bind(new.admin)
                .bind(models)
                .bind(limit(new.rpm))
                .bind(limit(new.tpm))
                .bind(new.expires_ms.map(|ms| ms as f64))
                .execute(pool)
                .await
                .map(drop),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query(
                    "INSERT INTO api_keys (id, hash, user_id, name, is_admin, models, rpm, tpm, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, strftime('%Y-%m-%dT%H:%M:%fZ', ?9 / 1000.0, 'unixepoch'))",
                )
                .bind(id)
                .bind(&hash[..])
                .bind(&new.user_id)
                .bind(&new.name)
                .bind(new.admin)
                .bind(models)
                .bind(limit(new.rpm))
                .bind(limit(new.tpm))
                .bind(new.expires_ms)
                .execute(pool)
                .await
                .map(drop),
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
                    sqlx::query_as(
                        "SELECT id, json_build_object('id', id, 'hash', encode(hash, 'hex'), 'user_id', user_id,
                         'name', name, 'admin', is_admin, 'models', models, 'rpm', rpm, 'tpm', tpm,
                         'expires_ms', CASE expires_at WHEN 'infinity' THEN NULL WHEN '-infinity' THEN 0
                           ELSE round(extract(epoch FROM expires_at) * 1000)::bigint END,
                         'revoked_ms', CASE WHEN revoked_at IS NULL THEN NULL WHEN isfinite(revoked_at)
                           THEN round(extract(epoch FROM revoked_at) * 1000)::bigint ELSE 0 END,
                         'created_ms', CASE WHEN isfinite(created_at)
                           THEN round(extract(epoch FROM created_at) * 1000)::bigint ELSE 0 END)::text
                         FROM api_keys ORDER BY created_at, id",
                    )
                    .fetch_all(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    // A time that cannot be read is an expiry long ago: when in doubt a key is refused.
                    sqlx::query_as(
                        "SELECT id, json_object('id', id, 'hash', lower(hex(hash)), 'user_id', user_id, 'name', name,
                         'admin', json(iif(is_admin, 'true', 'false')), 'models', json(models), 'rpm', rpm, 'tpm', tpm,
                         'expires_ms', iif(expires_at IS NULL, NULL,
                           CAST(round(coalesce(unixepoch(expires_at, 'subsec'), 0) * 1000) AS INTEGER)),
                         'revoked_ms', iif(revoked_at IS NULL, NULL,
                           CAST(round(coalesce(unixepoch(revoked_at, 'subsec'), 0) * 1000) AS INTEGER)),
                         'created_ms', CAST(round(coalesce(unixepoch(created_at, 'subsec'), 0) * 1000) AS INTEGER))
                         FROM api_keys ORDER BY created_at, id",
                    )
                    .fetch_all(pool)
                    .await
                }
            }
        })
        .await?;
        Ok(rows
            .iter()
            .filter_map(|(id, json)| {
                let record = decode(json);
                if record.is_none() {
                    tracing::error!(%id, "a row of `api_keys` cannot be read; its key is refused");
                }
                record
            })
            .collect())
    }

    pub(crate) async fn revoke_key(&self, id: &str) -> Result<()> {
        let found: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query(
                    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), updated_at = now() WHERE id = $1",
                )
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query(
                    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
                     updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?1",
                )
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()),
            }
        })
        .await?;
        if found == 0 {
            return Err(Error::new(ErrorKind::NotFound, "no API key has this id").with_param("id"));
        }
        Ok(())
    }
}

fn decode(json: &str) -> Option<KeyRecord> {
    let row: Row = serde_json::from_str(json).ok()?;
    let mut hash = [0; 32];
    if row.hash.len() != 64 {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(row.hash.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(KeyRecord {
        id: row.id,
        user_id: row.user_id.map(Into::into),
        name: row.name,
        admin: row.admin,
        models: row.models.map(Into::into),
        rpm: row.rpm,
        tpm: row.tpm,
        expires_ms: row.expires_ms,
        revoked_ms: row.revoked_ms,
        created_ms: row.created_ms,
        hash,
    })
}
