//! Answers that are no stream.

use std::borrow::Cow;

use bytes::Bytes;
use secrecy::SecretString;

use super::{
    error::reported,
    wire::{Details, Embedding},
};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    provider::{Completion, vectors},
    types::{RawObject, Usage},
};

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::UpstreamInvalidResponse, message).with_work(Work::Unknown)
}

/// Reads an answer that must be an object with an array called `member`.
pub(super) fn complete(
    body: Bytes,
    member: &str,
    upstream_request_id: Option<String>,
    secrets: &[SecretString],
) -> Result<Completion> {
    // DeepSeek sends empty lines while a request waits in its queue.
    let blank = body.len() - body.trim_ascii_start().len();
    let body = RawObject::parse(body.slice(blank..)).map_err(|error| {
        invalid("the provider's answer is not the JSON object that was expected").with_source(error)
    })?;
    if let Some(details) = Details::of(&body) {
        return Err(reported(details, secrets));
    }
    if !body.get(member).is_some_and(|value| value.is_array()) {
        return Err(invalid(format!("the provider's answer has no `{member}`")));
    }
    let usage = body.get("usage").and_then(Usage::from_openai);
    Ok(Completion {
        body,
        usage,
        upstream_request_id,
    })
}

/// One answer out of those of all batches, ordered by index, in the encoding that was asked for. A single answer that
/// is right already stays as it is.
pub(super) fn join_embeddings(
    answers: Vec<Completion>,
    single: bool,
    model: &str,
    base64: bool,
) -> Result<Completion> {
    let mut vectors: Vec<Cow<'_, str>> = Vec::new();
    let mut in_order = true;
    for answer in &answers {
        let data = answer.body.get("data");
        let mut data: Vec<Embedding<'_>> = data
            .and_then(|data| data.decode().ok())
            .ok_or_else(|| invalid("the provider's list of embeddings cannot be read"))?;
        in_order &= data.is_sorted_by_key(|entry| entry.index);
        data.sort_by_key(|entry| entry.index);
        for entry in data {
            let json = entry.embedding.get();
            if base64 && json.starts_with('[') {
                in_order = false;
                let encoded = vectors::to_base64(json)
                    .ok_or_else(|| invalid("the provider sent an embedding that is no vector"))?;
                vectors.push(encoded.into());
            } else {
                vectors.push(json.into());
            }
        }
    }
    let usage =
        answers
            .iter()
            .map(|answer| answer.usage)
            .try_fold(Usage::default(), |sum, usage| {
                let usage = usage?;
                Some(Usage {
                    input_tokens: sum.input_tokens + usage.input_tokens,
                    output_tokens: sum.output_tokens + usage.output_tokens,
                    cached_tokens: sum.cached_tokens + usage.cached_tokens,
                    ..sum
                })
            });
    let body = (!single || !in_order).then(|| {
        // The name that the service gives is kept: it may be a dated snapshot.
        let named = answers
            .first()
            .and_then(|answer| answer.body.get("model")?.as_str().map(Cow::into_owned));
        vectors::write_list(named.as_deref().unwrap_or(model), vectors, usage)
    });
    let Some(mut first) = answers.into_iter().next() else {
        return Err(invalid("the provider sent no embeddings"));
    };
    first.body = body.unwrap_or(first.body);
    first.usage = usage;
    Ok(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(json: &str) -> Completion {
        complete(json.to_owned().into(), "data", None, &[]).unwrap()
    }

    #[test]
    fn white_space_before_the_answer_is_dropped() {
        let answer = complete("\n\n \r\n{\"choices\":[] }\n".into(), "choices", None, &[]).unwrap();
        assert_eq!(answer.body.to_bytes(), "{\"choices\":[] }\n");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in [
            "",
            "[]",
            "<html>",
            "{\"choices\":[",
            "{}",
            "{\"choices\":{}}",
        ] {
            let error = complete(body.into(), "choices", None, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse, "{body}");
        }
        let reported = r#"{"error":{"message":"m","type":"server_error","code":null}}"#;
        let error = complete(reported.into(), "choices", None, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UpstreamError);
    }

    #[test]
    fn embeddings_are_ordered_joined_and_encoded() {
        let right = r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[2]}],"model":"m-1","usage":{"prompt_tokens":2,"total_tokens":2}}"#;
        let same = join_embeddings(vec![answer(right)], true, "m", false).unwrap();
        assert_eq!(same.body.to_bytes(), right);
        let turned = r#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":2,"total_tokens":2}}"#;
        let sorted = join_embeddings(vec![answer(turned)], true, "m", false).unwrap();
        let expected = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1]},{"object":"embedding","index":1,"embedding":[2]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}"#;
        assert_eq!(sorted.body.to_bytes(), expected);
        let both = vec![answer(right), answer(turned)];
        let joined = join_embeddings(both, false, "m", true).unwrap();
        let joined: serde_json::Value = serde_json::from_slice(&joined.body.to_bytes()).unwrap();
        assert_eq!(joined["data"][3]["index"], 3);
        assert_eq!(joined["data"][3]["embedding"], "AAAAQA==");
        assert_eq!(
            (&joined["model"], &joined["usage"]["prompt_tokens"]),
            (&"m-1".into(), &4.into())
        );
    }
}
