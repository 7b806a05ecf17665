//! The accept loop: connections, their deadlines, and their end.
//!
//! `axum::serve` has no header deadline, no connection cap and no Host check, so the service brings its own loop over
//! hyper-util.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use lyss_core::types::RequestId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

use crate::{
    Shutdown,
    edge::{
        host::{self, HostPolicy},
        outlet::{Outgoing, Outlets},
        seldom::Seldom,
        stall::StallLimit,
    },
    error,
};

/// Header bytes of one request, and what is buffered of one answer.
const BUFFER: usize = 64 << 10;
/// HTTP/2 streams of one connection at once.
const MAX_STREAMS: u32 = 128;
/// HTTP/2 streams that were reset before they were accepted (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// What an HTTP/2 client may send ahead, per stream and per connection; the adaptive window opens it where it pays.
const H2_WINDOW: u32 = 128 << 10;
/// Connections that wait to be accepted (the system may allow fewer).
const BACKLOG: u32 = 1024;
/// For the answers that are ready when the process ends.
const FLUSH: Duration = Duration::from_secs(1);

/// The limits of a listener.
#[derive(Clone)]
pub struct ServeOptions {
    /// Connections at once; at the cap no further one is accepted (`server.http.max_connections`).
    pub max_connections: usize,
    /// For the header of a request, for the TLS handshake, and for the idle time between two requests of an HTTP/1
    /// connection (`server.http.header_timeout`).
    pub header_timeout: Duration,
    /// Idle time of an HTTP/2 connection.
    pub idle_timeout: Duration,
    /// A client that accepts no byte for so long is disconnected.
    pub write_stall: Duration,
    /// The names that are served.
    pub hosts: HostPolicy,
    /// TLS; without it the listener speaks plain HTTP/1.1 and HTTP/2.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How long open calls may go on once draining has begun (`server.shutdown_grace`).
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            write_stall: Duration::from_secs(30),
            hosts: HostPolicy::Any,
            tls: None,
            grace: Duration::from_secs(30),
        }
    }
}

/// Opens a listener.
///
/// # Errors
/// The message names the address, and says so where the port is taken.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    listen(address).await.map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
                format!("port {port} is taken: another process listens on {address}")
            }
            _ => format!("cannot listen on {address}: {error}"),
        };
        io::Error::new(error.kind(), message)
    })
}

/// The library's own call lets 128 connections wait, which a burst of clients is soon more than.
async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut outcome = Err(io::Error::other("the name has no address"));
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        #[cfg(unix)]
        socket.set_reuseaddr(true)?; // connections of the process before may still be closing
        outcome = socket.bind(address).and_then(|()| socket.listen(BACKLOG));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// What every connection of a listener shares.
struct Server {
    router: Router,
    options: ServeOptions,
    shutdown: Shutdown,
    /// Calls that began before draining; what the grace is for.
    calls: TaskTracker,
    /// Ends idle connections, and the others after their answer.
    close: CancellationToken,
}

/// Serves a router until [`Shutdown::drain`] is called and the calls that ran then have ended, or the grace is over.
///
/// While draining, connections are still accepted, so that new calls get their 503 and not a refused connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    shutdown: Shutdown,
) {
    let connections = TaskTracker::new();
    let server = Arc::new(Server {
        router,
        options,
        shutdown,
        calls: TaskTracker::new(),
        close: CancellationToken::new(),
    });
    // Dropped at the end of this function in every case: what is left of the connections goes with it.
    let abort = CancellationToken::new();
    let _abort = abort.clone().drop_guard();
    tokio::select! {
        () = accept(listener, &server, &connections, &abort) => {}
        () = drain(&server) => {}
    }
    server.close.cancel();
    connections.close();
    let _ = tokio::time::timeout(FLUSH, connections.wait()).await;
}

/// Waits for the end: the calls that ran when draining began, at most the grace, then the cut.
async fn drain(server: &Server) {
    server.shutdown.draining().await;
    server.calls.close();
    if tokio::time::timeout(server.options.grace, server.calls.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            calls = server.calls.len(),
            "shutdown_grace is over: the open calls are cut"
        );
        server.shutdown.cut();
        let _ = tokio::time::timeout(FLUSH, server.calls.wait()).await;
    }
}

async fn accept(
    listener: TcpListener,
    server: &Arc<Server>,
    connections: &TaskTracker,
    abort: &CancellationToken,
) {
    let cap = Arc::new(Semaphore::new(server.options.max_connections));
    loop {
        let Ok(permit) = cap.clone().acquire_owned().await else {
            return; // never closed
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (server, abort) = (server.clone(), abort.clone());
                connections.spawn(async move {
                    let _permit: OwnedSemaphorePermit = permit;
                    let aborted = pin!(abort.cancelled());
                    let aborted = Seldom::new(aborted);
                    tokio::select! {
                        biased;
                        () = connection(server, stream, peer) => {}
                        () = aborted => {}
                    }
                });
            }
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted => {}
                _ => {
                    // Out of file descriptors or memory: accepting again at once would spin.
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            },
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost");
        return;
    }
    let limit = server.options.write_stall;
    match server.options.tls.clone() {
        None => requests(server, StallLimit::new(stream, limit), peer).await,
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(server.options.header_timeout, handshake).await {
                Ok(Ok(stream)) => requests(server, StallLimit::new(stream, limit), peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
        }
    }
}

/// What is going on on one connection.
struct Activity {
    began: AtomicUsize,
    running: AtomicUsize,
    last_end: Mutex<Instant>,
    /// The bodies of HTTP/2 answers on their way; of HTTP/1 there is one, and the socket says how it goes.
    outlets: Arc<Outlets<Tracked>>,
}

async fn requests<S>(server: Arc<Server>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity {
        began: AtomicUsize::new(0),
        running: AtomicUsize::new(0),
        last_end: Mutex::new(Instant::now()),
        outlets: Arc::default(),
    });
    let opened = Instant::now();
    let service = {
        let (server, activity) = (server.clone(), activity.clone());
        hyper::service::service_fn(move |request| {
            let running = Running::new(&server, activity.clone());
            answer(server.clone(), running, request)
        })
    };
    let builder = builder(&server.options);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (header_timeout, write_stall) = (server.options.header_timeout, server.options.write_stall);
    let mut closing = false;
    let next = |closing: bool| {
        let server = server.clone();
        let signal = async move {
            tokio::select! {
                () = server.close.cancelled(), if !closing => Signal::Close,
                () = tokio::time::sleep(header_timeout.min(write_stall)) => Signal::Tick,
            }
        };
        Seldom::new(Box::pin(signal))
    };
    let mut signal = next(closing);
    loop {
        let signalled = tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended early");
                }
                return;
            }
            signalled = &mut signal => signalled,
        };
        match signalled {
            Signal::Close => {
                closing = true;
                served.as_mut().graceful_shutdown();
            }
            Signal::Tick => {
                let stalled = activity.outlets.cut_stalled(write_stall);
                if stalled > 0 && !closing {
                    tracing::debug!(%peer, stalled, "the peer opens no window: these streams are cut");
                    // What their streams still hold ends with the connection, once the others are done.
                    closing = true;
                    served.as_mut().graceful_shutdown();
                    signal = next(closing);
                    continue;
                }
                if activity.running.load(Ordering::Acquire) > 0 {
                    signal = next(closing);
                    continue;
                }
                // hyper's header deadline begins only once it knows the version, and HTTP/2 has none.
                let silent = activity.began.load(Ordering::Acquire) == 0;
                if closing || (silent && opened.elapsed() >= header_timeout) {
                    tracing::debug!(%peer, "connection without a request");
                    return;
                }
                let last_end = *activity
                    .last_end
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if last_end.elapsed() >= server.options.idle_timeout {
                    closing = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        }
        signal = next(closing);
    }
}

/// What a connection is told besides its requests.
enum Signal {
    /// The service ends.
    Close,
    /// Time to look whether it is still used.
    Tick,
}

fn builder(options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(BUFFER)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(BUFFER as u32)
        .initial_stream_window_size(H2_WINDOW)
        .initial_connection_window_size(H2_WINDOW)
        .adaptive_window(true)
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

async fn answer(
    server: Arc<Server>,
    running: Running,
    request: Request<Incoming>,
) -> Result<Response<Outgoing<Tracked>>, Infallible> {
    let (parts, body) = request.into_parts();
    let http1 = parts.version < http::Version::HTTP_2;
    let mut close = server.shutdown.is_draining();
    let response = match host::check(&parts, &server.options.hosts) {
        Ok(()) => {
            let request = Request::from_parts(parts, Body::new(body));
            let Ok(response) = server.router.clone().oneshot(request).await;
            response
        }
        Err(error) => {
            close = true;
            error::response(&error, RequestId::new())
        }
    };
    // A body that was refused half-read would be taken for the next request.
    let refused = matches!(response.status().as_u16(), 408 | 413);
    let (mut parts, body) = response.into_parts();
    if http1 && (close || refused || server.shutdown.is_draining()) {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let outlets = Arc::clone(&running.activity.outlets);
    let body = Tracked { body, running };
    let body = match http1 {
        true => Outgoing::Http1(body),
        false => Outgoing::Http2(outlets.watch(body)),
    };
    Ok(Response::from_parts(parts, body))
}

/// Counts one request from its header to the end of its answer's body.
struct Running {
    activity: Arc<Activity>,
    /// Absent for requests that began while draining: nobody waits for those.
    _call: Option<TaskTrackerToken>,
}

impl Running {
    fn new(server: &Server, activity: Arc<Activity>) -> Self {
        activity.began.fetch_add(1, Ordering::AcqRel);
        activity.running.fetch_add(1, Ordering::AcqRel);
        let draining = server.shutdown.is_draining();
        Self {
            activity,
            _call: (!draining).then(|| server.calls.token()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut last_end = self
            .activity
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_end = Instant::now();
        drop(last_end);
        self.activity.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body that says when it has ended or was dropped.
struct Tracked {
    body: Body,
    running: Running,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _ = &self.running;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
