//! A gateway that is called without a socket: what the Python and Node packages stand on, and any program that wants
//! the HTTP surface in its own process.
//!
//! The engine, or a connection to a service, behind the same [`router`]: every path, header and error is
//! the one that HTTP callers know, so a door in another language has nothing to decide.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, Response};
use lyss_core::{
    Engine, EngineBuilder, Error, Gateway,
    config::{Config, Diagnostic, Env, Extensions, Loaded, Watch},
    types::Credential,
};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::{RouterOptions, router};

/// What a gateway in this process is made from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Nothing: the embedded default (contract section 3), with what the environment names.
    Default {
        /// Where the database, the spool and generated keys are kept, instead of the platform's data directory.
        data_dir: Option<PathBuf>,
    },
    /// A configuration file. Changes of it come into force while the gateway runs.
    File(PathBuf),
    /// A configuration as YAML or JSON text.
    Text(String),
}

/// Why no gateway could be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong; everything that is wrong with it.
    #[error("{}", lines(.0))]
    Config(Vec<Diagnostic>),
    /// It could not be put into force.
    #[error(transparent)]
    Start(#[from] Error),
}

/// A gateway in this process.
pub struct InProcess {
    gateway: Arc<dyn Gateway>,
    router: Router,
    engine: Option<Engine>,
    watch: Option<JoinHandle<()>>,
}

impl InProcess {
    /// Starts an engine. `extend` may add providers, balancers and stores of one's own; `extensions` names them, so that
    /// the configuration may.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, or why the engine does not start.
    pub async fn open(
        source: &Source,
        extensions: Extensions,
        extend: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Result<Self, OpenError> {
        let (env, loaded) = load(source, &extensions).map_err(OpenError::Config)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let config = loaded.config.clone();
        let options = RouterOptions {
            max_body: usize::try_from(config.server.max_body).unwrap_or(usize::MAX),
            ..RouterOptions::default()
        };
        let engine = extend(Engine::builder(config)).start().await?;
        let watch = match source {
            Source::File(path) => {
                let watch = Watch::new(path, env, extensions, &loaded);
                Some(tokio::spawn(follow(watch, engine.clone())))
            }
            _ => None,
        };
        Ok(Self {
            engine: Some(engine.clone()),
            watch,
            ..Self::routed(Arc::new(engine), options)
        })
    }

    /// Any other gateway, such as the one that calls a service.
    pub fn over(gateway: Arc<dyn Gateway>) -> Self {
        Self::routed(gateway, RouterOptions::default())
    }

    fn routed(gateway: Arc<dyn Gateway>, options: RouterOptions) -> Self {
        let options = RouterOptions {
            // There is no proxy in between that would give up on a silent stream, and errors stay errors.
            keep_alive: Duration::from_secs(24 * 3600),
            ..options
        };
        Self {
            router: router(Arc::clone(&gateway), options),
            gateway,
            engine: None,
            watch: None,
        }
    }

    /// Makes one call; `credential` says for whom, and headers that would are not looked at. Each frame of a streamed
    /// answer's body is one event. Dropping the future, or the body of the answer, is what a connection that closes is
    /// to the service.
    pub async fn call(&self, mut request: Request<Body>, credential: Credential) -> Response<Body> {
        request.extensions_mut().insert(credential);
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// The gateway itself.
    pub fn gateway(&self) -> &Arc<dyn Gateway> {
        &self.gateway
    }

    /// The engine, where it runs in this process.
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Ends the engine: waits for running calls, at most for `grace`, and writes what is in the spool. Calls that come later
    /// are refused with `shutting_down`.
    pub async fn close(&self, grace: Duration) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        if let Some(engine) = &self.engine {
            engine.shutdown(grace).await;
        }
    }
}

fn load(source: &Source, extensions: &Extensions) -> Result<(Env, Loaded), Vec<Diagnostic>> {
    let here = std::env::current_dir()
        .map_err(|error| vec![Diagnostic::of_file(".", error.to_string())])?;
    let env = Env::from_process(&here)?;
    let loaded = match source {
        Source::Default { data_dir } => {
            let mut loaded = Config::embedded_default(&env)?;
            if let Some(dir) = data_dir {
                loaded.config.data.dir = Some(dir.clone());
            }
            loaded
        }
        Source::File(path) => Config::load_with(Path::new(path), &env, extensions)?,
        Source::Text(text) => Config::parse_with("config", text, &env, extensions)?,
    };
    Ok((env, loaded))
}

async fn follow(mut watch: Watch, engine: Engine) {
    loop {
        let changed = watch.next().await;
        engine.take(changed.map(|new| new.config)).await;
    }
}

fn lines(found: &[Diagnostic]) -> String {
    let mut text = String::new();
    for (index, diagnostic) in found.iter().enumerate() {
        let _ = write!(text, "{}{diagnostic}", if index == 0 { "" } else { "\n" });
    }
    text
}
