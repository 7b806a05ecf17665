//! The chunks of a streamed chat completion, in the vendor's own bytes.

use std::sync::Arc;

use serde_json::json;

use super::Failure;
use super::chat::{Frame, logprob, usage};
use crate::answer::{Answer, js};
use crate::play::{Event, Events};
use crate::script::{Script, UsageKind};
use crate::tokens;

/// One chunk before it has its frame.
struct Chunk {
    choice: usize,
    delta: String,
    logprobs: String,
    finish: Option<String>,
    tokens: i64,
}

impl Chunk {
    fn delta(choice: usize, delta: String, tokens: i64) -> Self {
        Self {
            choice,
            delta,
            logprobs: "null".to_owned(),
            finish: None,
            tokens,
        }
    }
}

pub(super) fn events(
    frame: Frame,
    answer: Arc<Answer>,
    script: &Script,
    n: usize,
    include_usage: bool,
    logprobs: bool,
) -> Events {
    if script.error_200 {
        return Box::new(std::iter::once(Event::new(
            Failure::of_status(500, script).event(),
            0,
        )));
    }
    let all = chunks(&answer, script, n, logprobs);
    let head = head(&frame);
    let kind = script.usage;
    let cached = script.cached_tokens;
    let obfuscation = script.obfuscation;
    let sent_usage = Arc::clone(&answer);
    let mut delivered = 0_i64;
    let rendered = all.enumerate().map(move |(at, chunk)| {
        delivered += chunk.tokens;
        let every = match kind {
            UsageKind::Every => Some(usage(kind, &sent_usage, cached, sent_usage.completion_tokens)),
            UsageKind::Cumulative => Some(usage(kind, &sent_usage, cached, delivered)),
            UsageKind::None => None,
            _ => include_usage.then(|| "null".to_owned()),
        };
        let every = every.map_or_else(String::new, |usage| format!(r#","usage":{usage}"#));
        let padding = if obfuscation { format!(r#","obfuscation":"{}""#, "x".repeat(at % 16 + 1)) } else { String::new() };
        let finish = chunk.finish.as_deref().map_or_else(|| "null".to_owned(), js);
        let text = format!(
            "data: {head},\"choices\":[{{\"index\":{},\"delta\":{},\"logprobs\":{},\"finish_reason\":{finish}}}]{every}{padding}}}\n\n",
            chunk.choice, chunk.delta, chunk.logprobs
        );
        Event::new(text, chunk.tokens)
    });
    let mut tail = Vec::new();
    if include_usage && kind != UsageKind::None {
        let usage = usage(kind, &answer, cached, answer.completion_tokens);
        tail.push(Event::new(
            format!(
                "data: {},\"choices\":[],\"usage\":{usage}}}\n\n",
                self::head(&frame)
            ),
            0,
        ));
    }
    if !script.no_done {
        tail.push(Event::new("data: [DONE]\n\n".to_owned(), 0));
    }
    Box::new(rendered.chain(tail))
}

fn head(frame: &Frame) -> String {
    let tier = if frame.plain {
        ""
    } else {
        r#","service_tier":"default","system_fingerprint":"fp_0a""#
    };
    format!(
        r#"{{"id":{},"object":"chat.completion.chunk","created":{},"model":{}{tier}"#,
        js(&frame.id),
        frame.created,
        js(&frame.model)
    )
}

/// Deltas in order; those of several choices interleave.
fn chunks(
    answer: &Arc<Answer>,
    script: &Script,
    n: usize,
    logprobs: bool,
) -> Box<dyn Iterator<Item = Chunk> + Send + Sync> {
    let mut before: Vec<Chunk> = Vec::new();
    if answer.tools.is_empty() {
        let content = if answer.refusal { "null" } else { r#""""# };
        before.extend((0..n).map(|choice| {
            Chunk::delta(
                choice,
                format!(r#"{{"role":"assistant","content":{content},"refusal":null}}"#),
                0,
            )
        }));
    }
    for piece in &answer.reasoning {
        before.extend((0..n).map(|choice| {
            Chunk::delta(
                choice,
                format!(r#"{{"reasoning_content":{}}}"#, js(piece)),
                tokens::of_piece(piece),
            )
        }));
    }
    for choice in 0..n {
        before.extend(tool_chunks(answer, choice));
    }
    if let Some(bytes) = script.big_event {
        let text = "b".repeat(bytes);
        before.extend(
            (0..n).map(|choice| Chunk::delta(choice, format!(r#"{{"content":{}}}"#, js(&text)), 1)),
        );
    }
    let shared = Arc::clone(answer);
    let member = if answer.refusal { "refusal" } else { "content" };
    let pieces = (0..answer.pieces.len()).flat_map(move |at| {
        let shared = Arc::clone(&shared);
        (0..n).map(move |choice| {
            let piece = shared.pieces.get(at);
            let mut chunk = Chunk::delta(
                choice,
                format!(r#"{{"{member}":{}}}"#, js(piece)),
                tokens::of_piece(piece),
            );
            if logprobs {
                chunk.logprobs = json!({"content": [logprob(piece)], "refusal": null}).to_string();
            }
            chunk
        })
    });
    let finish = answer.finish.clone();
    let ends = if script.no_finish { 0 } else { n };
    let after = (0..ends).map(move |choice| Chunk {
        finish: Some(finish.clone()),
        ..Chunk::delta(choice, "{}".to_owned(), 0)
    });
    Box::new(before.into_iter().chain(pieces).chain(after))
}

/// The first call's arguments come in two fragments, those of the others in one:
/// both occur in the wild.
fn tool_chunks(answer: &Answer, choice: usize) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (at, tool) in answer.tools.iter().enumerate() {
        let role = if at == 0 {
            r#""role":"assistant","content":null,"refusal":null,"#
        } else {
            ""
        };
        let first = format!(
            r#"{{{role}"tool_calls":[{{"index":{at},"id":{},"type":"function","function":{{"name":{},"arguments":""}}}}]}}"#,
            js(&tool.id),
            js(&tool.name)
        );
        chunks.push(Chunk::delta(choice, first, 1));
        let split = if at == 0 {
            tool.arguments.find(':').map_or(0, |colon| colon + 1)
        } else {
            0
        };
        let (start, end) = tool.arguments.split_at(split);
        let words = tokens::of_piece(&tool.arguments);
        let fragments = [(start, 0), (end, words)];
        for (text, count) in fragments.into_iter().filter(|(text, _)| !text.is_empty()) {
            let delta = format!(
                r#"{{"tool_calls":[{{"index":{at},"function":{{"arguments":{}}}}}]}}"#,
                js(text)
            );
            chunks.push(Chunk::delta(choice, delta, count));
        }
    }
    chunks
}
