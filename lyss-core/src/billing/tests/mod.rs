//! The request log against real databases, real files and real deaths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod durability;
mod outage;
mod reads;
mod rerate;
mod usage;
mod writes;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    database::{Database, Pool},
    types::{LogRow, RequestId, Status, log::Purpose},
};

/// Enough for any step of a test on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn intent() -> LogRow {
    LogRow::new(RequestId::new(), Purpose::Chat, "gpt", false)
}

fn settled(intent: &LogRow) -> LogRow {
    LogRow {
        status: Status::Success,
        input_tokens: 7,
        output_tokens: 11,
        provider_id: "openai".into(),
        attempts: 1,
        ..intent.clone()
    }
}

fn options(root: &Path) -> LedgerOptions {
    LedgerOptions::new(root, 64 << 20)
}

/// How often each id with each status is in the table.
async fn rows(database: &Database) -> HashMap<(String, String), i64> {
    let sql = "SELECT CAST(request_id AS text), status, count(*) FROM request_logs GROUP BY 1, 2";
    let rows: Vec<(String, String, i64)> = match database.pool {
        Pool::Postgres(ref pool) => sqlx::query_as(sql).fetch_all(pool).await.unwrap(),
        Pool::Sqlite(ref pool) => sqlx::query_as(sql).fetch_all(pool).await.unwrap(),
    };
    rows.into_iter()
        .map(|(id, status, count)| ((id, status), count))
        .collect()
}

/// The spool directories of processes.
fn directories(root: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(root)
        .map(|entries| {
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_dir())
                .collect()
        })
        .unwrap_or_default()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
