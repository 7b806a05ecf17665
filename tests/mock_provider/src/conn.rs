//! The accepted socket: sliced writes and RST, which hyper cannot be asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a script may ask of the socket that carries its answer.
#[derive(Debug, Default)]
pub(crate) struct SocketControl {
    /// Largest single write, 0 for no limit.
    slice: AtomicUsize,
    /// Close with RST instead of FIN.
    reset: AtomicBool,
}

impl SocketControl {
    pub(crate) fn set_slice(&self, bytes: usize) {
        self.slice.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}

/// A TCP stream under a [`SocketControl`].
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: Arc<SocketControl>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<SocketControl>) {
        let control = Arc::new(SocketControl::default());
        (
            Self {
                stream,
                control: Arc::clone(&control),
            },
            control,
        )
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::Relaxed) {
            // Linger 0: the kernel answers with RST when the descriptor closes.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let limit = match self.control.slice.load(Ordering::Relaxed) {
            0 => buf.len(),
            limit => limit.min(buf.len()),
        };
        Pin::new(&mut self.stream).poll_write(cx, &buf[..limit])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.control.slice.load(Ordering::Relaxed) == 0 {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[][..], |buf| &**buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_slice_bounds_every_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut socket, control) = Socket::new(stream);
        assert_eq!(socket.write(b"0123456789").await.unwrap(), 10);
        control.set_slice(7);
        assert_eq!(socket.write(b"0123456789").await.unwrap(), 7);
        let slices = [io::IoSlice::new(b""), io::IoSlice::new(b"0123456789")];
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), 7);
    }
}
