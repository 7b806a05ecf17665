//! Reads a directory in order and keeps note, in a file beside the segments, of how far its records were handed on.

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use crate::spool::{
    Segments,
    directory::{POSITION_FILE, open_rewritable},
    frame::{self, Next, Stopped},
    segment_path,
};

/// Records of one batch, and bytes after which it is not extended any more.
const BATCH_RECORDS: usize = 64;
const BATCH_BYTES: usize = 1 << 20;
/// Segment, offset and checksum.
const NOTE_BYTES: usize = 20;

/// Segment and offset.
pub(super) type Position = (u64, u64);

/// What was read: records, and where each ends.
#[derive(Default)]
pub(super) struct Batch {
    pub records: Vec<(Vec<u8>, Position)>,
    /// Segments with something in them that is no record; their rest was skipped.
    pub damaged: u64,
    bytes: usize,
}

impl Batch {
    /// A segment that could not be read.
    pub(super) fn unreadable() -> Self {
        Self {
            damaged: 1,
            ..Self::default()
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }
}

/// Reads the next records after a position, up to the ends given; and how far it has come. After an error nothing was
/// read.
pub(super) fn read(
    dir: &Path,
    from: Position,
    segments: &Segments,
) -> io::Result<(Batch, Position)> {
    let mut batch = Batch::default();
    let (mut segment, mut offset) = from;
    for (&number, &end) in segments.range(segment..) {
        if number != segment {
            (segment, offset) = (number, 0);
        }
        if offset >= end || batch.is_full() {
            continue;
        }
        let mut at = offset;
        let stopped = frame::read(&segment_path(dir, number), &mut offset, end, |body| {
            at += (frame::HEADER + body.len()) as u64;
            batch.bytes += body.len();
            batch.records.push((body.to_vec(), (number, at)));
            if batch.is_full() {
                Next::Enough
            } else {
                Next::More
            }
        })?;
        if stopped == Stopped::Damaged {
            batch.damaged += 1;
            offset = end;
        }
        if batch.is_full() {
            break;
        }
    }
    Ok((batch, (segment, offset)))
}

/// The note of how far a directory was handed on.
pub(super) struct Note {
    path: PathBuf,
    file: Option<File>,
}

impl Note {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(POSITION_FILE),
            file: None,
        }
    }

    /// The position; the beginning if there is none, or none that can be believed.
    pub(super) fn read(&self) -> Position {
        let read = || {
            let bytes: [u8; NOTE_BYTES] = std::fs::read(&self.path).ok()?.try_into().ok()?;
            let (position, checksum) = bytes.split_first_chunk::<16>()?;
            let (segment, offset) = position.split_first_chunk::<8>()?;
            let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
            let offset = u64::from_le_bytes(offset.try_into().ok()?);
            (crc32fast::hash(position) == checksum)
                .then_some((u64::from_le_bytes(*segment), offset))
        };
        read().unwrap_or_default()
    }

    /// Replaces the position, with one write.
    pub(super) fn write(&mut self, position: Position) -> io::Result<()> {
        let mut note = Vec::with_capacity(NOTE_BYTES);
        note.extend_from_slice(&position.0.to_le_bytes());
        note.extend_from_slice(&position.1.to_le_bytes());
        let checksum = crc32fast::hash(&note);
        note.extend_from_slice(&checksum.to_le_bytes());
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_rewritable(&self.path)?,
        };
        file.rewind()?;
        file.write_all(&note)?;
        self.file = Some(file);
        Ok(())
    }
}
