//! One module for each trait.

pub mod provider;
pub mod session_store;
