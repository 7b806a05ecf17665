//! `POST /chat/completions`.

use std::sync::Arc;

use axum::response::Response;
use http::HeaderName;
use lyss_core::{
    Result,
    types::{ChatRequest, ReplyInfo},
};

use super::Call;
use crate::{body, error, sse};

static X_PROVIDER: HeaderName = HeaderName::from_static("x-lyss-provider");
static X_MODEL: HeaderName = HeaderName::from_static("x-lyss-model");
static X_SESSION_ID: HeaderName = HeaderName::from_static("x-lyss-session-id");
static X_MEMORY: HeaderName = HeaderName::from_static("x-lyss-memory");
static X_ATTEMPTS: HeaderName = HeaderName::from_static("x-lyss-attempts");

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
    error::insert(headers, &X_PROVIDER, &info.provider);
    error::insert(headers, &X_MODEL, &info.upstream_model);
    if let Some(session) = &info.session_id {
        error::insert(headers, &X_SESSION_ID, session);
    }
    headers.insert(X_ATTEMPTS.clone(), info.attempts.into());
    if info.replay_of.is_some() {
        headers.insert(
            error::IDEMPOTENT_REPLAYED,
            http::HeaderValue::from_static("true"),
        );
    }
    if info.memory_unavailable {
        error::insert(headers, &X_MEMORY, "unavailable");
    }
}
