//! Bringing back what Redis has lost.

use std::time::Duration;

use super::ArchivedSessionStore;
use crate::{
    error::{Error, ErrorKind, Result, Retry},
    session::SessionStore,
    types::session::{LoadedSession, SessionKey},
};

/// How long a restoration waits for this process's own records of the session.
pub(super) const SETTLING: Duration = Duration::from_secs(2);

impl ArchivedSessionStore {
    /// Puts a session back that Redis may have lost; says whether there is one now.
    pub(super) async fn recover(&self, key: &SessionKey) -> Result<bool> {
        if !self.memory.may_have_lost().await? {
            return Ok(false);
        }
        self.settled(key).await?;
        let Some(archived) = self.archive.fetch(key).await? else {
            return Ok(false);
        };
        let request = archived.last_request.as_deref();
        let restored = self
            .live
            .restore(key, &archived.session, request, None)
            .await?;
        if restored {
            tracing::info!(
                turns = archived.session.version,
                "a session that redis had lost is restored from the archive"
            );
        }
        // Another instance may have been faster.
        Ok(restored || self.live.get(key).await?.is_some())
    }

    /// Brings a session up to date that may be older in Redis than it was; says whether it has changed.
    async fn catch_up(&self, key: &SessionKey, found: &LoadedSession) -> Result<bool> {
        self.settled(key).await?;
        let (newest, deleted_ms) = self.archive.newest(key).await?;
        let created_ms = found.session.created_ms;
        if deleted_ms >= created_ms {
            self.live.remove(key).await?;
            return Ok(true);
        }
        let is_behind = newest.is_some_and(|(created, version)| {
            created > created_ms || (created == created_ms && version > found.version)
        });
        if !is_behind {
            return Ok(false);
        }
        let Some(archived) = self.archive.fetch(key).await? else {
            return Ok(false);
        };
        let request = archived.last_request.as_deref();
        let replaced = Some(found.version);
        let restored = self
            .live
            .restore(key, &archived.session, request, replaced)
            .await?;
        tracing::warn!(
            restored,
            had = found.version,
            turns = archived.session.version,
            "redis had an older state of a session than the archive"
        );
        Ok(true)
    }

    /// What Redis has of a session, once it is sure that there was not more.
    pub(super) async fn made_sure(
        &self,
        key: &SessionKey,
        found: Option<LoadedSession>,
    ) -> Result<Option<LoadedSession>> {
        let loaded = match found {
            None if self.recover(key).await? => self.live.load(key).await?,
            Some(found)
                if self.memory.doubts(&found.session).await?
                    && self.catch_up(key, &found).await? =>
            {
                self.live.load(key).await?
            }
            found => found,
        };
        if let Some(loaded) = &loaded {
            self.used(key, &loaded.session);
        }
        Ok(loaded)
    }

    /// Waits until the archive has what this process has stored of a session.
    pub(super) async fn settled(&self, key: &SessionKey) -> Result<()> {
        if self.pending.settled(key, SETTLING).await {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SessionStoreUnavailable,
            "the session may have to be restored, and its last turns are still on their way to the archive",
        )
        .with_retry(Retry::After(Duration::from_secs(1))))
    }
}
