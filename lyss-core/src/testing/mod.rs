//! The promises of the traits, as functions that an adapter's tests call.
//!
//! With the cargo feature `testing`. A broken promise panics, as an assertion does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this module is made of assertions"
)]

pub mod conformance;
pub mod upstream;
