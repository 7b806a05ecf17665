//! A gateway: an engine in this process, or a service that is called, behind the router.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use lyss_core::{
    EngineBuilder, RemoteGateway, config::Extensions, database::Suspended,
    provider::transport::install_crypto, remote::RemoteOptions, types::Credential,
};
use lyss_http::in_process::{InProcess, OpenError, Source};
use parking_lot::Mutex;
use pyo3::{exceptions::PyValueError, prelude::*};
use tokio::runtime::Handle;

use crate::{
    call::{Call, Ended},
    error,
    extend::{balancer, provider::PyProvider, store::PySessionStore},
    port::Port,
    reply::{Received, Reply},
    runtime,
    wait::{LONG, seconds, wait_for},
};

/// How long an engine that nobody refers to any more may take to end.
const UNCLOSED_GRACE: Duration = Duration::from_secs(1);

/// How long a fork waits for running queries.
const FORK_PATIENCE: Duration = Duration::from_secs(2);

/// Where a gateway comes from; what is needed to open it, and to open it again in a forked child.
enum Origin {
    /// An engine in this process.
    Engine {
        source: Source,
        session_store: Option<Arc<Py<PyAny>>>,
        balancers: BTreeMap<String, Arc<Py<PyAny>>>,
    },
    /// A service.
    Service(Box<RemoteOptions>),
}

/// The gateway of this process, and whether it is closed.
#[derive(Default)]
struct State {
    generation: u64,
    process: Option<Arc<InProcess>>,
    closed: bool,
}

/// A provider that was registered: its id, the object, the models that go to it.
type Registered = (String, Arc<Py<PyAny>>, Vec<String>);

/// A gateway without idiom: requests as method, path, headers and bytes.
#[pyclass(frozen, weakref, module = "lyss._lyss")]
pub(crate) struct Core {
    origin: Arc<Origin>,
    state: Mutex<State>,
    providers: Mutex<Vec<Registered>>,
    /// Keeps connections to SQLite closed while the process forks.
    suspended: Mutex<Vec<Suspended>>,
}

#[pymethods]
impl Core {
    /// Opens an engine in this process. `kind` says what `text` is: `file` (a path), `text` (YAML or JSON) or `default`.
    #[staticmethod]
    #[pyo3(signature = (kind, text, data_dir=None, session_store=None, balancers=BTreeMap::new()))]
    fn open(
        py: Python<'_>,
        kind: &str,
        text: String,
        data_dir: Option<PathBuf>,
        session_store: Option<Py<PyAny>>,
        balancers: BTreeMap<String, Py<PyAny>>,
    ) -> PyResult<Self> {
        let source = match kind {
            "file" => Source::File(text.into()),
            "text" => Source::Text(text),
            _ => Source::Default { data_dir },
        };
        let balancers = balancers
            .into_iter()
            .map(|(name, factory)| (name, Arc::new(factory)))
            .collect();
        Self::of(
            py,
            Origin::Engine {
                source,
                session_store: session_store.map(Arc::new),
                balancers,
            },
        )
    }

    /// A gateway that calls a service. Connects with the first call.
    #[staticmethod]
    #[pyo3(signature = (url, api_key=None, connect_timeout=None, ca_file=None))]
    fn connect(
        py: Python<'_>,
        url: String,
        api_key: Option<String>,
        connect_timeout: Option<f64>,
        ca_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let mut options = RemoteOptions {
            url,
            api_key: api_key.map(Into::into),
            ca_file,
            ..RemoteOptions::default()
        };
        if let Some(timeout) = seconds(connect_timeout)? {
            options.connect_timeout = timeout;
        }
        Self::of(py, Origin::Service(Box::new(options)))
    }

    /// Makes a call and waits for its answer, or for the first event of a streamed one.
    #[pyo3(signature = (method, path, headers, body=None, credential=None, timeout=None))]
    #[allow(clippy::too_many_arguments)] // a request
    fn call(
        &self,
        py: Python<'_>,
        method: &str,
        path: &str,
        headers: Vec<(String, String)>,
        body: Option<&[u8]>,
        credential: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Reply> {
        let request = request(method, path, headers, body)?;
        let timeout = seconds(timeout)?;
        let process = self.process(py)?;
        let credential = credential_of(credential);
        let answer = async move { Received::read(process.call(request, credential).await).await };
        match wait_for(py, &runtime::handle(py)?, timeout, answer)? {
            Some(received) => received.into_reply(py),
            None => Err(error::timed_out(timeout.unwrap_or_default())),
        }
    }

    /// Makes a call for an asyncio loop: `port` tells of `token` when the answer is there.
    #[pyo3(signature = (port, token, method, path, headers, body=None, credential=None, timeout=None))]
    #[allow(clippy::too_many_arguments)] // a request
    fn start(
        &self,
        py: Python<'_>,
        port: &Port,
        token: u64,
        method: &str,
        path: &str,
        headers: Vec<(String, String)>,
        body: Option<&[u8]>,
        credential: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Call> {
        let request = request(method, path, headers, body)?;
        let timeout = seconds(timeout)?;
        let process = self.process(py)?;
        let credential = credential_of(credential);
        let handle = runtime::handle(py)?;
        let answer = async move {
            let received = Received::read(process.call(request, credential).await).await;
            Ended::Answered(Box::new(received))
        };
        Ok(Call::start(&handle, port.sender(), token, timeout, answer))
    }

    /// Adds a provider that is written in Python to the running engine, or replaces the one of this id.
    fn register_provider(
        &self,
        py: Python<'_>,
        id: String,
        provider: Py<PyAny>,
        models: Vec<String>,
    ) -> PyResult<()> {
        let process = self.process(py)?;
        let registered = (id, Arc::new(provider), models);
        register(py, &process, &registered)?;
        let mut providers = self.providers.lock();
        providers.retain(|(id, ..)| *id != registered.0);
        providers.push(registered);
        Ok(())
    }

    /// The engine's metrics as OpenMetrics text; empty for a gateway that calls a service.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        let process = self.process(py)?;
        Ok(py.detach(|| {
            process
                .engine()
                .map(lyss_core::Engine::metrics)
                .unwrap_or_default()
        }))
    }

    /// Ends the gateway: waits for running calls, at most for `grace`. Later calls fail. Closing twice is no error.
    fn close(&self, py: Python<'_>, grace: f64) -> PyResult<()> {
        let grace = seconds(Some(grace))?.unwrap_or(LONG);
        if let Some(process) = self.closing() {
            let handle = runtime::handle(py)?;
            wait_for(py, &handle, None, async move { process.close(grace).await })?;
        }
        Ok(())
    }

    /// As [`close`](Self::close), for an asyncio loop; `None` if there is nothing to wait for.
    fn start_close(
        &self,
        py: Python<'_>,
        port: &Port,
        token: u64,
        grace: f64,
    ) -> PyResult<Option<Call>> {
        let grace = seconds(Some(grace))?.unwrap_or(LONG);
        let Some(process) = self.closing() else {
            return Ok(None);
        };
        let ending = async move {
            process.close(grace).await;
            Ended::Done
        };
        let handle = runtime::handle(py)?;
        Ok(Some(Call::start(
            &handle,
            port.sender(),
            token,
            None,
            ending,
        )))
    }

    /// To be called before the process forks: waits until nothing is open that a child must not inherit.
    fn before_fork(&self, py: Python<'_>) -> PyResult<()> {
        let process = {
            let state = self.state.lock();
            match &state.process {
                Some(process) if state.generation == runtime::generation() => Arc::clone(process),
                _ => return Ok(()),
            }
        };
        let Some(engine) = process.engine().cloned() else {
            return Ok(());
        };
        let handle = runtime::handle(py)?;
        let closing = async move { engine.database().suspend(FORK_PATIENCE).await };
        // Not interrupted by a signal: then the process would fork with its connections open.
        let (suspended, _closed) = py.detach(|| handle.block_on(closing));
        self.suspended.lock().push(suspended);
        Ok(())
    }

    /// To be called in the parent when the process has forked.
    fn after_fork_in_parent(&self) {
        let suspended = std::mem::take(&mut *self.suspended.lock());
        drop(suspended);
    }

    /// To be called in the child: what is of the parent's engine is left alone.
    fn after_fork_in_child(&self) {
        std::mem::forget(std::mem::take(&mut *self.suspended.lock()));
    }

    /// Whether the gateway was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.state.lock().closed
    }
}

impl Core {
    fn of(py: Python<'_>, origin: Origin) -> PyResult<Self> {
        let core = Self {
            origin: Arc::new(origin),
            state: Mutex::new(State::default()),
            providers: Mutex::default(),
            suspended: Mutex::default(),
        };
        core.process(py)?;
        Ok(core)
    }

    /// The gateway of this process; opened again after a fork.
    fn process(&self, py: Python<'_>) -> PyResult<Arc<InProcess>> {
        let generation = runtime::generation();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(error::closed());
            }
            if state.generation == generation
                && let Some(process) = &state.process
            {
                return Ok(Arc::clone(process));
            }
            // The one from before the fork is left behind: nobody runs it here.
            std::mem::forget(state.process.take());
            state.generation = generation;
        }
        let handle = runtime::handle(py)?;
        let opened = wait_for(py, &handle, None, open(Arc::clone(&self.origin)))?
            .ok_or_else(error::defect)?
            .map_err(error::not_opened)?;
        let opened = Arc::new(opened);
        for registered in &*self.registered(py) {
            register(py, &opened, registered)?;
        }
        let mut state = self.state.lock();
        match &state.process {
            // Another thread was first.
            Some(process) => {
                end_in_background(&handle, opened);
                Ok(Arc::clone(process))
            }
            None => {
                state.process = Some(Arc::clone(&opened));
                Ok(opened)
            }
        }
    }

    /// The providers registered so far, copied so that the lock is not held while they are.
    fn registered(&self, _py: Python<'_>) -> Vec<Registered> {
        let providers = self.providers.lock();
        providers
            .iter()
            .map(|(id, provider, models)| (id.clone(), Arc::clone(provider), models.clone()))
            .collect()
    }

    /// Marks the gateway as closed and gives what is to be ended.
    fn closing(&self) -> Option<Arc<InProcess>> {
        let mut state = self.state.lock();
        state.closed = true;
        let process = state.process.take();
        if state.generation == runtime::generation() {
            process
        } else {
            std::mem::forget(process);
            None
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let Some(process) = self.closing() else {
            return;
        };
        let handle = Python::attach(runtime::handle);
        if let Ok(handle) = handle {
            end_in_background(&handle, process);
        }
    }
}

fn end_in_background(handle: &Handle, process: Arc<InProcess>) {
    handle.spawn(async move { process.close(UNCLOSED_GRACE).await });
}

async fn open(origin: Arc<Origin>) -> Result<InProcess, OpenError> {
    let (source, session_store, balancers) = match &*origin {
        Origin::Service(options) => {
            install_crypto();
            let gateway = RemoteGateway::connect(RemoteOptions::clone(options))?;
            return Ok(InProcess::over(Arc::new(gateway)));
        }
        Origin::Engine {
            source,
            session_store,
            balancers,
        } => (source, session_store, balancers),
    };
    let extensions = Extensions {
        load_balancers: balancers.keys().cloned().collect(),
        ..Extensions::default()
    };
    let extend = |mut builder: EngineBuilder| {
        if let Some(store) = session_store {
            builder = builder.session_store(Arc::new(PySessionStore::new(Arc::clone(store))));
        }
        for (name, factory) in balancers {
            builder = builder.balancer(name.clone(), balancer::factory(Arc::clone(factory)));
        }
        builder
    };
    InProcess::open(source, extensions, extend).await
}

fn register(py: Python<'_>, process: &InProcess, registered: &Registered) -> PyResult<()> {
    let (id, provider, models) = registered;
    let Some(engine) = process.engine() else {
        return Err(error::plain(
            "providers can be registered where the engine runs, not on a connection to a service",
        ));
    };
    let provider = Arc::new(PyProvider::new(py, id, Arc::clone(provider))?);
    let handle = runtime::handle(py)?;
    // Detached: whoever rebuilds the routing meanwhile may be waiting for the interpreter to make a balancer.
    py.detach(|| {
        let _entered = handle.enter();
        engine.register_provider(id, provider, models.iter().cloned())
    })
    .map_err(|error| error::plain(error.message()))
}

fn credential_of(text: Option<String>) -> Credential {
    match text {
        None => Credential::Process,
        Some(key) if key.is_empty() => Credential::Anonymous,
        Some(key) => Credential::Key(key.into()),
    }
}

fn request(
    method: &str,
    path: &str,
    headers: Vec<(String, String)>,
    body: Option<&[u8]>,
) -> PyResult<Request<Body>> {
    let wrong = |what: &str| PyValueError::new_err(format!("this cannot be a request's {what}"));
    let mut request = Request::new(Body::empty());
    *request.method_mut() =
        Method::from_bytes(method.as_bytes()).map_err(|_| wrong(&format!("method: {method:?}")))?;
    *request.uri_mut() = Uri::try_from(path).map_err(|_| wrong(&format!("path: {path:?}")))?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong(&format!("header: {name:?}")))?;
        let value = HeaderValue::from_str(&value)
            .map_err(|_| wrong(&format!("header: the value of {:?}", name.as_str())))?;
        request.headers_mut().append(name, value);
    }
    if let Some(body) = body {
        request
            .headers_mut()
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
        *request.body_mut() = Body::from(Bytes::copy_from_slice(body));
    }
    Ok(request)
}
