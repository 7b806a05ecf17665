//! What the model says, before a protocol gives it its shape.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::script::{Script, UsageKind};
use crate::tokens;

/// A reply in pieces; a long one is not held in memory piece by piece.
#[derive(Clone, Debug)]
pub(crate) enum Pieces {
    List(Vec<String>),
    Repeat { count: usize, piece: String },
}

impl Pieces {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Repeat { count, .. } => *count,
        }
    }

    pub(crate) fn get(&self, at: usize) -> &str {
        match self {
            Self::List(list) => list.get(at).map_or("", String::as_str),
            Self::Repeat { piece, .. } => piece,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::List(list) => list.concat(),
            Self::Repeat { count, piece } => piece.repeat(*count),
        }
    }

    pub(crate) fn tokens(&self) -> i64 {
        match self {
            Self::List(list) => list.iter().map(|piece| tokens::of_piece(piece)).sum(),
            Self::Repeat { count, piece } => i64::try_from(*count)
                .unwrap_or(i64::MAX)
                .saturating_mul(tokens::of_piece(piece)),
        }
    }
}

/// A call the model makes.
#[derive(Clone, Debug)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON in a string, as on the wire.
    pub(crate) arguments: String,
}

impl ToolCall {
    pub(crate) fn tokens(&self) -> i64 {
        1 + tokens::of_piece(&self.arguments)
    }
}

/// What a protocol adapter understood of the request.
#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    /// Last user text without directives.
    pub(crate) text: String,
    pub(crate) images: i64,
    pub(crate) tools: Vec<&'a Value>,
    pub(crate) tool_choice: Option<&'a Value>,
    pub(crate) parallel: bool,
    pub(crate) response_format: Option<&'a Value>,
    pub(crate) prompt_tokens: i64,
    pub(crate) headers: Vec<(String, String)>,
}

/// One reply; all `n` choices are equal.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) reasoning: Vec<String>,
    pub(crate) pieces: Pieces,
    pub(crate) refusal: bool,
    pub(crate) tools: Vec<ToolCall>,
    pub(crate) finish: String,
    pub(crate) prompt_tokens: i64,
    pub(crate) completion_tokens: i64,
    pub(crate) reasoning_tokens: i64,
}

impl Answer {
    pub(crate) fn new(
        ask: &Ask<'_>,
        script: &Script,
        n: usize,
        truncate_at: Option<i64>,
    ) -> Arc<Self> {
        let tools = tool_calls(ask, script);
        let reasoning: Vec<String> = script
            .reasoning
            .as_deref()
            .map(|text| split(text, script.size))
            .unwrap_or_default();
        let mut pieces = if tools.is_empty() {
            reply(ask, script)
        } else {
            Pieces::List(Vec::new())
        };
        let mut finish = if tools.is_empty() {
            "stop"
        } else {
            "tool_calls"
        };
        if let Some(max) = truncate_at
            && pieces.tokens() > max
        {
            pieces = first_tokens(&pieces, max);
            finish = "length";
        }
        let reasoning_tokens: i64 = reasoning.iter().map(|piece| tokens::of_piece(piece)).sum();
        let each =
            reasoning_tokens + pieces.tokens() + tools.iter().map(ToolCall::tokens).sum::<i64>();
        let counted = each.saturating_mul(i64::try_from(n).unwrap_or(i64::MAX));
        let (prompt_tokens, completion_tokens) =
            script.tokens.unwrap_or((ask.prompt_tokens, counted));
        Arc::new(Self {
            reasoning,
            pieces,
            refusal: script.refusal,
            tools,
            finish: script
                .finish_reason
                .clone()
                .unwrap_or_else(|| finish.to_owned()),
            prompt_tokens,
            completion_tokens,
            reasoning_tokens,
        })
    }
}

/// The numbers to report for (prompt, completion), or `None` for no numbers.
pub(crate) fn reported(kind: UsageKind, prompt: i64, completion: i64) -> Option<(i64, i64)> {
    match kind {
        UsageKind::None | UsageKind::Null => None,
        UsageKind::Zero => Some((0, 0)),
        UsageKind::Negative => Some((-prompt.max(1), -completion.max(1))),
        UsageKind::Huge => Some((1 << 62, (1 << 62) - 1)),
        UsageKind::Normal | UsageKind::Every | UsageKind::Cumulative => Some((prompt, completion)),
    }
}

/// A string as JSON. Serialising a string cannot fail.
pub(crate) fn js(text: &str) -> String {
    Value::from(text).to_string()
}

fn reply(ask: &Ask<'_>, script: &Script) -> Pieces {
    if let Some(count) = script.chunks {
        let size = script.size.unwrap_or(5).max(1);
        return Pieces::Repeat {
            count,
            piece: filler(size),
        };
    }
    let text = if let Some(text) = &script.text {
        text.clone()
    } else if let Some(bytes) = script.reply_bytes {
        filler(bytes)
    } else if script.echo_headers {
        let headers: serde_json::Map<String, Value> = ask
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
            .collect();
        Value::Object(headers).to_string()
    } else if script.refusal {
        "I cannot help with that.".to_owned()
    } else if let Some(text) = ask.response_format.and_then(structured) {
        text
    } else {
        let images = match ask.images {
            0 => String::new(),
            count => format!(" ({count} images)"),
        };
        format!("echo: {}{images}", ask.text)
    };
    Pieces::List(split(&text, script.size))
}

/// `size` bytes of words.
fn filler(size: usize) -> String {
    let mut text = "word ".repeat(size / 5 + 1);
    text.truncate(size);
    text
}

/// Pieces of about `size` bytes, or words with the space after them.
fn split(text: &str, size: Option<usize>) -> Vec<String> {
    let Some(size) = size else {
        return text.split_inclusive(' ').map(str::to_owned).collect();
    };
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for character in text.chars() {
        if !piece.is_empty() && piece.len() + character.len_utf8() > size {
            pieces.push(std::mem::take(&mut piece));
        }
        piece.push(character);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

fn first_tokens(pieces: &Pieces, max: i64) -> Pieces {
    let mut left = max;
    let kept = (0..pieces.len())
        .map(|at| pieces.get(at))
        .take_while(|piece| {
            left -= tokens::of_piece(piece);
            left >= 0
        });
    Pieces::List(kept.map(str::to_owned).collect())
}

fn tool_calls(ask: &Ask<'_>, script: &Script) -> Vec<ToolCall> {
    let named = ask
        .tool_choice
        .and_then(|choice| choice.pointer("/function/name"))
        .and_then(Value::as_str);
    let forced = named.is_some() || ask.tool_choice.and_then(Value::as_str) == Some("required");
    let forbidden = ask.tool_choice.and_then(Value::as_str) == Some("none");
    let wanted = script.tools.unwrap_or(usize::from(forced));
    let count = if forbidden {
        0
    } else if ask.parallel {
        wanted
    } else {
        wanted.min(1)
    };
    let functions: Vec<&Value> = ask
        .tools
        .iter()
        .filter_map(|tool| tool.get("function"))
        .filter(|function| {
            named.is_none_or(|name| function.get("name").and_then(Value::as_str) == Some(name))
        })
        .collect();
    let mut calls = Vec::new();
    for at in 0..if functions.is_empty() { 0 } else { count } {
        let function = functions[at % functions.len()];
        let schema = function.get("parameters").unwrap_or(&Value::Null);
        let letter = char::from(b'a' + u8::try_from(at % 26).unwrap_or(0));
        calls.push(ToolCall {
            id: format!("call_{letter}{}", at + 1),
            name: function
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            arguments: instance(schema, at).to_string(),
        });
    }
    calls
}

/// The reply that a response format asks for.
fn structured(format: &Value) -> Option<String> {
    match format.get("type").and_then(Value::as_str)? {
        "json_schema" => Some(
            instance(
                format
                    .pointer("/json_schema/schema")
                    .or_else(|| format.get("schema"))?,
                0,
            )
            .to_string(),
        ),
        "json_object" => Some(json!({"ok": true}).to_string()),
        _ => None,
    }
}

/// A value that satisfies a plain schema (types, properties, items, enum, const, anyOf, $ref into $defs).
fn instance(schema: &Value, at: usize) -> Value {
    instance_in(schema, schema, at, 0)
}

fn instance_in(root: &Value, schema: &Value, at: usize, depth: usize) -> Value {
    if depth > 16 {
        return Value::Null;
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(values) = schema
        .get("enum")
        .and_then(Value::as_array)
        .filter(|values| !values.is_empty())
    {
        return values[at % values.len()].clone();
    }
    if let Some(target) = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|to| root.pointer(to.trim_start_matches('#')))
    {
        return instance_in(root, target, at, depth + 1);
    }
    if let Some(first) = schema
        .get("anyOf")
        .and_then(Value::as_array)
        .and_then(|any| any.first())
    {
        return instance_in(root, first, at, depth + 1);
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        other => other.and_then(Value::as_str),
    };
    match kind {
        Some("string") => Value::from(["Oslo", "Bergen", "Tromsø"][at % 3]),
        Some("integer") => Value::from(at + 1),
        Some("number") => json!(1.5),
        Some("boolean") => Value::Bool(true),
        Some("array") => Value::Array(
            schema
                .get("items")
                .map(|items| instance_in(root, items, at, depth + 1))
                .into_iter()
                .collect(),
        ),
        Some("null") => Value::Null,
        _ => {
            let properties = schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten();
            Value::Object(
                properties
                    .map(|(name, of)| (name.clone(), instance_in(root, of, at, depth + 1)))
                    .collect(),
            )
        }
    }
}
