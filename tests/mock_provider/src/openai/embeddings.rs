//! `POST /embeddings`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Failure, object};
use crate::answer::js;
use crate::reply::Reply;
use crate::service::Call;
use crate::{tokens, vector};

/// OpenAI's limit of inputs in one call.
const MAX_INPUTS: usize = 2048;

pub(super) fn reply(call: &Call<'_>) -> Result<Reply, Failure> {
    let (body, model) = object(call)?;
    let inputs = inputs(body.get("input").unwrap_or(&Value::Null))?;
    let base64 = match body.get("encoding_format").and_then(Value::as_str) {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message =
                format!("Invalid value: '{other}'. Supported values are: 'float' and 'base64'.");
            return Err(Failure::invalid(
                "encoding_format",
                "invalid_value",
                message,
            ));
        }
    };
    let default = if model.contains("large") { 3072 } else { 1536 };
    let dimensions = match body.get("dimensions") {
        None | Some(Value::Null) => default,
        Some(value) => value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .filter(|value| (1..=default).contains(value))
            .ok_or_else(|| {
                Failure::invalid(
                    "dimensions",
                    "invalid_value",
                    format!("Invalid 'dimensions': expected 1 to {default}."),
                )
            })?,
    };
    let mut prompt = 0;
    let mut data = Vec::with_capacity(inputs.len());
    for (index, (bytes, count)) in inputs.iter().enumerate() {
        prompt += count;
        let vector = vector::of(bytes, dimensions);
        let embedding = if base64 {
            let raw: Vec<u8> = vector
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            js(&STANDARD.encode(raw))
        } else {
            vector::json(&vector)
        };
        data.push(format!(
            r#"{{"object":"embedding","index":{index},"embedding":{embedding}}}"#
        ));
    }
    let (prompt, _) = call.script.tokens.unwrap_or((prompt, 0));
    let body = format!(
        r#"{{"object":"list","data":[{}],"model":{},"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt}}}}}"#,
        data.join(","),
        js(model)
    );
    Ok(Reply::whole(body, prompt, 0))
}

/// What is to be embedded, with its tokens: a string, strings, token ids, or arrays of them.
fn inputs(input: &Value) -> Result<Vec<(Vec<u8>, i64)>, Failure> {
    let invalid = |message: &str| Failure::invalid("input", "invalid_value", message);
    let of = |item: &Value| match item {
        Value::String(text) if text.is_empty() => {
            Err(invalid("'$.input' must not contain an empty string."))
        }
        Value::String(text) => Ok((text.clone().into_bytes(), tokens::words(text).max(1))),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_u64) => Ok((
            item.to_string().into_bytes(),
            i64::try_from(ids.len()).unwrap_or(i64::MAX),
        )),
        _ => Err(invalid(
            "'$.input' is invalid. Please check the API reference.",
        )),
    };
    match input {
        Value::Array(items) if items.first().is_some_and(|first| !first.is_u64()) => {
            if items.len() > MAX_INPUTS {
                return Err(invalid("'$.input' is too long: at most 2048 items."));
            }
            items.iter().map(of).collect()
        }
        other => Ok(vec![of(other)?]),
    }
}
