//! The OpenAI shape: <https://platform.openai.com/docs/api-reference>.

pub(crate) mod chat;
mod embeddings;
mod stream;

use http::Method;
use serde_json::{Value, json};

use crate::answer::js;
use crate::reply::Reply;
use crate::script::Script;
use crate::service::Call;

/// An error in OpenAI's envelope.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u16,
    kind: &'static str,
    code: Option<String>,
    param: Option<&'static str>,
    message: String,
}

impl Failure {
    fn invalid(param: &'static str, code: &str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: Some(code.to_owned()),
            param: Some(param),
            message: message.into(),
        }
    }

    /// The usual error for a status.
    pub(crate) fn of_status(status: u16, script: &Script) -> Self {
        let (kind, code, message) = match status {
            400 => (
                "invalid_request_error",
                Some("invalid_value"),
                "The request is not valid.",
            ),
            401 => (
                "invalid_request_error",
                Some("invalid_api_key"),
                "Incorrect API key provided: sk-x***.",
            ),
            402 => (
                "unknown_error",
                Some("invalid_request_error"),
                "Insufficient Balance",
            ),
            403 => (
                "invalid_request_error",
                Some("unsupported_country_region_territory"),
                "Country, region, or territory not supported",
            ),
            404 => (
                "invalid_request_error",
                Some("model_not_found"),
                "The model does not exist or you do not have access to it.",
            ),
            429 => (
                "requests",
                Some("rate_limit_exceeded"),
                "Rate limit reached for requests per min. Please try again later.",
            ),
            503 => (
                "service_unavailable_error",
                Some("overloaded"),
                "The engine is currently overloaded, please try again later.",
            ),
            500.. => (
                "server_error",
                None,
                "The server had an error while processing your request.",
            ),
            _ => ("invalid_request_error", None, "The request failed."),
        };
        Self {
            status,
            kind,
            code: script.code.clone().or_else(|| code.map(str::to_owned)),
            param: None,
            message: script.message.clone().unwrap_or_else(|| message.to_owned()),
        }
    }

    fn body(&self) -> String {
        let quoted = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), js);
        format!(
            r#"{{"error":{{"message":{},"type":{},"param":{},"code":{}}}}}"#,
            js(&self.message),
            js(self.kind),
            quoted(self.param),
            quoted(self.code.as_deref())
        )
    }

    pub(crate) fn reply(&self) -> Reply {
        Reply::json(self.status, self.body())
    }

    /// The error of a provider that had worked before it failed, and bills for it.
    pub(crate) fn billed(&self, prompt_tokens: i64, completion_tokens: i64) -> Reply {
        let body = self.body();
        let error = body.strip_suffix('}').unwrap_or(&body);
        let body = format!(
            r#"{error},"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"total_tokens":{}}}}}"#,
            prompt_tokens + completion_tokens
        );
        Reply {
            status: self.status,
            ..Reply::whole(body, prompt_tokens, completion_tokens)
        }
    }

    pub(crate) fn event(&self) -> String {
        format!("data: {}\n\n", self.body())
    }
}

/// Model names that do not exist here; any other does.
pub(crate) const NO_SUCH_MODEL: &str = "no-such-";

const MODELS: &[&str] = &[
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-3.5-turbo",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "qwen-plus",
];

/// Answers one call. `path` is what follows the base URL.
pub(crate) fn reply(call: &Call<'_>, path: &str) -> Reply {
    let outcome = match (call.method, path) {
        (&Method::POST, "/chat/completions") => chat::reply(call),
        (&Method::POST, "/embeddings") => embeddings::reply(call),
        (&Method::GET, "/models") => {
            let data: Vec<Value> = MODELS.iter().map(|id| model(id)).collect();
            Ok(Reply::json(
                200,
                json!({"object": "list", "data": data}).to_string(),
            ))
        }
        (&Method::GET, path) if path.starts_with("/models/") => {
            let id = path.trim_start_matches("/models/").replace("%2F", "/");
            if MODELS.contains(&id.as_str()) {
                Ok(Reply::json(200, model(&id).to_string()))
            } else {
                Err(no_model(&id))
            }
        }
        (method, path) => Err(Failure {
            status: 404,
            kind: "invalid_request_error",
            code: None,
            param: None,
            message: format!("Invalid URL ({method} /v1{path})"),
        }),
    };
    outcome.unwrap_or_else(|failure| failure.reply())
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 1_715_367_049, "owned_by": "system"})
}

fn no_model(model: &str) -> Failure {
    Failure {
        status: 404,
        code: Some("model_not_found".to_owned()),
        message: format!("The model `{model}` does not exist or you do not have access to it."),
        ..Failure::invalid("model", "", "")
    }
}

/// The body as an object, and its model.
fn object<'a>(call: &'a Call<'_>) -> Result<(&'a Value, &'a str), Failure> {
    let Some(body) = call.json.as_ref().filter(|body| body.is_object()) else {
        return Err(Failure {
            param: None,
            code: None,
            ..Failure::invalid("", "", "We could not parse the JSON body of your request.")
        });
    };
    let Some(model) = body
        .get("model")
        .and_then(Value::as_str)
        .filter(|model| !model.is_empty())
    else {
        return Err(Failure::invalid(
            "model",
            "missing_required_parameter",
            "you must provide a model parameter",
        ));
    };
    if model.starts_with(NO_SUCH_MODEL) {
        return Err(no_model(model));
    }
    Ok((body, model))
}
