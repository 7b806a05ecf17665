//! Idempotency keys in the database, PostgreSQL or SQLite. The table is small and hot: every step is one statement by
//! primary key, which is atomic by itself. Leases are measured by the database's clock, not by that of an instance.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Claim, Claimed, IdempotencyStore, ms};
use crate::{
    database::{Database, Pool, QueryResult, within},
    error::{Error, ErrorKind, Result},
    types::RequestId,
};

/// How long one call may take: a request waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Entries that one statement of a sweep removes.
const SWEEP_AT_ONCE: u64 = 500;

/// An [`IdempotencyStore`] in the database. Expired entries are invisible at once; [`sweep`](Self::sweep) removes them.
#[derive(Debug)]
pub struct DatabaseIdempotencyStore {
    database: Database,
    ttl_ms: i64,
}

/// The statements of one dialect.
struct Statements {
    claim: &'static str,
    read: &'static str,
    renew: &'static str,
    dispatch: &'static str,
    complete: &'static str,
    release: &'static str,
    sweep: &'static str,
}

// States: 0 claimed, 1 dispatched, 2 done. `$now`: milliseconds since the Unix epoch.
macro_rules! statements {
    ($now:literal) => {
        Statements {
            claim: concat!(
                "INSERT INTO idempotency_keys AS k (id, fingerprint, owner, state, lease_ms, expires_ms)
                 VALUES ($1, $2, $3, 0, ", $now, " + $4, ", $now, " + $5)
                 ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, owner = excluded.owner,
                 state = 0, lease_ms = excluded.lease_ms, expires_ms = excluded.expires_ms, reply = NULL
                 WHERE k.expires_ms <= ", $now, "
                 OR (k.state = 0 AND (k.lease_ms <= ", $now, " OR k.owner = excluded.owner))"
            ),
            read: concat!(
                "SELECT fingerprint, owner, state, CASE WHEN lease_ms > ", $now, " THEN 1 ELSE 0 END, reply
                 FROM idempotency_keys WHERE id = $1 AND expires_ms > ", $now
            ),
            renew: concat!(
                "UPDATE idempotency_keys SET lease_ms = ", $now, " + $3
                 WHERE id = $1 AND owner = $2 AND state < 2"
            ),
            dispatch: concat!(
                "UPDATE idempotency_keys SET state = 1, lease_ms = ", $now, " + $3
                 WHERE id = $1 AND owner = $2 AND state < 2"
            ),
            complete: concat!(
                "INSERT INTO idempotency_keys AS k (id, fingerprint, owner, state, lease_ms, expires_ms, reply)
                 VALUES ($1, $2, $3, 2, ", $now, ", ", $now, " + $4, $5)
                 ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, owner = excluded.owner,
                 state = 2, expires_ms = excluded.expires_ms, reply = excluded.reply
                 WHERE k.owner = excluded.owner OR k.expires_ms <= ", $now
            ),
            release: "DELETE FROM idempotency_keys WHERE id = $1 AND owner = $2 AND state < 2",
            sweep: concat!(
                "DELETE FROM idempotency_keys WHERE id IN (SELECT id FROM idempotency_keys
                 WHERE expires_ms <= ", $now, " ORDER BY expires_ms LIMIT 500)"
            ),
        }
    };
}

#[cfg(feature = "postgres")]
const POSTGRES: Statements =
    statements!("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)");
#[cfg(feature = "sqlite")]
const SQLITE: Statements = statements!("CAST(unixepoch('subsec') * 1000 AS INTEGER)");

/// Runs a statement of whichever database it is.
macro_rules! on {
    ($self:expr, |$pool:ident, $sql:ident| $body:expr) => {
        guarded(async {
            match &$self.database.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres($pool) => {
                    let $sql = &POSTGRES;
                    $body
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite($pool) => {
                    let $sql = &SQLITE;
                    $body
                }
            }
        })
        .await
    };
}

/// fingerprint, owner, state, whether the lease holds, reply.
type Row = (Vec<u8>, Vec<u8>, i32, i32, Option<Vec<u8>>);

impl DatabaseIdempotencyStore {
    /// A store in a migrated database that forgets a key `ttl` after its use.
    pub fn new(database: Database, ttl: Duration) -> Self {
        Self {
            database,
            ttl_ms: ms(ttl),
        }
    }

    /// What a claim that was not granted met; `None` if the entry is gone by now.
    async fn met(&self, claim: &Claim) -> Result<Option<Claimed>> {
        let id = &claim.id.0[..];
        let row: Option<Row> = on!(self, |pool, sql| sqlx::query_as(sql.read)
            .bind(id)
            .fetch_optional(pool)
            .await)?;
        Ok(row.map(|(fingerprint, owner, state, alive, reply)| {
            if fingerprint != claim.fingerprint.0 {
                return Claimed::Reused;
            }
            match (state, reply, <[u8; 16]>::try_from(owner)) {
                (2, Some(reply), Ok(owner)) => Claimed::Done {
                    reply: reply.into(),
                    by: RequestId::from_bytes(owner),
                },
                (0, _, _) => Claimed::Running,
                (1, _, _) if alive == 1 => Claimed::Running,
                _ => Claimed::Lost,
            }
        }))
    }
}

/// Awaits a statement; a database that fails is the failure of what is kept there.
async fn guarded<T>(query: impl Future<Output = QueryResult<T>>) -> Result<T> {
    within(PATIENCE, query).await.map_err(|error| {
        Error::new(
            ErrorKind::StoreUnavailable,
            "the database, which keeps idempotency keys, is not available; send the request again",
        )
        .with_source(error)
    })
}

#[async_trait]
impl IdempotencyStore for DatabaseIdempotencyStore {
    async fn claim(&self, claim: &Claim, lease: Duration) -> Result<Claimed> {
        // Between the two statements the entry may be released; that it is so thrice is not to be feared.
        for _ in 0..3 {
            let granted = on!(self, |pool, sql| sqlx::query(sql.claim)
                .bind(&claim.id.0[..])
                .bind(&claim.fingerprint.0[..])
                .bind(&claim.owner.as_bytes()[..])
                .bind(ms(lease))
                .bind(self.ttl_ms)
                .execute(pool)
                .await
                .map(|done| done.rows_affected() > 0))?;
            if granted {
                return Ok(Claimed::Granted);
            }
            if let Some(met) = self.met(claim).await? {
                return Ok(met);
            }
        }
        Ok(Claimed::Running)
    }

    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        on!(self, |pool, sql| sqlx::query(sql.renew)
            .bind(&claim.id.0[..])
            .bind(&claim.owner.as_bytes()[..])
            .bind(ms(lease))
            .execute(pool)
            .await
            .map(|done| done.rows_affected() > 0))
    }

    async fn dispatch(&self, claim: &Claim, lease: Duration) -> Result<bool> {
        on!(self, |pool, sql| sqlx::query(sql.dispatch)
            .bind(&claim.id.0[..])
            .bind(&claim.owner.as_bytes()[..])
            .bind(ms(lease))
            .execute(pool)
            .await
            .map(|done| done.rows_affected() > 0))
    }

    async fn complete(&self, claim: &Claim, reply: Bytes) -> Result<bool> {
        on!(self, |pool, sql| sqlx::query(sql.complete)
            .bind(&claim.id.0[..])
            .bind(&claim.fingerprint.0[..])
            .bind(&claim.owner.as_bytes()[..])
            .bind(self.ttl_ms)
            .bind(&reply[..])
            .execute(pool)
            .await
            .map(|done| done.rows_affected() > 0))
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        on!(self, |pool, sql| sqlx::query(sql.release)
            .bind(&claim.id.0[..])
            .bind(&claim.owner.as_bytes()[..])
            .execute(pool)
            .await
            .map(drop))
    }

    async fn sweep(&self) -> Result<u64> {
        let mut swept = 0;
        loop {
            let batch = on!(self, |pool, sql| sqlx::query(sql.sweep)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()))?;
            swept += batch;
            if batch < SWEEP_AT_ONCE {
                return Ok(swept);
            }
        }
    }
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        database::testing,
        idempotency::SharedIdempotencyStore,
        testing::conformance::idempotency_store::{self as promises, LEASE, fresh_claim},
    };

    async fn conforms(database: Database) {
        promises::run_all(async |ttl| {
            Arc::new(DatabaseIdempotencyStore::new(database.clone(), ttl)) as SharedIdempotencyStore
        })
        .await;
        let brief = DatabaseIdempotencyStore::new(database.clone(), Duration::from_millis(1));
        let long = DatabaseIdempotencyStore::new(database, Duration::from_secs(600));
        let _ = long.sweep().await.unwrap();
        for _ in 0..600 {
            brief.claim(&fresh_claim(), LEASE).await.unwrap();
        }
        let kept = fresh_claim();
        long.claim(&kept, LEASE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(long.sweep().await.unwrap(), 600);
        assert!(long.renew(&kept, LEASE).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises_on_postgres() {
        conforms(testing::postgres().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        conforms(testing::sqlite(directory.path()).await).await;
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_an_error_and_no_free_key() {
        let source =
            crate::database::DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/lyss".into());
        let database = Database::open(source, 1).unwrap();
        let store = DatabaseIdempotencyStore::new(database, Duration::from_secs(60));
        let error = store.claim(&fresh_claim(), LEASE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
    }
}
