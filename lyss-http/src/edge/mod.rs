//! What a public listener has to withstand below the router.

pub mod host;
pub(crate) mod seldom;
pub mod stall;
pub mod tls;
