//! How bytes reach a provider. A one-method trait, so that tests, embedders and other clients can take its place;
//! [`HyperTransport`] is the one that the gateway uses.
//!
//! hyper's own connections and a small pool, not reqwest: some 15 µs less CPU a request (measured,
//! docs/performance.md). There are no redirects, no decompression, no cookies, and no environment variable is read.

mod egress;
mod pool;

use std::{
    collections::VecDeque,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderValue, Uri, header, uri::Scheme};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{HttpConnector, proxy::Tunnel},
    rt::TokioIo,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tower::Service;

pub use self::egress::Egress;
pub(crate) use self::egress::is_closed;
use self::{
    egress::{Refused, Resolver},
    pool::{Failure, Lease, Pool},
};
use crate::{
    error::{Error, ErrorKind, Retry, Work},
    types::Segments,
};

/// What is reserved for a body on the word of its head, at most.
const MAX_ANNOUNCED: usize = 4 << 20;

/// The body of an answer: pieces as they arrive. Dropping it closes or resets the exchange.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Sends one HTTP request and returns the answer's head as soon as it is there.
///
/// No redirect is followed, no retry made, no environment proxy used. A failure before the request was sent carries
/// [`Work::None`] and [`Retry::Elsewhere`].
#[async_trait]
pub trait HttpTransport: Send + Sync + 'static {
    /// Sends a request. Dropping the future closes or resets the exchange.
    ///
    /// # Errors
    /// `upstream_error` if no connection was made or it was lost before the answer's head; `upstream_invalid_response`
    /// for a redirect or a compressed answer (none was asked for). A body that breaks off yields `upstream_incomplete`.
    async fn send(
        &self,
        request: http::Request<Segments>,
    ) -> Result<http::Response<BodyStream>, Error>;
}

/// Makes ring the process's TLS provider, unless one is installed. Call it once at start: redis and sqlx look for it.
pub fn install_crypto() {
    // An error means that somebody else has installed one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What a [`HyperTransport`] is built from.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// The longest time for name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Idle HTTP/1.1 connections kept for each host.
    pub pool_max_idle: usize,
    /// How long an idle connection is kept. Below the 60 s after which common load balancers close theirs.
    pub pool_idle_timeout: Duration,
    /// An HTTP proxy, `http://[user:password@]host[:port]`; every connection is tunnelled through it by `CONNECT`.
    pub proxy: Option<SecretString>,
    /// A PEM file of further certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// Where it may connect to; `None` for anywhere, which is for URLs that the operator wrote.
    pub egress: Option<Egress>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            pool_max_idle: 256,
            pool_idle_timeout: Duration::from_secs(50),
            proxy: None,
            ca_file: None,
            egress: None,
        }
    }
}

/// The transport over TCP and TLS: HTTP/1.1 with keep-alive, HTTP/2 where TLS offers it.
///
/// Trusts the Mozilla roots that are compiled in, and the configured file. Cloning shares the pool.
#[derive(Debug, Clone)]
pub struct HyperTransport {
    pool: Pool,
}

impl HyperTransport {
    /// A transport with its own pool.
    ///
    /// # Errors
    /// `invalid_value` with the parameter `proxy` or `ca_file`.
    pub fn new(config: &TransportConfig) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(config.egress.clone()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(config)?)
            .https_or_http()
            .enable_all_versions();
        let route = match &config.proxy {
            None => Route::Direct(tls.wrap_connector(tcp)),
            Some(proxy) => {
                let proxy = Proxy::parse(proxy.expose_secret())?;
                let mut tunnel = Tunnel::new(proxy.address, tcp);
                if let Some(credentials) = proxy.credentials {
                    tunnel = tunnel.with_auth(credentials);
                }
                Route::Proxied(tls.wrap_connector(tunnel))
            }
        };
        let connector = Connector {
            route,
            timeout: config.connect_timeout,
            egress: config.egress.clone(),
        };
        let pool = Pool::new(connector, config.pool_max_idle, config.pool_idle_timeout);
        Ok(Self { pool })
    }
}

#[async_trait]
impl HttpTransport for HyperTransport {
    async fn send(
        &self,
        request: http::Request<Segments>,
    ) -> Result<http::Response<BodyStream>, Error> {
        let (response, lease) = self
            .pool
            .send(request.map(SegmentBody::new))
            .await
            .map_err(unsent_or_lost)?;
        let status = response.status();
        if status.is_redirection() || status.is_informational() {
            return Err(invalid(format!(
                "the provider answered with status {} where none is expected; check `base_url`",
                status.as_u16()
            )));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(invalid(
                "the provider sent a compressed answer that was not asked for",
            ));
        }
        Ok(response.map(|body| Box::pin(Pieces { body, lease }) as BodyStream))
    }
}

/// Reads a whole body of at most `limit` bytes; one that came in a single piece is not copied.
///
/// # Errors
/// `upstream_invalid_response` over the limit, and what the stream itself yields.
pub async fn collect(body: BodyStream, limit: usize) -> Result<Bytes, Error> {
    collect_announced(body, limit, None).await
}

/// As [`collect`], for a body whose length was announced: it is gathered in memory of that size.
///
/// # Errors
/// As [`collect`].
pub async fn collect_announced(
    mut body: BodyStream,
    limit: usize,
    length: Option<usize>,
) -> Result<Bytes, Error> {
    let mut only = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        let read = only.len() + joined.len();
        if read + piece.len() > limit {
            return Err(
                invalid(format!("the provider's answer has more than {limit} bytes"))
                    .with_work(Work::Unknown),
            );
        }
        if read == 0 {
            only = piece;
            continue;
        }
        if joined.is_empty() {
            let announced = length.unwrap_or(0).min(MAX_ANNOUNCED).min(limit);
            joined.reserve(announced.max(read + piece.len()));
            joined.extend_from_slice(&std::mem::take(&mut only));
        }
        joined.extend_from_slice(&piece);
    }
    Ok(if joined.is_empty() {
        only
    } else {
        joined.freeze()
    })
}

/// The length that an answer's head announces.
pub fn announced(headers: &http::HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok()
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::UpstreamInvalidResponse, message)
}

/// A failure before the answer's head. The causes name hosts and addresses, never headers or a query.
fn unsent_or_lost(failure: Failure) -> Error {
    let (message, work, cause): (_, _, BoxError) = match failure {
        Failure::Unsent(cause) if egress::is_refused(&*cause) => (
            "the provider's address is not one that may be connected to (`routing.egress.allow`)",
            Work::None,
            cause,
        ),
        Failure::Unsent(cause) => ("the provider could not be reached", Work::None, cause),
        Failure::Lost(error) => (
            "the connection to the provider was lost before it answered",
            Work::Unknown,
            error.into(),
        ),
    };
    Error::new(ErrorKind::UpstreamError, message)
        .with_retry(Retry::Elsewhere)
        .with_work(work)
        .with_source(cause)
}

fn tls_config(config: &TransportConfig) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = &config.ca_file {
        let wrong = |why: String| {
            Error::invalid(
                "ca_file",
                format!("`ca_file` {} cannot be used: {why}", path.display()),
            )
        };
        let known = roots.len();
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?
        {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == known {
            return Err(wrong("it holds no certificate".into()));
        }
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "TLS cannot be set up").with_source(error)
        })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

struct Proxy {
    address: Uri,
    credentials: Option<HeaderValue>,
}

impl Proxy {
    fn parse(url: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(
                "proxy",
                "`proxy` must be a URL of the form http://[user:password@]host[:port]",
            )
        };
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if uri.scheme() != Some(&Scheme::HTTP) || uri.path().len() > 1 || uri.query().is_some() {
            return Err(wrong());
        }
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        let credentials = credentials
            .map(|credentials| {
                let plain = percent_decode(credentials);
                let mut value =
                    HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain)))?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()
            .map_err(|_: http::header::InvalidHeaderValue| wrong())?;
        Ok(Self {
            address: format!("http://{host}").parse().map_err(|_| wrong())?,
            credentials,
        })
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| {
            tail.get(at)
                .and_then(|digit| char::from(*digit).to_digit(16))
        };
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    decoded
}

type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections, with one deadline for all steps: hyper-util's own covers TCP alone.
#[derive(Debug, Clone)]
struct Connector {
    route: Route,
    timeout: Duration,
    egress: Option<Egress>,
}

#[derive(Debug, Clone)]
enum Route {
    Direct(HttpsConnector<HttpConnector<Resolver>>),
    Proxied(HttpsConnector<Tunnel<HttpConnector<Resolver>>>),
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.route {
            Route::Direct(connector) => connector.poll_ready(cx),
            Route::Proxied(connector) => connector.poll_ready(cx),
        }
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        // An address in the place of a name is not resolved, so it is looked at here.
        if let Some(Err(why)) = self.egress.as_ref().map(|egress| egress.check_url(&target)) {
            return Box::pin(std::future::ready(Err(Refused(why).into())));
        }
        let connecting = match &mut self.route {
            Route::Direct(connector) => connector.call(target),
            Route::Proxied(connector) => connector.call(with_port(target)),
        };
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(format!("no connection within {timeout:?}").into()),
            }
        })
    }
}

/// hyper-util's tunnel takes 443 for a target without a port, whatever its scheme.
fn with_port(target: Uri) -> Uri {
    if target.port().is_some() || target.scheme() != Some(&Scheme::HTTP) {
        return target;
    }
    let host = target.host().unwrap_or_default();
    format!("http://{host}:80/").parse().unwrap_or(target)
}

/// A request body of slices: its length is known, nothing is copied, and hyper writes the slices in one `writev`.
#[derive(Debug)]
struct SegmentBody {
    segments: VecDeque<Bytes>,
    left: u64,
}

impl SegmentBody {
    fn new(segments: Segments) -> Self {
        Self {
            left: segments.len() as u64,
            segments: segments.0.into(),
        }
    }
}

impl Body for SegmentBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        while let Some(segment) = self.segments.pop_front() {
            if !segment.is_empty() {
                self.left -= segment.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(segment))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The pieces of an answer's body; trailers are dropped.
struct Pieces {
    body: Incoming,
    lease: Lease,
}

impl Stream for Pieces {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.lease.give_back();
                    None
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => Some(Ok(piece)),
                    _ => continue,
                },
                Some(Err(error)) => Some(Err(Error::new(
                    ErrorKind::UpstreamIncomplete,
                    "the connection to the provider was lost in the middle of its answer",
                )
                .with_work(Work::Unknown)
                .with_source(error))),
            });
        }
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
