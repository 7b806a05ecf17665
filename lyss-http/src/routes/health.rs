//! `GET /health` and `GET /ready`.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use lyss_core::{
    Result,
    gateway::{Health, HealthStatus, Ready},
};

use super::{Call, json};

/// A dependency that has not answered by then counts as away: a probe must never wait for one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Liveness: 200 as long as the process answers at all, whatever a dependency does.
pub(super) async fn health(call: Call) -> Result<Response> {
    let health = tokio::time::timeout(PATIENCE, call.app.gateway.health())
        .await
        .unwrap_or_else(|_| Health {
            status: HealthStatus {
                database: false,
                redis: false,
                providers: false,
            },
            healthy: false,
            timestamp: jiff::Timestamp::now().as_second(),
        });
    json(StatusCode::OK, &health)
}

/// Readiness: 503 before the gateway can serve, and from the first moment of draining.
pub(super) async fn ready(call: Call) -> Result<Response> {
    let mut ready = tokio::time::timeout(PATIENCE, call.app.gateway.ready())
        .await
        .unwrap_or_else(|_| Ready {
            ready: false,
            degraded: vec!["timeout".to_owned()],
        });
    if call.app.options.shutdown.is_draining() {
        ready.ready = false;
        if !ready
            .degraded
            .iter()
            .any(|reason| reason == "shutting_down")
        {
            ready.degraded.push("shutting_down".to_owned());
        }
    }
    let status = if ready.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &ready)
}
