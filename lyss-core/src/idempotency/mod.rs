//! Answers kept by idempotency key, so that a request that is sent again is not done again.
//!
//! Used by `pipeline/once/`. What a key stands for goes through three states:
//!
//! ```text
//! (none) --claim--> claimed --dispatch--> dispatched --complete--> done
//!                      |                       |
//!                   release                 release        (surely nothing was done)
//! ```
//!
//! A state before `done` has a lease that its owner renews. When the owner has died, what was only claimed may be
//! claimed by another; of what was dispatched nobody can tell the outcome, and it is never dispatched again. An adapter
//! is one file; it passes `testing/conformance/idempotency_store.rs`.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod database;
mod memory;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod reply;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use database::DatabaseIdempotencyStore;
pub use memory::MemoryIdempotencyStore;
#[cfg(feature = "redis")]
pub use redis::RedisIdempotencyStore;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    types::{IdempotencyKey, RequestId},
};

/// The name of an entry: a hash of the scope and the caller's key, so that no store holds what callers chose, and no
/// key reaches into another scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub [u8; 32]);

impl EntryId {
    /// The entry of a key within a scope.
    pub fn new(scope: &str, key: &IdempotencyKey) -> Self {
        Self(digest(&[scope.as_bytes(), key.as_str().as_bytes()]))
    }
}

/// What a key was first used for: a request with another fingerprint is another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a request: the endpoint, for whom it is made, and the body byte for byte as it came.
    pub fn new(endpoint: &str, user_id: &str, body: &[u8]) -> Self {
        Self(digest(&[endpoint.as_bytes(), user_id.as_bytes(), body]))
    }
}

/// Each part after its length: no two lists of parts run into each other.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// One request's hold on an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The entry.
    pub id: EntryId,
    /// What is asked.
    pub fingerprint: Fingerprint,
    /// Who asks: one request on one instance.
    pub owner: RequestId,
}

/// What a claim met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The entry is the caller's now.
    Granted,
    /// Another request holds it, and is alive.
    Running,
    /// The entry belongs to another fingerprint.
    Reused,
    /// It was dispatched by an owner that has died, or its reply is gone: what came of it is not known.
    Lost,
    /// It is done.
    Done {
        /// What [`IdempotencyStore::complete`] was given.
        reply: Bytes,
        /// The request that did it.
        by: RequestId,
    },
}

/// A store of idempotency keys.
///
/// Every method is atomic, also among instances; times are the store's own. An entry is forgotten once the time to live,
/// given at construction, has passed since it was claimed, or completed. Repeating a call that took effect unnoticed
/// (the answer was lost) changes nothing and is answered as the first time. A store that does not answer is an error
/// (`store_unavailable`), never a free key.
#[async_trait]
pub trait IdempotencyStore: Send + Sync + 'static {
    /// Claims an entry, if it is free: there is none, or it was claimed by somebody who has died before anything was
    /// dispatched. The claim holds for `lease` unless renewed. One round trip where it is granted.
    async fn claim(&self, claim: &Claim, lease: Duration) -> Result<Claimed>;

    /// Holds on for another `lease`; says whether the entry is still the owner's and not done.
    async fn renew(&self, claim: &Claim, lease: Duration) -> Result<bool>;

    /// Marks that the request is about to leave for a provider, and renews. `false` if the entry is not the owner's any
    /// more: then nothing may be dispatched.
    async fn dispatch(&self, claim: &Claim, lease: Duration) -> Result<bool>;

    /// Keeps the reply; durable when it returns. An entry that was lost meanwhile is made anew. `false` if it belongs to
    /// somebody else by now.
    async fn complete(&self, claim: &Claim, reply: Bytes) -> Result<bool>;

    /// Frees an entry that the owner holds; one that is done, or not the owner's, stays.
    async fn release(&self, claim: &Claim) -> Result<()>;

    /// Removes what has expired and is invisible already; called now and then. Returns how many entries.
    async fn sweep(&self) -> Result<u64> {
        Ok(0)
    }
}

/// A shared store.
pub type SharedIdempotencyStore = Arc<dyn IdempotencyStore>;

#[cfg(any(feature = "postgres", feature = "sqlite", feature = "redis"))]
/// Whole milliseconds, for a store.
fn ms(duration: Duration) -> i64 {
    // A hundred years: beyond it the sums in the stores overflow, and nobody means it.
    const MOST: i64 = 100 * 366 * 24 * 3600 * 1000;
    i64::try_from(duration.as_millis()).map_or(MOST, |ms| ms.clamp(1, MOST))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |text: &str| IdempotencyKey::parse(text).unwrap();
        assert_ne!(
            EntryId::new("user:a", &key("bc")),
            EntryId::new("user:ab", &key("c"))
        );
        assert_ne!(
            Fingerprint::new("chat", "u", b"{}"),
            Fingerprint::new("cha", "tu", b"{}")
        );
        assert_eq!(
            EntryId::new("user:a", &key("b")),
            EntryId::new("user:a", &key("b"))
        );
    }
}
