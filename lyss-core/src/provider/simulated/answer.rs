//! What the simulated provider answers, and its JSON.

use serde_json::{Value, json};

use super::{
    LABEL, schema,
    script::{Faults, UsageFault},
};
use crate::{
    error::{Error, Result},
    types::{
        ChatChunk, ChatRequest, RawObject, Usage,
        delivered::{Part, Piece, Slot},
    },
};

/// The longest answer, in tokens: what a caller can make the process hold is bounded.
const MAX_OUTPUT: u64 = 16_384;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16;

/// An answer, before it is written.
pub(super) struct Answer {
    id: String,
    model: String,
    choices: u64,
    content: Content,
    finish: &'static str,
    pub(super) usage: Usage,
    pub(super) faults: Faults,
}

enum Content {
    /// Text in tokens.
    Text(Vec<String>),
    /// A call of a tool: its name and the JSON of its arguments.
    Call(String, String),
}

/// The text of the last user message; of the last message if there is none.
pub(super) fn last_text(request: &ChatRequest) -> Result<String> {
    let messages = request.messages()?;
    let users = messages
        .iter()
        .rev()
        .find(|message| message.role() == "user");
    Ok(users
        .or(messages.last())
        .map(|message| message.text())
        .unwrap_or_default())
}

/// The tokens of a text: words with the white space behind them, in parts if they are long, and single characters
/// outside ASCII.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = rest.len();
        let mut previous: Option<char> = None;
        for (at, character) in rest.char_indices() {
            let starts = at >= MAX_TOKEN
                || previous.is_some_and(|previous| {
                    !character.is_whitespace()
                        && (previous.is_whitespace()
                            || !previous.is_ascii()
                            || !character.is_ascii())
                });
            if starts {
                end = at;
                break;
            }
            previous = Some(character);
        }
        let (token, tail) = rest.split_at(end);
        rest = tail;
        (!token.is_empty()).then_some(token)
    })
}

fn member(request: &ChatRequest, name: &'static str) -> Result<Option<Value>> {
    request
        .body()
        .get_some(name)
        .map(|value| value.decode())
        .transpose()
        .map_err(|_| Error::invalid(name, format!("`{name}` cannot be read")))
}

impl Answer {
    pub(super) fn compose(request: &ChatRequest, text: String, faults: Faults) -> Result<Self> {
        let limit = ["max_completion_tokens", "max_tokens"]
            .into_iter()
            .find_map(|name| request.body().get(name)?.as_u64());
        let (content, finish, output) = match forced_call(request)? {
            Some((name, arguments)) => {
                let count = tokens(&arguments).count() as u64 + 1;
                (Content::Call(name, arguments), "tool_calls", count)
            }
            None => {
                let text = shaped(request, text)?;
                let text = stopped(request, &text)?;
                let mut pieces: Vec<String> = tokens(text)
                    .take(MAX_OUTPUT as usize + 1)
                    .map(str::to_owned)
                    .collect();
                let limit = limit.unwrap_or(MAX_OUTPUT).min(MAX_OUTPUT);
                let longer = pieces.len() as u64 > limit;
                pieces.truncate(limit as usize);
                let count = pieces.len() as u64;
                let finish = if longer { "length" } else { "stop" };
                (Content::Text(pieces), finish, count)
            }
        };
        let choices = request
            .body()
            .get("n")
            .and_then(|n| n.as_u64())
            .unwrap_or(1);
        let prompt: u64 = request
            .messages()?
            .iter()
            .map(|message| tokens(&message.text()).count() as u64 + 1)
            .sum();
        let hash = crc32fast::hash(&request.body().to_bytes());
        Ok(Self {
            id: format!("chatcmpl-simulated-{hash:08x}"),
            model: request.model().to_owned(),
            choices,
            content,
            finish,
            usage: Usage {
                input_tokens: prompt,
                output_tokens: output * choices,
                ..Usage::default()
            },
            faults,
        })
    }

    /// The JSON of the usage that is reported, right or wrong.
    pub(super) fn reported_usage(&self) -> Option<String> {
        match self.faults.usage {
            None => Some(self.usage.to_openai()),
            Some(UsageFault::None) => None,
            Some(UsageFault::Wrong) => {
                Some(r#"{"prompt_tokens":-1,"completion_tokens":1e9,"total_tokens":0}"#.into())
            }
        }
    }

    fn frame(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            // A fixed time: the same request has the same answer.
            "created": 0,
            "model": self.model,
            "system_fingerprint": LABEL,
            "choices": choices,
        })
    }

    /// The `chat.completion` object.
    pub(super) fn completion(&self) -> Result<RawObject> {
        let message = match &self.content {
            Content::Text(pieces) => {
                json!({"role": "assistant", "content": pieces.concat(), "refusal": null})
            }
            Content::Call(name, arguments) => {
                json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                    {"id": "call_simulated", "type": "function", "function": {"name": name, "arguments": arguments}}
                ]})
            }
        };
        let choices = (0..self.choices)
            .map(|index| {
                json!({"index": index, "message": message, "logprobs": null, "finish_reason": self.finish})
            })
            .collect();
        let mut body = RawObject::parse(self.frame("chat.completion", choices).to_string().into())?;
        if let Some(usage) = self.reported_usage() {
            body.set("usage", usage);
        }
        Ok(body)
    }

    /// Chunks of one choice: the role, the texts or the call's two, the finish.
    fn chunks_per_choice(&self) -> u64 {
        match &self.content {
            Content::Text(pieces) => pieces.len() as u64 + 2,
            Content::Call(..) => 3,
        }
    }

    /// How many chunks the stream has, the usage chunk among them.
    pub(super) fn chunk_count(&self) -> u64 {
        self.choices * self.chunks_per_choice() + u64::from(self.reported_usage().is_some())
    }

    /// A chunk of the stream, by its position.
    pub(super) fn chunk(&self, position: u64, include_usage: bool) -> Option<ChatChunk> {
        let write = |choices: Vec<Value>, usage: Option<&str>| {
            let mut json = self.frame("chat.completion.chunk", choices).to_string();
            if include_usage || usage.is_some() {
                json.pop();
                json.push_str(",\"usage\":");
                json.push_str(usage.unwrap_or("null"));
                json.push('}');
            }
            ChatChunk::from_json(json.as_bytes())
        };
        let (index, step) = (
            position / self.chunks_per_choice(),
            position % self.chunks_per_choice(),
        );
        if index >= self.choices {
            let json = self.reported_usage()?;
            let mut last = write(Vec::new(), Some(&json));
            last.usage = super::read_usage(&json);
            last.without_choices = true;
            return Some(last);
        }
        let finish = (step + 1 == self.chunks_per_choice()).then_some(self.finish);
        let (delta, part, text) = match (&self.content, step) {
            _ if finish.is_some() => (json!({}), Part::Content, ""),
            (Content::Text(_), 0) => {
                let delta = json!({"role": "assistant", "content": ""});
                (delta, Part::Content, "")
            }
            (Content::Text(pieces), step) => {
                let piece = pieces.get(step as usize - 1)?;
                (json!({"content": piece}), Part::Content, piece.as_str())
            }
            (Content::Call(name, _), 0) => {
                let start = json!({"index": 0, "id": "call_simulated", "type": "function",
                    "function": {"name": name, "arguments": ""}});
                let delta = json!({"role": "assistant", "content": null, "tool_calls": [start]});
                (delta, Part::CallName(0), name.as_str())
            }
            (Content::Call(_, arguments), _) => {
                let rest = json!({"index": 0, "function": {"arguments": arguments}});
                let delta = json!({"tool_calls": [rest]});
                (delta, Part::CallArguments(0), arguments.as_str())
            }
        };
        let choice =
            json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
        let mut chunk = write(vec![choice], None);
        chunk.finish = finish.is_some();
        if !text.is_empty() {
            let slot = Slot {
                choice: u32::try_from(index).unwrap_or(u32::MAX),
                part,
            };
            chunk.delivered = vec![Piece {
                slot,
                text: text.to_owned(),
            }];
        }
        Some(chunk)
    }
}

/// The call that `tool_choice` forces: of the tool it names, or of the first for `required`.
fn forced_call(request: &ChatRequest) -> Result<Option<(String, String)>> {
    let Some(choice) = member(request, "tool_choice")? else {
        return Ok(None);
    };
    let wanted = choice.pointer("/function/name").and_then(Value::as_str);
    if wanted.is_none() && choice.as_str() != Some("required") {
        return Ok(None);
    }
    let tools = member(request, "tools")?.unwrap_or_default();
    let mut tools = tools
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tool| tool.get("function"));
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    let tool = tools
        .find(|tool| wanted.is_none() || name(tool).as_deref() == wanted)
        .ok_or_else(|| Error::invalid("tool_choice", "`tool_choice` names no tool of `tools`"))?;
    let arguments = tool
        .get("parameters")
        .map_or_else(|| json!({}), schema::smallest);
    Ok(Some((
        name(tool).unwrap_or_default(),
        arguments.to_string(),
    )))
}

/// The text in the form that `response_format` asks for.
fn shaped(request: &ChatRequest, text: String) -> Result<String> {
    let format = member(request, "response_format")?.unwrap_or_default();
    Ok(match format.get("type").and_then(Value::as_str) {
        Some("json_schema") => {
            let schema = format.pointer("/json_schema/schema");
            schema
                .map_or_else(|| json!({}), schema::smallest)
                .to_string()
        }
        Some("json_object") => json!({"echo": text}).to_string(),
        _ => text,
    })
}

/// The text before the first stop sequence.
fn stopped<'a>(request: &ChatRequest, text: &'a str) -> Result<&'a str> {
    let stops = match member(request, "stop")? {
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => stops
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    let end = stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()))
        .min();
    Ok(text.get(..end.unwrap_or(text.len())).unwrap_or(text))
}
