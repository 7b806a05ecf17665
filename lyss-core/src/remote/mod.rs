//! A Lyss service, called as if it were an engine in this process.
//!
//! [`RemoteGateway`] is [`Gateway`](crate::Gateway) over the HTTP API: what the service decides (errors, limits,
//! sessions, request ids) comes back as the engine would have said it, so that a program may be given either. Bodies and
//! the events of streams travel as the bytes they are. It decides nothing and repeats nothing: the service has made its
//! own attempts, and only the caller knows whether a call may be made twice (send an idempotency key, and it may).
//!
//! ```no_run
//! # async fn run() -> lyss_core::Result<()> {
//! use lyss_core::{
//!     Gateway, RemoteGateway,
//!     remote::RemoteOptions,
//!     types::{CallContext, ChatRequest},
//! };
//!
//! let gateway = RemoteGateway::connect(RemoteOptions {
//!     api_key: Some("lyss_…".into()),
//!     ..RemoteOptions::new("http://127.0.0.1:8000")
//! })?;
//! let request = ChatRequest::parse(
//!     r#"{"model": "simulated/echo", "messages": [{"role": "user", "content": "hello"}]}"#.into(),
//! )?;
//! let answer = gateway.chat(CallContext::process("u1"), request).await?;
//! # Ok(())
//! # }
//! ```

mod address;
mod call;
mod exchange;
mod gateway;
mod head;
mod options;
mod refusal;
mod resource;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use secrecy::SecretString;

use self::address::Address;
pub use self::options::RemoteOptions;
use crate::{
    error::Result,
    provider::transport::{HttpTransport, HyperTransport},
    resilience::stream_buffer::StreamBuffer,
};

/// A Lyss service behind the [`Gateway`](crate::Gateway) trait. Clones share the connections.
///
/// Who calls, by the [`Credential`](crate::types::Credential) of the call: `Key` goes along as it is, `Process` stands
/// for the key of [`RemoteOptions::api_key`], `Anonymous` for none.
///
/// # Errors
/// Those of the service: code, status, parameter, retry advice and request id
/// ([`Error::request_id`](crate::Error::request_id)) are the ones that it sent. Of its own it has
/// `service_unreachable` (no connection: the service has not seen the call; or the connection was lost before it
/// answered), `upstream_timeout`, `upstream_incomplete` (an answer that broke off), `upstream_invalid_response` (what
/// answers is no Lyss).
#[derive(Clone)]
pub struct RemoteGateway {
    address: Address,
    api_key: Option<SecretString>,
    transport: Arc<dyn HttpTransport>,
    timeout: Duration,
    stream_idle_timeout: Duration,
    max_answer: usize,
    max_event: usize,
    stream_buffer: StreamBuffer,
}

impl RemoteGateway {
    /// A gateway that calls the service at `options.url`. Connects with the first call: the service need not run yet.
    ///
    /// # Errors
    /// `invalid_value` with the option's name.
    pub fn connect(options: RemoteOptions) -> Result<Self> {
        let transport = HyperTransport::new(&options.transport())?;
        Self::over(options, Arc::new(transport))
    }

    /// As [`connect`](Self::connect), over a transport of one's own.
    ///
    /// # Errors
    /// `invalid_value` with the option's name.
    pub fn over(options: RemoteOptions, transport: Arc<dyn HttpTransport>) -> Result<Self> {
        Ok(Self {
            address: Address::parse(&options.url)?,
            api_key: options.checked_key()?,
            transport,
            timeout: options.timeout,
            stream_idle_timeout: options.stream_idle_timeout,
            max_answer: options.max_answer,
            max_event: options.max_event,
            stream_buffer: StreamBuffer::new(options.stream_buffer_max),
        })
    }
}

impl fmt::Debug for RemoteGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteGateway")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
