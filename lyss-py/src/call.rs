//! A call that an asyncio loop waits for: it runs on the runtime, and tells the loop's port when it has ended.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{error, port::Sender, reply::Received, runtime};

/// What a call comes to.
pub(crate) enum Ended {
    /// The router's answer.
    Answered(Box<Received>),
    /// Something without an answer is done, such as closing.
    Done,
    /// It did not end in time.
    TimedOut(Duration),
    /// It failed before there was an answer.
    Failed(Box<dyn FnOnce(Python<'_>) -> PyErr + Send>),
}

/// A running call.
#[pyclass(frozen, module = "lyss._lyss")]
pub(crate) struct Call {
    ended: Arc<Mutex<Option<Ended>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    handle: Handle,
    generation: u64,
}

impl Call {
    /// Starts what comes to an end by itself; `sender` tells of `token` then.
    pub(crate) fn start(
        handle: &Handle,
        sender: Arc<Sender>,
        token: u64,
        timeout: Option<Duration>,
        future: impl Future<Output = Ended> + Send + 'static,
    ) -> Self {
        let ended = Arc::new(Mutex::new(None));
        let place = Arc::clone(&ended);
        let task = handle.spawn(async move {
            let future = AssertUnwindSafe(future).catch_unwind();
            let end = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, future)
                    .await
                    .unwrap_or(Ok(Ended::TimedOut(timeout))),
                None => future.await,
            };
            // The panic hook has written what it was.
            let end = end.unwrap_or_else(|_| Ended::Failed(Box::new(|_| error::defect())));
            *place.lock() = Some(end);
            sender.send(token);
        });
        Self {
            ended,
            task: Mutex::new(Some(task)),
            handle: handle.clone(),
            generation: runtime::generation(),
        }
    }
}

#[pymethods]
impl Call {
    /// What the call has come to; once, and only when the port has told of it.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.generation != runtime::generation() {
            return Err(error::forked());
        }
        *self.task.lock() = None;
        let ended = self.ended.lock().take();
        match ended {
            Some(Ended::Answered(received)) => {
                let reply = received.into_reply(py)?;
                Ok(Py::new(py, reply)?.into_any())
            }
            Some(Ended::Done) => Ok(py.None()),
            Some(Ended::TimedOut(timeout)) => Err(error::timed_out(timeout)),
            Some(Ended::Failed(raise)) => Err(raise(py)),
            None => Err(error::defect()),
        }
    }

    /// Gives the call up: nobody waits for it any more.
    fn cancel(&self) {
        if self.generation == runtime::generation()
            && let Some(task) = self.task.lock().take()
        {
            task.abort();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.generation == runtime::generation() {
            self.cancel();
            // A stream that nobody has taken ends here.
            let _entered = self.handle.enter();
            self.ended.lock().take();
        } else {
            std::mem::forget(self.task.get_mut().take());
            std::mem::forget(Arc::clone(&self.ended));
        }
    }
}
