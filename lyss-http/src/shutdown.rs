//! The end of the service in two steps: drain, then cut.

use tokio_util::sync::CancellationToken;

/// Two switches that are only ever turned on. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cut: CancellationToken,
}

impl Shutdown {
    /// From now on new calls are refused with `shutting_down`; running ones go on.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// From now on running calls end: streams with an error event, the rest with `shutting_down`.
    pub fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
    }

    /// Whether new calls are refused.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns once draining has begun.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    pub(crate) fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }
}
