//! What the pipeline uses: [`Ledger::begin`] before a request is dispatched, [`Entry::settle`] when it has ended.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    drain,
    durability::{self, Kept},
    record::{Kind, encode},
    upkeep,
};
use crate::{
    Error, ErrorKind, Result,
    config::Durability,
    database::Database,
    spool::{AppendError, Spool},
    types::{LogRow, Status},
};

/// Settled rows at which the drain does not wait for its next tick.
const WAKE_AT: u64 = 512;

/// How a ledger keeps its files.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// Where the spool directories of all processes lie.
    pub spool_dir: PathBuf,
    /// Most bytes of spool that this process keeps; a tenth of it is reserved for finishing requests.
    pub max_bytes: u64,
    /// Bytes at which a segment is closed.
    pub segment_bytes: u64,
    /// How long rows are kept in the database; `None` for ever.
    pub retention: Option<Duration>,
    /// What a record must have survived before [`Ledger::kept`] returns.
    pub durability: Durability,
}

impl LedgerOptions {
    /// 8 MiB segments, rows kept for ever.
    pub fn new(spool_dir: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self {
            spool_dir: spool_dir.into(),
            max_bytes,
            segment_bytes: 8 << 20,
            retention: None,
            durability: Durability::Process,
        }
    }
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerStats {
    /// Requests that have begun and not settled.
    pub open: u64,
    /// Settled rows that are not in the database yet.
    pub waiting_records: u64,
    /// Bytes of spool on disk, adopted directories included.
    pub bytes: u64,
    /// Most bytes of spool.
    pub max_bytes: u64,
    /// Rows that the database refused, since the start.
    pub dead_letters: u64,
    /// Failed writes to the spool, since the start.
    pub write_errors: u64,
    /// Segments with a damaged record, since the start.
    pub damaged_segments: u64,
}

/// The record of what every request used.
///
/// Without a database there is nothing that a record could go to: then nothing is written, only counted.
pub struct Ledger {
    shared: Option<Arc<Shared>>,
    open_unlogged: Arc<AtomicU64>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

pub(super) struct Shared {
    pub spool: Spool,
    pub wake: Notify,
    pub open: AtomicU64,
    pub waiting: AtomicU64,
    pub dead_letters: PathBuf,
    pub dead_letters_count: AtomicU64,
    pub damaged: AtomicU64,
    pub kept: Kept,
}

impl Ledger {
    /// Makes this process's spool directory and starts the tasks that drain it, adopt those of dead processes, and
    /// keep the log's partitions. The database may be away. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// `billing_spool_full` if the directory cannot be made.
    pub fn open(options: LedgerOptions, database: Option<Database>) -> Result<Self> {
        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let shared = match database {
            None => None,
            Some(database) => {
                let root = options.spool_dir;
                let spool = Spool::create(&root, options.segment_bytes, options.max_bytes)
                    .map_err(|error| {
                        Error::new(
                            ErrorKind::BillingSpoolFull,
                            format!("cannot make the spool in {}: {error}", root.display()),
                        )
                        .with_source(error)
                    })?;
                let shared = Arc::new(Shared {
                    spool,
                    wake: Notify::new(),
                    open: AtomicU64::new(0),
                    waiting: AtomicU64::new(0),
                    dead_letters: root.join("dead_letter.jsonl"),
                    dead_letters_count: AtomicU64::new(0),
                    damaged: AtomicU64::new(0),
                    kept: Kept::new(options.durability),
                });
                if options.durability == Durability::Disk {
                    shared.spool.will_sync().map_err(|error| {
                        let why = format!("cannot sync the spool in {}: {error}", root.display());
                        Error::new(ErrorKind::BillingSpoolFull, why).with_source(error)
                    })?;
                    let (syncing, cancel) = (durability::sync(shared.clone()), cancel.clone());
                    tasks.spawn(async move {
                        cancel.run_until_cancelled(syncing).await;
                    });
                }
                tasks.spawn(drain::run(shared.clone(), database.clone(), cancel.clone()));
                tasks.spawn(drain::adopt(
                    shared.clone(),
                    root,
                    database.clone(),
                    cancel.clone(),
                ));
                tasks.spawn(upkeep::run(database, options.retention, cancel.clone()));
                Some(shared)
            }
        };
        tasks.close();
        Ok(Self {
            shared,
            open_unlogged: Arc::default(),
            cancel,
            tasks,
        })
    }

    /// Records that a request is about to be dispatched: if the process dies, `row` (status `aborted`) is what the log
    /// will hold. When this returns, the record has survived the process.
    ///
    /// # Errors
    /// `billing_spool_full`: the request must not be dispatched, since it could not be billed. `shutting_down` after
    /// [`Ledger::close`].
    pub fn begin(&self, row: &LogRow) -> Result<Entry> {
        debug_assert_eq!(row.status, Status::Aborted);
        let Some(shared) = &self.shared else {
            self.open_unlogged.fetch_add(1, Ordering::Relaxed);
            return Ok(Entry(Some(Slot::Unlogged(self.open_unlogged.clone()))));
        };
        let record = encode(Kind::Intent, row)?;
        // Counted first, so that a closing ledger does not take the directory for empty.
        shared.open.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = shared.spool.append(&record, false) {
            shared.open.fetch_sub(1, Ordering::AcqRel);
            return Err(refusal(error));
        }
        shared.kept.appended();
        Ok(Entry(Some(Slot::Logged(shared.clone()))))
    }

    /// Waits until an intent that was begun is kept as `billing.durability` wants it.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn begun(&self) -> Result<()> {
        match &self.shared {
            Some(shared) if shared.kept.mode == Durability::Disk => shared.kept.on_disk().await,
            _ => Ok(()),
        }
    }

    /// Waits until the rows of the requests that have ended are kept as `billing.durability` wants it: what is
    /// acknowledged after this is charged, whatever dies then.
    ///
    /// # Errors
    /// `store_unavailable`; the request has been charged all the same.
    pub async fn kept(&self) -> Result<()> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        match shared.kept.mode {
            Durability::Process => Ok(()),
            Durability::Disk => shared.kept.on_disk().await,
            Durability::Database => shared.kept.in_database(&shared.wake).await,
        }
    }

    /// Whether the end of an answer waits for more than that its row is written to the spool.
    pub fn keeps_more(&self) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.kept.mode != Durability::Process)
    }

    /// Records a request that was refused before anything could begin.
    ///
    /// # Errors
    /// As [`Ledger::begin`]; the row is then lost, and its loss logged.
    pub fn record(&self, row: &LogRow) -> Result<()> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        let record = encode(Kind::Settle, row)?;
        shared.append_settle(&record, false).map_err(|error| {
            tracing::error!(
                request_id = row.request_id,
                ?error,
                "request log: a row is lost"
            );
            refusal(error)
        })
    }

    /// The numbers of now.
    pub fn stats(&self) -> LedgerStats {
        match &self.shared {
            None => LedgerStats {
                open: self.open_unlogged.load(Ordering::Relaxed),
                ..LedgerStats::default()
            },
            Some(shared) => LedgerStats {
                open: shared.open.load(Ordering::Relaxed),
                waiting_records: shared.waiting.load(Ordering::Relaxed),
                bytes: shared.spool.bytes.load(Ordering::Relaxed),
                max_bytes: shared.spool.max_bytes(),
                dead_letters: shared.dead_letters_count.load(Ordering::Relaxed),
                write_errors: shared.spool.write_errors.load(Ordering::Relaxed),
                damaged_segments: shared.damaged.load(Ordering::Relaxed),
            },
        }
    }

    /// Waits until every row that is settled by now is in the database, or the time is over; whether it is. What is not
    /// is still on disk.
    pub async fn flush(&self, limit: Duration) -> bool {
        match &self.shared {
            Some(shared) => shared.kept.drained(&shared.wake, limit).await,
            None => true,
        }
    }

    /// Takes no new requests, flushes, and stops the tasks; whether everything is in the database. If so, and nothing
    /// is open, the spool directory is removed; else the next process finds it.
    pub async fn close(&self, limit: Duration) -> bool {
        if let Some(shared) = &self.shared {
            shared.spool.close();
        }
        let flushed = self.flush(limit).await;
        self.cancel.cancel();
        self.tasks.wait().await;
        if let Some(shared) = &self.shared {
            let empty = shared.open.load(Ordering::Acquire) == 0
                && shared.waiting.load(Ordering::Acquire) == 0;
            if empty && let Err(error) = shared.spool.remove() {
                tracing::warn!(%error, "the drained spool directory cannot be removed");
            }
            return flushed && empty;
        }
        flushed
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A request that has begun. It must be settled; dropped without, its row stays `aborted`.
#[must_use = "a request that has begun must be settled"]
pub struct Entry(Option<Slot>);

enum Slot {
    Logged(Arc<Shared>),
    Unlogged(Arc<AtomicU64>),
}

impl Entry {
    /// Records anew what the log will hold if the process dies: more is known of the request than when it began. When
    /// this returns, the record has survived the process.
    ///
    /// # Errors
    /// As [`Ledger::begin`]; what was recorded before still holds.
    pub fn amend(&self, row: &LogRow) -> Result<()> {
        debug_assert_eq!(row.status, Status::Aborted);
        let Some(Slot::Logged(shared)) = &self.0 else {
            return Ok(());
        };
        let record = encode(Kind::Intent, row)?;
        shared.spool.append(&record, false).map_err(refusal)?;
        shared.kept.appended();
        Ok(())
    }

    /// Records how the request ended; when this returns, the record has survived the process. Never fails: what the
    /// disk refuses is kept in memory until the database has it.
    pub fn settle(mut self, row: &LogRow) {
        let shared = match self.0.take() {
            Some(Slot::Logged(shared)) => shared,
            Some(Slot::Unlogged(open)) => {
                open.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            None => return,
        };
        // A row that could not be kept leaves its request open, so that the directory stays, and with it the intent.
        if shared.settle(row) {
            shared.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        match self.0.take() {
            None => {}
            Some(Slot::Unlogged(open)) => {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            // Still counted as open: its intent is, and the directory must not be taken for empty.
            Some(Slot::Logged(_)) => {
                tracing::error!("a request was not settled; the log will have it as aborted");
            }
        }
    }
}

impl Shared {
    fn append_settle(&self, record: &[u8], finishing: bool) -> Result<(), AppendError> {
        // Before the append: the drain may be faster than this thread.
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel) + 1;
        self.kept.settling();
        if let Err(error) = self.spool.append(record, finishing) {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.kept.wrote(1);
            return Err(error);
        }
        self.kept.appended();
        if waiting.is_multiple_of(WAKE_AT) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Whether the row is on disk, or kept in memory.
    fn settle(&self, row: &LogRow) -> bool {
        let record = match encode(Kind::Settle, row) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(
                    request_id = row.request_id,
                    ?error,
                    "request log: a row is lost"
                );
                return false;
            }
        };
        if let Err(error) = self.append_settle(&record, true) {
            tracing::error!(
                request_id = row.request_id,
                ?error,
                "the spool refuses a finished request"
            );
            self.waiting.fetch_add(1, Ordering::AcqRel);
            self.kept.settling();
            self.kept.refused();
            if !self.spool.keep(record) {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                self.kept.wrote(1);
                tracing::error!(
                    request_id = row.request_id,
                    "too many rows in memory; the log will have the request as aborted"
                );
                return false;
            }
        }
        true
    }
}

fn refusal(error: AppendError) -> Error {
    match error {
        AppendError::Full => Error::new(
            ErrorKind::BillingSpoolFull,
            "the billing spool is full: the database has been away too long, or the disk is full",
        ),
        AppendError::Io(error) => Error::new(
            ErrorKind::BillingSpoolFull,
            "the billing spool cannot be written",
        )
        .with_source(error),
        AppendError::Closed => Error::new(ErrorKind::ShuttingDown, "the gateway is shutting down"),
    }
}
