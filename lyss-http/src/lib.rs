//! Lyss over HTTP: a router over any [`Gateway`], and the server under it.
//!
//! [`router`] can be mounted inside another axum application; [`serve`](serve::serve) is the accept loop of the
//! `lyss` binary, with the deadlines and limits that a public listener needs.
//!
//! This crate translates; what a caller may do, which provider answers and what is recorded is decided behind the
//! trait.

mod body;
pub mod edge;
mod error;
mod extract;
pub mod in_process;
mod rate;
pub mod routes;
pub mod serve;
pub mod shutdown;
mod sse;

use std::{sync::Arc, time::Duration};

use lyss_core::Gateway;

pub use in_process::InProcess;
pub use routes::router;
pub use shutdown::Shutdown;

/// What the router needs to know besides the gateway.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Largest request body in bytes (`server.max_body`).
    pub max_body: usize,
    /// How long a client may take to send its body (`server.http.timeout`).
    pub body_timeout: Duration,
    /// Silence after which a stream gets a comment, so that proxies and clients do not give up on it. The status of
    /// a stream whose first chunk takes longer is committed as 200; a failure then arrives as an event.
    pub keep_alive: Duration,
    /// Origins that browsers may call from (`server.cors`); `*` for all.
    pub cors: Vec<String>,
    /// The end of the service, as the router sees it.
    pub shutdown: Shutdown,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            max_body: 32 << 20,
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            cors: Vec::new(),
            shutdown: Shutdown::default(),
        }
    }
}

/// What every handler shares.
struct App {
    gateway: Arc<dyn Gateway>,
    options: RouterOptions,
}
