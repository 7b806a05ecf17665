//! Load balancers that are written in Python: a factory that is called with the number of targets of a tier, and gives an
//! object with `pick(candidates, session)` and, if it wants to learn, `observe(index, success, latency)`.

use std::sync::Arc;

use lyss_core::balance::{
    BalancerFactory, Candidate, LoadBalancer, Outcome, PickContext, WeightedRoundRobin,
};
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

/// The strategy that a factory makes.
pub(crate) fn factory(factory: Arc<Py<PyAny>>) -> BalancerFactory {
    Arc::new(move |size| {
        let made = Python::try_attach(|py| {
            let made = factory.call1(py, (size,));
            made.inspect_err(|error| report(py, error, "a load balancer could not be made"))
                .ok()
        });
        Box::new(PyBalancer {
            object: made.flatten(),
            otherwise: WeightedRoundRobin::new(size),
        })
    })
}

struct PyBalancer {
    object: Option<Py<PyAny>>,
    /// Decides where the object fails: a defect in it must not take the model away.
    otherwise: WeightedRoundRobin,
}

impl LoadBalancer for PyBalancer {
    fn pick(&self, candidates: &[Candidate], context: &PickContext<'_>) -> Option<usize> {
        let picked = self.object.as_ref().and_then(|object| {
            Python::try_attach(|py| {
                pick(object.bind(py), candidates, context)
                    .inspect_err(|error| report(py, error, "a load balancer failed"))
                    .ok()
            })
            .flatten()
        });
        match picked {
            Some(picked) => picked,
            None => self.otherwise.pick(candidates, context),
        }
    }

    fn observe(&self, index: usize, outcome: &Outcome) {
        let Some(object) = &self.object else { return };
        Python::try_attach(|py| {
            let object = object.bind(py);
            let told = object.hasattr("observe").and_then(|learns| {
                if learns {
                    let latency = outcome.latency.as_secs_f64();
                    object.call_method1("observe", (index, outcome.success, latency))?;
                }
                Ok(())
            });
            if let Err(error) = told {
                report(py, &error, "a load balancer failed");
            }
        });
    }
}

fn pick(
    object: &Bound<'_, PyAny>,
    candidates: &[Candidate],
    context: &PickContext<'_>,
) -> PyResult<Option<usize>> {
    let py = object.py();
    let list = PyList::empty(py);
    for candidate in candidates {
        let dict = PyDict::new(py);
        dict.set_item("index", candidate.index)?;
        dict.set_item("id", candidate.id)?;
        dict.set_item("weight", candidate.weight)?;
        dict.set_item("in_flight", candidate.in_flight)?;
        list.append(dict)?;
    }
    let session = context
        .session
        .map(|session| (session.user_id.as_str(), session.id.as_str()));
    let picked: Option<usize> = object.call_method1("pick", (list, session))?.extract()?;
    match picked {
        Some(position) if position >= candidates.len() => {
            Err(pyo3::exceptions::PyIndexError::new_err(format!(
                "pick() gave {position} for {} candidates",
                candidates.len()
            )))
        }
        picked => Ok(picked),
    }
}

/// Logs what was raised, with its traceback.
fn report(py: Python<'_>, error: &PyErr, what: &str) {
    let log = || -> PyResult<()> {
        let extend = py.import("lyss._extend")?;
        extend.call_method1("report", (what, error.value(py)))?;
        Ok(())
    };
    if log().is_err() {
        error.clone_ref(py).write_unraisable(py, None);
    }
}
