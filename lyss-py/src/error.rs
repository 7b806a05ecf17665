//! Exceptions of `lyss._errors`, raised from here. What the router answers is turned into exceptions in Python.

use std::{panic::Location, time::Duration};

use lyss_http::in_process::OpenError;
use pyo3::{prelude::*, types::PyType};

/// An exception of the class `name` of `lyss._errors`.
fn of_class(name: &str, message: &str) -> PyErr {
    Python::attach(|py| {
        let class = py
            .import("lyss._errors")
            .and_then(|module| module.getattr(name))
            .and_then(|class| Ok(class.cast_into::<PyType>()?));
        match class {
            Ok(class) => PyErr::from_type(class, (message.to_owned(),)),
            Err(error) => error,
        }
    })
}

/// `LyssError`.
pub(crate) fn plain(message: &str) -> PyErr {
    of_class("LyssError", message)
}

/// `LyssForkError`, for what was begun before a fork.
pub(crate) fn forked() -> PyErr {
    of_class(
        "LyssForkError",
        "this was begun before the process was forked; begin it again in this process",
    )
}

/// `GatewayClosedError`.
pub(crate) fn closed() -> PyErr {
    of_class("GatewayClosedError", "this gateway is closed")
}

/// `APITimeoutError`: what was waited for did not come within `timeout`.
pub(crate) fn timed_out(timeout: Duration) -> PyErr {
    let message = format!("no answer within {} s (`timeout`)", timeout.as_secs_f64());
    of_class("APITimeoutError", &message)
}

/// Why a gateway does not open: `ConfigError` for what the caller can correct.
pub(crate) fn not_opened(error: OpenError) -> PyErr {
    match error {
        OpenError::Config(_) => of_class("ConfigError", &error.to_string()),
        OpenError::Start(error) if error.status() < 500 => of_class("ConfigError", error.message()),
        OpenError::Start(error) => of_class("LyssError", error.message()),
    }
}

/// A defect: what should not happen, told instead of an abort.
#[track_caller]
pub(crate) fn defect() -> PyErr {
    plain(&format!("the gateway failed at {}", Location::caller()))
}
