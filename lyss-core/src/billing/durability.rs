//! When a record is kept as well as `billing.durability` wants it.
//!
//! Waiting is by number: whoever has appended a record waits until all that were begun to be appended by then are kept.
//! So one sync of the disk, or one batch of the drain, serves all who wait for it (group commit).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::ledger::Shared;
use crate::{Error, ErrorKind, Result, config::Durability, error::Work};

/// How long an answer waits for its row to be in the database.
const DATABASE_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// How far records are kept.
pub(super) struct Kept {
    pub mode: Durability,
    /// Records that have been appended: counted when the write has returned, so that a sync that begins then has them.
    appended: AtomicU64,
    /// Records that end a request and were begun to be appended: counted before, so that who waits for the drain waits for
    /// all that may be ahead.
    settled: AtomicU64,
    synced: watch::Sender<Synced>,
    sync_wanted: Notify,
    /// Settled rows that the database has, or will never take.
    written: watch::Sender<u64>,
}

/// What has become of the records up to a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Synced {
    /// They are on the disk, but for those up to `failed` that were not before.
    upto: u64,
    /// Syncing them failed.
    failed: u64,
}

impl Kept {
    pub fn new(mode: Durability) -> Self {
        Self {
            mode,
            appended: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            synced: watch::Sender::default(),
            sync_wanted: Notify::new(),
            written: watch::Sender::default(),
        }
    }

    /// A record that ends a request is about to be appended.
    pub fn settling(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }

    /// A record has been appended.
    pub fn appended(&self) {
        self.appended.fetch_add(1, Ordering::AcqRel);
    }

    /// A record could not be appended and is kept in memory: who waits for the disk now waits in vain.
    pub fn refused(&self) {
        let failed = self.appended.fetch_add(1, Ordering::AcqRel) + 1;
        self.synced
            .send_modify(|synced| synced.failed = synced.failed.max(failed));
    }

    /// So many rows are in the database, or will never be.
    pub fn wrote(&self, rows: u64) {
        self.written.send_modify(|written| *written += rows);
    }

    /// Waits until everything that has been appended is on the disk.
    pub async fn on_disk(&self) -> Result<()> {
        let mine = self.appended.load(Ordering::Acquire);
        let mut synced = self.synced.subscribe();
        self.sync_wanted.notify_one();
        let done = synced.wait_for(|synced| synced.upto >= mine || synced.failed >= mine);
        match tokio::time::timeout(DISK_PATIENCE, done).await {
            Ok(Ok(synced)) if synced.failed < mine => Ok(()),
            _ => Err(not_kept(
                "the disk does not take the record of this request",
            )),
        }
    }

    /// Waits until the rows of all requests that have ended are in the database.
    pub async fn in_database(&self, wake: &Notify) -> Result<()> {
        match self.drained(wake, DATABASE_PATIENCE).await {
            true => Ok(()),
            false => Err(not_kept(
                "the database does not take the record of this request",
            )),
        }
    }

    /// Waits until the rows of all requests that have ended by now are in the database, or the time is over; whether they
    /// are. Rows that come meanwhile are not waited for.
    pub async fn drained(&self, wake: &Notify, limit: Duration) -> bool {
        let mine = self.settled.load(Ordering::Acquire);
        let mut written = self.written.subscribe();
        wake.notify_one();
        let done = written.wait_for(|written| *written >= mine);
        matches!(tokio::time::timeout(limit, done).await, Ok(Ok(_)))
    }
}

/// Syncs whenever somebody waits for it, until it is cancelled.
pub(super) async fn sync(shared: Arc<Shared>) {
    loop {
        shared.kept.sync_wanted.notified().await;
        let upto = shared.kept.appended.load(Ordering::Acquire);
        let work = Arc::clone(&shared);
        let outcome = tokio::task::spawn_blocking(move || work.spool.sync()).await;
        shared.kept.synced.send_modify(|synced| match outcome {
            Ok(Ok(())) => synced.upto = upto,
            _ => synced.failed = upto,
        });
    }
}

fn not_kept(why: &'static str) -> Error {
    Error::new(ErrorKind::StoreUnavailable, why).with_work(Work::Unknown)
}
