//! Lyss inside a Rust program.
//!
//! [`calls`] is what a program asks of a gateway, whether that is an engine in it or a service. [`app`] is an
//! application that has the gateway's HTTP surface below a path of its own, with a [`provider`], a [`balancer`] and a
//! [`session_store`] that are not Lyss's.

pub mod app;
pub mod balancer;
pub mod calls;
pub mod provider;
pub mod session_store;
