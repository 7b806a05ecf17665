//! `POST /embeddings`.

use axum::response::Response;
use lyss_core::{Result, types::EmbeddingRequest};

use super::{Call, chat::unary};

pub(super) async fn create(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let request = call.counted(EmbeddingRequest::parse(body))?;
    let answer = call.app.gateway.embed(call.context, request).await?;
    Ok(unary(&answer.info, answer.body.to_segments()))
}
