//! A spool's files: one locked directory a process, in it segments that only grow, or go as a whole.
//!
//! Appending is one `write(2)` under a short mutex, on the caller's thread: into the page cache that is some
//! microseconds, less than handing the record to another thread would cost. What is written survives the death of the
//! process; the loss of power only what was there at the last [`Spool::sync`].

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use uuid::Uuid;

/// Existing segments and their lengths, in order.
pub(crate) type Segments = BTreeMap<u64, u64>;

/// Records that the disk refused, kept in memory until they are drained.
const MAX_OVERFLOW: usize = 10_000;
/// A directory under this prefix is still being made, and nobody's to adopt.
const UNFINISHED: &str = "new-";
/// Holds the lock of a directory.
const LOCK_FILE: &str = "lock";
/// How far a directory has been handed on, where its reader keeps note of that.
pub(crate) const POSITION_FILE: &str = "position";

/// Why a record was not written.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The limit, or the disk, is reached.
    Full,
    /// The disk fails, also on a fresh file.
    Io(io::Error),
    /// The spool was closed.
    Closed,
}

/// The spool directory of this process.
pub(crate) struct Spool {
    dir: PathBuf,
    segment_bytes: u64,
    max_bytes: u64,
    /// Bytes on disk, those of adopted directories included.
    pub bytes: AtomicU64,
    /// Failed writes.
    pub write_errors: AtomicU64,
    state: Mutex<State>,
    /// Held for as long as this value lives: the process is alive.
    _lock: File,
}

struct State {
    file: File,
    current: u64,
    segments: Segments,
    overflow: VecDeque<Vec<u8>>,
    closed: bool,
    /// Sealed files that have not been synced, where syncing is wanted.
    unsynced: Option<Vec<File>>,
    /// Whether the directory has names that have not been synced.
    new_names: bool,
}

/// What the drain can read at one moment.
pub(crate) struct Snapshot {
    pub segments: Segments,
    pub current: u64,
}

impl Spool {
    /// Makes and locks a new directory under `root`.
    pub(crate) fn create(root: &Path, segment_bytes: u64, max_bytes: u64) -> io::Result<Self> {
        make_dir(root, true)?;
        let name = Uuid::now_v7().to_string();
        let unfinished = root.join(format!("{UNFINISHED}{name}"));
        make_dir(&unfinished, false)?;
        let lock = open_private(&unfinished.join(LOCK_FILE))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        })?;
        let file = open_private(&segment_path(&unfinished, 0))?;
        // Only now can another process see it, and it is locked already.
        let dir = root.join(name);
        fs::rename(&unfinished, &dir)?;
        Ok(Self {
            dir,
            segment_bytes: segment_bytes.max(1),
            max_bytes,
            bytes: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            state: Mutex::new(State {
                file,
                current: 0,
                segments: [(0, 0)].into(),
                overflow: VecDeque::new(),
                closed: false,
                unsynced: None,
                new_names: false,
            }),
            _lock: lock,
        })
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends a record. A tenth of the space is kept for records that finish what has begun (`finishing`).
    pub(crate) fn append(&self, record: &[u8], finishing: bool) -> Result<(), AppendError> {
        let length = record.len() as u64;
        let limit = if finishing {
            self.max_bytes
        } else {
            self.max_bytes - self.max_bytes / 10
        };
        let mut state = self.state.lock();
        if state.closed && !finishing {
            return Err(AppendError::Closed);
        }
        if self.bytes.load(Ordering::Relaxed).saturating_add(length) > limit {
            return Err(AppendError::Full);
        }
        if state.length() > 0 && state.length() + length > self.segment_bytes {
            state.seal(&self.dir).map_err(|error| self.failed(error))?;
        }
        match state.write(record) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Err(self.failed(error)),
            Err(error) => {
                // The file is not to be trusted any more, and a failed write never to be repeated on it.
                tracing::error!(%error, dir = %self.dir.display(), "spool segment sealed after a failed write");
                self.write_errors.fetch_add(1, Ordering::Relaxed);
                state
                    .seal(&self.dir)
                    .and_then(|()| state.write(record))
                    .map_err(|error| self.failed(error))?;
            }
        }
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        // Once for each fifth that is passed on the way up.
        let fifth = |bytes: u64| bytes.saturating_mul(5) / self.max_bytes.max(1);
        if fifth(before + length) > fifth(before) && fifth(before + length) >= 3 {
            tracing::warn!(
                bytes = before + length,
                max_bytes = self.max_bytes,
                "the spool fills: at nine tenths new requests are refused (`data.spool_max_bytes`)"
            );
        }
        Ok(())
    }

    /// From now on [`Spool::sync`] is called, so that sealed files are kept for it; the directory itself is synced.
    pub(crate) fn will_sync(&self) -> io::Result<()> {
        self.state.lock().unsynced = Some(Vec::new());
        File::open(&self.dir)?.sync_all()?;
        match self.dir.parent() {
            Some(root) => File::open(root)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Brings everything that was appended before onto the disk (`fdatasync`). Blocks; other threads go on appending.
    ///
    /// # Errors
    /// What the disk says. What was not synced then may be lost with the power: it is gone on with in a new file, and the
    /// same one is never synced again, since the system may have dropped what it could not write.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let (current, sealed, new_names) = {
            let mut state = self.state.lock();
            let sealed = state.unsynced.as_mut().map(std::mem::take);
            let new_names = std::mem::take(&mut state.new_names);
            (
                state.file.try_clone()?,
                sealed.unwrap_or_default(),
                new_names,
            )
        };
        let outcome = sealed
            .iter()
            .chain([&current])
            .try_for_each(File::sync_data)
            .and_then(|()| match new_names {
                true => File::open(&self.dir)?.sync_all(),
                false => Ok(()),
            });
        if let Err(error) = &outcome {
            tracing::error!(%error, dir = %self.dir.display(), "spool segment sealed after a failed sync");
            self.write_errors.fetch_add(1, Ordering::Relaxed);
            let mut state = self.state.lock();
            // Its data may be gone: it is not to be synced again.
            let kept = state.unsynced.take();
            let sealed = state.seal(&self.dir);
            state.unsynced = kept;
            state.new_names = true;
            sealed?;
        }
        outcome
    }

    fn failed(&self, error: io::Error) -> AppendError {
        self.write_errors.fetch_add(1, Ordering::Relaxed);
        if is_full(&error) {
            AppendError::Full
        } else {
            AppendError::Io(error)
        }
    }

    /// Keeps a final record in memory that the disk would not take. False if there are too many.
    pub(crate) fn keep(&self, record: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        let room = state.overflow.len() < MAX_OVERFLOW;
        if room {
            state.overflow.push_back(record);
        }
        room
    }

    /// What is there to read now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        Snapshot {
            segments: state.segments.clone(),
            current: state.current,
        }
    }

    /// The kept records, if the reader at `position` has read everything that was written before them; so their
    /// intents have been seen.
    pub(crate) fn take_kept(&self, position: (u64, u64), most: usize) -> Vec<Vec<u8>> {
        let mut state = self.state.lock();
        if position != (state.current, state.length()) {
            return Vec::new();
        }
        let count = state.overflow.len().min(most);
        state.overflow.drain(..count).collect()
    }

    /// Deletes a sealed segment that nothing needs any more.
    pub(crate) fn delete(&self, number: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if number == state.current {
            return Ok(());
        }
        remove_if_there(&segment_path(&self.dir, number))?;
        if let Some(length) = state.segments.remove(&number) {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Empties the current segment, if the reader has drained it to its end and nothing is open. True if it did.
    pub(crate) fn reset(&self, position: (u64, u64)) -> bool {
        let mut state = self.state.lock();
        let length = state.length();
        if position != (state.current, length) || length == 0 || state.file.set_len(0).is_err() {
            return false;
        }
        let current = state.current;
        state.segments.insert(current, 0);
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        true
    }

    /// Goes on in a new segment, if the reader has drained the current one to its end. True if it did: the old one can
    /// then be deleted. Unlike [`Spool::reset`] this never makes a noted position point into other records.
    pub(crate) fn seal_drained(&self, position: (u64, u64)) -> bool {
        let mut state = self.state.lock();
        let length = state.length();
        position == (state.current, length) && length > 0 && state.seal(&self.dir).is_ok()
    }

    /// Counts the bytes of an adopted directory as this process's, for as long as the value lives.
    pub(crate) fn count(&self, orphan: &Orphan) -> Counted<'_> {
        let total = orphan.segments.values().sum();
        self.bytes.fetch_add(total, Ordering::Relaxed);
        Counted { spool: self, total }
    }

    /// Takes no new requests; what has begun may still settle.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Removes the directory. Only for an empty one that was closed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
    }
}

impl State {
    fn length(&self) -> u64 {
        self.segments.get(&self.current).copied().unwrap_or(0)
    }

    /// One write. After a failed or short one the file ends where it did before; if not even that can be had, the
    /// error is not "full", so that the caller seals it.
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let before = self.length();
        let error = match self.file.write(record) {
            Ok(written) if written == record.len() => {
                self.segments.insert(self.current, before + written as u64);
                return Ok(());
            }
            Ok(_) => io::ErrorKind::StorageFull.into(),
            Err(error) => error,
        };
        self.file.set_len(before)?;
        Err(error)
    }

    /// Goes on in a new file.
    fn seal(&mut self, dir: &Path) -> io::Result<()> {
        let next = self.current + 1;
        let file = open_private(&segment_path(dir, next))?;
        let sealed = std::mem::replace(&mut self.file, file);
        self.current = next;
        self.segments.insert(next, 0);
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.push(sealed);
            self.new_names = true;
        }
        Ok(())
    }
}

/// A directory whose process is dead, locked by this one now.
pub(crate) struct Orphan {
    pub dir: PathBuf,
    pub segments: Segments,
    _lock: File,
}

/// Bytes of an adopted directory, counted for as long as they are there.
pub(crate) struct Counted<'a> {
    spool: &'a Spool,
    total: u64,
}

impl Counted<'_> {
    /// So many bytes are there no more.
    pub(crate) fn less(&mut self, bytes: u64) {
        self.spool.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total -= bytes;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.spool.bytes.fetch_sub(self.total, Ordering::Relaxed);
    }
}

/// The directories under `root` whose processes are dead. Which of several living processes gets one is decided by
/// its lock; a directory of a living process is never touched.
pub(crate) fn orphans(root: &Path) -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(UNFINISHED) {
            remove_unfinished(&entry.path());
        } else if Uuid::try_parse(name).is_ok() {
            match adopt(entry.path()) {
                Ok(orphan) => found.extend(orphan),
                // Another one was faster, and has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%error, dir = name, "spool directory cannot be adopted");
                }
            }
        }
    }
    Ok(found)
}

fn adopt(dir: PathBuf) -> io::Result<Option<Orphan>> {
    // Not `open_private`: a lock file that is gone must not be made again.
    let lock = OpenOptions::new().append(true).open(dir.join(LOCK_FILE));
    let lock = match lock {
        // Its remover died between this file and the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::remove_dir(&dir)?;
            return Ok(None);
        }
        lock => lock?,
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut segments = Segments::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            segments.insert(number, entry.metadata()?.len());
        }
    }
    Ok(Some(Orphan {
        dir,
        segments,
        _lock: lock,
    }))
}

impl Orphan {
    /// Deletes a segment that nothing needs any more.
    pub(crate) fn delete(&mut self, number: u64) -> io::Result<u64> {
        remove_if_there(&segment_path(&self.dir, number))?;
        Ok(self.segments.remove(&number).unwrap_or(0))
    }

    /// Removes the directory: the lock file last, so that what is half removed can be adopted again.
    pub(crate) fn remove(self) -> io::Result<()> {
        for number in self.segments.keys() {
            remove_if_there(&segment_path(&self.dir, *number))?;
        }
        remove_if_there(&self.dir.join(POSITION_FILE))?;
        remove_if_there(&self.dir.join(LOCK_FILE))?;
        fs::remove_dir(&self.dir)
    }
}

/// What a process left that died while it made its directory; there can be no record in it.
fn remove_unfinished(dir: &Path) {
    let old = |age: &Duration| *age > Duration::from_secs(60);
    let age = fs::metadata(dir)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| SystemTime::now().duration_since(time).ok());
    if age.as_ref().is_some_and(old) {
        let _ = fs::remove_dir_all(dir);
    }
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a directory that only its owner can enter.
fn make_dir(path: &Path, recursive: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(recursive);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file for appending, and makes it if it is missing, readable by its owner only.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    open_owned(path, OpenOptions::new().append(true))
}

/// As [`open_private`], for writing over what is there.
pub(crate) fn open_rewritable(path: &Path) -> io::Result<File> {
    open_owned(path, OpenOptions::new().write(true).truncate(false))
}

fn open_owned(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_failing_file_is_sealed_and_the_record_goes_to_a_new_one() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::create(root.path(), 1 << 20, 1 << 20).unwrap();
        spool.append(b"first", false).unwrap();
        // Opened for reading: every write to it fails.
        spool.state.lock().file = File::open(segment_path(spool.dir(), 0)).unwrap();
        spool.append(b"second", false).unwrap();
        let read = |number| fs::read(segment_path(spool.dir(), number)).unwrap();
        assert_eq!((read(0), read(1)), (b"first".to_vec(), b"second".to_vec()));
        assert_eq!(spool.snapshot().segments, [(0, 5), (1, 6)].into());
        assert_eq!(spool.write_errors.load(Ordering::Relaxed), 1);
        assert_eq!(spool.bytes.load(Ordering::Relaxed), 11);
    }

    #[test]
    fn what_is_sealed_is_synced_with_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::create(root.path(), 4, 1 << 20).unwrap();
        spool.will_sync().unwrap();
        for _ in 0..3 {
            spool.append(b"four", false).unwrap();
        }
        assert_eq!(spool.state.lock().unsynced.as_ref().unwrap().len(), 2);
        spool.sync().unwrap();
        assert_eq!(spool.state.lock().unsynced.as_ref().unwrap().len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn when_no_new_file_can_be_made_the_error_is_told() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::create(root.path(), 1 << 20, 1 << 20).unwrap();
        spool.state.lock().file = File::open(segment_path(spool.dir(), 0)).unwrap();
        fs::remove_dir_all(spool.dir()).unwrap();
        assert!(matches!(spool.append(b"x", true), Err(AppendError::Io(_))));
        assert_eq!(spool.write_errors.load(Ordering::Relaxed), 2);
        assert_eq!(spool.bytes.load(Ordering::Relaxed), 0);
    }
}
