//! How a running asyncio loop learns that something is ready.
//!
//! Threads of the runtime write a byte into a socket that the loop reads; they never wait for the interpreter. What is
//! ready meanwhile is gathered, so that many answers cost one wake-up.

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::Arc,
    task::Wake,
};

use parking_lot::Mutex;
use pyo3::prelude::*;

/// The end of the runtime's threads.
pub(crate) struct Sender {
    ready: Mutex<Vec<u64>>,
    socket: UnixStream,
}

impl Sender {
    /// Tells the loop that what has this token is ready.
    pub(crate) fn send(&self, token: u64) {
        let first = {
            let mut ready = self.ready.lock();
            ready.push(token);
            ready.len() == 1
        };
        if first {
            // Full means that the loop has not read the bytes before this one, and will.
            let _ = (&self.socket).write(&[0]);
        }
    }
}

/// The loop's end: readable while something is ready.
#[pyclass(frozen, module = "lyss._lyss")]
pub(crate) struct Port {
    sender: Arc<Sender>,
    socket: UnixStream,
}

impl Port {
    pub(crate) fn sender(&self) -> Arc<Sender> {
        Arc::clone(&self.sender)
    }
}

#[pymethods]
impl Port {
    #[new]
    fn new() -> io::Result<Self> {
        let (socket, other) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        let sender = Sender {
            ready: Mutex::default(),
            socket: other,
        };
        Ok(Self {
            sender: Arc::new(sender),
            socket,
        })
    }

    /// The descriptor to watch for reading.
    fn fileno(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The tokens of what has become ready.
    fn drain(&self) -> Vec<u64> {
        let mut bytes = [0; 64];
        while matches!((&self.socket).read(&mut bytes), Ok(read) if read == bytes.len()) {}
        std::mem::take(&mut *self.sender.ready.lock())
    }
}

/// Wakes by sending a token.
pub(crate) struct TokenWaker {
    pub sender: Arc<Sender>,
    pub token: u64,
}

impl Wake for TokenWaker {
    fn wake(self: Arc<Self>) {
        self.sender.send(self.token);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.sender.send(self.token);
    }
}
