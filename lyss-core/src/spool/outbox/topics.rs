//! The topics of an engine: opened when something is first handed to them, closed together.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Outbox, OutboxOptions, OutboxStats};
use crate::Result;

/// Where the topics lie, beside the request log's spool.
const DIRECTORY: &str = "outbox";

/// All topics of one engine.
pub(crate) struct Topics {
    root: PathBuf,
    max_bytes: u64,
    open: Mutex<Vec<Arc<Outbox>>>,
}

impl Topics {
    /// Topics below a spool directory, each with at most so many bytes. Nothing is made yet.
    pub fn new(spool_dir: PathBuf, max_bytes: u64) -> Self {
        Self {
            root: spool_dir.join(DIRECTORY),
            max_bytes,
            open: Mutex::default(),
        }
    }

    /// Opens a topic; true if it was not open before, so that its loop must be started ([`Outbox::consume`]).
    ///
    /// # Errors
    /// As [`Outbox::open`].
    pub fn open(&self, topic: &'static str) -> Result<(Arc<Outbox>, bool)> {
        let mut open = self.open.lock();
        if let Some(outbox) = open.iter().find(|outbox| outbox.topic() == topic) {
            return Ok((Arc::clone(outbox), false));
        }
        let options = OutboxOptions::new(self.max_bytes);
        let outbox = Arc::new(Outbox::open(&self.root, topic, options)?);
        open.push(Arc::clone(&outbox));
        Ok((outbox, true))
    }

    /// The numbers of each topic.
    pub fn stats(&self) -> Vec<(&'static str, OutboxStats)> {
        let open = self.open.lock();
        open.iter()
            .map(|outbox| (outbox.topic(), outbox.stats()))
            .collect()
    }

    /// Closes all topics, each as [`Outbox::close`].
    pub async fn close(&self, limit: Duration) {
        let open = self.open.lock().clone();
        futures::future::join_all(open.iter().map(|outbox| outbox.close(limit))).await;
    }

    /// Removes what is empty, as [`Outbox::remove_if_empty`].
    pub fn remove_empty(&self) {
        for outbox in self.open.lock().iter() {
            outbox.remove_if_empty();
        }
    }
}
