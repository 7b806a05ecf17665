//! HTTP/2 answers whose reader opens no window.
//!
//! [`StallLimit`](super::stall::StallLimit) watches the socket, which other streams of the connection may keep going. A
//! single answer that is not taken shows in its body not being asked for more; it is then cut, so that the call behind
//! it ends.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The bodies of a connection that are being sent.
#[derive(Debug)]
pub(crate) struct Outlets<B> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Mutex<Outlet<B>>>>>,
}

#[derive(Debug)]
struct Outlet<B> {
    /// `None` once it was cut.
    body: Option<B>,
    /// Since when it has been the reader's turn; `None` while the source is waited for.
    offered: Option<Instant>,
}

impl<B> Default for Outlets<B> {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }
}

impl<B> Outlets<B> {
    /// Watches a body until it is dropped.
    pub fn watch(self: &Arc<Self>, body: B) -> Watched<B> {
        let outlet = Arc::new(Mutex::new(Outlet {
            body: Some(body),
            offered: Some(Instant::now()),
        }));
        let id = self.next.fetch_add(1, Relaxed);
        locked(&self.open).insert(id, Arc::clone(&outlet));
        Watched {
            outlets: Arc::clone(self),
            id,
            outlet,
        }
    }

    /// Drops the bodies that have not been asked for anything for `limit`; says how many.
    pub fn cut_stalled(&self, limit: Duration) -> usize {
        let open: Vec<_> = locked(&self.open).values().cloned().collect();
        let cut = open.iter().filter_map(|outlet| {
            let mut outlet = locked(outlet);
            let stalled = outlet.offered.is_some_and(|at| at.elapsed() >= limit);
            // Dropped after the lock: what ends with it may take its time.
            stalled.then(|| outlet.body.take()).flatten()
        });
        cut.count()
    }
}

/// A body that can be cut from outside.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    outlets: Arc<Outlets<B>>,
    id: u64,
    outlet: Arc<Mutex<Outlet<B>>>,
}

impl<B: Body<Error = axum::Error> + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, axum::Error>>> {
        let mut outlet = locked(&self.outlet);
        let Some(body) = &mut outlet.body else {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the peer accepts no data");
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        };
        let polled = Pin::new(body).poll_frame(cx);
        outlet.offered = polled.is_ready().then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        locked(&self.outlet)
            .body
            .as_ref()
            .is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        locked(&self.outlet)
            .body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        locked(&self.outlets.open).remove(&self.id);
    }
}

/// An answer's body on its way out.
pub(crate) enum Outgoing<B> {
    /// The socket says how its reader does.
    Http1(B),
    /// One of many of its connection.
    Http2(Watched<B>),
}

impl<B: Body<Error = axum::Error> + Unpin> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, axum::Error>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A panic elsewhere leaves nothing half done here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
