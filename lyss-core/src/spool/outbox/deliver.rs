//! The loop of a topic: reads records in order, hands them over, tries again, notes how far it has come.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Consumer, Failure, Shared,
    reader::{Batch, Note, Position, read},
};
use crate::spool::{Orphan, Segments, orphans};

/// How often directories of processes that died meanwhile are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Records that were handed on leave the disk when nothing came for so long.
const IDLE: Duration = Duration::from_secs(1);
/// A segment that cannot be read is tried so often, with this pause; then its rest is given up.
const READ_ATTEMPTS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>, consumer: Arc<dyn Consumer>) {
    let mut own = Directory::new(shared.spool.dir());
    let mut sweep_at = Instant::now();
    loop {
        if Instant::now() >= sweep_at {
            // They are older than what this process has, and go to the same destination: if it is away, both wait.
            adopt(&shared, &*consumer).await;
            sweep_at = Instant::now() + SWEEP;
        }
        let snapshot = shared.spool.snapshot();
        let waiting = Some(&shared.waiting);
        let handed = own
            .deliver(&shared, &*consumer, &snapshot.segments, waiting)
            .await;
        for &number in snapshot.segments.range(..own.position.0).map(|(n, _)| n) {
            if let Err(error) = shared.spool.delete(number) {
                tracing::warn!(%error, topic = shared.topic, "a spool segment cannot be deleted");
            }
        }
        if handed.is_some() {
            continue;
        }
        let woken = tokio::time::timeout(IDLE, shared.wake.notified()).await;
        // What was handed on need not lie here any longer.
        if woken.is_err() && !shared.spool.seal_drained(own.position) {
            let _ = tokio::time::timeout_at(sweep_at, shared.wake.notified()).await;
        }
    }
}

/// Hands on what dead processes left.
async fn adopt(shared: &Arc<Shared>, consumer: &dyn Consumer) {
    let root = shared.root.clone();
    let found = tokio::task::spawn_blocking(move || orphans(&root))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    let orphans = match found {
        Ok(orphans) => orphans,
        Err(error) => {
            tracing::error!(%error, topic = shared.topic, "the outbox cannot be read");
            return;
        }
    };
    for orphan in orphans {
        let dir = orphan.dir.clone();
        match adopt_one(shared, consumer, orphan).await {
            Ok(records) => {
                tracing::info!(
                    records,
                    topic = shared.topic,
                    "handed on what a dead process left"
                );
            }
            // The lock is given back: the next sweep, here or elsewhere, tries again.
            Err(error) => {
                tracing::error!(%error, dir = %dir.display(), "an adopted outbox cannot be removed");
            }
        }
    }
}

async fn adopt_one(
    shared: &Arc<Shared>,
    consumer: &dyn Consumer,
    mut orphan: Orphan,
) -> io::Result<usize> {
    let mut counted = shared.spool.count(&orphan);
    let mut directory = Directory::new(&orphan.dir);
    directory.position = directory.note.lock().read();
    let mut records = 0;
    while let Some(handed) = directory
        .deliver(shared, consumer, &orphan.segments, None)
        .await
    {
        records += handed;
        let done = orphan.segments.range(..directory.position.0);
        for number in done.map(|(n, _)| *n).collect::<Vec<_>>() {
            counted.less(orphan.delete(number)?);
        }
    }
    orphan.remove()?;
    Ok(records)
}

/// A directory that is being read.
struct Directory {
    path: PathBuf,
    position: Position,
    note: Mutex<Note>,
}

impl Directory {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            position: Position::default(),
            note: Mutex::new(Note::new(path)),
        }
    }

    /// Hands on one batch and tells how many records it had; nothing if there was none. `waiting` is lowered with each.
    async fn deliver(
        &mut self,
        shared: &Shared,
        consumer: &dyn Consumer,
        segments: &Segments,
        waiting: Option<&AtomicU64>,
    ) -> Option<usize> {
        let (batch, next) = self.read(shared, segments).await;
        if batch.damaged > 0 {
            shared.dropped.fetch_add(batch.damaged, Ordering::Relaxed);
            tracing::error!(
                dir = %self.path.display(),
                "outbox segment is damaged, its rest was skipped"
            );
        }
        let mut lanes = BTreeMap::<u64, Vec<usize>>::new();
        for (index, (record, _)) in batch.records.iter().enumerate() {
            lanes.entry(consumer.lane(record)).or_default().push(index);
        }
        let progress = Mutex::new(Progress::new(batch.records.len()));
        futures::stream::iter(lanes.into_values())
            .for_each_concurrent(shared.options.concurrency, |lane| async {
                for index in lane {
                    let Some((record, _)) = batch.records.get(index) else {
                        continue;
                    };
                    shared.hand_over(consumer, record).await;
                    if let Some(waiting) = waiting {
                        waiting.fetch_sub(1, Ordering::AcqRel);
                    }
                    let reached = progress.lock().done(index);
                    if let Some((_, position)) = reached.and_then(|last| batch.records.get(last))
                        && let Err(error) = self.note.lock().write(*position)
                    {
                        tracing::warn!(%error, topic = shared.topic, "the outbox cannot note how far it is");
                    }
                }
            })
            .await;
        self.position = next;
        let records = batch.records.len();
        (records > 0 || batch.damaged > 0).then_some(records)
    }

    /// Reads a batch off the runtime's threads.
    async fn read(&self, shared: &Shared, segments: &Segments) -> (Batch, Position) {
        let at_end = segments
            .last_key_value()
            .is_none_or(|(&number, &end)| self.position >= (number, end));
        if at_end {
            return (Batch::default(), self.position);
        }
        for attempt in 1..=READ_ATTEMPTS {
            let (path, position, segments) = (self.path.clone(), self.position, segments.clone());
            let joined = tokio::task::spawn_blocking(move || read(&path, position, &segments));
            match joined.await {
                Ok(Ok(read)) => return read,
                Ok(Err(error)) => {
                    tracing::error!(%error, attempt, topic = shared.topic, "the outbox cannot be read");
                    tokio::time::sleep(READ_PAUSE).await;
                }
                // The runtime is going down, and this task with it.
                Err(_) => std::future::pending().await,
            }
        }
        let (segment, offset) = self.position;
        let unread = |(number, end): &(&u64, &u64)| **number > segment || offset < **end;
        let skipped = segments.range(segment..).find(unread);
        let next = skipped.map_or(self.position, |(&number, &end)| (number, end));
        (Batch::unreadable(), next)
    }
}

/// Which records of a batch are done.
struct Progress {
    done: Vec<bool>,
    prefix: usize,
}

impl Progress {
    fn new(records: usize) -> Self {
        Self {
            done: vec![false; records],
            prefix: 0,
        }
    }

    /// A record is done. If everything up to a later one than before is, which that is.
    fn done(&mut self, index: usize) -> Option<usize> {
        if let Some(done) = self.done.get_mut(index) {
            *done = true;
        }
        let before = self.prefix;
        while self.done.get(self.prefix) == Some(&true) {
            self.prefix += 1;
        }
        (self.prefix > before).then(|| self.prefix - 1)
    }
}

impl Shared {
    /// Hands a record over, however long it takes, unless the record is at fault.
    async fn hand_over(&self, consumer: &dyn Consumer, record: &[u8]) {
        let mut pause = self.options.first_pause;
        let mut tries = 0;
        loop {
            let failure = match consumer.handle(record).await {
                Ok(()) => {
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!(topic = self.topic, "the outbox is handed on again");
                    }
                    return;
                }
                Err(failure) => failure,
            };
            self.failures.fetch_add(1, Ordering::Relaxed);
            let (reason, wish) = match failure {
                Failure::Away { reason, after } => (reason, after),
                Failure::Failed(reason) => {
                    tries += 1;
                    if tries >= self.options.attempts {
                        return self.put_aside(record, &reason);
                    }
                    (reason, None)
                }
                Failure::Refused(reason) => return self.put_aside(record, &reason),
            };
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(topic = self.topic, reason, "not handed on; trying on");
            }
            let longest = self.options.longest_pause;
            let jittered = pause.mul_f64(0.5 + fastrand::f64());
            tokio::time::sleep(jittered.max(wish.unwrap_or_default()).min(longest)).await;
            pause = (pause * 2).min(longest);
        }
    }
}
