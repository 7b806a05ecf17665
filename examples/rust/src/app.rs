//! An axum application with the gateway in it: its HTTP surface below `/ai`, and a handler that calls the engine.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use lyss_core::{
    Engine, Error, ErrorKind, Gateway, Result,
    config::{Config, Extensions},
    provider::registry::Registry,
    types::{CallContext, ChatRequest},
};
use lyss_http::RouterOptions;
use serde_json::{Value, json};

use crate::{balancer::LeastBusy, provider::Shout, session_store::FileSessions};

/// The provider kind `shout` and the balancer `least_busy` are this program's own.
const CONFIG: &str = r#"
auth: { mode: none, default_user: local }
monitoring: { prometheus: { enabled: false } }
providers:
  loud: { kind: shout }
  louder: { kind: shout, options: { suffix: "!" } }
routing:
  default_provider: loud
  load_balancer: least_busy
  rules:
    - { model: shout, provider: loud, weight: 1 }
    - { model: shout, provider: louder, weight: 1 }
"#;

/// An engine with parts of this program's own. Its data and the sessions lie in `dir`.
///
/// # Errors
/// `invalid_value` for a configuration that is wrong, and why the engine does not start.
pub async fn engine(dir: &Path) -> Result<Engine> {
    let extensions = Extensions {
        kinds: vec!["shout".into()],
        load_balancers: vec!["least_busy".into()],
    };
    let parsed = Config::parse_with("app", CONFIG, &Default::default(), &extensions);
    let mut config = parsed
        .map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Error::new(ErrorKind::InvalidValue, errors.join("\n"))
        })?
        .config;
    config.data.dir = Some(dir.to_owned());
    let mut registry = Registry::builtin();
    registry.register("shout", Shout::from_spec);
    let sessions = FileSessions::new(dir.join("sessions"), Duration::from_secs(3600));
    Engine::builder(config)
        .registry(registry)
        .balancer("least_busy", Arc::new(|_| Box::new(LeastBusy)))
        .session_store(Arc::new(sessions))
        .start()
        .await
}

/// The application. Whatever guards it, such as a login, goes around the routes as with any other.
pub fn router(engine: Engine) -> Router {
    let gateway = lyss_http::router(Arc::new(engine.clone()), RouterOptions::default());
    Router::new()
        .route(
            "/",
            get(|| async { "an application with an AI gateway in it" }),
        )
        .route("/shout", post(shout))
        .with_state(engine)
        .nest("/ai", gateway)
}

/// Calls the engine without a detour over HTTP.
async fn shout(
    State(engine): State<Engine>,
    text: String,
) -> std::result::Result<String, (StatusCode, String)> {
    let ask = async {
        let body = json!({"model": "shout", "messages": [{"role": "user", "content": text}]});
        let request = ChatRequest::parse(body.to_string().into())?;
        let answer = engine
            .chat(CallContext::process("visitor"), request)
            .await?;
        let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap_or_default();
        let text = body["choices"][0]["message"]["content"].as_str();
        Ok(text.unwrap_or_default().to_owned())
    };
    ask.await.map_err(|error: Error| {
        let status = StatusCode::from_u16(error.status()).unwrap_or_default();
        (status, error.message().to_owned())
    })
}
