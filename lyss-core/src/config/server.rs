//! `server`: where the gateway listens and what it lets in.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, Section};
use super::value;

/// `server`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// The HTTP listener.
    pub http: HttpConfig,
    /// The gRPC listener.
    pub grpc: GrpcConfig,
    /// Largest request body in bytes; a larger one is answered 413.
    pub max_body: u64,
    /// How long open calls may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// Origins that browsers may call from; `*` is every origin. Empty: no CORS headers.
    pub cors: Vec<String>,
    /// Whether `GET /` serves the dashboard.
    pub dashboard: bool,
    /// Most calls served at once by this process; the next is answered 503 `overloaded`.
    pub max_in_flight: usize,
    /// Bytes of events that all streams of this process may hold beyond 64 KiB each; a stream that finds no room ends
    /// with the error `overloaded`.
    pub stream_buffer_max: u64,
    /// Certificate and key for TLS; without it the listener speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Names accepted in the `Host` header; empty: every name, except that a loopback listener
    /// accepts only loopback names (protection against DNS rebinding).
    pub hosts: Vec<String>,
}

/// `server.http`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConfig {
    /// `host:port`, normalised (`:8000` has become `0.0.0.0:8000`).
    pub addr: String,
    /// How long a client may take to send its request. Says nothing about the answer.
    pub timeout: Duration,
    /// Most connections open at once.
    pub max_connections: usize,
    /// How long a client may take to send the header of a request.
    pub header_timeout: Duration,
}

/// `server.grpc`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcConfig {
    /// `host:port`, normalised.
    pub addr: String,
    /// How long a client may take to send its request.
    pub timeout: Duration,
}

/// `server.tls`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsConfig {
    /// PEM file with the certificate chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::default(),
            grpc: GrpcConfig::default(),
            max_body: 32 << 20,
            shutdown_grace: Duration::from_secs(30),
            cors: Vec::new(),
            dashboard: true,
            max_in_flight: 4096,
            stream_buffer_max: 256 << 20,
            tls: None,
            hosts: Vec::new(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            addr: "127.0.0.1:8000".to_owned(),
            timeout: Duration::from_secs(30),
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            addr: "127.0.0.1:9000".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl Section for ServerConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.section("http", &mut self.http);
        r.section("grpc", &mut self.grpc);
        r.size("max_body", 1 << 10..=1 << 30, &mut self.max_body);
        r.duration("shutdown_grace", &mut self.shutdown_grace);
        r.items(
            "cors",
            "* or an origin such as https://app.example.com",
            origin,
            &mut self.cors,
        );
        r.boolean("dashboard", &mut self.dashboard);
        r.integer("max_in_flight", 1..=1_000_000, &mut self.max_in_flight);
        r.size(
            "stream_buffer_max",
            16 << 20..=64 << 30,
            &mut self.stream_buffer_max,
        );
        r.optional("tls", &mut self.tls);
        r.items("hosts", "a host name without port", host, &mut self.hosts);
    }
}

impl Section for HttpConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.address("addr", &mut self.addr);
        r.duration("timeout", &mut self.timeout);
        r.integer("max_connections", 1..=1_000_000, &mut self.max_connections);
        r.duration("header_timeout", &mut self.header_timeout);
    }
}

impl Section for GrpcConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.address("addr", &mut self.addr);
        r.duration("timeout", &mut self.timeout);
    }
}

impl Section for TlsConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.require("cert", "the path of a PEM certificate chain");
        r.require("key", "the path of a PEM private key");
        r.path("cert", &mut self.cert);
        r.path("key", &mut self.key);
    }
}

/// An origin of the `Origin` header: scheme, host and port, no path.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url = value::parse_url(text, &["http", "https"])?;
    let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
    if after_scheme.contains(['/', '?', '@']) {
        return Err("has more than scheme, host and port".to_owned());
    }
    Ok(url)
}

fn host(text: &str) -> Result<String, String> {
    let inner = text.trim_start_matches('[').trim_end_matches(']');
    if value::is_host_name(text) || inner.parse::<std::net::Ipv6Addr>().is_ok() {
        Ok(inner.to_ascii_lowercase())
    } else {
        Err("is not a host name".to_owned())
    }
}
