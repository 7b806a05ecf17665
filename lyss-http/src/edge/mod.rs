//! What a public listener has to withstand below the router.

pub mod descriptors;
pub mod host;
pub(crate) mod outlet;
pub mod stall;
pub mod tls;
