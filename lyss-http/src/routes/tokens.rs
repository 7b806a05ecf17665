//! `POST /tokens`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Result, gateway::PromptTokens, types::ChatRequest};
use serde::Serialize;

use super::{Call, json};

pub(super) async fn count(mut call: Call) -> Result<Response> {
    #[derive(Serialize)]
    struct Answer {
        object: &'static str,
        #[serde(flatten)]
        tokens: PromptTokens,
    }
    let body = call.json_body().await?;
    let request = call.counted(ChatRequest::parse(body))?;
    let tokens = call.app.gateway.count_tokens(call.context, request).await?;
    let object = "token_count";
    json(StatusCode::OK, &Answer { object, tokens })
}
