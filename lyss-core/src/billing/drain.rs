//! Moves rows from the spool to the database: those of this process as they come, and those that dead ones left.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    ledger::Shared,
    reader::{BATCH_ROWS, Batch, Reader, Row},
    record::parse_whole,
    sink,
};
use crate::{
    database::Database,
    spool::{Orphan, Segments, orphans, segment_path},
};

/// Longest time that a settled row waits for others.
const TICK: Duration = Duration::from_millis(100);
/// How often directories of processes that died meanwhile are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// The current segment is emptied at this size once all of it is drained, or when nothing came for a while.
const RESET_BYTES: u64 = 256 << 10;
const RESET_IDLE: Duration = Duration::from_secs(1);
/// A segment that cannot be read is tried so often, with this pause.
const READ_ATTEMPTS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Drains this process's own directory until it is cancelled. What is not drained then stays on disk.
pub(super) async fn run(shared: Arc<Shared>, database: Database, cancel: CancellationToken) {
    let mut reader = Reader::new(shared.spool.dir().to_owned(), false);
    let mut last_row = Instant::now();
    let steps = async {
        loop {
            let drained;
            (reader, drained) = step(&shared, &database, reader).await;
            if drained != Drained::Nothing {
                last_row = Instant::now();
            }
            // Otherwise the few rows that have come meanwhile wait until there are more: a batch costs more than a row.
            if drained == Drained::Part {
                continue;
            }
            let idle = last_row.elapsed() > RESET_IDLE;
            if reader.is_settled()
                && (idle || reader.position().1 > RESET_BYTES)
                && shared.spool.reset(reader.position())
            {
                reader.rewind();
            }
            tokio::select! {
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = steps => {}
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// There was no row.
    Nothing,
    /// A full batch: there is more.
    Part,
    /// All there was.
    All,
}

/// Drains one batch.
async fn step(shared: &Shared, database: &Database, mut reader: Reader) -> (Reader, Drained) {
    let snapshot = shared.spool.snapshot();
    let end = snapshot.segments.get(&snapshot.current).copied();
    let (mut rows, mut full) = (Vec::new(), false);
    if end.is_some_and(|end| reader.position() != (snapshot.current, end)) {
        let batch;
        (reader, batch) = read(reader, &snapshot.segments).await;
        shared.report_damage(shared.spool.dir(), &batch);
        full = batch.is_full();
        rows = batch.rows;
    }
    if rows.is_empty() {
        for record in shared.spool.take_kept(reader.position(), BATCH_ROWS) {
            if let Some(record) = parse_whole(&record) {
                reader.settled(&record.id);
                rows.push(Row::of(&record));
            }
        }
        full = rows.len() >= BATCH_ROWS;
    }
    shared.write(database, &rows).await;
    for number in reader.finished(&snapshot.segments) {
        if number != snapshot.current
            && let Err(error) = shared.spool.delete(number)
        {
            tracing::warn!(%error, "a drained spool segment cannot be deleted");
        }
    }
    shared.kept.wrote(rows.len() as u64);
    // Last: who waits for zero may then count on the files as well.
    shared
        .waiting
        .fetch_sub(rows.len() as u64, Ordering::AcqRel);
    let drained = match rows.len() {
        0 => Drained::Nothing,
        _ if full => Drained::Part,
        _ => Drained::All,
    };
    (reader, drained)
}

/// Reads a batch off the runtime's threads. A segment that cannot be read is tried again for a while, then skipped.
async fn read(mut reader: Reader, segments: &Segments) -> (Reader, Batch) {
    for attempt in 1.. {
        let (segments, work) = (segments.clone(), reader);
        let joined = tokio::task::spawn_blocking(move || {
            let mut reader = work;
            let batch = reader.read(&segments);
            (reader, batch)
        });
        let batch;
        (reader, batch) = match joined.await {
            Ok(done) => done,
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        };
        match batch {
            Ok(batch) => return (reader, batch),
            Err(error) => tracing::error!(%error, attempt, "request log: the spool cannot be read"),
        }
        if attempt >= READ_ATTEMPTS {
            break;
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    let mut batch = Batch::default();
    let end = segments.get(&reader.position().0).copied();
    reader.skip(end.unwrap_or(u64::MAX), &mut batch);
    (reader, batch)
}

/// Adopts the directories of dead processes, at once and from time to time, until it is cancelled.
pub(super) async fn adopt(
    shared: Arc<Shared>,
    root: PathBuf,
    database: Database,
    cancel: CancellationToken,
) {
    let sweeps = async {
        loop {
            let dir = root.clone();
            let found = tokio::task::spawn_blocking(move || orphans(&dir))
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            match found {
                Ok(orphans) => {
                    for orphan in orphans {
                        drain_orphan(&shared, &database, orphan).await;
                    }
                }
                Err(error) => tracing::error!(%error, "the spool directory cannot be read"),
            }
            tokio::time::sleep(SWEEP).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = sweeps => {}
    }
}

async fn drain_orphan(shared: &Arc<Shared>, database: &Database, orphan: Orphan) {
    let dir = orphan.dir.clone();
    match drain_orphan_rows(shared, database, orphan).await {
        Ok((settled, aborted)) => {
            tracing::info!(settled, aborted, dir = %dir.display(), "adopted the spool of a dead process");
        }
        // The lock is given back: the next sweep, here or elsewhere, tries again.
        Err(error) => {
            tracing::error!(%error, dir = %dir.display(), "an adopted spool cannot be read");
        }
    }
}

async fn drain_orphan_rows(
    shared: &Arc<Shared>,
    database: &Database,
    mut orphan: Orphan,
) -> io::Result<(usize, usize)> {
    let mut counted = shared.spool.count(&orphan);
    let mut reader = Reader::new(orphan.dir.clone(), true);
    let mut settled = 0;
    loop {
        let batch;
        (reader, batch) = read(reader, &orphan.segments).await;
        shared.report_damage(&orphan.dir, &batch);
        if batch.rows.is_empty() && batch.damaged.is_empty() {
            break;
        }
        settled += batch.rows.len();
        shared.write(database, &batch.rows).await;
        for number in reader.finished(&orphan.segments) {
            counted.less(orphan.delete(number)?);
        }
    }
    let rows = reader.take_open();
    for rows in rows.chunks(BATCH_ROWS) {
        shared.write(database, rows).await;
    }
    orphan.remove()?;
    Ok((settled, rows.len()))
}

impl Shared {
    async fn write(&self, database: &Database, rows: &[Row]) {
        if !rows.is_empty() {
            let dead = sink::write(database, &self.dead_letters, rows).await;
            self.dead_letters_count.fetch_add(dead, Ordering::Relaxed);
        }
    }

    /// Keeps a copy of a damaged segment: it may hold rows that a human can still read.
    fn report_damage(&self, dir: &Path, batch: &Batch) {
        for &(segment, offset) in &batch.damaged {
            let source = segment_path(dir, segment);
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            let copy = self
                .dead_letters
                .with_file_name(format!("damaged-{name}-{segment}.seg"));
            let kept = std::fs::copy(&source, &copy).map(drop);
            self.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                segment = %source.display(), offset, copy = %copy.display(), ?kept,
                "spool segment is damaged, its rest was skipped"
            );
        }
    }
}
