//! `idempotency`: requests with an `Idempotency-Key`.

use std::time::Duration;

use super::reader::{Reader, Section};
use super::session::StoreKind;

/// `idempotency`.
#[derive(Debug, Clone, PartialEq)]
pub struct IdempotencyConfig {
    /// Where keys and answers are kept. Unset: `redis` when Redis is configured, else `database`.
    pub store: Option<StoreKind>,
    /// How long a key and its answer are kept.
    pub ttl: Duration,
    /// How long a request waits for another one with the same key.
    pub wait: Duration,
    /// How long a key counts as in use after the instance that used it has died.
    pub lease: Duration,
    /// How long a call with a key goes on after its caller has left.
    pub drain: Duration,
    /// The largest answer that is kept, in bytes.
    pub max_bytes: u64,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self {
            store: None,
            ttl: Duration::from_secs(24 * 3600),
            wait: Duration::from_secs(30),
            lease: Duration::from_secs(15),
            drain: Duration::from_secs(60),
            max_bytes: 8 << 20,
        }
    }
}

impl Section for IdempotencyConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.choice::<StoreKind>("store", &mut self.store);
        r.duration("ttl", &mut self.ttl);
        r.duration("wait", &mut self.wait);
        r.duration("lease", &mut self.lease);
        r.duration("drain", &mut self.drain);
        r.size("max_bytes", 1024..=256 << 20, &mut self.max_bytes);
    }
}
