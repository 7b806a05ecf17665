//! One module for each trait.

pub mod load_balancer;
pub mod provider;
pub mod session_store;
