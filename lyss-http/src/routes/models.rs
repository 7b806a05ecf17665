//! `GET /models` and `/models/{id}`. Ids hold `/` and `:`, so the id is the whole rest of the path.

use axum::response::Response;
use http::StatusCode;
use lyss_core::Result;

use super::{Call, List, json};

pub(super) async fn list(call: Call) -> Result<Response> {
    let models = call.app.gateway.models(call.context).await?;
    json(StatusCode::OK, &List::whole(models))
}

pub(super) async fn retrieve(call: Call) -> Result<Response> {
    let model = call.app.gateway.model(call.context, &call.param).await?;
    json(StatusCode::OK, &model)
}
