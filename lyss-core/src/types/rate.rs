//! What is left of a caller's limits, as the answer tells it.

use std::time::Duration;

/// What is left of a caller's limits, once its call has taken its own share or has been refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateStatus {
    /// Of the requests in any 60 s; `None` without such a limit.
    pub requests: Option<WindowStatus>,
    /// Of the tokens in any 60 s; `None` without such a limit.
    pub tokens: Option<WindowStatus>,
    /// The limit of requests at once, where the call was refused because none of its places is free.
    pub concurrent: Option<u64>,
}

/// One limit of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowStatus {
    /// At most so many in any 60 s.
    pub limit: u64,
    /// So many may come at once now.
    pub remaining: u64,
    /// After so long without a call the whole limit is free again.
    pub reset: Duration,
}
