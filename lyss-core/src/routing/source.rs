//! Where rules come from besides the configuration: the `routing_rules` table, editable while the gateway runs.

#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    // Without a driver no `Database` can be made, and what needs one is never reached.
    allow(unreachable_code, unused_variables)
)]

use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, follow_table},
    gateway::RoutingRule,
};

/// Calls `apply` with all rules, first as soon as the database answers and then after every change, until cancelled.
pub async fn watch_rules(
    database: Database,
    cancel: CancellationToken,
    apply: impl Fn(Vec<RoutingRule>) + Send,
) {
    let read = {
        let database = database.clone();
        move || {
            let database = database.clone();
            async move { database.list_rules().await }
        }
    };
    let following = follow_table(database, "routing_rules", read, apply);
    cancel.run_until_cancelled(following).await;
}
