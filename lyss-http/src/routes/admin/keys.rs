//! `/admin/keys`.

use std::time::Duration;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use http_body::Body as _;
use lyss_core::{
    Result,
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::super::{Call, List, json, no_content};

/// How long the old secret goes on working where nothing is said.
const GRACE_SECONDS: u64 = 24 * 3600;

#[derive(Serialize)]
struct Shown {
    object: &'static str,
    #[serde(flatten)]
    key: ApiKey,
    /// The secret, of a key just made or rotated.
    #[serde(rename = "key", skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<ApiKey> for Shown {
    fn from(key: ApiKey) -> Self {
        Self {
            object: "api_key",
            key,
            secret: None,
        }
    }
}

fn issued(status: StatusCode, issued: IssuedKey) -> Result<Response> {
    let shown = Shown {
        secret: Some(issued.secret.expose_secret().to_owned()),
        ..Shown::from(issued.key)
    };
    let mut response = json(status, &shown)?;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub(in crate::routes) async fn list(call: Call) -> Result<Response> {
    let keys = call.app.gateway.keys(call.context).await?;
    let keys = keys.into_iter().map(Shown::from).collect();
    json(StatusCode::OK, &List::whole(keys))
}

pub(in crate::routes) async fn add(mut call: Call) -> Result<Response> {
    let new: NewKey = call.json().await?;
    let key = call.app.gateway.create_key(call.context, new).await?;
    issued(StatusCode::CREATED, key)
}

pub(in crate::routes) async fn retrieve(call: Call) -> Result<Response> {
    let key = call.app.gateway.key(call.context, &call.param).await?;
    json(StatusCode::OK, &Shown::from(key))
}

pub(in crate::routes) async fn change(mut call: Call) -> Result<Response> {
    let changes: KeyChanges = call.json().await?;
    let gateway = &call.app.gateway;
    let key = gateway
        .change_key(call.context, &call.param, changes)
        .await?;
    json(StatusCode::OK, &Shown::from(key))
}

pub(in crate::routes) async fn rotate(mut call: Call) -> Result<Response> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rotation {
        grace_seconds: Option<u64>,
    }
    let rotation = if call.body.is_end_stream() {
        Rotation::default()
    } else {
        call.json().await?
    };
    let grace = Duration::from_secs(rotation.grace_seconds.unwrap_or(GRACE_SECONDS));
    let gateway = &call.app.gateway;
    let key = gateway.rotate_key(call.context, &call.param, grace).await?;
    issued(StatusCode::OK, key)
}

pub(in crate::routes) async fn revoke(call: Call) -> Result<Response> {
    let gateway = &call.app.gateway;
    gateway.revoke_key(call.context, &call.param).await?;
    Ok(no_content())
}
