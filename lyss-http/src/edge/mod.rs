//! What a public listener has to withstand below the router.

pub mod descriptors;
pub mod host;
pub(crate) mod outlet;
pub(crate) mod seldom;
pub mod stall;
pub mod tls;
