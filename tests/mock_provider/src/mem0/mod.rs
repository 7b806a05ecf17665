//! A loopback mem0, hosted (`Platform`) or self-hosted (`Oss`): strict about paths, slashes, authentication and bodies,
//! with faults on demand. What a client does wrong is answered as the service would, and noted ([`MockMem0::mistakes`]).
//!
//! # Source
//! PyPI `mem0ai` 2.2.1, mem0's OpenAPI file and `server/main.py`; the official client runs against it in
//! `tests/clients/mem0`.

mod oss;
mod platform;
mod store;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use store::Store;

const MAX_BODY: usize = 64 << 20;

/// Which of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// `https://api.mem0.ai`.
    Platform,
    /// The self-hosted server.
    Oss,
}

/// What goes wrong, until it is set otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mem0Fault {
    /// Nothing.
    #[default]
    None,
    /// Every call is answered with this status.
    Status(u16),
    /// Every answer comes after so long.
    Slow(Duration),
    /// Searches are not answered.
    Hang,
    /// Searches answer with so many bytes.
    Huge(usize),
    /// Searches answer with this body.
    Body(String),
}

/// A request as it came, and how it was answered.
#[derive(Clone, Debug)]
pub struct Mem0Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
    /// Body as JSON; `null` if there is none.
    pub body: Value,
    /// Status of the answer; 0 if there is none.
    pub status: u16,
}

/// A request that is to be answered.
struct Call<'a> {
    method: &'a Method,
    path: &'a str,
    query: Vec<(String, String)>,
    headers: &'a http::HeaderMap,
    body: Value,
    key: &'a str,
}

impl Call<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer: status, body, and where to look instead.
struct Reply {
    status: u16,
    body: Value,
    location: Option<String>,
}

impl Reply {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            body,
            location: None,
        }
    }
}

struct State {
    flavor: Flavor,
    key: String,
    store: Store,
    fault: Mutex<Mem0Fault>,
    requests: Mutex<Vec<Mem0Request>>,
}

/// A running mem0. Dropping it closes the listener and every connection.
pub struct MockMem0 {
    state: Arc<State>,
    addr: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl MockMem0 {
    /// Starts listening on a port of 127.0.0.1, 0 for a free one, for clients with this key.
    ///
    /// # Errors
    /// When the port is taken, or no thread or runtime can be made.
    pub fn start(flavor: Flavor, key: &str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State {
            flavor,
            key: key.to_owned(),
            store: Store::default(),
            fault: Mutex::default(),
            requests: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (shared, stopped) = (Arc::clone(&state), stop.clone());
        let thread = std::thread::Builder::new()
            .name("mock-mem0".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = accept(listener, shared) => {}
                    }
                });
            })?;
        Ok(Self {
            state,
            addr,
            stop,
            thread: Some(thread),
        })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What goes wrong from now on.
    pub fn set_fault(&self, fault: Mem0Fault) {
        *self.state.fault.lock() = fault;
    }

    /// Puts a memory of a user in.
    pub fn memorize(&self, user_id: &str, run_id: Option<&str>, text: &str) {
        self.state.store.add(user_id, run_id, text, &Value::Null);
    }

    /// An item that every search answers with besides what it finds, whoever asks.
    pub fn plant(&self, item: Value) {
        self.state.store.plant(item);
    }

    /// The texts that are remembered of a user, in order.
    #[must_use]
    pub fn memories(&self, user_id: &str) -> Vec<String> {
        self.state.store.texts(user_id)
    }

    /// The bodies of the additions that were accepted, in order.
    #[must_use]
    pub fn added(&self) -> Vec<Value> {
        self.state.store.added()
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Mem0Request> {
        self.state.requests.lock().clone()
    }

    /// The requests that a right client does not make: answered with 301, 400, 401, 404, 405 or 422, and not by a fault.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mem0Request> {
        let wrong = |request: &&Mem0Request| matches!(request.status, 301 | 400..=405 | 422);
        let requests = self.state.requests.lock();
        requests.iter().filter(wrong).cloned().collect()
    }

    /// Blocks until it stops (which it does only from another thread).
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Stops, and waits until the port is free again. What was seen stays readable.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for MockMem0 {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&state), request));
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn serve(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let call = Call {
        method: &head.method,
        path: head.uri.path(),
        query: decoded(head.uri.query().unwrap_or_default()),
        headers: &head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        key: &state.key,
    };
    let headers = head.headers.iter();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let at = {
        let mut requests = state.requests.lock();
        requests.push(Mem0Request {
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: call.body.clone(),
            status: 0,
        });
        requests.len() - 1
    };
    let fault = state.fault.lock().clone();
    match &fault {
        Mem0Fault::Slow(pause) => tokio::time::sleep(*pause).await,
        Mem0Fault::Hang if head.uri.path().contains("search") => std::future::pending().await,
        _ => {}
    }
    if let Mem0Fault::Status(status) = fault {
        let body = json!({"error": "a fault"}).to_string();
        return Ok(response(status, None, body));
    }
    let reply = match state.flavor {
        Flavor::Platform => platform::reply(&call, &state.store),
        Flavor::Oss => oss::reply(&call, &state.store),
    };
    if let Some(request) = state.requests.lock().get_mut(at) {
        request.status = reply.status;
    }
    let is_search = reply.status == 200 && head.uri.path().contains("search");
    let body = match fault {
        Mem0Fault::Huge(bytes) if is_search => {
            let memory = "x".repeat(bytes);
            format!(r#"{{"results":[{{"id":"1","memory":"{memory}"}}]}}"#)
        }
        Mem0Fault::Body(body) if is_search => body,
        _ => reply.body.to_string(),
    };
    Ok(response(reply.status, reply.location.as_deref(), body))
}

fn response(status: u16, location: Option<&str>, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    if let Some(location) = location.and_then(|location| location.parse().ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// The pairs of a query.
fn decoded(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (unescaped(key), unescaped(value)))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                let hex = String::from_utf8_lossy(&hex).into_owned();
                u8::from_str_radix(&hex, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}
