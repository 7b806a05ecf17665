//! The Tokio runtime of this process, made when it is first needed and made anew in a forked child.
//!
//! Threads do not survive `fork()`: in the child the runtime, and every engine on it, is a memory image without
//! anybody to run it, and its locks may be held by threads that do not exist. Nothing of it is touched there, not even
//! to drop it; all of it is left behind, once a fork.
//!
//! The locks of this crate that Python calls take are taken while attached to the interpreter and released before
//! detaching. `os.fork()` runs attached, so the forking thread finds them free in the child.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use rand::RngExt;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{error, log};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static RUNTIME: Mutex<Option<&'static Runtime>> = Mutex::new(None);

/// How many forks lie between the first process and this one.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// The runtime of this process.
///
/// # Errors
/// `LyssError` if its threads cannot be started.
pub(crate) fn handle(_py: Python<'_>) -> PyResult<Handle> {
    let mut runtime = RUNTIME.lock();
    if let Some(runtime) = *runtime {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread()
        .thread_name("lyss")
        .enable_all()
        .build()
        .map_err(|error| error::plain(&format!("the runtime does not start: {error}")))?;
    // It lives as long as the process: dropping it would wait for work that only the interpreter can end.
    let made: &'static Runtime = Box::leak(Box::new(made));
    *runtime = Some(made);
    log::start();
    Ok(made.handle().clone())
}

/// To be called in a forked child before anything else of this module.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    *RUNTIME.lock() = None;
    log::forget();
    // Both processes would go on with the same random numbers, and make up the same ids. The other threads, whose numbers
    // these are not, do not exist here.
    let mut random = rand::rng();
    if random.reseed().is_ok() {
        fastrand::seed(random.random());
    }
}
