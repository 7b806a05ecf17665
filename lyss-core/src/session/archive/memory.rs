//! Whether Redis may have lost something.
//!
//! The first engine that meets an empty Redis writes an epoch there. While the epoch is older than a session's life,
//! whatever Redis does not know does not exist, and the archive need not be asked: the database is not in the path of a
//! turn, and may be away. A Redis that was emptied has lost its epoch as well; another server (a restart, a replica that
//! took over) shows another run id, and what was stored before is compared with the archive when it is next used. In a
//! cluster, and where single keys are evicted, nothing can be told from an epoch: the archive is asked whenever
//! something is missing.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::pending::Pending;
use crate::{
    error::Result,
    session::{DatabaseSessionStore, RedisSessionStore, now_ms, redis::Epoch},
    types::session::Session,
};

/// How often it is looked at which server answers.
const LOOK: Duration = Duration::from_millis(500);
/// How long the archive, and what is on its way there, are waited for when a new epoch begins.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of Redis's memory.
pub(super) struct Memory {
    live: Arc<RedisSessionStore>,
    archive: Arc<DatabaseSessionStore>,
    pending: Arc<Pending>,
    epoch: Mutex<Option<Seen>>,
    /// The beginning of an epoch of which it is not known whether there was anything to lose.
    unsure: Mutex<Option<i64>>,
}

/// An epoch, and how often Redis had not answered when it was read.
#[derive(Clone, Copy)]
struct Seen {
    epoch: Epoch,
    interruptions: u64,
}

impl Memory {
    pub fn new(
        live: Arc<RedisSessionStore>,
        archive: Arc<DatabaseSessionStore>,
        pending: Arc<Pending>,
    ) -> Self {
        Self {
            live,
            archive,
            pending,
            epoch: Mutex::new(None),
            unsure: Mutex::new(None),
        }
    }

    /// Whether something that is not in Redis may be in the archive.
    pub async fn may_have_lost(&self) -> Result<bool> {
        let epoch = self.look().await?;
        let recent = |since: i64| epoch.now_ms.saturating_sub(since) < self.live.ttl_ms();
        Ok(epoch.evicts || recent(epoch.lost_ms) || recent(epoch.moved_ms))
    }

    /// Whether a session that is in Redis may have been further before another server took over.
    pub async fn doubts(&self, session: &Session) -> Result<bool> {
        let seen = *self.epoch.lock();
        let epoch = match seen {
            Some(seen) if seen.interruptions == self.live.interruptions() => seen.epoch,
            // The connection was lost meanwhile, and may lead elsewhere now.
            _ => self.look().await?,
        };
        Ok(session.last_activity_ms < epoch.moved_ms
            && now_ms().saturating_sub(epoch.moved_ms) < self.live.ttl_ms())
    }

    /// Looks again and again which server answers; ends with the task that awaits it.
    pub async fn watch(self: Arc<Self>) {
        // An epoch that begins with records still on their way has something to lose.
        self.pending.all_told(PATIENCE).await;
        loop {
            // A Redis that is away is noticed by those who need it.
            let _ = self.look().await;
            self.find_out().await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<Epoch> {
        let interruptions = self.live.interruptions();
        let nothing_pending = self.pending.is_empty();
        let epoch = self.live.epoch(None).await?;
        if epoch.begins {
            *self.unsure.lock() = nothing_pending.then_some(epoch.lost_ms);
        }
        *self.epoch.lock() = Some(Seen {
            epoch,
            interruptions,
        });
        Ok(epoch)
    }

    /// Where nothing was archived yet, and nothing was on its way, nothing can have been lost.
    async fn find_out(&self) {
        let unsure = *self.unsure.lock();
        let Some(begun_ms) = unsure else { return };
        let archived = tokio::time::timeout(PATIENCE, self.archive.holds_sessions()).await;
        let known = match archived {
            Ok(Ok(true)) => true,
            Ok(Ok(false)) => self.live.epoch(Some(begun_ms)).await.is_ok(),
            // The database does not say.
            _ => false,
        };
        if known {
            *self.unsure.lock() = None;
        }
    }
}
