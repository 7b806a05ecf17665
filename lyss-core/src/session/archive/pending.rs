//! What this process has stored and not told the archive yet.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::types::session::SessionKey;

/// Counts, by session.
pub(super) struct Pending {
    /// Tells this process's records from those that it took over.
    owner: Uuid,
    counts: Mutex<HashMap<SessionKey, u32>>,
    started: AtomicBool,
    changed: watch::Sender<()>,
}

impl Pending {
    pub fn new(owner: Uuid) -> Self {
        Self {
            owner,
            counts: Mutex::default(),
            started: AtomicBool::new(false),
            changed: watch::Sender::new(()),
        }
    }

    pub fn owner(&self) -> Uuid {
        self.owner
    }

    /// What dead processes left has been told.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
        self.changed.send_replace(());
    }

    pub fn add(&self, key: &SessionKey) {
        *self.counts.lock().entry(key.clone()).or_default() += 1;
    }

    pub fn done(&self, key: &SessionKey) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
                drop(counts);
                self.changed.send_replace(());
            }
        }
    }

    /// Whether everything is told.
    pub fn is_empty(&self) -> bool {
        self.started.load(Ordering::Acquire) && self.counts.lock().is_empty()
    }

    /// Waits until everything is told, but not longer than `limit`; says whether it is.
    pub async fn all_told(&self, limit: Duration) -> bool {
        self.wait(limit, |counts| counts.is_empty()).await
    }

    /// The same for one session.
    pub async fn settled(&self, key: &SessionKey, limit: Duration) -> bool {
        self.wait(limit, |counts| !counts.contains_key(key)).await
    }

    /// The same for all sessions of a user.
    pub async fn settled_of(&self, user_id: &str, limit: Duration) -> bool {
        let others =
            |counts: &HashMap<SessionKey, u32>| counts.keys().all(|key| key.user_id != user_id);
        self.wait(limit, others).await
    }

    async fn wait(
        &self,
        limit: Duration,
        told: impl Fn(&HashMap<SessionKey, u32>) -> bool,
    ) -> bool {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !self.started.load(Ordering::Acquire) || !told(&self.counts.lock()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }
}
