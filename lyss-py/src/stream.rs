//! A streamed answer, read event by event: waiting on the calling thread, or polled by an asyncio loop.
//!
//! There is no task and no channel: the reader polls through to the provider's socket, so that one that reads slowly
//! slows the provider down, and one that goes away closes the connection.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use parking_lot::Mutex;
use pyo3::{exceptions::PyRuntimeError, prelude::*, types::PyBytes};
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    error,
    port::{Port, TokenWaker},
    runtime,
    wait::{seconds, wait_for},
};

/// What an event is when its `data` is this: the answer is complete.
const DONE: &[u8] = b"[DONE]";

/// The events of a streamed answer.
#[pyclass(frozen, module = "lyss._lyss")]
pub(crate) struct Stream {
    /// Out while somebody reads.
    body: Mutex<Option<Body>>,
    handle: Handle,
    generation: u64,
    /// Ends a wait from another thread.
    closed: Notify,
    is_closed: AtomicBool,
    done: AtomicBool,
}

impl Stream {
    pub(crate) fn new(py: Python<'_>, body: Body) -> PyResult<Self> {
        Ok(Self {
            body: Mutex::new(Some(body)),
            handle: runtime::handle(py)?,
            generation: runtime::generation(),
            closed: Notify::new(),
            is_closed: AtomicBool::new(false),
            done: AtomicBool::new(false),
        })
    }

    /// Takes the body out to read from it; `None` at the end.
    fn take(&self) -> PyResult<Option<Body>> {
        if self.generation != runtime::generation() {
            return Err(error::forked());
        }
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.body.lock().take() {
            Some(body) => Ok(Some(body)),
            None => Err(PyRuntimeError::new_err(
                "this stream is being read already; read it from one thread or task",
            )),
        }
    }

    /// Puts the body back unless the stream was closed meanwhile; what is not put back ends the call upstream.
    fn put_back(&self, body: Body) {
        let mut place = self.body.lock();
        if !self.is_closed.load(Ordering::Relaxed) {
            *place = Some(body);
        }
    }

    /// What a polled frame is to the reader.
    fn given(&self, py: Python<'_>, frame: Option<Bytes>, raw: bool) -> Option<Py<PyBytes>> {
        let Some(frame) = frame else {
            self.is_closed.store(true, Ordering::Relaxed);
            return None;
        };
        let data = if raw { &*frame } else { data(&frame) };
        if !raw && data == DONE {
            self.done.store(true, Ordering::Relaxed);
            self.is_closed.store(true, Ordering::Relaxed);
            return None;
        }
        Some(PyBytes::new(py, data).unbind())
    }
}

#[pymethods]
impl Stream {
    /// Waits for the next event: its data, or with `raw` the event as it is on the wire. `None` at the end.
    #[pyo3(signature = (timeout=None, raw=false))]
    fn next(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        raw: bool,
    ) -> PyResult<Option<Py<PyBytes>>> {
        let timeout = seconds(timeout)?;
        // Before the body, so that it is dropped after it: the end of a call may leave a task behind.
        let _entered = self.handle.enter();
        let Some(mut body) = self.take()? else {
            return Ok(None);
        };
        let read = async {
            let closed = self.closed.notified();
            tokio::select! {
                biased;
                frame = std::future::poll_fn(|cx| poll(&mut body, cx, raw)) => Some(frame),
                () = closed => None,
            }
        };
        match wait_for(py, &self.handle, timeout, read) {
            Ok(Some(Some(frame))) => {
                if frame.is_some() {
                    self.put_back(body);
                }
                Ok(self.given(py, frame, raw))
            }
            Ok(Some(None)) => Ok(None),
            given_up => {
                self.is_closed.store(true, Ordering::Relaxed);
                given_up?;
                Err(error::timed_out(timeout.unwrap_or_default()))
            }
        }
    }

    /// The next event if it is there, as [`next`](Self::next) gives it; `False` if it is not: then `port` will tell of `token`.
    #[pyo3(signature = (port, token, raw=false))]
    fn poll(&self, py: Python<'_>, port: &Port, token: u64, raw: bool) -> PyResult<Py<PyAny>> {
        let _entered = self.handle.enter();
        let Some(mut body) = self.take()? else {
            return Ok(py.None());
        };
        let sender = port.sender();
        let polled = py.detach(|| {
            let waker = Waker::from(Arc::new(TokenWaker { sender, token }));
            poll(&mut body, &mut Context::from_waker(&waker), raw)
        });
        match polled {
            Poll::Ready(frame) => {
                if frame.is_some() {
                    self.put_back(body);
                }
                match self.given(py, frame, raw) {
                    Some(bytes) => Ok(bytes.into_any()),
                    None => Ok(py.None()),
                }
            }
            Poll::Pending => {
                self.put_back(body);
                Ok(pyo3::types::PyBool::new(py, false)
                    .to_owned()
                    .into_any()
                    .unbind())
            }
        }
    }

    /// Whether nothing is missing: the answer has come to its end, or was not wanted to.
    #[getter]
    fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the call upstream, unless the answer is complete.
    fn close(&self, py: Python<'_>) {
        self.done.store(true, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Relaxed);
        if self.generation != runtime::generation() {
            return;
        }
        let body = self.body.lock().take();
        self.closed.notify_waiters();
        py.detach(|| {
            let _entered = self.handle.enter();
            drop(body);
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let body = self.body.get_mut().take();
        if self.generation != runtime::generation() {
            // Belongs to a runtime that does not exist in this process.
            std::mem::forget(body);
            return;
        }
        let _entered = self.handle.enter();
        drop(body);
    }
}

/// Polls for the next event; comments are passed over unless the events are wanted as they are.
fn poll(body: &mut Body, cx: &mut Context<'_>, raw: bool) -> Poll<Option<Bytes>> {
    loop {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(event) if raw || !event.starts_with(b":") => return Poll::Ready(Some(event)),
                _ => {}
            },
            // The router's streams say in an event what went wrong.
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// The data of an event in the form in which the router writes them: `data: …\n\n`.
fn data(event: &[u8]) -> &[u8] {
    let data = event.strip_prefix(b"data: ").unwrap_or(event);
    data.strip_suffix(b"\n\n").unwrap_or(data)
}
