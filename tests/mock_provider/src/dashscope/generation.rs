//! Text and multimodal generation.

use std::sync::Arc;

use serde_json::Value;

use super::check::{self, Request};
use super::{EVENT_STREAM, Failure, request_id};
use crate::answer::{Answer, Ask, js, reported};
use crate::play::{Event, Events};
use crate::reply::Reply;
use crate::script::{Script, UsageKind};
use crate::service::Call;
use crate::tokens;

pub(super) fn reply(call: &Call<'_>, multimodal: bool) -> Result<Reply, Failure> {
    let request = check::generation(call.json.as_ref(), multimodal, call.stream)?;
    let request_id = request_id(call);
    let failure = Failure::of_status(500, &call.script);
    if call.script.error_200 && !call.stream {
        return Ok(Reply::json(200, failure.body(&request_id)));
    }
    let answer = answer(call, &request);
    let n = usize::try_from(
        request
            .parameters
            .get("n")
            .and_then(Value::as_u64)
            .unwrap_or(1),
    )
    .unwrap_or(1);
    let shape = Shape {
        multimodal,
        // `text` is the default of the text path.
        message: multimodal
            || request
                .parameters
                .get("result_format")
                .and_then(Value::as_str)
                == Some("message"),
        incremental: request
            .parameters
            .get("incremental_output")
            .and_then(Value::as_bool)
            .unwrap_or(request.model.starts_with("qwq")),
        request_id: request_id.clone(),
        usage: call.script.usage,
        cached: call.script.cached_tokens,
    };
    if !call.stream {
        let body = whole(&shape, &answer, &call.script, n);
        return Ok(Reply::whole(
            body,
            answer.prompt_tokens,
            answer.completion_tokens,
        ));
    }
    let error = failure.event(&request_id, call.script.error_at.unwrap_or(0) + 1);
    let events: Events = if call.script.error_200 {
        Box::new(std::iter::once(Event::new(
            failure.event(&request_id, 1),
            0,
        )))
    } else {
        stream(shape, &answer, &call.script, n)
    };
    Ok(Reply::stream(
        EVENT_STREAM,
        events,
        error,
        answer.prompt_tokens,
        answer.completion_tokens,
    ))
}

fn answer(call: &Call<'_>, request: &Request<'_>) -> Arc<Answer> {
    let parameters = request.parameters;
    let last_user = request
        .messages
        .iter()
        .rev()
        .find(|message| message.get("role").and_then(Value::as_str) == Some("user"));
    let images = last_user.map_or(0, |message| {
        tokens::content_text(message.get("content").unwrap_or(&Value::Null)).1
    });
    let ask = Ask {
        text: call.text.clone(),
        images,
        // Only `parameters.tools` is read; at top level they are silently ignored.
        tools: parameters
            .get("tools")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect(),
        tool_choice: parameters.get("tool_choice"),
        parallel: parameters
            .get("parallel_tool_calls")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        response_format: parameters.get("response_format"),
        prompt_tokens: tokens::of_messages(request.messages),
        headers: call.headers.to_vec(),
    };
    let mut script = call.script.clone();
    if request.thinking && script.reasoning.is_none() {
        script.reasoning = Some("Let me think.".to_owned());
    }
    let n = usize::try_from(parameters.get("n").and_then(Value::as_u64).unwrap_or(1)).unwrap_or(1);
    Answer::new(
        &ask,
        &script,
        n,
        parameters.get("max_tokens").and_then(Value::as_i64),
    )
}

/// How this answer is written down.
struct Shape {
    multimodal: bool,
    message: bool,
    incremental: bool,
    request_id: String,
    usage: UsageKind,
    cached: i64,
}

impl Shape {
    fn content(&self, text: &str) -> String {
        match (self.multimodal, text) {
            (false, text) => js(text),
            (true, "") => "[]".to_owned(),
            (true, text) => format!(r#"[{{"text":{}}}]"#, js(text)),
        }
    }

    fn frame(&self, number: usize, output: &str, usage: Option<String>) -> String {
        let usage = usage.map_or_else(String::new, |usage| format!(r#","usage":{usage}"#));
        format!(
            "id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{{\"output\":{output}{usage},\"request_id\":{}}}\n\n",
            js(&self.request_id)
        )
    }

    /// Usage of one frame, growing from frame to frame.
    fn usage(&self, answer: &Answer, output: i64, reasoning: i64) -> Option<String> {
        match self.usage {
            UsageKind::None => return None,
            UsageKind::Null => return Some("null".to_owned()),
            _ => {}
        }
        let output = if self.usage == UsageKind::Every {
            answer.completion_tokens
        } else {
            output
        };
        let (input, output) = reported(self.usage, answer.prompt_tokens, output)?;
        let details = self.details(answer, output, reasoning);
        Some(format!(
            r#"{{"total_tokens":{},"input_tokens":{input},"output_tokens":{output}{details}}}"#,
            input.saturating_add(output)
        ))
    }

    fn details(&self, answer: &Answer, output: i64, reasoning: i64) -> String {
        if !answer.reasoning.is_empty() {
            let text = output - reasoning;
            let text = if text > 0 {
                format!(r#","text_tokens":{text}"#)
            } else {
                String::new()
            };
            format!(r#","output_tokens_details":{{"reasoning_tokens":{reasoning}{text}}}"#)
        } else if answer.tools.is_empty() {
            format!(
                r#","prompt_tokens_details":{{"cached_tokens":{}}}"#,
                self.cached
            )
        } else {
            String::new()
        }
    }
}

/// DashScope writes a space after `:` and `,` in arguments.
fn spaced(arguments: &str) -> String {
    let Ok(Value::Object(members)) = serde_json::from_str(arguments) else {
        return arguments.to_owned();
    };
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("{}: {value}", js(name)))
        .collect();
    format!("{{{}}}", members.join(", "))
}

fn whole(shape: &Shape, answer: &Answer, script: &Script, n: usize) -> String {
    let finish = if script.no_finish {
        "null"
    } else {
        &answer.finish
    };
    let text = answer.pieces.text();
    let output = if shape.message {
        let mut message = format!(r#"{{"role":"assistant","content":{}"#, shape.content(&text));
        if !answer.reasoning.is_empty() {
            message.push_str(&format!(
                r#","reasoning_content":{}"#,
                js(&answer.reasoning.concat())
            ));
        }
        if !answer.tools.is_empty() {
            let calls = answer.tools.iter().enumerate().map(|(at, tool)| {
                format!(
                    r#"{{"index":{at},"id":{},"type":"function","function":{{"name":{},"arguments":{}}}}}"#,
                    js(&tool.id),
                    js(&tool.name),
                    js(&spaced(&tool.arguments))
                )
            });
            message.push_str(&format!(
                r#","tool_calls":[{}]"#,
                calls.collect::<Vec<_>>().join(",")
            ));
        }
        message.push('}');
        let choice = |at: usize| {
            let index = if n > 1 {
                format!(r#","index":{at}"#)
            } else {
                String::new()
            };
            format!(
                r#"{{"finish_reason":{},"message":{message}{index}}}"#,
                js(finish)
            )
        };
        format!(
            r#"{{"choices":[{}]}}"#,
            (0..n).map(choice).collect::<Vec<_>>().join(",")
        )
    } else {
        format!(r#"{{"text":{},"finish_reason":{}}}"#, js(&text), js(finish))
    };
    let usage = match shape.usage {
        UsageKind::None => String::new(),
        UsageKind::Null => r#","usage":null"#.to_owned(),
        kind => reported(kind, answer.prompt_tokens, answer.completion_tokens).map_or_else(String::new, |(input, output)| {
            format!(
                r#","usage":{{"input_tokens":{input},"output_tokens":{output},"total_tokens":{}{}}}"#,
                input.saturating_add(output),
                shape.details(answer, output, answer.reasoning_tokens)
            )
        }),
    };
    format!(
        r#"{{"output":{output}{usage},"request_id":{}}}"#,
        js(&shape.request_id)
    )
}

/// What one frame adds.
#[derive(Clone, Default)]
struct Step {
    reasoning: String,
    text: String,
    tool: Option<(usize, String)>,
    tokens: i64,
    last: bool,
}

fn stream(shape: Shape, answer: &Arc<Answer>, script: &Script, n: usize) -> Events {
    let scripted = script.frame_tokens.clone();
    let finish = if script.no_finish {
        "null".to_owned()
    } else {
        answer.finish.clone()
    };
    let steps = steps(answer, script);
    let answer = Arc::clone(answer);
    let multiline = script.multiline;
    let thinking = !answer.reasoning.is_empty();
    let choices = i64::try_from(n).unwrap_or(i64::MAX);
    let pending = if script.null_finish {
        "null"
    } else {
        r#""null""#
    };
    let tail_usage = script.tail_usage;
    let tail = tail_usage.then(|| {
        // Its number is not the next one: nothing may depend on `id:`.
        let usage = shape.usage(&answer, answer.completion_tokens, answer.reasoning_tokens);
        Event::new(shape.frame(9999, "{}", usage), 0)
    });
    let (mut output, mut reasoned) = (0_i64, 0_i64);
    let (mut all_text, mut all_reasoning) = (String::new(), String::new());
    let frames = steps.enumerate().map(move |(at, step)| {
        let tokens = scripted
            .get(at)
            .copied()
            .unwrap_or(step.tokens.saturating_mul(choices));
        output += tokens;
        if !step.reasoning.is_empty() {
            reasoned += tokens;
        }
        let (text, reasoning) = if shape.incremental {
            (step.text, step.reasoning)
        } else {
            all_text.push_str(&step.text);
            all_reasoning.push_str(&step.reasoning);
            (all_text.clone(), all_reasoning.clone())
        };
        let finish = if step.last {
            js(&finish)
        } else {
            pending.to_owned()
        };
        let out = if shape.message {
            let reasoning = if thinking {
                format!(r#""reasoning_content":{},"#, js(&reasoning))
            } else {
                String::new()
            };
            let tools = match &step.tool {
                None => String::new(),
                Some((index, _)) if !shape.incremental => {
                    format!(r#","tool_calls":[{}]"#, tools_so_far(&answer, *index))
                }
                Some((_, fragment)) => format!(r#","tool_calls":[{fragment}]"#),
            };
            let message = format!(
                r#"{{"content":{},{reasoning}"role":"assistant"{tools}}}"#,
                shape.content(&text)
            );
            let choice = |at: usize| {
                let index = if n > 1 {
                    format!(r#","index":{at}"#)
                } else {
                    String::new()
                };
                format!(r#"{{"message":{message},"finish_reason":{finish}{index}}}"#)
            };
            format!(
                r#"{{"choices":[{}]}}"#,
                (0..n).map(choice).collect::<Vec<_>>().join(",")
            )
        } else {
            format!(r#"{{"text":{},"finish_reason":{finish}}}"#, js(&text))
        };
        let usage = if tail_usage {
            None
        } else {
            shape.usage(&answer, output, reasoned)
        };
        let mut frame = shape.frame(at + 1, &out, usage);
        if multiline {
            frame = frame.replacen(r#","request_id""#, ",\ndata:\"request_id\"", 1);
        }
        Event::new(frame, tokens)
    });
    Box::new(frames.chain(tail))
}

/// All calls up to and including `last`, complete: what a cumulative frame repeats.
fn tools_so_far(answer: &Answer, last: usize) -> String {
    let calls = answer
        .tools
        .iter()
        .take(last + 1)
        .enumerate()
        .map(|(at, tool)| fragment(at, &tool.id, Some(&tool.name), &spaced(&tool.arguments)));
    calls.collect::<Vec<_>>().join(",")
}

fn fragment(index: usize, id: &str, name: Option<&str>, arguments: &str) -> String {
    let name = name.map_or_else(String::new, |name| format!(r#""name":{},"#, js(name)));
    format!(
        r#"{{"index":{index},"id":{},"type":"function","function":{{{name}"arguments":{}}}}}"#,
        js(id),
        js(arguments)
    )
}

fn steps(answer: &Arc<Answer>, script: &Script) -> Box<dyn Iterator<Item = Step> + Send + Sync> {
    let mut before: Vec<Step> = answer
        .reasoning
        .iter()
        .map(|piece| Step {
            reasoning: piece.clone(),
            tokens: tokens::of_piece(piece),
            ..Step::default()
        })
        .collect();
    for (at, tool) in answer.tools.iter().enumerate() {
        let tool_step = |fragment, tokens| Step {
            tool: Some((at, fragment)),
            tokens,
            ..Step::default()
        };
        before.push(tool_step(fragment(at, &tool.id, Some(&tool.name), ""), 1));
        before.push(tool_step(
            fragment(at, "", None, &spaced(&tool.arguments)),
            tokens::of_piece(&tool.arguments),
        ));
    }
    if let Some(bytes) = script.big_event {
        before.push(Step {
            text: "b".repeat(bytes),
            tokens: 1,
            ..Step::default()
        });
    }
    let count = answer.pieces.len();
    let merge = script.finish_with_last && count > 0;
    let ends = !script.no_finish && !merge;
    let shared = Arc::clone(answer);
    let pieces = (0..count).map(move |at| {
        let piece = shared.pieces.get(at);
        Step {
            text: piece.to_owned(),
            tokens: tokens::of_piece(piece),
            last: merge && at + 1 == count,
            ..Step::default()
        }
    });
    let last_tool = answer
        .tools
        .len()
        .checked_sub(1)
        .map(|at| (at, fragment(at, "", None, "")));
    let end = ends.then_some(Step {
        last: true,
        tool: last_tool,
        ..Step::default()
    });
    Box::new(before.into_iter().chain(pieces).chain(end))
}
