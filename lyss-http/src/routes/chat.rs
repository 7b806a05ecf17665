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
static X_MAX_TOKENS_CLAMPED: HeaderName = HeaderName::from_static("x-lyss-max-tokens-clamped");
static X_REPLAY_OF: HeaderName = HeaderName::from_static("x-lyss-replay-of");
static X_CONTEXT: HeaderName = HeaderName::from_static("x-lyss-context");

pub(super) async fn create(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let mut request = call.counted(ChatRequest::parse(body))?;
    if request.stream() {
        // What repeats an earlier call is in the session of that one, whatever is made up now.
        if call.context.idempotency_key.is_none() {
            call.app.gateway.name_session(&mut request);
        }
        let session = request
            .session_id()
            // A gateway that leaves the naming to a service does not know the name yet.
            .filter(|id| call.context.idempotency_key.is_none() && *id != "new")
            .map(str::to_owned);
        let id = call.context.request_id;
        let gateway = Arc::clone(&call.app.gateway);
        let context = call.context;
        let opening = Box::pin(async move { gateway.chat_stream(context, request).await });
        let mut response = sse::response(opening, id, &call.app.options).await?;
        // Also where the answer begins with comments, before anything else is known of it.
        if let Some(session) = session
            && !response.headers().contains_key(&X_SESSION_ID)
        {
            error::insert(response.headers_mut(), &X_SESSION_ID, &session);
        }
        return Ok(response);
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
    // A service that this gateway calls may have begun its stream before it knew.
    if !info.provider.is_empty() {
        error::insert(headers, &X_PROVIDER, &info.provider);
        error::insert(headers, &X_MODEL, &info.upstream_model);
        headers.insert(X_ATTEMPTS.clone(), info.attempts.into());
    }
    if let Some(session) = &info.session_id {
        error::insert(headers, &X_SESSION_ID, session);
    }
    if let Some(context) = info.context {
        error::insert(headers, &X_CONTEXT, context.as_str());
    }
    if let Some(limit) = info.max_tokens_clamped {
        headers.insert(X_MAX_TOKENS_CLAMPED.clone(), limit.into());
    }
    if let Some(original) = info.replay_of {
        error::insert(headers, &X_REPLAY_OF, &original.to_string());
        headers.insert(
            error::IDEMPOTENT_REPLAYED,
            http::HeaderValue::from_static("true"),
        );
    }
    if info.memory_unavailable {
        error::insert(headers, &X_MEMORY, "unavailable");
    }
}
