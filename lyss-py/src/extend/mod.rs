//! Parts of the engine that are written in Python: providers, session stores and load balancers.
//!
//! Their methods are called from threads that may block, never from the runtime's workers (but for balancers, which
//! answer at once). `async def` methods run on a loop of the package's own, in a thread (`lyss._extend`): the loops of
//! the program may be waiting for this very call.

pub(crate) mod answer;
pub(crate) mod balancer;
pub(crate) mod provider;
pub(crate) mod store;

use std::sync::Arc;

use pyo3::{prelude::*, types::PyTuple};
use tokio::sync::oneshot;

use self::answer::Answer;

/// Why a method gave nothing.
pub(crate) enum Failure {
    /// It raised. `lyss._extend` has logged the traceback of what it did not expect.
    Raised {
        /// The code of the error, where it is one of ours; else empty.
        code: String,
        /// What is shown of it.
        message: String,
    },
    /// There is nobody to call it any more: the interpreter ends.
    Gone,
}

impl Failure {
    fn raised(message: String) -> Self {
        Self::Raised {
            code: String::new(),
            message,
        }
    }
}

/// Calls `lyss._extend.<function>(answer, *args)` and waits until it has answered, on whatever thread. Dropping the future
/// tells Python that the answer is not wanted any more.
pub(crate) async fn invoke<T: Send + 'static>(
    function: &'static str,
    args: impl FnOnce(Python<'_>) -> PyResult<Vec<Py<PyAny>>> + Send + 'static,
    read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = oneshot::channel();
    let answer = Arc::new(answer::Place::new(sender));
    let mut guard = Unwanted(Some(Arc::clone(&answer)));
    tokio::task::spawn_blocking(move || {
        let place = Arc::clone(&answer);
        let called = Python::try_attach(|py| {
            let call = || -> PyResult<()> {
                let mut all = vec![Py::new(py, Answer::new(place))?.into_any()];
                all.extend(args(py)?);
                let function = py.import("lyss._extend")?.getattr(function)?;
                function.call1(PyTuple::new(py, all)?).map(drop)
            };
            call().map_err(|error| error.to_string())
        });
        match called {
            Some(Ok(())) => {}
            Some(Err(message)) => answer.give(Err(Failure::raised(message))),
            None => answer.give(Err(Failure::Gone)),
        }
    });
    let given = receiver.await.unwrap_or(Err(Failure::Gone));
    guard.0 = None;
    let value = given?;
    let read = move || {
        Python::try_attach(|py| {
            let value = value.into_bound(py);
            read(&value).map_err(|error| Failure::raised(error.to_string()))
        })
        .unwrap_or(Err(Failure::Gone))
    };
    // Reading is short, but getting hold of the interpreter may take its time.
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or(Err(Failure::Gone))
}

/// Tells Python, when it is dropped, that nobody waits any more.
struct Unwanted(Option<Arc<answer::Place>>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let Some(place) = self.0.take()
            && let Ok(handle) = tokio::runtime::Handle::try_current()
        {
            handle.spawn_blocking(move || place.cancel());
        }
    }
}
