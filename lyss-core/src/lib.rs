//! Lyss as a library: the engine of the AI gateway.
//!
//! The modules stand in the order in which a request meets them.

// The trait that frontends call.
pub mod gateway;

// The handle that implements it.
pub mod engine;

// The one table of error codes.
pub mod error;

// What travels: data only.
pub mod types;

// What the operator says.
pub mod config;

// One request, stage by stage.
mod pipeline;

// Who may call.
pub mod admission;

// Conversations.
pub mod session;

// What of a conversation is sent.
pub mod context;

// Answers kept by idempotency key.
pub mod idempotency;

// What is remembered of users beyond a session.
pub mod memory;

// From a model name to targets.
pub mod routing;

// One target of several.
pub mod balance;

// Limits, health, deadlines and pauses around a provider.
pub mod resilience;

// How providers are spoken to.
pub mod provider;

// What tokens cost.
pub mod price;

// What is recorded of every request.
pub mod billing;

// Bounds on what is spent.
pub mod budget;

// Files that survive the process.
mod spool;

// PostgreSQL or SQLite.
pub mod database;

// Encryption of what is stored.
mod seal;

// Secrets in files of the data directory.
mod secret_file;

// Redis.
#[cfg(feature = "redis")]
pub mod redis;

// A service in the engine's place.
pub mod remote;

// Metrics.
pub mod telemetry;

// Promises as functions, for this crate's adapters and yours.
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use engine::{Engine, EngineBuilder};
pub use error::{Error, ErrorKind, Result};
pub use gateway::Gateway;
pub use remote::RemoteGateway;
