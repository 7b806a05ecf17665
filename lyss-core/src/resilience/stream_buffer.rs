//! One byte budget for what all streams hold: parts of events that have begun, whole events that their callers have not
//! read yet, and replies that are put together for a session (`server.stream_buffer_max`).
//!
//! Each stream may hold [`FREE`] bytes for nothing, so streams of small events never notice the budget. What is held
//! beyond that is taken from it, and given back when the bytes have been written to the caller or are dropped. Nothing
//! waits for room: a stream that finds none ends with an error, which gives back what it held, so that streams that
//! hold half an event each can never wait for one another.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// Bytes that a stream may hold outside the budget.
pub const FREE: usize = 64 << 10;

/// The budget. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct StreamBuffer(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    used: AtomicU64,
    most: AtomicU64,
}

impl StreamBuffer {
    /// A budget of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self(Arc::new(Budget {
            used: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }))
    }

    /// Changes the budget. What is held already stays.
    pub fn resize(&self, most: u64) {
        self.0.most.store(most, Relaxed);
    }

    /// The bytes that are taken.
    pub fn used(&self) -> u64 {
        self.0.used.load(Relaxed)
    }

    /// A stream's own account, with nothing held.
    pub fn share(&self) -> Share {
        Share {
            budget: Arc::clone(&self.0),
            taken: 0,
        }
    }

    /// Counts a whole event until the last reference to its bytes is dropped, which is when it has been written.
    ///
    /// # Errors
    /// `overloaded` if there is no room for it.
    pub fn hold(&self, bytes: Bytes) -> Result<Bytes> {
        if bytes.len() <= FREE {
            return Ok(bytes);
        }
        let mut share = self.share();
        share.take(bytes.len())?;
        Ok(Bytes::from_owner(Held {
            bytes,
            _share: share,
        }))
    }
}

impl Default for StreamBuffer {
    /// A budget without a limit.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

/// What one holder has taken from the budget; given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    taken: u64,
}

impl Share {
    /// Says how many bytes are held now, [`FREE`] of them for nothing.
    ///
    /// # Errors
    /// `overloaded` if there is no room for them; what was held before stays counted.
    pub fn hold(&mut self, bytes: usize) -> Result<()> {
        self.take(bytes.saturating_sub(FREE))
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        let wanted = bytes as u64;
        if let Some(more) = wanted.checked_sub(self.taken).filter(|more| *more > 0) {
            let most = self.budget.most.load(Relaxed);
            self.budget
                .used
                .try_update(AcqRel, Relaxed, |used| {
                    used.checked_add(more).filter(|used| *used <= most)
                })
                .map_err(|_| full())?;
        } else {
            self.budget.used.fetch_sub(self.taken - wanted, AcqRel);
        }
        self.taken = wanted;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.taken, AcqRel);
    }
}

fn full() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "the gateway holds as many bytes of streams as it may (`server.stream_buffer_max`): this stream ends here",
    )
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_held_beyond_the_free_bytes_is_counted_until_it_is_dropped() {
        let buffer = StreamBuffer::new(100);
        let mut share = buffer.share();
        share.hold(FREE).unwrap();
        assert_eq!(buffer.used(), 0);
        share.hold(FREE + 60).unwrap();
        let mut other = buffer.share();
        assert_eq!(
            other.hold(FREE + 41).unwrap_err().kind(),
            ErrorKind::Overloaded
        );
        assert_eq!(buffer.used(), 60, "a refusal takes nothing");
        share.hold(FREE + 10).unwrap();
        other.hold(FREE + 41).unwrap();
        assert_eq!(buffer.used(), 51);
        drop(share);
        assert_eq!(buffer.used(), 41);
        buffer.resize(10);
        other.hold(FREE + 40).unwrap();
        other.hold(FREE + 41).unwrap_err();
        drop(other);
        assert_eq!(buffer.used(), 0);
    }

    #[test]
    fn an_event_is_counted_as_long_as_any_of_its_bytes_are_referred_to() {
        let buffer = StreamBuffer::new(2 * FREE as u64);
        let small = buffer.hold(vec![0; FREE].into()).unwrap();
        assert_eq!(buffer.used(), 0);
        let large = buffer.hold(vec![0; FREE + 1].into()).unwrap();
        assert_eq!(buffer.used(), FREE as u64 + 1);
        assert!(buffer.hold(vec![0; FREE + 1].into()).is_err());
        let part = large.slice(10..20);
        drop((small, large));
        assert_eq!(buffer.used(), FREE as u64 + 1);
        drop(part);
        assert_eq!(buffer.used(), 0);
    }

    #[test]
    fn many_streams_with_half_events_all_come_to_an_end() {
        // Each wants more than its part of the budget: some are refused, none waits, the others finish.
        let buffer = StreamBuffer::new(10 * FREE as u64);
        let ended: Vec<bool> = std::thread::scope(|scope| {
            let streams: Vec<_> = (0..8)
                .map(|_| {
                    let buffer = &buffer;
                    scope.spawn(move || {
                        (0..50).all(|_| {
                            let mut share = buffer.share();
                            (1..=8).all(|part| share.hold(part * FREE).is_ok())
                        })
                    })
                })
                .collect();
            streams
                .into_iter()
                .map(|stream| stream.join().unwrap())
                .collect()
        });
        assert_eq!(ended.len(), 8);
        assert_eq!(buffer.used(), 0);
        let mut share = buffer.share();
        share.hold(11 * FREE).unwrap();
    }
}
