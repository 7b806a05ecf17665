//! Encryption at rest: what is stored of conversations and of provider keys, sealed before it leaves the process.
//!
//! ```text
//! key       a key, and the id by which what it has sealed names it
//! ring      the key that seals, those that still open, and the form of what is sealed
//! keys      from the configuration to the ring
//! sessions  a session store whose content is sealed
//! memories  turns on their way into the memory, and what is remembered
//! replies   a store of idempotency keys whose replies are sealed
//! known     which keys the database has seen: a wrong one is noticed at start
//! ```
//!
//! Whatever lies below a sealing store (database, Redis, archive, outbox) sees sealed text only. What is not sealed:
//! ids, times, counts of tokens, and the digest by which a resent conversation is recognised.

mod key;
mod keys;
mod known;
mod memories;
mod replies;
mod ring;
mod sessions;

pub(crate) use key::SealKey;
pub(crate) use keys::{Content, Keys};
pub(crate) use known::{register, verify};
pub(crate) use memories::{Origin, SealedMemories};
pub(crate) use replies::SealedReplies;
pub(crate) use ring::{Place, SealRing, Unreadable, is_sealed};
pub(crate) use sessions::SealedSessions;

use crate::error::{Error, ErrorKind, Result};

/// Up to so many bytes are sealed or opened where they are; more of them elsewhere, so as not to hold up other calls.
const AT_ONCE: usize = 256 << 10;

/// Runs work on so many bytes: here, or on a thread for it.
async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if bytes <= AT_ONCE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Internal, "what is stored cannot be sealed").with_source(error)
    })
}
