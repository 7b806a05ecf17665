//! `/admin/providers`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Error, ErrorKind, Result, gateway::Members};

use crate::routes::{Call, List, json, no_content};

pub(in crate::routes) async fn list(call: Call) -> Result<Response> {
    let providers = call.app.gateway.admin_providers(call.context).await?;
    json(StatusCode::OK, &List::whole(providers))
}

pub(in crate::routes) async fn retrieve(call: Call) -> Result<Response> {
    let providers = call.app.gateway.admin_providers(call.context).await?;
    let mut found = providers
        .into_iter()
        .filter(|provider| provider.id == call.param);
    let provider = found
        .next()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no provider of this id"))?;
    json(StatusCode::OK, &provider)
}

pub(in crate::routes) async fn add(mut call: Call) -> Result<Response> {
    let members: Members = call.json().await?;
    // One that is missing is refused by the gateway, once it is known that the caller may ask.
    let id = members.get("id").and_then(|id| id.as_str());
    let id = id.unwrap_or_default().to_owned();
    let gateway = &call.app.gateway;
    let provider = gateway
        .put_provider(call.context, &id, members, true)
        .await?;
    json(StatusCode::CREATED, &provider)
}

pub(in crate::routes) async fn put(mut call: Call) -> Result<Response> {
    let members: Members = call.json().await?;
    if members.get("id").is_some_and(|id| *id != call.param) {
        let message = "`id` differs from the one in the path";
        return call.counted(Err(Error::invalid("id", message)));
    }
    let gateway = &call.app.gateway;
    let provider = gateway
        .put_provider(call.context, &call.param, members, false)
        .await?;
    json(StatusCode::OK, &provider)
}

pub(in crate::routes) async fn delete(call: Call) -> Result<Response> {
    let gateway = &call.app.gateway;
    gateway.delete_provider(call.context, &call.param).await?;
    Ok(no_content())
}
