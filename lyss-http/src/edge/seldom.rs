//! What seldom happens is seldom asked for.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Polls a future only when that future itself has been woken.
///
/// Beside a busy future in one `select!`, signals and timers are polled whenever the busy one is, and each poll takes
/// locks. This one costs two atomic operations then.
pub(crate) struct Seldom<F> {
    future: F,
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    since_poll: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.since_poll.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> Seldom<F> {
    /// Wraps a future, which is polled at the first poll too.
    pub(crate) fn new(future: F) -> Self {
        let woken = Arc::new(Woken {
            since_poll: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            future,
            waker: Waker::from(Arc::clone(&woken)),
            woken,
        }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Before the flag is read: a wake between the two is then seen by one of them.
        self.woken.task.register(cx.waker());
        if !self.woken.since_poll.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let this = &mut *self;
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_when_it_was_woken_and_not_before() {
        let polls = AtomicUsize::new(0);
        let (send, receive) = oneshot::channel();
        let mut receive = Box::pin(receive);
        let counted = std::future::poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            receive.as_mut().poll(cx)
        });
        let mut seldom = Seldom::new(counted);
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = &mut seldom => unreachable!("nothing was sent"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            send.send(7)
        });
        assert_eq!(seldom.await, Ok(7));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
