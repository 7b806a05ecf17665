//! `POST /chat/completions`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Failure, object, stream};
use crate::answer::{Answer, Ask, js, reported};
use crate::reply::Reply;
use crate::script::UsageKind;
use crate::service::Call;
use crate::tokens;

/// What every chunk and the whole answer share.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) plain: bool,
}

pub(super) fn reply(call: &Call<'_>) -> Result<Reply, Failure> {
    let (body, model) = object(call)?;
    let messages = check(body)?;
    let script = &call.script;
    if script.error_200 && !call.stream {
        let failure = Failure::of_status(500, script);
        return Ok(Reply {
            status: 200,
            ..failure.reply()
        });
    }
    let ask = Ask {
        text: call.text.clone(),
        images: last_user_images(messages),
        tools: body
            .get("tools")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect(),
        tool_choice: body.get("tool_choice"),
        parallel: body
            .get("parallel_tool_calls")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        response_format: body.get("response_format"),
        prompt_tokens: tokens::of_messages(messages),
        headers: call.headers.to_vec(),
    };
    let n = usize::try_from(body.get("n").and_then(Value::as_u64).unwrap_or(1)).unwrap_or(1);
    let limit = body
        .get("max_completion_tokens")
        .or_else(|| body.get("max_tokens"))
        .and_then(Value::as_i64);
    let answer = Answer::new(&ask, script, n, limit);
    let frame = Frame {
        id: script
            .id
            .clone()
            .unwrap_or_else(|| format!("chatcmpl-{}", call.seq)),
        created: script.created.unwrap_or(call.now_s),
        model: script.model.clone().unwrap_or_else(|| model.to_owned()),
        plain: script.plain,
    };
    let logprobs = body
        .get("logprobs")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    if call.stream {
        let include_usage = body
            .pointer("/stream_options/include_usage")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let events = stream::events(
            frame,
            Arc::clone(&answer),
            script,
            n,
            include_usage,
            logprobs,
        );
        let error = Failure::of_status(500, script).event();
        let kind = "text/event-stream; charset=utf-8";
        return Ok(Reply::stream(
            kind,
            events,
            error,
            answer.prompt_tokens,
            answer.completion_tokens,
        ));
    }
    let body = whole(&frame, &answer, call, n, logprobs);
    Ok(Reply::whole(
        body,
        answer.prompt_tokens,
        answer.completion_tokens,
    ))
}

fn last_user_images(messages: &[Value]) -> i64 {
    messages
        .iter()
        .rev()
        .find(|message| message.get("role").and_then(Value::as_str) == Some("user"))
        .map_or(0, |message| {
            tokens::content_text(message.get("content").unwrap_or(&Value::Null)).1
        })
}

/// The checks OpenAI makes that gateways get wrong.
fn check(body: &Value) -> Result<&[Value], Failure> {
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        return Err(Failure::invalid(
            "messages",
            "missing_required_parameter",
            "Missing required parameter: 'messages'.",
        ));
    };
    if messages.is_empty() {
        return Err(Failure::invalid(
            "messages",
            "empty_array",
            "Invalid 'messages': empty array.",
        ));
    }
    let out_of = |name: &str, low: f64, high: f64| {
        body.get(name)
            .and_then(Value::as_f64)
            .is_some_and(|value| !(low..=high).contains(&value))
    };
    if out_of("temperature", 0.0, 2.0) {
        return Err(Failure::invalid(
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': expected 0 to 2.",
        ));
    }
    if out_of("top_p", 0.0, 1.0) {
        return Err(Failure::invalid(
            "top_p",
            "decimal_above_max_value",
            "Invalid 'top_p': expected 0 to 1.",
        ));
    }
    if out_of("n", 1.0, 128.0) {
        return Err(Failure::invalid(
            "n",
            "integer_above_max_value",
            "Invalid 'n': expected 1 to 128.",
        ));
    }
    let streams = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
    if !streams
        && body
            .get("stream_options")
            .is_some_and(|options| !options.is_null())
    {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Failure::invalid("stream_options", "invalid_value", message));
    }
    if body
        .get("tool_choice")
        .is_some_and(|choice| !choice.is_null())
        && body.get("tools").is_none()
    {
        let message = "'tool_choice' is only allowed when 'tools' are specified.";
        return Err(Failure::invalid("tool_choice", "invalid_value", message));
    }
    if body
        .pointer("/response_format/type")
        .and_then(Value::as_str)
        == Some("json_object")
        && !Value::Array(messages.clone())
            .to_string()
            .to_lowercase()
            .contains("json")
    {
        let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.";
        return Err(Failure::invalid("messages", "invalid_value", message));
    }
    check_parts(messages)?;
    check_tool_turns(messages)
        .map_err(|message| Failure::invalid("messages", "invalid_value", message))?;
    Ok(messages)
}

fn check_parts(messages: &[Value]) -> Result<(), Failure> {
    for part in messages
        .iter()
        .filter_map(|message| message.get("content")?.as_array())
        .flatten()
    {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let valid = match kind {
            "text" => part.get("text").is_some_and(Value::is_string),
            "image_url" => part
                .pointer("/image_url/url")
                .and_then(Value::as_str)
                .is_some_and(|url| url.starts_with("data:image/") || url.starts_with("http")),
            "input_audio" | "file" | "refusal" => true,
            _ => false,
        };
        if !valid {
            return Err(Failure::invalid(
                "messages",
                "invalid_value",
                format!("Invalid content part of type '{kind}'."),
            ));
        }
    }
    Ok(())
}

/// Every tool call is answered before the next turn, every tool message answers one.
pub(crate) fn check_tool_turns(messages: &[Value]) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for message in messages {
        if message.get("role").and_then(Value::as_str) == Some("tool") {
            let id = message
                .get("tool_call_id")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let Some(at) = open.iter().position(|known| *known == id) else {
                return Err("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.".into());
            };
            open.swap_remove(at);
            continue;
        }
        if !open.is_empty() {
            return Err(format!(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
                 Unanswered: {}",
                open.join(", ")
            ));
        }
        let calls = message
            .get("tool_calls")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        open.extend(calls.filter_map(|call| call.get("id")?.as_str()));
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(format!("tool calls without an answer: {}", open.join(", ")))
    }
}

fn whole(frame: &Frame, answer: &Answer, call: &Call<'_>, n: usize, logprobs: bool) -> String {
    let script = &call.script;
    let text = answer.pieces.text();
    let mut message = String::from(r#"{"role":"assistant""#);
    let content = if answer.tools.is_empty() && !answer.refusal {
        js(&text)
    } else {
        "null".to_owned()
    };
    let refusal = if answer.refusal {
        js(&text)
    } else {
        "null".to_owned()
    };
    message.push_str(&format!(
        r#","content":{content},"refusal":{refusal},"annotations":[]"#
    ));
    if !answer.reasoning.is_empty() {
        message.push_str(&format!(
            r#","reasoning_content":{}"#,
            js(&answer.reasoning.concat())
        ));
    }
    if !answer.tools.is_empty() {
        let calls: Vec<String> = answer
            .tools
            .iter()
            .map(|tool| {
                format!(
                    r#"{{"id":{},"type":"function","function":{{"name":{},"arguments":{}}}}}"#,
                    js(&tool.id),
                    js(&tool.name),
                    js(&tool.arguments)
                )
            })
            .collect();
        message.push_str(&format!(r#","tool_calls":[{}]"#, calls.join(",")));
    }
    message.push('}');
    let logprobs = if logprobs {
        let pieces: Vec<Value> = (0..answer.pieces.len())
            .map(|at| logprob(answer.pieces.get(at)))
            .collect();
        json!({"content": pieces, "refusal": null}).to_string()
    } else {
        "null".to_owned()
    };
    let finish = if script.no_finish {
        "null".to_owned()
    } else {
        js(&answer.finish)
    };
    let choices: Vec<String> = (0..n)
        .map(|at| format!(r#"{{"index":{at},"message":{message},"logprobs":{logprobs},"finish_reason":{finish}}}"#))
        .collect();
    let usage = match script.usage {
        UsageKind::None => String::new(),
        kind => format!(
            r#","usage":{}"#,
            usage(kind, answer, script.cached_tokens, answer.completion_tokens)
        ),
    };
    let tail = if frame.plain {
        ""
    } else {
        r#","service_tier":"default","system_fingerprint":"fp_0a""#
    };
    format!(
        r#"{{"id":{},"object":"chat.completion","created":{},"model":{},"choices":[{}]{usage}{tail}}}"#,
        js(&frame.id),
        frame.created,
        js(&frame.model),
        choices.join(",")
    )
}

pub(super) fn logprob(piece: &str) -> Value {
    json!({"token": piece, "logprob": -0.25, "bytes": piece.as_bytes(), "top_logprobs": []})
}

pub(super) fn usage(kind: UsageKind, answer: &Answer, cached: i64, completion: i64) -> String {
    let Some((prompt, completion)) = reported(kind, answer.prompt_tokens, completion) else {
        return "null".to_owned();
    };
    let reasoning = answer.reasoning_tokens.min(completion.max(0));
    format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
        prompt.saturating_add(completion)
    )
}
