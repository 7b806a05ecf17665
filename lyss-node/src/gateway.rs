//! A gateway: opened, called, closed.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use lyss_core::{RemoteGateway, config::Extensions, remote::RemoteOptions, types::Credential};
use lyss_http::{
    InProcess,
    in_process::{OpenError, Source},
};
use napi::{
    Env, Error, Result, Status,
    bindgen_prelude::{Buffer, Either},
};
use napi_derive::napi;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    call::Call,
    inbox::{Dispatch, Event, Inbox},
    provider::{self, Asked, Replies},
    runtime::runtime,
};

/// What an environment that ends without closing its gateways waits for them to write what they have recorded.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What calls that are cut at the end of a gateway have to end in order.
const CUT: Duration = Duration::from_millis(500);

/// A gateway in this process.
#[napi]
pub struct NativeGateway(Arc<Shared>);

struct Shared {
    inbox: Inbox,
    /// What providers in JavaScript have been asked.
    asked: Arc<Asked>,
    open: OnceLock<Arc<InProcess>>,
    /// The calls that run.
    calls: TaskTracker,
    /// Somebody has begun to close it.
    ending: AtomicBool,
    /// Ends the calls.
    closing: CancellationToken,
    closed: CancellationToken,
}

#[napi]
impl NativeGateway {
    /// Begins to open a gateway; `Opened` or `Refused` follows for id 0.
    ///
    /// `kind`: `default` (`text`: the data directory, or empty), `file` (a path), `text` (YAML or JSON). `connect` (options
    /// as JSON) is open at once, and nothing follows.
    ///
    /// # Errors
    /// The options of a connection are wrong.
    #[napi(constructor)]
    pub fn new(env: Env, kind: String, text: String, dispatch: Dispatch<'_>) -> Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Inbox::new(&dispatch)?,
            asked: Arc::default(),
            open: OnceLock::new(),
            calls: TaskTracker::new(),
            ending: AtomicBool::new(false),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        env.add_env_cleanup_hook(Arc::downgrade(&shared), last_words)?;
        let runtime = runtime()?;
        let source = match kind.as_str() {
            "connect" => {
                let _context = runtime.enter();
                let gateway = connect(&text).map_err(|error| invalid(error.message()))?;
                let _ = shared.open.set(Arc::new(gateway));
                return Ok(Self(shared));
            }
            "file" => Source::File(PathBuf::from(text)),
            "text" => Source::Text(text),
            _ => Source::Default {
                data_dir: (!text.is_empty()).then(|| PathBuf::from(text)),
            },
        };
        let opening = Arc::clone(&shared);
        runtime.spawn(async move {
            let event = opening.open(&source).await;
            opening.inbox.send(0, event);
        });
        Ok(Self(shared))
    }

    /// Makes a call; `Head` follows for its id. `headers`: name and value in turn. `key`: absent for the process itself,
    /// empty for nobody, else an API key.
    #[napi]
    #[allow(clippy::too_many_arguments)] // they cross one by one; an object would cost a look-up each
    pub fn call(
        &self,
        id: u32,
        text: bool,
        method: String,
        path: String,
        headers: Vec<String>,
        body: Option<Either<String, Buffer>>,
        key: Option<String>,
    ) -> Result<Call> {
        let gateway = self.0.open.get().ok_or_else(|| invalid("it is not open"))?;
        let credential = match key {
            None => Credential::Process,
            Some(key) if key.is_empty() => Credential::Anonymous,
            Some(key) => Credential::Key(key.into()),
        };
        Call::start(
            id,
            text,
            self.0.inbox.clone(),
            self.0.calls.token(),
            self.0.closing.clone(),
            Arc::clone(gateway),
            request(&method, &path, &headers, body)?,
            credential,
        )
    }

    /// Takes a provider written in JavaScript into use, or replaces the one of this id.
    #[napi]
    pub fn register_provider(&self, id: String, models: Vec<String>) -> Result<()> {
        let engine = self.0.open.get().and_then(|gateway| gateway.engine());
        let engine = engine.ok_or_else(|| invalid("providers run in the service"))?;
        let _context = runtime()?.enter();
        provider::build(&id, self.0.inbox.clone(), Arc::clone(&self.0.asked))
            .and_then(|provider| engine.register_provider(&id, provider, models))
            .map_err(|error| invalid(error.message()))
    }

    /// What providers in JavaScript answer through. It does not keep the gateway.
    #[napi(getter)]
    pub fn replies(&self) -> Replies {
        Replies::new(Arc::clone(&self.0.asked))
    }

    /// Ends the gateway: waits for running calls, at most `grace` milliseconds, then ends them; `Closed` follows for id 0.
    #[napi]
    pub fn close(&self, grace: f64) -> Result<()> {
        let shared = Arc::clone(&self.0);
        let grace = Duration::try_from_secs_f64(grace / 1e3).unwrap_or_default();
        runtime()?.spawn(async move {
            shared.close(grace).await;
            shared.inbox.send(0, Event::Closed);
        });
        Ok(())
    }
}

/// A gateway that nobody refers to any more ends; nobody is left to wait for it.
impl Drop for NativeGateway {
    fn drop(&mut self) {
        if let Ok(runtime) = runtime() {
            let shared = Arc::clone(&self.0);
            runtime.spawn(async move { shared.close(Duration::ZERO).await });
        }
    }
}

impl Shared {
    async fn open(&self, source: &Source) -> Event {
        let opened = InProcess::open(source, Extensions::default(), |builder| builder).await;
        match opened {
            Ok(gateway) => {
                let _ = self.open.set(Arc::new(gateway));
                Event::Opened
            }
            Err(OpenError::Start(error)) => Event::Refused(error.to_json(None)),
            Err(OpenError::Config(found)) => {
                let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
                Event::Refused(serde_json::json!({ "config": lines }).to_string())
            }
        }
    }

    /// Once; whoever comes later waits for the first.
    async fn close(&self, grace: Duration) {
        if self.ending.swap(true, Ordering::Relaxed) {
            return self.closed.cancelled().await;
        }
        let gateway = self.open.get();
        if let Some(engine) = gateway.and_then(|gateway| gateway.engine()) {
            engine.drain();
        }
        self.calls.close();
        let _ = tokio::time::timeout(grace, self.calls.wait()).await;
        self.closing.cancel();
        if let Some(gateway) = gateway {
            // Those that were just cut still end in order.
            gateway.close(CUT).await;
        }
        self.closed.cancel();
    }
}

/// A gateway that calls a service. `options`: `url`, `api_key`, `connect_timeout_ms`, `ca_file`, `proxy`.
fn connect(options: &str) -> lyss_core::Result<InProcess> {
    let options: serde_json::Value = serde_json::from_str(options)
        .map_err(|error| lyss_core::Error::invalid("options", error.to_string()))?;
    let text = |name: &str| options.get(name)?.as_str().map(str::to_owned);
    let mut remote = RemoteOptions::new(text("url").unwrap_or_default());
    remote.api_key = text("api_key").map(Into::into);
    remote.ca_file = text("ca_file").map(PathBuf::from);
    remote.proxy = text("proxy").map(Into::into);
    if let Some(ms) = options
        .get("connect_timeout_ms")
        .and_then(serde_json::Value::as_f64)
    {
        remote.connect_timeout = Duration::try_from_secs_f64(ms / 1e3).map_err(|_| {
            lyss_core::Error::invalid("connectTimeout", "`connectTimeout` must be milliseconds")
        })?;
    }
    Ok(InProcess::over(Arc::new(RemoteGateway::connect(remote)?)))
}

/// The environment ends, and with it perhaps the process: what is recorded goes into the database while it can.
fn last_words(shared: Weak<Shared>) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    if let (false, Ok(runtime)) = (shared.closed.is_cancelled(), runtime()) {
        let close = shared.close(Duration::ZERO);
        let _ = runtime.block_on(async { tokio::time::timeout(LAST_WORDS, close).await });
    }
}

fn request(
    method: &str,
    path: &str,
    headers: &[String],
    body: Option<Either<String, Buffer>>,
) -> Result<Request<Body>> {
    let has_body = body.is_some();
    let body = match body {
        None => Body::empty(),
        Some(Either::A(text)) => Body::from(text),
        Some(Either::B(bytes)) => Body::from(Vec::from(bytes)),
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(method.as_bytes())
        .map_err(|_| invalid(format!("`{}` is no method", method.escape_debug())))?;
    *request.uri_mut() = Uri::try_from(path)
        .map_err(|_| invalid(format!("`{}` is no path", path.escape_debug())))?;
    let map = request.headers_mut();
    if has_body {
        map.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    for pair in headers.chunks_exact(2) {
        if let [name, value] = pair {
            let named = || {
                invalid(format!(
                    "the header `{}` cannot be sent",
                    name.escape_debug()
                ))
            };
            let parsed = HeaderName::try_from(name.as_str()).map_err(|_| named())?;
            let value = HeaderValue::from_str(value).map_err(|_| named())?;
            map.insert(parsed, value);
        }
    }
    Ok(request)
}

fn invalid(why: impl AsRef<str>) -> Error {
    Error::new(Status::InvalidArg, why.as_ref())
}
