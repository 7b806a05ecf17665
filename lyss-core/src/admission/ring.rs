//! The keys in memory: what a request is checked against.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use subtle::ConstantTimeEq;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    key::{self, KeyHasher, KeyRecord},
    store::KeyStore,
};
use crate::error::Result;

/// What is known of a presented key.
#[derive(Debug, Clone)]
pub enum KeyAnswer {
    /// It is good.
    Valid(Arc<KeyRecord>),
    /// It is none of ours, or revoked: the key store has said so.
    Invalid,
    /// It was good until its expiry, or until the end of the grace after its rotation.
    Expired,
    /// The key store has not been heard for too long to say (`auth_store_unavailable`).
    Unknown,
}

/// The times of a [`KeyRing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingTimes {
    /// Between two looks for a change.
    pub poll: Duration,
    /// After so long without a successful look, a key that is not here may yet exist.
    pub fresh: Duration,
    /// After so long without a successful look, also the keys that are here are no longer vouched for.
    pub max_age: Duration,
    /// How long [`KeyRing::verify_or_refresh`] waits for news of a key that is not here.
    pub wait: Duration,
    /// Least time between two looks, however many unknown keys come in.
    pub gap: Duration,
}

impl Default for RingTimes {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            fresh: Duration::from_secs(3),
            max_age: Duration::from_secs(600),
            wait: Duration::from_millis(200),
            gap: Duration::from_millis(100),
        }
    }
}

/// A snapshot of all keys, kept up to date in the background until the ring is dropped. Checking a key takes no lock
/// and does no IO.
#[derive(Debug)]
pub struct KeyRing {
    hasher: KeyHasher,
    times: RingTimes,
    keys: ArcSwapOption<Snapshot>,
    born: Instant,
    /// When the snapshot was last known to be the table, in milliseconds after `born`.
    confirmed_ms: AtomicU64,
    asked: Notify,
    /// Looks begun; and the latest of them that succeeded.
    begun: AtomicU64,
    succeeded: watch::Sender<u64>,
    stopped: CancellationToken,
}

#[derive(Debug)]
struct Snapshot {
    version: i64,
    keys: HashMap<Arc<str>, Arc<KeyRecord>>,
}

impl KeyRing {
    /// Reads the keys and begins to follow their changes. A database that is away does not fail this: every key is then
    /// `Unknown` until it is back. Must be called within a Tokio runtime.
    pub async fn start(store: KeyStore, times: RingTimes) -> Arc<Self> {
        let ring = Arc::new(Self {
            hasher: store.hasher().clone(),
            times,
            keys: ArcSwapOption::empty(),
            born: Instant::now(),
            confirmed_ms: AtomicU64::new(0),
            asked: Notify::new(),
            begun: AtomicU64::new(0),
            succeeded: watch::Sender::new(0),
            stopped: CancellationToken::new(),
        });
        let mut first = ring.succeeded.subscribe();
        let (stopped, following) = (ring.stopped.clone(), follow(Arc::downgrade(&ring), store));
        tokio::spawn(async move {
            stopped.run_until_cancelled(following).await;
        });
        let patience = Duration::from_secs(2);
        if timeout(patience, first.wait_for(|n| *n > 0)).await.is_err() {
            tracing::warn!(
                "the API keys cannot be read yet; every key is answered with 503 until they can"
            );
        }
        ring
    }

    /// Follows the table no more, before the database is closed.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// Whether the keys have been read.
    pub fn is_loaded(&self) -> bool {
        self.keys.load().is_some()
    }

    /// Checks a key against the snapshot. Takes as long for a known id as for an unknown one.
    pub fn verify(&self, presented: &str) -> KeyAnswer {
        match self.look_up(presented) {
            Found::Answer(answer) => answer,
            Found::Nothing if self.confirmed_within(self.times.fresh) => KeyAnswer::Invalid,
            Found::Nothing => KeyAnswer::Unknown,
        }
    }

    /// As [`verify`](Self::verify), but a key that is not in the snapshot is looked for in the database, within a
    /// fraction of a second: it may have been made on another instance a moment ago.
    pub async fn verify_or_refresh(&self, presented: &str) -> KeyAnswer {
        if let Found::Answer(answer) = self.look_up(presented) {
            return answer;
        }
        // A look that is already under way may have read the table before the key was in it.
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        let mut succeeded = self.succeeded.subscribe();
        self.asked.notify_one();
        let news = succeeded.wait_for(|look| *look >= wanted);
        let news = timeout(self.times.wait, news).await;
        match self.look_up(presented) {
            Found::Answer(answer) => answer,
            Found::Nothing if matches!(news, Ok(Ok(_))) => KeyAnswer::Invalid,
            Found::Nothing => KeyAnswer::Unknown,
        }
    }

    /// Waits a fraction of a second until what has just been changed in the database is known here.
    pub async fn catch_up(&self) {
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        let mut succeeded = self.succeeded.subscribe();
        self.asked.notify_one();
        let news = succeeded.wait_for(|look| *look >= wanted);
        let _ = timeout(self.times.wait, news).await;
    }

    fn look_up(&self, presented: &str) -> Found {
        let Some(id) = key::id_of(presented) else {
            // Not of the shape of a key: no database could make it one.
            return Found::Answer(KeyAnswer::Invalid);
        };
        let hash = self.hasher.hash(presented);
        let snapshot = self.keys.load();
        let record = snapshot.as_ref().and_then(|snapshot| snapshot.keys.get(id));
        // Compared also when there is nothing to compare with, so that the time does not tell which ids exist.
        let equal = |expected: Option<[u8; 32]>| {
            let expected = expected.unwrap_or_default();
            bool::from(std::hint::black_box(expected.ct_eq(&hash)))
        };
        let current = equal(record.map(|record| record.hash));
        let previous = record.and_then(|record| record.previous);
        let rotated = equal(previous.map(|previous| previous.hash));
        let Some(record) = record.filter(|_| current || rotated) else {
            return Found::Nothing;
        };
        if record.revoked_ms.is_some() {
            return Found::Answer(KeyAnswer::Invalid);
        }
        let grace = previous
            .filter(|_| !current)
            .map(|previous| previous.until_ms);
        let now = crate::session::now_ms();
        if [record.expires_ms, grace]
            .into_iter()
            .flatten()
            .any(|end| end <= now)
        {
            return Found::Answer(KeyAnswer::Expired);
        }
        if !self.confirmed_within(self.times.max_age) {
            return Found::Answer(KeyAnswer::Unknown);
        }
        Found::Answer(KeyAnswer::Valid(record.clone()))
    }

    /// Whether there is a snapshot that was known to be right not longer ago than that.
    fn confirmed_within(&self, limit: Duration) -> bool {
        let confirmed = Duration::from_millis(self.confirmed_ms.load(Ordering::Acquire));
        self.keys.load().is_some() && self.born.elapsed().saturating_sub(confirmed) <= limit
    }

    /// Looks for a change; reads the table if there is one.
    async fn refresh(&self, store: &KeyStore) -> Result<()> {
        let look = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let began = self.born.elapsed();
        // The version first: a change in between is then seen again by the next look.
        let version = store.version().await?;
        let known = self.keys.load().as_ref().map(|snapshot| snapshot.version);
        if known != Some(version) {
            let records = store.list().await?;
            let keys = records
                .into_iter()
                .map(|record| (Arc::clone(&record.id), Arc::new(record)))
                .collect();
            self.keys.store(Some(Arc::new(Snapshot { version, keys })));
        }
        let began_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
        self.confirmed_ms.store(began_ms, Ordering::Release);
        self.succeeded.send_replace(look);
        Ok(())
    }
}

/// What the snapshot holds.
enum Found {
    Answer(KeyAnswer),
    /// No such key: which means something only if the snapshot is up to date.
    Nothing,
}

async fn follow(ring: Weak<KeyRing>, store: KeyStore) {
    let mut well = true;
    loop {
        let Some(this) = ring.upgrade() else {
            return;
        };
        let began = Instant::now();
        match this.refresh(&store).await {
            Ok(()) => {
                if !well {
                    tracing::info!("the API keys can be read again");
                }
                well = true;
            }
            Err(error) => {
                if well {
                    tracing::warn!(
                        ?error,
                        "the API keys cannot be read; those known stay good for a while"
                    );
                }
                well = false;
            }
        }
        let RingTimes { poll, gap, .. } = this.times;
        tokio::select! {
            () = sleep(poll) => {}
            () = this.asked.notified() => sleep_until(began + gap).await,
        }
    }
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod change_tests;
#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests;
