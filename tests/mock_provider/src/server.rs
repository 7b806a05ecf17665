//! The listener, its thread, and the handle tests hold.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, Canned};
use crate::conn::Socket;
use crate::control::{Control, Controls, Rule};
use crate::ledger::{Entry, Ledger, RecordedRequest};
use crate::script::Script;
use crate::service::Provider;

/// How a provider is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Accepted API keys; empty accepts any.
    pub keys: Vec<String>,
    /// The script of requests that have no other.
    pub base: Script,
    /// Answer with canned bytes only: no scripts, no ledger.
    pub bench: Option<Bench>,
    /// Ledger entries and requests kept; the oldest go first.
    pub max_recorded: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            keys: Vec::new(),
            base: Script::default(),
            bench: None,
            max_recorded: 10_000,
        }
    }
}

/// A running provider. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct MockProvider {
    provider: Arc<Provider>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl MockProvider {
    /// Starts listening.
    ///
    /// # Errors
    /// When the port is taken, or no thread or runtime can be made.
    pub fn start(options: Options) -> io::Result<Self> {
        // std sets SO_REUSEADDR: a stopped provider can come back on its port.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
        listener.set_nonblocking(true)?;
        let provider = Arc::new(Provider {
            ledger: Arc::new(Ledger::new(options.max_recorded.max(1))),
            controls: Controls::new(options.keys, options.base),
            bench: options.bench.as_ref().map(Canned::new),
            addr: listener.local_addr()?,
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let (shared, stopped) = (Arc::clone(&provider), stop.clone());
        let thread = std::thread::Builder::new()
            .name("mock-provider".to_owned())
            .spawn(move || {
                // Leaving this closure drops the runtime, and with it every connection.
                runtime.block_on(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = accept(listener, shared) => {}
                    }
                });
            })?;
        Ok(Self {
            provider,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.provider.addr
    }

    /// Base URL for OpenAI clients: `http://ADDR/v1`.
    #[must_use]
    pub fn base_url_openai(&self) -> String {
        format!("http://{}/v1", self.addr())
    }

    /// Base URL for DashScope clients: `http://ADDR/api/v1`.
    #[must_use]
    pub fn base_url_dashscope(&self) -> String {
        format!("http://{}/api/v1", self.addr())
    }

    /// What was served so far, oldest first.
    #[must_use]
    pub fn ledger(&self) -> Vec<Entry> {
        self.provider.ledger.entries()
    }

    /// Requests as they came, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.provider.ledger.requests()
    }

    /// The script of every request that has no rule, from now on.
    pub fn set_script(&self, script: Script) {
        self.control(Control {
            base: Some(script),
            ..Control::default()
        });
    }

    /// A script for exactly one request, after the rules that are already there.
    pub fn push(&self, script: Script) {
        self.control(Control {
            push: Some(script),
            ..Control::default()
        });
    }

    /// A script for the requests that match.
    pub fn rule(&self, rule: Rule) {
        self.control(Control {
            rules: vec![rule],
            ..Control::default()
        });
    }

    /// Down: connections are accepted and reset, requests too.
    pub fn set_down(&self, down: bool) {
        self.control(Control {
            down: Some(down),
            ..Control::default()
        });
    }

    /// Forgets scripts, keys and `down`; also ledger and requests.
    pub fn reset(&self) {
        self.control(Control {
            reset: true,
            clear: true,
            ..Control::default()
        });
    }

    /// Applies a control message, as `POST /__control` does.
    pub fn control(&self, control: Control) {
        if control.clear {
            self.provider.ledger.clear();
        }
        self.provider.controls.apply(control);
    }

    /// Blocks until the provider stops (which it does only from another thread).
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Stops and waits until the port is free again. The ledger stays readable.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for MockProvider {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, provider: Arc<Provider>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&provider)));
            }
            // Out of descriptors, most likely: others may close meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: TcpStream, provider: Arc<Provider>) {
    // Without it, Nagle and delayed ACKs hold small chunks back for 40 ms.
    let _ = stream.set_nodelay(true);
    let (socket, control) = Socket::new(stream);
    let service =
        service_fn(move |request| Arc::clone(&provider).serve(request, Arc::clone(&control)));
    // An error here is a cut by script or a client that went: the ledger knows.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service)
        .await;
}
