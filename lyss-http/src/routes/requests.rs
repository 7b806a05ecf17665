//! `/requests`: the request log.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Result, gateway::RequestQuery};

use super::{Call, List, json};

pub(super) async fn list(call: Call) -> Result<Response> {
    let query: RequestQuery = call.query()?;
    let page = call.app.gateway.requests(call.context, query).await?;
    json(StatusCode::OK, &List::page(page.data, page.next_cursor))
}

pub(super) async fn retrieve(call: Call) -> Result<Response> {
    let row = call.app.gateway.request(call.context, &call.param).await?;
    json(StatusCode::OK, &row)
}
