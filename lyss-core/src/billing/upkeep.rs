//! Keeps the log's months: made ahead, dropped when they are too old.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::{Result, database::Database};

/// Between two rounds; months come slowly, and every instance does this.
const INTERVAL: Duration = Duration::from_secs(3600);
/// After a failed round.
const RETRY: Duration = Duration::from_secs(30);

/// Does a round at once and then every hour, until it is cancelled.
pub(super) async fn run(
    database: Database,
    retention: Option<Duration>,
    cancel: CancellationToken,
) {
    let rounds = async {
        loop {
            let pause = match round(&database, retention).await {
                Ok(()) => INTERVAL,
                // Until then rows without a partition go to the default one.
                Err(error) => {
                    tracing::warn!(?error, "request log: partitions not kept, trying again");
                    RETRY
                }
            };
            tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = rounds => {}
    }
}

async fn round(database: &Database, retention: Option<Duration>) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let made = database.ensure_partitions(now).await?;
    if !made.is_empty() {
        tracing::info!(?made, "request log: partitions made");
    }
    if let Some(retention) = retention {
        let dropped = database.drop_expired_logs(now, retention).await?;
        if dropped > 0 {
            tracing::info!(dropped, "request log: expired partitions or rows dropped");
        }
    }
    Ok(())
}
