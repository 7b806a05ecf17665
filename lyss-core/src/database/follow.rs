//! Following a table that is edited while the gateway runs.

use std::time::Duration;

use super::Database;
use crate::Result;

/// How often a table's version is looked at: one row read, so that a change is in force within a second everywhere.
const POLL: Duration = Duration::from_millis(500);

/// Reads a table, first as soon as the database answers and then after every change, until it is dropped. While the
/// database is away, or the table cannot be read, what was applied last stays in force.
pub(crate) async fn follow_table<T, F>(
    database: Database,
    table: &'static str,
    read: impl Fn() -> F + Send,
    apply: impl Fn(T) + Send,
) where
    F: Future<Output = Result<T>> + Send,
{
    let mut seen = None;
    let mut failing = false;
    loop {
        // The version is read first: a change in between is then seen at the next look, never missed.
        let version = database.config_version(table).await;
        let changed = match version {
            Ok(version) if seen == Some(version) => Ok(None),
            Ok(version) => read().await.map(|content| Some((version, content))),
            Err(error) => Err(error),
        };
        match changed {
            Ok(Some((version, content))) => {
                seen = Some(version);
                failing = false;
                apply(content);
            }
            Ok(None) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, table, "the table cannot be read; what it last said stays in force");
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}
