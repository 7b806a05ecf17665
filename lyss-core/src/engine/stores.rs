//! From a configuration to the stores it names, and to Redis.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, StoreKind},
    database::Database,
    error::{Error, Result},
    idempotency::{MemoryIdempotencyStore, SharedIdempotencyStore},
    resilience::limit::RateLimits,
    session::{MemorySessionStore, SharedSessionStore},
    spool::Topics,
};

#[cfg(feature = "redis")]
pub(super) type RedisPing = crate::redis::RedisHandle;
#[cfg(not(feature = "redis"))]
pub(super) enum RedisPing {}

#[cfg(not(feature = "redis"))]
impl RedisPing {
    pub(super) async fn ping(&self) -> Result<()> {
        match *self {}
    }
}

#[cfg(feature = "redis")]
pub(super) async fn open_redis(config: &Config) -> Result<Option<RedisPing>> {
    let Some(redis) = &config.data.redis else {
        return Ok(None);
    };
    let source = crate::redis::RedisSource {
        addr: redis.addr.clone(),
        cluster: redis.cluster.clone(),
        tls: redis.tls,
        username: redis.username.clone(),
        password: secrecy::SecretString::from(redis.password.expose()),
        db: i64::from(redis.db),
        dial_timeout: redis.dial_timeout,
        ..Default::default()
    };
    crate::redis::RedisHandle::connect(source).await.map(Some)
}

#[cfg(not(feature = "redis"))]
pub(super) async fn open_redis(config: &Config) -> Result<Option<RedisPing>> {
    match &config.data.redis {
        None => Ok(None),
        Some(_) => Err(Error::invalid(
            "data.redis",
            "this build has no Redis (cargo feature `redis`)",
        )),
    }
}

pub(super) fn limits(redis: Option<&RedisPing>) -> RateLimits {
    #[cfg(feature = "redis")]
    if let Some(redis) = redis {
        return RateLimits::shared(redis.clone());
    }
    let _ = redis;
    RateLimits::default()
}

/// Where a store leaves what is to be done after an answer.
#[cfg_attr(
    not(all(feature = "redis", any(feature = "postgres", feature = "sqlite"))),
    allow(dead_code)
)]
pub(super) struct Background<'a> {
    pub topics: &'a Topics,
    pub tasks: &'a TaskTracker,
    pub cancel: &'a CancellationToken,
}

pub(super) fn open_sessions(
    config: &Config,
    database: &Database,
    redis: Option<&RedisPing>,
    #[cfg_attr(not(feature = "redis"), allow(unused_variables))] background: &Background<'_>,
) -> Result<SharedSessionStore> {
    let ttl = config.session.ttl;
    let kind = config.session.store.unwrap_or(if redis.is_some() {
        StoreKind::Redis
    } else {
        StoreKind::Database
    });
    Ok(match (kind, redis) {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        (StoreKind::Database, _) => Arc::new(crate::session::DatabaseSessionStore::new(
            database.clone(),
            ttl,
        )),
        (StoreKind::Memory, _) => Arc::new(MemorySessionStore::new(ttl)),
        #[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Redis, Some(redis)) if config.session.archive => {
            open_archived_sessions(redis, database, ttl, background)?
        }
        #[cfg(feature = "redis")]
        (StoreKind::Redis, Some(redis)) => {
            let _ = background;
            Arc::new(crate::session::RedisSessionStore::new(redis.clone(), ttl))
        }
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Database, _) => {
            return Err(Error::invalid(
                "session.store",
                "this build has no database driver",
            ));
        }
        (StoreKind::Redis, _) => {
            return Err(Error::invalid(
                "session.store",
                "`redis` needs `data.redis`",
            ));
        }
    })
}

pub(super) fn open_idempotency(
    config: &Config,
    database: &Database,
    redis: Option<&RedisPing>,
) -> Result<SharedIdempotencyStore> {
    /// Replies that are kept in memory at once.
    const MEMORY: usize = 64 << 20;
    let ttl = config.idempotency.ttl;
    let kind = config.idempotency.store.unwrap_or(if redis.is_some() {
        StoreKind::Redis
    } else {
        StoreKind::Database
    });
    Ok(match (kind, redis) {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        (StoreKind::Database, _) => Arc::new(crate::idempotency::DatabaseIdempotencyStore::new(
            database.clone(),
            ttl,
        )),
        (StoreKind::Memory, _) => Arc::new(MemoryIdempotencyStore::new(ttl, MEMORY)),
        #[cfg(feature = "redis")]
        (StoreKind::Redis, Some(redis)) => Arc::new(
            crate::idempotency::RedisIdempotencyStore::new(redis.clone(), ttl),
        ),
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Database, _) => {
            return Err(Error::invalid(
                "idempotency.store",
                "this build has no database driver",
            ));
        }
        (StoreKind::Redis, _) => {
            return Err(Error::invalid(
                "idempotency.store",
                "`redis` needs `data.redis`",
            ));
        }
    })
}

/// Redis as the working copy, the database as the archive.
#[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
fn open_archived_sessions(
    redis: &RedisPing,
    database: &Database,
    ttl: std::time::Duration,
    background: &Background<'_>,
) -> Result<SharedSessionStore> {
    use crate::session::{
        ARCHIVE_TOPIC, ArchivedSessionStore, DatabaseSessionStore, RedisSessionStore,
    };
    let (outbox, _) = background.topics.open(ARCHIVE_TOPIC)?;
    let live = RedisSessionStore::new(redis.clone(), ttl);
    let archive = DatabaseSessionStore::new(database.clone(), ttl);
    let (store, keeping) = ArchivedSessionStore::new(live, archive, outbox);
    let cancel = background.cancel.clone();
    background.tasks.spawn(async move {
        cancel.run_until_cancelled(keeping).await;
    });
    Ok(Arc::new(store))
}
