//! Times in which no connection to a SQLite file is open.
//!
//! SQLite keeps account of its locks in the process's memory and of the files it holds by their inodes. A process that
//! forks while a connection is open hands that account to the child, which then takes locks for held that are its
//! parent's: its writes go into a log that the parent may delete. So before a fork all connections are closed.
//!
//! # Source
//! <https://www.sqlite.org/howtocorrupt.html>, section 2.6, "Carrying an open database connection across a fork()".

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Database, Pool};

/// How often it is looked whether running queries have ended.
const PAUSE: Duration = Duration::from_millis(1);

/// What every new connection passes.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    /// How many hold it shut.
    shut: usize,
    /// How many connections wait before it.
    waiting: u32,
}

impl Gate {
    /// Waits while the gate is shut. Called where a connection is about to be opened, which is no place to await.
    pub(super) fn pass(&self) {
        if !self.is_shut() {
            return;
        }
        let wait = || {
            let mut state = self.state.lock();
            state.waiting += 1;
            while state.shut > 0 {
                self.opened.wait(&mut state);
            }
            state.waiting -= 1;
        };
        let handle = Handle::try_current();
        if handle.is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread) {
            // Whoever holds a connection needs a thread to give it back.
            tokio::task::block_in_place(wait);
        } else {
            wait();
        }
    }

    /// Whether connections are to be closed rather than used.
    pub(super) fn is_shut(&self) -> bool {
        self.state.lock().shut > 0
    }

    fn waiting(&self) -> u32 {
        self.state.lock().waiting
    }
}

/// While it lives, no connection is opened.
#[must_use]
pub struct Suspended(Option<Arc<Gate>>);

impl Drop for Suspended {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.state.lock().shut -= 1;
            gate.opened.notify_all();
        }
    }
}

impl Database {
    /// Closes all connections to a SQLite file, once what runs on them has ended, and lets queries wait until the
    /// guard is dropped: for a process that is about to fork. What has not ended after `patience` is left open; says
    /// whether all was closed. Does nothing where the database is a server.
    pub async fn suspend(&self, patience: Duration) -> (Suspended, bool) {
        let (Some(gate), Pool::Sqlite(pool)) = (&self.gate, &self.pool) else {
            return (Suspended(None), true);
        };
        gate.state.lock().shut += 1;
        let suspended = Suspended(Some(Arc::clone(gate)));
        let end = Instant::now() + patience;
        loop {
            while let Some(connection) = pool.try_acquire() {
                // A connection that does not close well is closed all the same.
                let _ = connection.close().await;
            }
            if pool.size() <= gate.waiting() {
                return (suspended, true);
            }
            if Instant::now() >= end {
                return (suspended, false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::database::DatabaseSource;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_open_until_the_guard_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let source = DatabaseSource::Sqlite(directory.path().join("lyss.db"));
        let database = Database::open(source, 4).unwrap();
        let busy = |count: usize| {
            let queries = (0..count).map(|_| {
                let database = database.clone();
                tokio::spawn(async move { database.ping().await })
            });
            futures::future::join_all(queries)
        };
        for answer in busy(16).await {
            answer.unwrap().unwrap();
        }
        // More at once than there are connections, and than there are threads.
        let running = busy(16);
        let (suspended, closed) = database.suspend(Duration::from_secs(5)).await;
        assert!(closed);
        let shm = directory.path().join("lyss.db-shm");
        assert!(!shm.exists(), "the last connection removes it");
        let mut waiting = Box::pin(busy(8));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(early.is_err() && !shm.exists());
        drop(suspended);
        for answer in running.await.into_iter().chain(waiting.await) {
            answer.unwrap().unwrap();
        }
    }
}
