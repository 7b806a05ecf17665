//! Calls outlive their caller: one that goes away drops the handler, not the call, which goes on for a while so
//! that what it costs is known (decision 21).
//!
//! The call runs within its caller's task, and moves to a task of its own only when it is dropped: nearly no call is,
//! and a task for each would cost a good part of what else is done for it.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::CatchUnwind};
use tokio::runtime::Handle;

use super::Inner;
use crate::error::{Error, ErrorKind, Result};

/// Runs a call, for up to `drain` after its caller has left. `call` is given the flag that is set when its caller has
/// gone away.
///
/// # Errors
/// Those of the call; `internal` if it panicked, or the grace of a shutdown was over before its end.
pub(super) async fn outlive<T, Fut>(
    inner: &Arc<Inner>,
    drain: Duration,
    call: impl FnOnce(Arc<AtomicBool>) -> Fut,
) -> Result<T>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    let gone = Arc::new(AtomicBool::new(false));
    let call = AssertUnwindSafe(call(Arc::clone(&gone))).catch_unwind();
    let mut running = Running {
        call: Some(Box::pin(call)),
        gone,
        drain,
        inner,
        runtime: Handle::current(),
    };
    let outcome = tokio::select! {
        biased;
        outcome = &mut running => outcome.ok(),
        () = inner.cancel.cancelled() => {
            // Dropping the call settles it.
            running.call = None;
            None
        }
    };
    outcome.unwrap_or_else(|| {
        Err(Error::new(
            ErrorKind::Internal,
            "the call was ended by the gateway; it is logged",
        ))
    })
}

type Call<Fut> = Pin<Box<CatchUnwind<AssertUnwindSafe<Fut>>>>;

/// A call and what it needs to go on without its caller.
struct Running<'a, T, Fut>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    /// Absent once it has ended.
    call: Option<Call<Fut>>,
    gone: Arc<AtomicBool>,
    drain: Duration,
    inner: &'a Arc<Inner>,
    runtime: Handle,
}

impl<T, Fut> Future for Running<'_, T, Fut>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    type Output = std::result::Result<Result<T>, Box<dyn Any + Send>>;

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let Some(call) = &mut self.call else {
            return std::task::Poll::Pending; // it has ended
        };
        let outcome = std::task::ready!(call.as_mut().poll(cx));
        self.call = None;
        std::task::Poll::Ready(outcome)
    }
}

impl<T, Fut> Drop for Running<'_, T, Fut>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(call) = self.call.take() else {
            return;
        };
        self.gone.store(true, Relaxed);
        let (cancel, drain) = (self.inner.cancel.clone(), self.drain);
        let rest = async move {
            tokio::select! {
                // Nobody waits for the answer any more: the row says so.
                _ = call => {}
                () = tokio::time::sleep(drain) => {}
                () = cancel.cancelled() => {}
            }
        };
        self.inner.tasks.spawn_on(rest, &self.runtime);
    }
}
