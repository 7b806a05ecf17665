//! The budgets of an engine: where their counters are, and the tasks that keep them.

use std::sync::Arc;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use std::{sync::Weak, time::Duration};

use super::{Engine, Inner, stores::RedisPing, upkeep};
use crate::{
    budget::{BudgetDefinition, BudgetState, Budgets},
    config::Config,
    database::Database,
    error::Result,
    telemetry::metrics::Metrics,
};

/// The budgets of a configuration; the counters are in Redis where there is one, else in the database.
/// # Errors
/// `invalid_value`, also for budgets over a Redis that removes counters when its memory is full.
pub(super) async fn open(
    config: &Config,
    metrics: &Metrics,
    database: &Database,
    redis: Option<&RedisPing>,
) -> Result<Budgets> {
    let metrics = metrics.budgets.clone();
    #[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
    let budgets = match redis {
        Some(redis) => {
            if !config.budgets.is_empty() {
                Budgets::check_policy(redis).await?;
            }
            Budgets::in_redis(redis.clone(), database.clone(), metrics)
        }
        None => Budgets::in_database(database.clone(), metrics),
    };
    #[cfg(not(all(feature = "redis", any(feature = "postgres", feature = "sqlite"))))]
    let budgets = {
        let _ = redis;
        Budgets::in_database(database.clone(), metrics)
    };
    budgets.configure(config)?;
    Ok(budgets)
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl Engine {
    /// Writes a budget to the table and puts it into force here at once.
    pub(super) async fn store_budget(&self, definition: BudgetDefinition) -> Result<BudgetState> {
        let budget = definition.budget(&self.0.settings().config.billing.currency)?;
        let id = self.0.database.put_budget(definition.id, &budget).await?;
        self.follow_budgets().await;
        Ok(self.0.budgets.state(id, &budget).await)
    }

    /// Deletes a budget of the table.
    pub(super) async fn remove_budget(&self, id: i64) -> Result<()> {
        self.0.database.delete_budget(id).await?;
        self.follow_budgets().await;
        Ok(())
    }

    /// It is stored already: if it cannot be read back now, the next look at the table will see it.
    async fn follow_budgets(&self) {
        let _ = self.0.budgets.follow(&self.0.database, None).await;
    }
}

/// Without a driver there is no engine.
#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
impl Engine {
    pub(super) async fn store_budget(&self, _: BudgetDefinition) -> Result<BudgetState> {
        match self.0.database.pool {}
    }

    pub(super) async fn remove_budget(&self, _: i64) -> Result<()> {
        match self.0.database.pool {}
    }
}

/// Starts the tasks that live as long as the engine.
pub(super) async fn start(inner: &Arc<Inner>) {
    upkeep::spawn(inner, inner.budgets.settling());
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    {
        // Usually there at once; a call must not pass by a budget of the table.
        let first = inner.budgets.follow(&inner.database, None);
        let _ = tokio::time::timeout(START_PATIENCE, first).await;
        let weak = Arc::downgrade(inner);
        upkeep::spawn(inner, keep(weak.clone()));
        upkeep::spawn(inner, sweep(weak.clone()));
        upkeep::spawn(inner, follow(weak));
    }
}

/// How long a start waits for the table of budgets before it goes on without.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const START_PATIENCE: Duration = Duration::from_secs(3);
/// How often the store does what keeps it right.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const KEEP: Duration = Duration::from_millis(200);
/// How often the table's version is looked at: a change is in force within a second everywhere.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const POLL: Duration = Duration::from_millis(500);

/// Between two sweeps.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const SWEEP: Duration = Duration::from_secs(2);
/// Sweeps after which counters of old periods are removed.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const FORGET: u32 = 1_800;

/// Keeps the store of the counters.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn keep(inner: Weak<Inner>) {
    let mut failing = false;
    loop {
        let Some(inner) = inner.upgrade() else { return };
        match inner.budgets.keep(&inner.ledger).await {
            Ok(()) => failing = false,
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(?error, "the counters of budgets cannot be kept; trying on");
            }
            Err(_) => {}
        }
        drop(inner);
        tokio::time::sleep(KEEP).await;
    }
}

/// Takes over the budgets of the table, at once and after every change.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn follow(inner: Weak<Inner>) {
    let (mut seen, mut failing) = (None, false);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        match inner.budgets.follow(&inner.database, seen).await {
            Ok(version) => {
                seen = Some(version);
                failing = false;
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "the table of budgets cannot be read; the last ones stay in force");
            }
            Err(_) => {}
        }
        drop(inner);
        tokio::time::sleep(POLL).await;
    }
}

/// Settles what dead processes have left, measures how budgets stand, and forgets what is over.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn sweep(inner: Weak<Inner>) {
    let mut failing = false;
    for round in 0_u32.. {
        let Some(inner) = inner.upgrade() else { return };
        let swept = inner.budgets.sweep(&inner.database).await;
        let measured = inner.budgets.measure().await;
        let kept = match swept.and(measured) {
            Ok(()) if round % FORGET == 0 => inner.budgets.forget().await,
            other => other,
        };
        match kept {
            Ok(()) => failing = false,
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(
                    ?error,
                    "reservations of dead processes cannot be settled yet; trying on"
                );
            }
            Err(_) => {}
        }
        drop(inner);
        tokio::time::sleep(SWEEP.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}
