//! The native part of the Python package `lyss`: requests to the router without a socket, and what waits for them.
//!
//! Bytes in, bytes out. Results, errors, resources and iterators are written in Python (`python/lyss`), over
//! `gateway::Core`.

mod call;
mod error;
mod extend;
mod gateway;
mod log;
mod port;
mod reply;
mod runtime;
mod stream;
mod wait;

use pyo3::prelude::*;

/// The native part of `lyss`; not for direct use.
#[pymodule]
mod _lyss {
    #[pymodule_export]
    use super::{
        call::Call, extend::answer::Answer, gateway::Core, port::Port, reply::Reply,
        runtime::after_fork_in_child, stream::Stream,
    };

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
