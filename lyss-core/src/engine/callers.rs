//! The callers' limits of an engine: kept together with the other instances where there is a Redis.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{Inner, stores::RedisPing};
use crate::admission::limit::CallerLimits;

/// The limits; `tasks`: where other instances are told what has ended.
#[cfg_attr(not(feature = "redis"), allow(unused_variables))]
pub(super) fn open(redis: Option<&RedisPing>, tasks: &TaskTracker) -> Arc<CallerLimits> {
    #[cfg(feature = "redis")]
    if let Some(redis) = redis {
        return Arc::new(CallerLimits::shared(redis.clone(), tasks.clone()));
    }
    Arc::new(CallerLimits::local())
}

/// Begins to be one of the instances.
#[cfg_attr(not(feature = "redis"), allow(unused_variables))]
pub(super) fn start(inner: &Inner) {
    #[cfg(feature = "redis")]
    super::upkeep::spawn(inner, Arc::clone(&inner.callers).keep_in_touch());
}
