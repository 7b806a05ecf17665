//! The way back from a method that is written in Python.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::sync::oneshot;

use super::Failure;

type Given = Result<Py<PyAny>, Failure>;

/// Where one answer goes.
pub(crate) struct Place {
    sender: Mutex<Option<oneshot::Sender<Given>>>,
    /// What ends the work, once Python has said how.
    cancel: Mutex<Cancel>,
}

#[derive(Default)]
struct Cancel {
    wanted: bool,
    with: Option<Py<PyAny>>,
}

impl Place {
    pub(super) fn new(sender: oneshot::Sender<Given>) -> Self {
        Self {
            sender: Mutex::new(Some(sender)),
            cancel: Mutex::default(),
        }
    }

    /// Gives the answer, if nobody did and somebody waits.
    pub(super) fn give(&self, given: Given) {
        let sender = self.sender.lock().take();
        if let Some(sender) = sender {
            let _ = sender.send(given);
        }
    }

    /// Ends the work.
    pub(super) fn cancel(&self) {
        let with = {
            let mut cancel = self.cancel.lock();
            cancel.wanted = true;
            cancel.with.take()
        };
        if let Some(with) = with {
            Python::try_attach(|py| {
                if let Err(error) = with.call0(py) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}

/// What a method's result is given to.
#[pyclass(frozen, module = "lyss._lyss")]
pub(crate) struct Answer(Arc<Place>);

impl Answer {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self(place)
    }
}

#[pymethods]
impl Answer {
    /// The method returned.
    fn resolve(&self, value: Py<PyAny>) {
        self.0.give(Ok(value));
    }

    /// The method raised; `message` says what, for the caller to read, `code` which of our errors it is, if one.
    fn fail(&self, code: String, message: String) {
        self.0.give(Err(Failure::Raised { code, message }));
    }

    /// Says how to end the work; done at once if nobody waits any more.
    fn on_cancel(&self, py: Python<'_>, cancel: Py<PyAny>) -> PyResult<()> {
        {
            let mut place = self.0.cancel.lock();
            if !place.wanted {
                place.with = Some(cancel);
                return Ok(());
            }
        }
        cancel.call0(py).map(drop)
    }
}
