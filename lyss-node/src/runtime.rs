//! The runtime that all gateways of the process share.

use std::sync::OnceLock;

use napi::{Error, Result};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::{EnvFilter, fmt};

/// Never dropped: a worker thread of Node may end while the gateways of others run, and the process ends without asking.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime; made at the first call.
///
/// # Errors
/// The operating system gives no threads.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_name("lyss")
        .build()
        .map_err(|error| Error::from_reason(format!("no threads for the gateway: {error}")))?;
    log();
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// The log goes to stderr, if `LYSS_LOG` says what of it (`warn`, `lyss_core=debug`): a library does not write unasked.
fn log() {
    if let Ok(filter) = EnvFilter::try_from_env("LYSS_LOG") {
        // An error means that the process has a subscriber.
        let _ = fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    }
}
