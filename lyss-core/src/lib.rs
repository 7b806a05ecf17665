//! Lyss as a library: the engine of the AI gateway.
//!
//! The modules stand in the order in which a request meets them.

pub mod balance; // one target of several
pub mod config; // what the operator says
pub mod error; // the one table of codes
pub mod gateway; // the trait that frontends call
pub mod provider; // how providers are spoken to
pub mod session; // conversations
#[cfg(feature = "testing")]
pub mod testing; // promises as functions
pub mod types; // what travels: data only

pub use error::{Error, ErrorKind, Result};
pub use gateway::Gateway;
