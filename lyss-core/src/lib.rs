//! Lyss as a library: the engine of the AI gateway.
//!
//! The modules stand in the order in which a request meets them.

pub mod balance; // one target of several
pub mod billing; // the request log
pub mod config; // what the operator says
pub mod database; // PostgreSQL or SQLite
pub mod error; // the one table of codes
pub mod gateway; // the trait that frontends call
pub mod provider;
pub mod session; // conversations
pub mod types; // what travels: data only // how providers are spoken to

pub use error::{Error, ErrorKind, Result};
pub use gateway::Gateway;
