//! Lyss.

pub mod config;
