//! `POST /chat/completions`.

use std::sync::Arc;

use axum::response::Response;
use lyss_core::{
    Result,
    types::{ChatRequest, ReplyInfo},
};

use super::Call;
use crate::{body, error, sse};

pub(super) async fn create(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let request = call.counted(ChatRequest::parse(body))?;
    if request.stream() {
        let id = call.context.request_id;
        let gateway = Arc::clone(&call.app.gateway);
        let context = call.context;
        let opening = Box::pin(async move { gateway.chat_stream(context, request).await });
        return sse::response(opening, id, &call.app.options).await;
    }
    let answer = call.app.gateway.chat(call.context, request).await?;
    Ok(unary(&answer.info, answer.body.to_segments()))
}

/// A provider's JSON as the answer, with what the gateway says about it.
pub(super) fn unary(info: &ReplyInfo, segments: lyss_core::types::Segments) -> Response {
    let mut response = Response::new(body::from_segments(segments));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    describe(&mut response, info);
    response
}

/// Sets the `x-lyss-*` headers.
pub(crate) fn describe(response: &mut Response, info: &ReplyInfo) {
    let headers = response.headers_mut();
    error::insert(headers, "x-lyss-provider", &info.provider);
    error::insert(headers, "x-lyss-model", &info.upstream_model);
    if let Some(session) = &info.session_id {
        error::insert(headers, "x-lyss-session-id", session);
    }
    headers.insert("x-lyss-attempts", info.attempts.into());
    if info.replay_of.is_some() {
        headers.insert(
            error::IDEMPOTENT_REPLAYED,
            http::HeaderValue::from_static("true"),
        );
    }
    if info.memory_unavailable {
        error::insert(headers, "x-lyss-memory", "unavailable");
    }
}
