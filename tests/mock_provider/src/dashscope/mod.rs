//! DashScope's native protocol below `/api/v1`.

mod check;
mod embeddings;
mod generation;

use http::Method;
use serde_json::{Value, json};

use crate::answer::js;
use crate::reply::{JSON, Reply, ReplyBody};
use crate::script::Script;
use crate::service::Call;

/// An error in DashScope's flat shape.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u16,
    code: String,
    message: String,
    /// Sent as an error event inside HTTP 200 when a stream was asked for.
    inside_200: bool,
}

impl Failure {
    fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            inside_200: false,
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameter", message)
    }

    /// The usual error for a status.
    pub(crate) fn of_status(status: u16, script: &Script) -> Self {
        let (code, message) = match status {
            400 => (
                "InvalidParameter",
                "Required parameter(s) missing or invalid, please check the request parameters.",
            ),
            401 => ("InvalidApiKey", "Invalid API-key provided."),
            403 => ("AccessDenied", "Access denied."),
            404 => ("ModelNotFound", "Model can not be found."),
            409 => ("Conflict", "The resource already exists."),
            429 => (
                "Throttling.RateQuota",
                "Requests rate limit exceeded, please try again later.",
            ),
            503 => (
                "ServiceUnavailable",
                "Service unavailable, please try again later.",
            ),
            504 => ("GatewayTimeout", "Gateway timeout, please try again later."),
            500.. => (
                "InternalError",
                "An internal error has occured, please try again later.",
            ),
            _ => ("BadRequest.IllegalInput", "The request failed."),
        };
        let message = script.message.clone().unwrap_or_else(|| message.to_owned());
        Self::new(status, script.code.as_deref().unwrap_or(code), message)
    }

    fn body(&self, request_id: &str) -> String {
        format!(
            r#"{{"code":{},"message":{},"request_id":{}}}"#,
            js(&self.code),
            js(&self.message),
            js(request_id)
        )
    }

    /// The error as an event.
    pub(crate) fn event(&self, request_id: &str, number: usize) -> String {
        format!(
            "id:{number}\nevent:error\n:HTTP_STATUS/{}\ndata:{}\n\n",
            self.status,
            self.body(request_id)
        )
    }

    /// Plain JSON; with `X-DashScope-SSE` one SSE frame (401 and 404 stay plain).
    pub(crate) fn reply(&self, request_id: &str, sse: bool) -> Reply {
        if !sse || matches!(self.status, 401 | 404) {
            return Reply::json(self.status, self.body(request_id));
        }
        Reply {
            status: if self.inside_200 { 200 } else { self.status },
            content_type: if self.inside_200 { EVENT_STREAM } else { JSON },
            body: ReplyBody::Whole(self.event(request_id, 1), 0),
            prompt_tokens: 0,
            planned_tokens: 0,
        }
    }
}

const EVENT_STREAM: &str = "text/event-stream;charset=UTF-8";

const MODELS: &[&str] = &[
    "qwen-plus",
    "qwen-turbo",
    "qwen-max",
    "qwen3-max",
    "qwen3-vl-plus",
    "qwq-plus",
    "text-embedding-v4",
];

/// Answers one call. `path` is what follows `/api/v1`; `sse` is the header's switch.
pub(crate) fn reply(call: &Call<'_>, path: &str) -> Reply {
    let request_id = request_id(call);
    let outcome = match (call.method, path) {
        (&Method::POST, "/services/aigc/text-generation/generation") => {
            generation::reply(call, false)
        }
        (&Method::POST, "/services/aigc/multimodal-generation/generation") => {
            generation::reply(call, true)
        }
        (&Method::POST, "/services/embeddings/text-embedding/text-embedding") => {
            embeddings::reply(call)
        }
        (&Method::GET, "/models") => Ok(models(call, &request_id)),
        _ => Err(Failure::new(
            404,
            "NotFound",
            "The requested path does not exist.",
        )),
    };
    outcome.unwrap_or_else(|failure| failure.reply(&request_id, call.stream))
}

/// `request_id` of the body: the one of the header unless scripted.
pub(crate) fn request_id(call: &Call<'_>) -> String {
    call.script
        .id
        .clone()
        .unwrap_or_else(|| call.request_id.clone())
}

fn models(call: &Call<'_>, request_id: &str) -> Reply {
    let number = |name: &str, default: usize| {
        let pairs = call
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .find_map(|(_, value)| value.parse().ok())
            .unwrap_or(default)
    };
    let (page, size) = (
        number("page_no", 1).max(1),
        number("page_size", 10).clamp(1, 100),
    );
    let models: Vec<Value> = MODELS
        .iter()
        .skip((page - 1) * size)
        .take(size)
        .map(|name| json!({"model": name, "name": name}))
        .collect();
    let output =
        json!({"total": MODELS.len(), "page_no": page, "page_size": size, "models": models});
    Reply::json(
        200,
        json!({"request_id": request_id, "output": output}).to_string(),
    )
}
