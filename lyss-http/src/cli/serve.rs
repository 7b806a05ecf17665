//! `lyss serve`: start, reload, drain, end.

use std::{
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, http::header, routing::get};
use lyss_core::{
    Engine,
    admission::KeyStore,
    config::{
        AuthMode, Config, Diagnostic, Env, Extensions, Loaded, LogFormat, Watch, is_loopback,
    },
};
use lyss_http::{
    RouterOptions, Shutdown,
    edge::{descriptors, host::HostPolicy, tls},
    serve::{ServeOptions, bind, serve},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Failure, Global, Outcome, logging, screen, without_effect};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn run(global: &Global) -> Outcome {
    let env = global.env()?;
    let loaded = global
        .load(&env)
        .map_err(|found| Failure::diagnostics(&found))?;
    logging::start(&loaded.config.monitoring.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::outside)?;
    let outcome = runtime.block_on(run_async(global, env, loaded));
    // A blocking call that hangs (a name lookup, a dead disk) must not keep the process after its end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn run_async(global: &Global, env: Env, loaded: Loaded) -> Outcome {
    let config = loaded.config.clone();
    report(&loaded);
    let mut signals = Signals::new()?;
    // Ports first: with one taken nothing else should have begun.
    let listener = listen(
        &config.server.http.addr,
        "server.http.addr or GATEWAY_HTTP_ADDR",
    )
    .await?;
    let address = listener.local_addr().map_err(Failure::outside)?;
    let metrics = match &config.monitoring.prometheus {
        prometheus if prometheus.enabled => {
            Some(listen(&prometheus.addr, "monitoring.prometheus.addr").await?)
        }
        _ => None,
    };
    let options = serve_options(&config)?;
    let engine = Engine::start(config.clone()).await?;
    if let Some(listener) = metrics {
        tokio::spawn(serve_metrics(listener, engine.clone()));
    }
    let shutdown = Shutdown::default();
    let router = lyss_http::router(
        Arc::new(engine.clone()),
        RouterOptions {
            max_body: usize::try_from(config.server.max_body).unwrap_or(usize::MAX),
            body_timeout: config.server.http.timeout,
            cors: config.server.cors.clone(),
            shutdown: shutdown.clone(),
            ..RouterOptions::default()
        },
    );
    let mut server = tokio::spawn(serve(listener, router, options, shutdown.clone()));
    announce(global, &config, address, &engine).await;

    let mut watch = watch(global, &env, &loaded);
    let begun = loop {
        tokio::select! {
            changed = next(&mut watch) => apply(global, &engine, changed).await,
            asked = signals.next() => match asked {
                Asked::Reload => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    match reread(global) {
                        Ok((env, new)) => {
                            watch = self::watch(global, &env, &new);
                            apply(global, &engine, Ok(new)).await;
                        }
                        Err(found) => apply(global, &engine, Err(found)).await,
                    }
                }
                Asked::Stop => break Instant::now(),
            },
            ended = &mut server => {
                return Err(Failure::Outside(format!("the listener ended: {ended:?}")));
            }
        }
    };
    tracing::info!(grace = ?config.server.shutdown_grace, "draining; a second signal ends at once");
    engine.drain();
    shutdown.drain();
    let end = async {
        let _ = (&mut server).await;
        // Calls may outlive their connection (a cancelled one waits for its usage), the spool is flushed last.
        let left = config.server.shutdown_grace.saturating_sub(begun.elapsed());
        engine.shutdown(left.max(Duration::from_secs(1))).await;
    };
    tokio::select! {
        () = end => tracing::info!("stopped"),
        () = signals.stop() => tracing::warn!("second signal: ending at once"),
    }
    Ok(())
}

/// Opens a listener; `key` is what chooses another address.
async fn listen(address: &str, key: &str) -> Result<tokio::net::TcpListener, Failure> {
    bind(address)
        .await
        .map_err(|error| Failure::Outside(format!("{error}; choose another address with {key}")))
}

fn serve_options(config: &Config) -> Result<ServeOptions, Failure> {
    let server = &config.server;
    let tls = match &server.tls {
        Some(files) => Some(
            tls::load(&files.cert, &files.key)
                .map_err(|error| Failure::Wrong(format!("server.tls: {error}")))?,
        ),
        None => None,
    };
    let hosts = if !server.hosts.is_empty() {
        HostPolicy::Listed(server.hosts.clone())
    } else if is_loopback(&server.http.addr) {
        HostPolicy::Loopback
    } else {
        HostPolicy::Any
    };
    let most = descriptors::connections();
    if server.http.max_connections > most {
        tracing::warn!(
            "server.http.max_connections is {}, but the limit of file descriptors (`ulimit -n`) is enough for {most}",
            server.http.max_connections
        );
    }
    Ok(ServeOptions {
        max_connections: server.http.max_connections.min(most),
        header_timeout: server.http.header_timeout,
        hosts,
        tls,
        grace: server.shutdown_grace,
        ..ServeOptions::default()
    })
}

/// The metrics on their own address, until the process ends: the end of the service is worth seeing too.
async fn serve_metrics(listener: TcpListener, engine: Engine) {
    let text = move || async move { ([(header::CONTENT_TYPE, METRICS_TYPE)], engine.metrics()) };
    let router = Router::new().route("/metrics", get(text));
    let options = ServeOptions {
        max_connections: 64,
        ..ServeOptions::default()
    };
    serve(listener, router, options, Shutdown::default()).await;
}

/// Says what is allowed and probably not meant.
fn report(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for (key, why) in without_effect(&loaded.config) {
        tracing::warn!(key, "{why}");
    }
}

async fn announce(global: &Global, config: &Config, address: SocketAddr, engine: &Engine) {
    let providers = engine.providers();
    tracing::info!(%address, providers = providers.len(), "listening");
    if config.monitoring.log.format == LogFormat::Text {
        let screen = screen::screen(config, address, &providers);
        // Nobody reading stdout is no reason not to serve.
        let _ = std::io::stdout().write_all(screen.as_bytes());
    }
    if config.auth_mode() == AuthMode::Keys
        && config.auth.admin_key.is_none()
        && !has_keys(config, engine).await
    {
        let mut command = "lyss keys create --user NAME --admin".to_owned();
        // The key has to land in the database that this process reads.
        for (flag, path) in [
            ("--config", &global.config),
            ("--data-dir", &global.data_dir),
        ] {
            if let Some(path) = path {
                command.push_str(&format!(" {flag} {}", path.display()));
            }
        }
        tracing::warn!(
            "calls need an API key and there is none yet; make the first one: {command}"
        );
    }
}

/// Whether there is a key; also when that cannot be known now.
async fn has_keys(config: &Config, engine: &Engine) -> bool {
    let Ok(hasher) = super::keys::hasher(config) else {
        return true;
    };
    let store = KeyStore::new(engine.database().clone(), hasher);
    store.list().await.map_or(true, |keys| !keys.is_empty())
}

fn watch(global: &Global, env: &Env, loaded: &Loaded) -> Option<Watch> {
    let path = global.config.as_ref()?;
    Some(Watch::new(path, env.clone(), Extensions::default(), loaded))
}

async fn next(watch: &mut Option<Watch>) -> Result<Loaded, Vec<Diagnostic>> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// The environment and the configuration as they are now.
fn reread(global: &Global) -> Result<(Env, Loaded), Vec<Diagnostic>> {
    let here = std::env::current_dir()
        .map_err(|error| vec![Diagnostic::of_file(".", error.to_string())])?;
    let env = Env::from_process(&here)?;
    let loaded = global.load(&env)?;
    Ok((env, loaded))
}

/// Puts a new configuration into force, or says why the old one stays.
async fn apply(global: &Global, engine: &Engine, changed: Result<Loaded, Vec<Diagnostic>>) {
    let changed = changed.map(|mut new| {
        global.apply(&mut new.config);
        report(&new);
        new.config
    });
    engine.take(changed).await;
}

enum Asked {
    Reload,
    Stop,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::outside);
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Stop,
            _ = self.int.recv() => Asked::Stop,
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}
