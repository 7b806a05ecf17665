//! Where rules come from besides the configuration: the `routing_rules` table, editable while the gateway runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{database::Database, gateway::RoutingRule};

/// How often the table's version is looked at: one row read, so that a change is in force within a second everywhere.
const POLL: Duration = Duration::from_millis(500);

/// Calls `apply` with all rules, first as soon as the database answers and then after every change, until cancelled.
pub async fn watch_rules(
    database: Database,
    cancel: CancellationToken,
    apply: impl Fn(Vec<RoutingRule>) + Send,
) {
    let mut seen = None;
    let mut failing = false;
    loop {
        match load_if_changed(&database, seen).await {
            Ok(Some((version, rules))) => {
                seen = Some(version);
                failing = false;
                apply(rules);
            }
            Ok(None) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the routing rules cannot be read; the last ones stay in force");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn load_if_changed(
    database: &Database,
    seen: Option<i64>,
) -> crate::Result<Option<(i64, Vec<RoutingRule>)>> {
    // The version is read first: a change in between is then seen at the next look, never missed.
    let version = database.config_version("routing_rules").await?;
    if seen == Some(version) {
        return Ok(None);
    }
    Ok(Some((version, database.list_rules().await?)))
}
