//! The budgets of an engine: where their counters are, and the tasks that keep them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Inner, build::RedisPing, upkeep};
use crate::{budget::Budgets, config::Config, database::Database, error::Result};

/// The budgets of a configuration; the counters are in Redis where there is one, else in the database.
pub(super) fn open(
    config: &Config,
    database: &Database,
    redis: Option<&RedisPing>,
) -> Result<Budgets> {
    let _ = redis;
    let budgets = Budgets::in_database(database.clone());
    budgets.configure(config)?;
    Ok(budgets)
}

/// Starts the tasks that live as long as the engine.
pub(super) fn start(inner: &Arc<Inner>) {
    upkeep::spawn(inner, inner.budgets.settling());
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    upkeep::spawn(inner, keep(Arc::downgrade(inner)));
}

/// Between two sweeps.
const SWEEP: Duration = Duration::from_secs(2);
/// Sweeps after which counters of old periods are removed.
const FORGET: u32 = 1_800;

/// Settles what dead processes have left, and forgets what is over.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn keep(inner: Weak<Inner>) {
    let mut failing = false;
    for round in 0_u32.. {
        let Some(inner) = inner.upgrade() else { return };
        let swept = inner.budgets.sweep(&inner.database).await;
        let kept = match swept {
            Ok(_) if round % FORGET == 0 => inner.budgets.forget().await,
            other => other.map(drop),
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
