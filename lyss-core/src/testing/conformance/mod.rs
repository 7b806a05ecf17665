//! One module for each trait.

pub mod session_store;
pub mod provider;
