//! Connections to providers, kept between calls: HTTP/1.1 ones for one call at a time, an HTTP/2 one for many.
//!
//! Over hyper's connections, not hyper-util's client: that one makes a task and a connect future for each call.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, Uri, header, uri::Authority};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::{
    client::legacy::connect::Connection as _,
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use tower::{Service, ServiceExt};

use super::{BoxError, Connection, Connector, SegmentBody};

/// What is read of an answer at once, at most, and so the size of its pieces.
const READ: usize = 64 << 10;
/// A slow reader holds at most this much of its own HTTP/2 stream, and cannot stall the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Finds an HTTP/2 connection whose other end is gone without a word.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(10);

type Call = Request<SegmentBody>;
type Sent = Result<Response<Incoming>, TrySendError<Call>>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection, or it closed before it took the request.
    Unsent(BoxError),
    /// The connection was lost, and what became of the request is unknown.
    Lost(hyper::Error),
}

/// The connections of a transport. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    idle: Arc<Idle>,
    connector: Connector,
}

impl Pool {
    /// Keeps up to `max_idle` connections a host for up to `idle_timeout`.
    pub(super) fn new(connector: Connector, max_idle: usize, idle_timeout: Duration) -> Self {
        let idle = Idle {
            hosts: Mutex::default(),
            max_idle,
            idle_timeout,
        };
        Self {
            idle: Arc::new(idle),
            connector,
        }
    }

    /// Sends a request to the host of its absolute URI. It is sent again only when a kept connection turns out to have
    /// closed before it took the request.
    pub(super) async fn send(&self, call: Call) -> Result<(Response<Incoming>, Lease), Failure> {
        let uri = call.uri().clone();
        let host = Host::of(&uri)
            .ok_or_else(|| Failure::Unsent("the address of the provider names no host".into()))?;
        let mut call = call;
        while let Some(kept) = self.idle.take(&host) {
            let shared = matches!(kept, Sender::Http2(_));
            let mut failed = match self.send_on(kept, &host, call).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            if shared {
                self.idle.forget(&host);
            }
            call = match failed.take_message() {
                Some(call) => call,
                None => return Err(lost(failed.into_error())),
            };
            *call.uri_mut() = uri.clone();
        }
        let sender = self.connect(uri).await?;
        if let Sender::Http2(sender) = &sender {
            self.idle.share(&host, sender.clone());
        }
        self.send_on(sender, &host, call)
            .await
            .map_err(|failed| lost(failed.into_error()))
    }

    async fn send_on(
        &self,
        sender: Sender,
        host: &Host,
        mut call: Call,
    ) -> Result<(Response<Incoming>, Lease), TrySendError<Call>> {
        match sender {
            Sender::Http1(mut sender) => {
                // One that was given back a moment ago is ready when its connection has noticed.
                if !sender.is_ready() {
                    let _ = sender.ready().await;
                }
                to_http1(&mut call, &host.1);
                let response = sender.try_send_request(call).await?;
                let lease = Lease(Some(Leased {
                    sender,
                    host: host.clone(),
                    idle: Arc::downgrade(&self.idle),
                }));
                Ok((response, lease))
            }
            Sender::Http2(mut sender) => {
                let _ = sender.ready().await;
                let sent: Sent = sender.try_send_request(call).await;
                Ok((sent?, Lease(None)))
            }
        }
    }

    async fn connect(&self, uri: Uri) -> Result<Sender, Failure> {
        let mut connector = self.connector.clone();
        let connector = connector.ready().await.map_err(Failure::Unsent)?;
        let io = connector.call(uri).await.map_err(Failure::Unsent)?;
        let unsent = |error: hyper::Error| Failure::Unsent(error.into());
        if io.connected().is_negotiated_h2() {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_LIMIT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake::<Connection, SegmentBody>(io)
                .await
                .map_err(unsent)?;
            drive(connection);
            Ok(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(READ)
                .handshake::<Connection, SegmentBody>(io)
                .await
                .map_err(unsent)?;
            drive(connection);
            Ok(Sender::Http1(sender))
        }
    }
}

/// Runs a connection until it is closed, by the other end or because nothing holds its sender any more.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a provider ended");
        }
    });
}

fn lost(error: hyper::Error) -> Failure {
    if error.is_canceled() {
        Failure::Unsent(error.into())
    } else {
        Failure::Lost(error)
    }
}

/// Writes the request as HTTP/1.1 has it: the path in the request line, the host in its header (RFC 9112, section 3.2).
fn to_http1(call: &mut Call, host: &Authority) {
    if !call.headers().contains_key(header::HOST)
        && let Ok(value) = HeaderValue::from_str(host.as_str())
    {
        call.headers_mut().insert(header::HOST, value);
    }
    let path = match call.uri().path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    *call.uri_mut() = path;
}

/// What can send on a connection.
enum Sender {
    Http1(http1::SendRequest<SegmentBody>),
    Http2(http2::SendRequest<SegmentBody>),
}

/// Where a connection leads: whether through TLS, and the authority without credentials or a port that goes without
/// saying.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host(bool, Authority);

impl Host {
    fn of(uri: &Uri) -> Option<Self> {
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let tls = scheme.eq_ignore_ascii_case("https");
        let port = authority.port_u16();
        let default = if tls { 443 } else { 80 };
        let plain = !authority.as_str().contains('@') && port != Some(default);
        if plain {
            return Some(Self(tls, authority.clone()));
        }
        let text = match port.filter(|port| *port != default) {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        };
        Some(Self(tls, text.parse().ok()?))
    }
}

/// Connections that wait for a call.
#[derive(Debug)]
struct Idle {
    hosts: Mutex<Hosts>,
    max_idle: usize,
    idle_timeout: Duration,
}

#[derive(Debug, Default)]
struct Hosts {
    by_host: HashMap<Host, Kept>,
    /// Whether a task closes what has waited too long.
    swept: bool,
}

#[derive(Debug, Default)]
struct Kept {
    /// The last one used comes last, and is used first: so those of a past peak time out.
    http1: Vec<(http1::SendRequest<SegmentBody>, Instant)>,
    http2: Option<http2::SendRequest<SegmentBody>>,
}

impl Idle {
    /// A connection for a call, if one is kept.
    fn take(&self, host: &Host) -> Option<Sender> {
        let mut hosts = self.hosts.lock();
        let kept = hosts.by_host.get_mut(host)?;
        if let Some(sender) = &kept.http2 {
            if !sender.is_closed() {
                return Some(Sender::Http2(sender.clone()));
            }
            kept.http2 = None;
        }
        while let Some((sender, since)) = kept.http1.pop() {
            if !sender.is_closed() && since.elapsed() < self.idle_timeout {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    fn give_back(self: &Arc<Self>, host: Host, sender: http1::SendRequest<SegmentBody>) {
        if sender.is_closed() {
            return;
        }
        let mut hosts = self.hosts.lock();
        let kept = hosts.by_host.entry(host).or_default();
        if kept.http1.len() < self.max_idle {
            kept.http1.push((sender, Instant::now()));
            self.sweep(&mut hosts);
        }
    }

    /// Keeps a connection that takes many calls.
    fn share(self: &Arc<Self>, host: &Host, sender: http2::SendRequest<SegmentBody>) {
        let mut hosts = self.hosts.lock();
        hosts.by_host.entry(host.clone()).or_default().http2 = Some(sender);
        self.sweep(&mut hosts);
    }

    /// Gives no further call to a shared connection.
    fn forget(&self, host: &Host) {
        if let Some(kept) = self.hosts.lock().by_host.get_mut(host) {
            kept.http2 = None;
        }
    }

    /// Sees to it that connections are closed when they have waited too long, also if no further call comes.
    fn sweep(self: &Arc<Self>, hosts: &mut Hosts) {
        if std::mem::replace(&mut hosts.swept, true) {
            return;
        }
        let (idle, every) = (Arc::downgrade(self), self.idle_timeout / 2);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(idle) = Weak::upgrade(&idle) else {
                    return;
                };
                let mut hosts = idle.hosts.lock();
                hosts.by_host.retain(|_, kept| {
                    kept.http1.retain(|(sender, since)| {
                        !sender.is_closed() && since.elapsed() < idle.idle_timeout
                    });
                    kept.http2.take_if(|sender| sender.is_closed());
                    !kept.http1.is_empty() || kept.http2.is_some()
                });
                if hosts.by_host.is_empty() {
                    hosts.swept = false;
                    return;
                }
            }
        });
    }
}

/// The right to keep a connection once its answer has been read to its end. Dropped before that, it closes the
/// connection.
#[derive(Debug)]
pub(super) struct Lease(Option<Leased>);

#[derive(Debug)]
struct Leased {
    sender: http1::SendRequest<SegmentBody>,
    host: Host,
    idle: Weak<Idle>,
}

impl Lease {
    /// The answer has been read to its end.
    pub(super) fn give_back(&mut self) {
        if let Some(leased) = self.0.take()
            && let Some(idle) = leased.idle.upgrade()
        {
            idle.give_back(leased.host, leased.sender);
        }
    }
}
