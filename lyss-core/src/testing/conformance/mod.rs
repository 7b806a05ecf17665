//! One module for each trait.

pub mod provider;
