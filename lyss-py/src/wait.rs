//! Waiting on the calling thread, with the interpreter free for others and Ctrl-C in force.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use pyo3::{exceptions::PyValueError, prelude::*};
use tokio::runtime::Handle;

/// How often a waiting main thread looks for signals: Python runs their handlers nowhere else.
const TICK: Duration = Duration::from_millis(50);

/// What stands for a time without end, where one must be given.
pub(crate) const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// A time as Python gives it; `None` for one without end.
///
/// # Errors
/// `ValueError` for one that is negative or not a number.
pub(crate) fn seconds(time: Option<f64>) -> PyResult<Option<Duration>> {
    match time {
        None => Ok(None),
        Some(time) if time >= 0.0 => Ok(Duration::try_from_secs_f64(time)
            .ok()
            .filter(|time| *time < LONG)),
        Some(time) => Err(PyValueError::new_err(format!(
            "a time must be a number of seconds from 0, not {time}"
        ))),
    }
}

/// The thread that waits.
struct Waiting(Thread);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, detached; `None` if it has not ended within `timeout`.
///
/// Not `Handle::block_on`: that refuses to run on the runtime's own threads, from which a provider that is written in
/// Python may call the gateway again.
///
/// # Errors
/// What a signal's handler raises, `KeyboardInterrupt` usually. The future is dropped then.
pub(crate) fn wait_for<F>(
    py: Python<'_>,
    handle: &Handle,
    timeout: Option<Duration>,
    future: F,
) -> PyResult<Option<F::Output>>
where
    F: Future + Send,
    F::Output: Send,
{
    // Declared before the future, so that it is dropped after it: what ends may leave a task behind.
    let _entered = handle.enter();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let waker = Waker::from(Arc::new(Waiting(thread::current())));
    let mut future = pin!(future);
    let mut tick = Some(TICK);
    loop {
        let turn = py.detach(|| {
            let mut context = Context::from_waker(&waker);
            let look = tick.and_then(|tick| Instant::now().checked_add(tick));
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return Turn::Done(output);
                }
                let now = Instant::now();
                if deadline.is_some_and(|deadline| deadline <= now) {
                    return Turn::TimedOut;
                }
                if look.is_some_and(|look| look <= now) {
                    return Turn::Look;
                }
                match look.into_iter().chain(deadline).min() {
                    Some(until) => thread::park_timeout(until.saturating_duration_since(now)),
                    None => thread::park(),
                }
            }
        });
        match turn {
            Turn::Done(output) => return Ok(Some(output)),
            Turn::TimedOut => return Ok(None),
            Turn::Look => {
                py.check_signals()?;
                if !on_main_thread(py) {
                    tick = None;
                }
            }
        }
    }
}

enum Turn<T> {
    Done(T),
    TimedOut,
    Look,
}

fn on_main_thread(py: Python<'_>) -> bool {
    let same = || -> PyResult<bool> {
        let threading = py.import("threading")?;
        let main = threading.call_method0("main_thread")?;
        Ok(threading.call_method0("current_thread")?.is(&main))
    };
    same().unwrap_or(true)
}
