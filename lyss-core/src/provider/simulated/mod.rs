//! x
use crate::{
    error::Result,
    provider::{Provider, ProviderSpec},
};
use std::sync::Arc;
/// x
pub struct Simulated;
impl Simulated {
    /// x
    pub fn from_spec(_: ProviderSpec) -> Result<Arc<dyn Provider>> {
        Err(crate::Error::missing("x"))
    }
}
