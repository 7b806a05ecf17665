//! Records that must be handed on after the answer, at least once, whatever dies on the way.
//!
//! A topic has a directory of its own (`<root>/<topic>/`) with a loop and a bound of its own, so that one destination
//! that is away holds back nothing else. [`Outbox::push`] is one `write(2)` on the caller's thread: what it has taken
//! survives the process. The loop hands records to a [`Consumer`], notes how far it has come after each of them, and
//! takes over what dead processes left. A record may be handed over twice (the process died between the handing over
//! and the note), so it should carry an id by which its destination can tell.

mod deliver;
mod reader;
mod topics;

#[cfg(test)]
mod tests;

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::Notify;
pub(crate) use topics::Topics;

use super::{
    directory::{AppendError, Spool, open_private},
    frame,
};
use crate::{Error, ErrorKind, Result};

/// Bytes of records that are kept aside of a topic; beyond, they are only counted.
const SET_ASIDE_BYTES: u64 = 16 << 20;
const SET_ASIDE_FILE: &str = "set_aside.jsonl";

/// How a topic keeps and hands on its records.
#[derive(Debug, Clone)]
pub(crate) struct OutboxOptions {
    /// Most bytes on disk; a record that finds no room is dropped and counted.
    pub max_bytes: u64,
    /// Bytes at which a segment is closed.
    pub segment_bytes: u64,
    /// Handings over after which a record that fails is set aside.
    pub attempts: u32,
    /// Lanes that are handed over at once.
    pub concurrency: usize,
    /// The pause after a first failure; it doubles up to the longest.
    pub first_pause: Duration,
    /// The longest pause after a failure.
    pub longest_pause: Duration,
}

impl OutboxOptions {
    /// 1 MiB segments, 6 attempts, 8 lanes, pauses from 200 ms to 15 s.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            segment_bytes: 1 << 20,
            attempts: 6,
            concurrency: 8,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
        }
    }
}

/// Where the records of a topic go.
#[async_trait]
pub(crate) trait Consumer: Send + Sync + 'static {
    /// Records of the same lane are handed over one after another, in the order in which they were pushed; those of
    /// other lanes may overtake them. By default all are in one.
    fn lane(&self, record: &[u8]) -> u64 {
        let _ = record;
        0
    }

    /// Hands on a record. Dropped in the middle when the engine ends; the record then comes again.
    async fn handle(&self, record: &[u8]) -> Result<(), Failure>;
}

/// Why a record was not handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The destination takes nothing now. The record is tried again for as long as that lasts, and at the earliest after
    /// the time given.
    Away {
        /// For the log; no content, no secret.
        reason: String,
        /// The destination's own wish.
        after: Option<Duration>,
    },
    /// It did not work, and it may be the record's fault: it is tried [`OutboxOptions::attempts`] times.
    Failed(String),
    /// The destination will never take it.
    Refused(String),
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutboxStats {
    /// Records that this process took and has not handed on yet.
    pub waiting: u64,
    /// Bytes on disk, adopted directories included.
    pub bytes: u64,
    /// Records that found no room, or could not be written or read, since the start.
    pub dropped: u64,
    /// Records that the destination would not take, since the start.
    pub set_aside: u64,
    /// Failed handings over, since the start.
    pub failures: u64,
}

/// The records of one topic.
pub(crate) struct Outbox(Arc<Shared>);

struct Shared {
    topic: &'static str,
    root: PathBuf,
    options: OutboxOptions,
    spool: Spool,
    wake: Notify,
    waiting: AtomicU64,
    dropped: AtomicU64,
    set_aside: AtomicU64,
    failures: AtomicU64,
    /// Whether the last handing over failed.
    failing: AtomicBool,
    /// Whether the last record was dropped.
    dropping: AtomicBool,
}

impl Outbox {
    /// Makes this process's directory of a topic.
    ///
    /// # Errors
    /// `internal` if it cannot be made.
    pub fn open(root: &Path, topic: &'static str, options: OutboxOptions) -> Result<Self> {
        let root = root.join(topic);
        let spool =
            Spool::create(&root, options.segment_bytes, options.max_bytes).map_err(|error| {
                let message = format!("cannot make the outbox in {}: {error}", root.display());
                Error::new(ErrorKind::Internal, message).with_source(error)
            })?;
        Ok(Self(Arc::new(Shared {
            topic,
            root,
            options,
            spool,
            wake: Notify::new(),
            waiting: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            set_aside: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            dropping: AtomicBool::new(false),
        })))
    }

    /// The topic.
    pub fn topic(&self) -> &'static str {
        self.0.topic
    }

    /// Takes a record of at most 1 MiB, not empty. When this returns `Ok`, the record has survived the process. One
    /// that is not taken is counted and logged, so that the caller may ignore it.
    ///
    /// # Errors
    /// [`AppendError`]
    pub fn push(&self, record: &[u8]) -> Result<(), AppendError> {
        let shared = &self.0;
        let mut framed = Vec::with_capacity(frame::HEADER + record.len());
        framed.extend_from_slice(&[0; frame::HEADER]);
        framed.extend_from_slice(record);
        // Before the append: the loop may be faster than this thread.
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        let taken = frame::seal(&mut framed)
            .map_err(AppendError::Io)
            .and_then(|()| shared.spool.append(&framed, false));
        match &taken {
            Ok(()) => {
                shared.dropping.store(false, Ordering::Relaxed);
                shared.wake.notify_one();
            }
            Err(error) => {
                shared.waiting.fetch_sub(1, Ordering::AcqRel);
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                if !shared.dropping.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        topic = shared.topic,
                        ?error,
                        "the outbox takes no records; they are dropped until it does"
                    );
                }
            }
        }
        taken
    }

    /// Hands records to the consumer, until it is dropped: those that dead processes left, then those of this one, as
    /// they come. There must be one such loop a topic.
    pub fn consume(&self, consumer: Arc<dyn Consumer>) -> impl Future<Output = ()> + Send + use<> {
        deliver::run(Arc::clone(&self.0), consumer)
    }

    /// The numbers of now.
    pub fn stats(&self) -> OutboxStats {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        OutboxStats {
            waiting: of(&self.0.waiting),
            bytes: of(&self.0.spool.bytes),
            dropped: of(&self.0.dropped),
            set_aside: of(&self.0.set_aside),
            failures: of(&self.0.failures),
        }
    }

    /// Takes nothing more and waits until everything is handed on, or the time is over. A destination that is known to
    /// be away is not waited for.
    pub async fn close(&self, limit: Duration) {
        self.0.spool.close();
        let end = Instant::now() + limit;
        let more = || {
            self.0.waiting.load(Ordering::Acquire) > 0
                && !self.0.failing.load(Ordering::Relaxed)
                && Instant::now() < end
        };
        while more() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes this process's directory, if nothing is left in it; else the next process finds it. Only after the loop
    /// has ended.
    pub fn remove_if_empty(&self) {
        if self.0.waiting.load(Ordering::Acquire) == 0
            && let Err(error) = self.0.spool.remove()
        {
            tracing::warn!(%error, topic = self.0.topic, "an empty outbox cannot be removed");
        }
    }
}

impl Shared {
    /// Keeps a record that the destination would not take where a human can find it.
    fn put_aside(&self, record: &[u8], reason: &str) {
        #[derive(serde::Serialize)]
        struct Aside<'a> {
            reason: &'a str,
            record: std::borrow::Cow<'a, str>,
        }
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(SET_ASIDE_FILE);
        tracing::error!(
            topic = self.topic,
            reason,
            path = %path.display(),
            "a record was refused and set aside"
        );
        let write = || -> std::io::Result<()> {
            let mut line = serde_json::to_vec(&Aside {
                reason,
                record: String::from_utf8_lossy(record),
            })?;
            line.push(b'\n');
            let mut file = open_private(&path)?;
            if file.metadata()?.len() < SET_ASIDE_BYTES {
                file.write_all(&line)?;
            }
            Ok(())
        };
        if let Err(error) = write() {
            tracing::error!(%error, topic = self.topic, "a record that was refused is lost");
        }
    }
}
