//! The engine's background tasks: what is away, which rules hold, which models there are.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Engine, Inner, prices};
use crate::{
    admission::KeyStore,
    database::{Database, follow_table},
    error::ErrorKind,
    resilience::health::{self, CheckSettings},
    routing::{self, Account},
    seal,
};

/// How often the database and Redis are looked at, for `/health` and `/ready`.
const PING: Duration = Duration::from_secs(2);
/// A database that has not answered by then counts as away. Much less than a call waits for a connection.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// How often providers are asked for their models.
const MODELS: Duration = Duration::from_secs(600);
/// How often expired sessions and idempotency keys are removed; they are invisible at once.
const SWEEP: Duration = Duration::from_secs(600);
/// How long a start waits for the database to be migrated before it goes on without.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// Starts the tasks that live as long as the engine.
pub(super) async fn start(engine: &Engine) {
    let inner = &engine.0;
    let weak = Arc::downgrade(inner);
    // Before the table of providers is read, which may begin them anew.
    start_checks(inner);
    let rules = routing::watch_rules(inner.database.clone(), inner.cancel.clone(), {
        let weak = weak.clone();
        move |rules| {
            if let Some(inner) = weak.upgrade() {
                inner.use_stored_rules(rules);
            }
        }
    });
    spawn(inner, rules);
    spawn(inner, prices::follow(weak.clone(), inner.database.clone()));
    spawn(
        inner,
        follow_providers(weak.clone(), inner.database.clone()),
    );
    spawn(inner, sweep(weak.clone()));
    spawn(inner, ping(weak));
    super::callers::start(inner);
    // Usually there at once; a call must not be routed by seeds that the table overrules, nor billed by them.
    let rules = async {
        let loaded = [
            &inner.rules_loaded,
            &inner.prices_loaded,
            &inner.providers_loaded,
        ];
        while !loaded.iter().all(|loaded| loaded.load(Relaxed)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let rules = tokio::time::timeout(START_PATIENCE, rules);
    let _ = tokio::join!(rules, super::budgets::start(inner));
}

/// Takes the providers of the table into use, and every change of them.
async fn follow_providers(inner: Weak<Inner>, database: Database) {
    let read = || {
        let inner = inner.upgrade();
        async move {
            match inner {
                Some(inner) => inner.read_stored_providers().await.map(Some),
                None => Ok(None),
            }
        }
    };
    let apply = |stored| {
        if let (Some(inner), Some(stored)) = (inner.upgrade(), stored) {
            inner.use_stored_providers(stored);
            inner.providers_loaded.store(true, Relaxed);
        }
    };
    follow_table(database, "providers", read, apply).await;
}

fn start_checks(inner: &Arc<Inner>) {
    let sources = inner.sources.lock();
    let accounts = sources
        .configured
        .accounts
        .values()
        .flatten()
        .cloned()
        .collect();
    check_accounts(inner, accounts, &sources.checks);
}

/// Runs a task until the engine ends, whatever it is waiting for then: a database that is away must not hold up the end.
pub(super) fn spawn(inner: &Inner, task: impl Future<Output = ()> + Send + 'static) {
    let cancel = inner.cancel.clone();
    inner.tasks.spawn(async move {
        cancel.run_until_cancelled(task).await;
    });
}

/// Starts the checks of the accounts in use; they end with `cancel`.
pub(super) fn check_accounts(
    inner: &Arc<Inner>,
    accounts: Vec<Arc<Account>>,
    cancel: &CancellationToken,
) {
    let config = &inner.settings().config.routing.health_check;
    let settings = CheckSettings {
        interval: config.interval,
        timeout: config.timeout,
        unhealthy_after: config.unhealthy_after,
        healthy_after: config.healthy_after,
    };
    for account in accounts {
        inner
            .metrics
            .provider_up(&account.id, inner.is_up(&account.id));
        inner
            .tasks
            .spawn(list_models(Arc::clone(&account), cancel.clone()));
        if !config.enabled {
            continue;
        }
        let (weak, id) = (Arc::downgrade(inner), Arc::clone(&account.id));
        let report = move |up: bool, error: Option<&crate::Error>| {
            match error {
                _ if up => tracing::info!(provider = %id, "the provider answers again"),
                Some(error) => {
                    tracing::warn!(provider = %id, %error, "the provider does not answer")
                }
                None => {}
            }
            if let Some(inner) = weak.upgrade() {
                inner.metrics.provider_up(&id, inner.is_up(&id));
            }
        };
        let (provider, state) = (Arc::clone(&account.provider), Arc::clone(&account.health));
        inner.tasks.spawn(health::check(
            provider,
            state,
            settings,
            cancel.clone(),
            report,
        ));
    }
}

async fn list_models(account: Arc<Account>, cancel: CancellationToken) {
    loop {
        let listed = tokio::select! {
            () = cancel.cancelled() => return,
            listed = tokio::time::timeout(Duration::from_secs(20), account.provider.models()) => listed,
        };
        let pause = match listed {
            Ok(Ok(models)) => {
                account.models.store(Arc::new(models));
                MODELS
            }
            Ok(Err(error)) => {
                tracing::debug!(provider = %account.id, %error, "the provider does not list its models");
                Duration::from_secs(60)
            }
            Err(_) => Duration::from_secs(60),
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Starts migrating and waits for it a moment: usually it is done before the first call, and a database that is away
/// does not hold up the start.
pub(super) async fn migrate_first(
    database: &Database,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let migrating = tasks.spawn(migrate(database.clone(), cancel.clone()));
    let _ = tokio::time::timeout(START_PATIENCE, migrating).await;
}

/// Applies migrations as soon as the database answers.
async fn migrate(database: Database, cancel: CancellationToken) {
    let mut pause = Duration::from_millis(250);
    loop {
        match database.migrate().await {
            Ok(applied) if applied.is_empty() => return,
            Ok(applied) => {
                tracing::info!(migrations = applied.join(", "), "database migrated");
                return;
            }
            Err(error) => tracing::warn!(
                %error,
                cause = ?std::error::Error::source(&error),
                "the database cannot be migrated yet; trying on"
            ),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// What the database has seen by its check value.
pub(super) struct Secrets {
    /// The encryption keys.
    pub at_rest: seal::Keys,
    /// The API keys, with the pepper that they are hashed under.
    pub api_keys: KeyStore,
}

impl Secrets {
    async fn verify(&self, database: &Database) -> crate::Result<()> {
        seal::verify(database, &self.at_rest).await?;
        self.api_keys.check_pepper().await
    }
}

/// Checks the encryption keys and the pepper against those that the database has seen. While it is away this is tried
/// on, and what comes of it is logged: what cannot be opened then is answered as unreadable, and nothing is lost.
///
/// # Errors
/// `invalid_value` if a key is missing, or another one.
pub(super) async fn verify_secrets(
    database: &Database,
    secrets: Secrets,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> crate::Result<()> {
    let first = tokio::time::timeout(START_PATIENCE, secrets.verify(database)).await;
    match first {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidValue => return Err(error),
        _ => {}
    }
    let (database, cancel) = (database.clone(), cancel.clone());
    tasks.spawn(async move {
        let trying = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match secrets.verify(&database).await {
                    Ok(()) => return,
                    Err(error) if error.kind() == ErrorKind::InvalidValue => {
                        tracing::error!(%error, "the secrets of this gateway do not fit the database");
                        return;
                    }
                    Err(_) => {}
                }
            }
        };
        cancel.run_until_cancelled(trying).await;
    });
    Ok(())
}

/// Removes expired sessions and idempotency keys.
async fn sweep(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.sessions.sweep().await {
            tracing::warn!(%error, "expired sessions are not removed yet; trying on");
        }
        if let Err(error) = inner.idempotency.sweep().await {
            tracing::warn!(%error, "expired idempotency keys are not removed yet; trying on");
        }
    }
}

/// Notes whether database and Redis answer.
async fn ping(inner: Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let database = tokio::time::timeout(PING_PATIENCE, inner.database.ping()).await;
        let database = matches!(database, Ok(Ok(())));
        if database != inner.database_up.swap(database, Relaxed) {
            tracing::info!(up = database, "database");
        }
        if let Some(redis) = &inner.redis {
            let up = redis.ping().await.is_ok();
            if up != inner.redis_up.swap(up, Relaxed) {
                tracing::info!(up, "redis");
            }
        }
        drop(inner);
        tokio::time::sleep(PING).await;
    }
}
