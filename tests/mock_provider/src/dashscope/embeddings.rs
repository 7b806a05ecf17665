//! Text embeddings, with the batch limit that OpenAI does not have.

use serde_json::Value;

use super::{Failure, check, request_id};
use crate::answer::js;
use crate::reply::Reply;
use crate::service::Call;
use crate::{tokens, vector};

pub(super) fn reply(call: &Call<'_>) -> Result<Reply, Failure> {
    let (body, model) = check::model(call.json.as_ref())?;
    let texts = body
        .pointer("/input/texts")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if texts.is_empty() {
        return Err(Failure::new(
            400,
            "BadRequest.EmptyInput",
            "Required input parameter missing from request.",
        ));
    }
    let old = model.ends_with("-v1") || model.ends_with("-v2");
    let limit = if old { 25 } else { 10 };
    if texts.len() > limit {
        return Err(Failure::invalid(format!(
            "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than {limit}.: input.contents"
        )));
    }
    let dimensions = dimensions(body.pointer("/parameters/dimension"), model, old)?;
    let mut total = 0;
    let mut vectors = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let Some(text) = text.as_str().filter(|text| !text.is_empty()) else {
            return Err(Failure::invalid(
                "<400> InternalError.Algo.InvalidParameter: Value error, contents is neither str nor list of str.: input.contents",
            ));
        };
        total += tokens::words(text).max(1);
        let vector = vector::json(&vector::of(text.as_bytes(), dimensions));
        vectors.push(format!(r#"{{"text_index":{index},"embedding":{vector}}}"#));
    }
    if !call.script.in_order {
        // The order is not promised: callers must sort by text_index.
        vectors.reverse();
    }
    let (total, _) = call.script.tokens.unwrap_or((total, 0));
    let body = format!(
        r#"{{"output":{{"embeddings":[{}]}},"usage":{{"total_tokens":{total}}},"request_id":{}}}"#,
        vectors.join(","),
        js(&request_id(call))
    );
    Ok(Reply::whole(body, total, 0))
}

fn dimensions(asked: Option<&Value>, model: &str, old: bool) -> Result<usize, Failure> {
    let Some(asked) = asked.filter(|value| !value.is_null() && !old) else {
        return Ok(if old { 1536 } else { 1024 });
    };
    let allowed: &[u64] = if model.ends_with("-v3") {
        &[64, 128, 256, 512, 768, 1024]
    } else {
        &[64, 128, 256, 512, 768, 1024, 1536, 2048]
    };
    let asked = asked
        .as_u64()
        .filter(|asked| allowed.contains(asked))
        .and_then(|asked| usize::try_from(asked).ok());
    asked.ok_or_else(|| Failure::invalid("<400> InternalError.Algo.InvalidParameter: Value error, dimension is invalid: input.dimension"))
}
