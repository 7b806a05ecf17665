//! What is particular to SQLite: the file, and how a connection is set up.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{ACQUIRE_TIMEOUT, suspend::Gate};
use crate::{Error, ErrorKind, Result};

/// A pool over one file. The file is made here, readable by its owner only; SQLite gives `-wal` and `-shm` the
/// permissions of the file they belong to.
pub(super) fn open(path: &Path, max_connections: u32, gate: &Arc<Gate>) -> Result<SqlitePool> {
    create(path).map_err(|error| {
        Error::new(
            ErrorKind::StoreUnavailable,
            format!("cannot make the database file {}: {error}", path.display()),
        )
        .with_source(error)
    })?;
    let (before_opening, before_using) = (Arc::clone(gate), Arc::clone(gate));
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        // Readers go on while a batch is written; NORMAL loses no committed transaction to a crash of the process.
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        // The one function of ours that is called before the file is opened.
        .thread_name(move |number| {
            before_opening.pass();
            format!("sqlite-{number}")
        })
        .disable_statement_logging();
    Ok(SqlitePoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .before_acquire(move |_, _| {
            let usable = !before_using.is_shut();
            Box::pin(std::future::ready(Ok(usable)))
        })
        .connect_lazy_with(options))
}

fn create(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory)?;
    }
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
