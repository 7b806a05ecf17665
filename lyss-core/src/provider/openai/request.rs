//! The few members of a request that are changed on its way to a service.

use bytes::Bytes;

use crate::{
    error::Result,
    provider::preset::Quirks,
    types::{ChatRequest, EmbeddingRequest, RawObject, Segments, embedding::Input},
};

/// Sets `stream` and `stream_options`, and renames what the service does not know.
pub(super) fn prepare_chat(request: &mut ChatRequest, quirks: &Quirks, stream: bool) -> Result<()> {
    if !quirks.developer_role {
        rename_developer(request)?;
    }
    let body = request.body_mut();
    if body.get("stream").and_then(|flag| flag.as_bool()) != Some(stream) {
        match stream {
            true => body.set("stream", &b"true"[..]),
            false => {
                body.remove("stream");
            }
        }
    }
    if stream && quirks.include_usage {
        ask_for_usage(body)?;
    } else {
        body.remove("stream_options");
    }
    if !quirks.max_completion_tokens
        && let Some(limit) = body.get("max_completion_tokens").map(|limit| limit.bytes())
    {
        body.remove("max_completion_tokens");
        if body.get_some("max_tokens").is_none() {
            body.set("max_tokens", limit);
        }
    }
    Ok(())
}

/// Adds `include_usage` to what the caller's `stream_options` say.
fn ask_for_usage(body: &mut RawObject) -> Result<()> {
    let options = match body.get_some("stream_options") {
        None => Bytes::from_static(b"{\"include_usage\":true}"),
        Some(options) => {
            let mut options = options.object()?;
            if options.get("include_usage").and_then(|flag| flag.as_bool()) == Some(true) {
                return Ok(());
            }
            options.set("include_usage", &b"true"[..]);
            options.to_bytes()
        }
    };
    body.set("stream_options", options);
    Ok(())
}

/// Sends the role `developer` as `system`, which every service knows.
fn rename_developer(request: &mut ChatRequest) -> Result<()> {
    let mentioned = request.body().get("messages").is_some_and(|messages| {
        memchr::memmem::find(messages.text().as_bytes(), b"\"developer\"").is_some()
    });
    if !mentioned {
        return Ok(());
    }
    let messages = request.messages()?;
    if messages.iter().any(|message| message.role() == "developer") {
        request.set_messages(messages.into_iter().map(|mut message| {
            if message.role() == "developer" {
                message.0.set_str("role", "system");
            }
            message.0.to_bytes()
        }));
    }
    Ok(())
}

/// The bodies to send for one embeddings request: one, unless the service takes fewer inputs at once.
pub(super) fn embedding_batches(
    mut request: EmbeddingRequest,
    quirks: &Quirks,
) -> Result<Vec<Segments>> {
    if quirks.float_embeddings && request.body().get("encoding_format").is_some() {
        request.body_mut().set_str("encoding_format", "float");
    }
    let Some(size) = quirks.embedding_batch.filter(|size| *size > 0) else {
        return Ok(vec![request.to_segments()]);
    };
    let texts: Vec<String> = match request.input()? {
        Input::Texts(texts) => json_texts(&texts, size),
        Input::Tokens(lists) => json_texts(&lists, size),
    };
    if texts.len() <= 1 {
        return Ok(vec![request.to_segments()]);
    }
    let batch = |text: String| {
        request.body_mut().set("input", text);
        request.to_segments()
    };
    Ok(texts.into_iter().map(batch).collect())
}

fn json_texts<T: serde::Serialize>(inputs: &[T], size: usize) -> Vec<String> {
    inputs
        .chunks(size)
        .map(|batch| serde_json::to_string(batch).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::provider::preset::preset;

    fn sent(service: &str, stream: bool, text: &str) -> String {
        let mut request = ChatRequest::parse(text.to_owned().into()).unwrap();
        prepare_chat(&mut request, &preset(service).unwrap().quirks, stream).unwrap();
        String::from_utf8(request.to_segments().into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn usage_is_always_asked_for_and_nothing_else_changes() {
        let text = r#"{"model":"m", "messages":[{"role":"developer","content":"\u00e9"}],"seed":1e2,"max_completion_tokens":5}"#;
        assert_eq!(sent("openai", false, text), text);
        for (options, expected) in [
            ("", r#","stream_options":{"include_usage":true}"#),
            (
                r#","stream_options":null"#,
                r#","stream_options":{"include_usage":true}"#,
            ),
            (
                r#","stream_options":{"include_obfuscation":false}"#,
                r#","stream_options":{"include_obfuscation":false,"include_usage":true}"#,
            ),
            (
                r#","stream_options":{"include_usage":false,"x":1}"#,
                r#","stream_options":{"include_usage":true,"x":1}"#,
            ),
            (
                r#","stream_options":{ "include_usage": true }"#,
                r#","stream_options":{ "include_usage": true }"#,
            ),
        ] {
            let head = r#"{"model":"m","messages":[{}],"stream":true"#;
            let text = format!("{head}{options}}}");
            assert_eq!(sent("openai", true, &text), format!("{head}{expected}}}"));
            assert_eq!(
                sent("mistral", true, &text),
                format!("{head}}}"),
                "{options}"
            );
        }
    }

    #[test]
    fn older_services_get_the_older_names() {
        let text = r#"{"model":"m","messages":[{"role":"developer","content":"say \"developer\"","x":1},{"role":"user"}],"max_completion_tokens":5}"#;
        assert_eq!(
            sent("deepseek", false, text),
            r#"{"model":"m","messages":[{"role":"system","content":"say \"developer\"","x":1},{"role":"user"}],"max_tokens":5}"#
        );
        let both = r#"{"model":"m","messages":[{}],"max_tokens":3,"max_completion_tokens":5}"#;
        let older = r#"{"model":"m","messages":[{}],"max_tokens":3}"#;
        assert_eq!(sent("deepseek", false, both), older);
    }

    #[test]
    fn inputs_are_split_only_where_a_service_needs_it() {
        let inputs: Vec<String> = (0..23).map(|i| format!("t{i}")).collect();
        let text = serde_json::json!({"model": "m", "input": inputs, "encoding_format": "base64"});
        let batches = |service: &str| -> Vec<serde_json::Value> {
            let request = EmbeddingRequest::parse(text.to_string().into()).unwrap();
            let batches = embedding_batches(request, &preset(service).unwrap().quirks).unwrap();
            let read = |batch: Segments| serde_json::from_slice(&batch.into_bytes()).unwrap();
            batches.into_iter().map(read).collect()
        };
        assert_eq!(batches("openai"), std::slice::from_ref(&text));
        let split = batches("dashscope_compatible");
        let sizes: Vec<usize> = split
            .iter()
            .map(|batch| batch["input"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [10, 10, 3]);
        assert_eq!(split[2]["input"][2], "t22");
        assert_eq!(split[0]["encoding_format"], "float");
    }
}
