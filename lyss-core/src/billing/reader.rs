//! Reads segments in order and joins intents with settles: what comes out are the rows for the database.

use std::{collections::HashMap, io, path::PathBuf};

use super::record::{Id, Kind, Record, parse};
use crate::spool::{
    Segments,
    frame::{self, Next, Stopped},
    segment_path,
};

/// Rows of one batch.
pub(super) const BATCH_ROWS: usize = 512;
/// Bytes after which a batch is not extended any more.
const BATCH_BYTES: usize = 2 << 20;

/// A row, as its record carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub id: Id,
    /// Its columns (`columns.rs`).
    pub payload: Vec<u8>,
}

impl Row {
    pub(super) fn of(record: &Record<'_>) -> Self {
        Self {
            id: record.id,
            payload: record.payload.to_vec(),
        }
    }
}

/// Where a directory has been read up to, and which intents wait for their settle.
pub(super) struct Reader {
    dir: PathBuf,
    segment: u64,
    offset: u64,
    open: HashMap<Id, Intent>,
    /// Keep the rows of open intents: wanted of a dead process, which cannot settle them any more.
    keep_intents: bool,
}

struct Intent {
    segment: u64,
    row: Option<Row>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Batch {
    pub rows: Vec<Row>,
    /// A segment with a damaged record, and where: the rest of it was skipped.
    pub damaged: Vec<(u64, u64)>,
    bytes: usize,
}

impl Batch {
    /// Whether reading stopped here, and not at the end.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }
}

impl Reader {
    pub(super) fn new(dir: PathBuf, keep_intents: bool) -> Self {
        Self {
            dir,
            segment: 0,
            offset: 0,
            open: HashMap::new(),
            keep_intents,
        }
    }

    /// Segment and offset up to which everything was read.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.segment, self.offset)
    }

    /// The next rows, up to the ends given. No rows and no damage: everything was read. After an error the reader is
    /// where it was, or after the rows it has given.
    pub(super) fn read(&mut self, segments: &Segments) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let outcome = segments
            .range(self.segment..)
            .try_for_each(|(&number, &end)| {
                if number != self.segment {
                    (self.segment, self.offset) = (number, 0);
                }
                if self.offset >= end || batch.is_full() {
                    return Ok(());
                }
                self.read_segment(end, &mut batch)
            });
        match outcome {
            // What was read comes first; the error will come again.
            Err(error) if batch.rows.is_empty() && batch.damaged.is_empty() => Err(error),
            _ => Ok(batch),
        }
    }

    fn read_segment(&mut self, end: u64, batch: &mut Batch) -> io::Result<()> {
        let path = segment_path(&self.dir, self.segment);
        let (segment, keep_intents, open) = (self.segment, self.keep_intents, &mut self.open);
        let stopped = frame::read(&path, &mut self.offset, end, |body| {
            let Some(record) = parse(body) else {
                return Next::Corrupt;
            };
            match record.kind {
                Kind::Intent => {
                    let row = keep_intents.then(|| Row::of(&record));
                    open.insert(record.id, Intent { segment, row });
                }
                Kind::Settle => {
                    open.remove(&record.id);
                    batch.bytes += record.payload.len();
                    batch.rows.push(Row::of(&record));
                }
            }
            if batch.is_full() {
                Next::Enough
            } else {
                Next::More
            }
        })?;
        if stopped == Stopped::Damaged {
            self.skip(end, batch);
        }
        Ok(())
    }

    /// Gives up the rest of the segment.
    pub(super) fn skip(&mut self, end: u64, batch: &mut Batch) {
        batch.damaged.push((self.segment, self.offset));
        self.offset = end;
    }

    /// Takes note of a settle that did not come by file.
    pub(super) fn settled(&mut self, id: &Id) {
        self.open.remove(id);
    }

    /// Whether no intent waits.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// The segments that are read to their end and hold no open intent. Once the rows read so far are in the
    /// database, nothing needs them.
    pub(super) fn finished(&self, segments: &Segments) -> Vec<u64> {
        let pinned: std::collections::HashSet<u64> =
            self.open.values().map(|intent| intent.segment).collect();
        segments
            .iter()
            .filter(|&(&number, &end)| {
                let read = number < self.segment || (number == self.segment && self.offset >= end);
                read && !pinned.contains(&number)
            })
            .map(|(number, _)| *number)
            .collect()
    }

    /// Goes back to the start of the current segment, which was emptied.
    pub(super) fn rewind(&mut self) {
        self.offset = 0;
    }

    /// The rows of the intents that no settle followed.
    pub(super) fn take_open(&mut self) -> Vec<Row> {
        self.open
            .drain()
            .filter_map(|(_, intent)| intent.row)
            .collect()
    }
}
