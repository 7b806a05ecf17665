//! How a service is called.

use std::{path::PathBuf, time::Duration};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    error::{Error, Result},
    provider::transport::TransportConfig,
};

/// A kept connection is used no later than this: a service ends one that has been silent for 10 s
/// (`server.http.header_timeout`).
const POOL_IDLE: Duration = Duration::from_secs(8);

/// How a service is called. All but the address has a default.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Where it is: `http://host:8000`, with the API's path (`/v1`, `/api/v1`) or without. Other paths are kept in front of
    /// it, for a service that is mounted below one.
    pub url: String,
    /// The key of calls that are made for this process; `None` for a service that asks for none.
    pub api_key: Option<SecretString>,
    /// The longest time for name resolution, TCP, proxy and TLS together: 5 s.
    pub connect_timeout: Duration,
    /// The longest time of a call that is no stream, from its start to the end of its answer: 600 s. The service's own
    /// timeouts are shorter.
    pub timeout: Duration,
    /// How long a stream may be silent, before its first event too: 60 s. The service writes a comment every 10 s, however
    /// slow the provider is.
    pub stream_idle_timeout: Duration,
    /// The largest answer that is read, in bytes: 256 MiB.
    pub max_answer: usize,
    /// The largest event of a stream, in bytes: 16 MiB, the most that a service can be set to pass on.
    pub max_event: usize,
    /// What all streams together may hold of large events, in bytes: 256 MiB.
    pub stream_buffer_max: u64,
    /// Idle HTTP/1.1 connections that are kept: 256.
    pub pool_max_idle: usize,
    /// A PEM file of further certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy, `http://[user:password@]host[:port]`; every connection is tunnelled through it by `CONNECT`.
    pub proxy: Option<SecretString>,
}

impl Default for RemoteOptions {
    /// Everything but an address.
    fn default() -> Self {
        Self {
            url: String::new(),
            api_key: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(600),
            stream_idle_timeout: Duration::from_secs(60),
            max_answer: 256 << 20,
            max_event: 16 << 20,
            stream_buffer_max: 256 << 20,
            pool_max_idle: 256,
            ca_file: None,
            proxy: None,
        }
    }
}

impl RemoteOptions {
    /// The defaults, for a service at this address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    pub(super) fn transport(&self) -> TransportConfig {
        TransportConfig {
            connect_timeout: self.connect_timeout,
            pool_max_idle: self.pool_max_idle,
            pool_idle_timeout: POOL_IDLE,
            proxy: self.proxy.clone(),
            ca_file: self.ca_file.clone(),
            egress: None,
        }
    }

    /// The key, if it can be one; an empty one is none.
    pub(super) fn checked_key(&self) -> Result<Option<SecretString>> {
        let Some(key) = &self.api_key else {
            return Ok(None);
        };
        bearer(key)
            .map(|header| header.map(|_| key.clone()))
            .map_err(|error| error.with_param("api_key"))
    }
}

/// The header that presents a key; `None` for an empty one.
///
/// # Errors
/// `invalid_api_key` if it cannot be sent.
pub(super) fn bearer(key: &SecretString) -> Result<Option<HeaderValue>> {
    let key = key.expose_secret();
    if key.is_empty() {
        return Ok(None);
    }
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
        Error::new(
            crate::ErrorKind::InvalidApiKey,
            "the API key holds characters that no key has",
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
