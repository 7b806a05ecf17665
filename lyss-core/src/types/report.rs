//! What a gateway says about a call beside its answer.

use std::sync::{Arc, OnceLock};

use super::{call::RequestId, rate::RateStatus};

/// Where a gateway leaves what the door tells the caller of a call, whether it ends in an answer, a stream or an error.
/// Clones are the same place. The first word stands.
#[derive(Debug, Clone, Default)]
pub struct CallReport(Arc<Report>);

#[derive(Debug, Default)]
struct Report {
    rate: OnceLock<RateStatus>,
    request_id: OnceLock<RequestId>,
}

impl CallReport {
    /// What is left of the caller's limits; `None` for a caller without limits, and before they were looked at.
    pub fn rate(&self) -> Option<RateStatus> {
        self.0.rate.get().copied()
    }

    /// The id under which another service knows the request, where the gateway has passed it on to one.
    pub fn request_id(&self) -> Option<RequestId> {
        self.0.request_id.get().copied()
    }

    pub(crate) fn set_rate(&self, status: RateStatus) {
        let _ = self.0.rate.set(status);
    }

    pub(crate) fn set_request_id(&self, id: RequestId) {
        let _ = self.0.request_id.set(id);
    }
}
