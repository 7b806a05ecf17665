//! One module for each trait.

pub mod idempotency_store;
pub mod load_balancer;
pub mod provider;
pub mod session_store;
