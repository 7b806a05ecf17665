//! Native frames, read one by one: what each adds to which choice.
//!
//! Usage is cumulative in every frame: the last one counts. A frame with a code is an error, whatever it is called.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use secrecy::SecretString;

use super::{
    error::{Failure, Refusal, http_status, malformed},
    text::{Mode, Text},
    wire::{Answer, Choice, Message, ToolCall, content_text, finish_reason, text, usage},
};
use crate::{
    error::Result,
    provider::{
        sse::{Decoder, Event},
        transport::BodyStream,
    },
    types::Usage,
};

/// More choices or tool calls than any answer has: a stream that numbers further is broken.
const MAX_PARALLEL: usize = 1024;

/// The frames of an answer, as they arrive.
pub(super) struct Source {
    body: BodyStream,
    decoder: Decoder,
    ended: bool,
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) data: Bytes,
    /// The status in the frame's comment.
    status: Option<u16>,
    /// Whether the event is called `error`.
    named_error: bool,
}

impl From<Event> for Frame {
    fn from(event: Event) -> Self {
        let status = event.comments().find_map(http_status);
        Self {
            status,
            named_error: event.event.as_deref() == Some(b"error"),
            data: event.data,
        }
    }
}

impl From<Bytes> for Frame {
    /// A whole answer, which reads like a single frame.
    fn from(data: Bytes) -> Self {
        Self {
            data,
            status: None,
            named_error: false,
        }
    }
}

impl Source {
    pub(super) fn new(body: BodyStream, decoder: Decoder) -> Self {
        Self {
            body,
            decoder,
            ended: false,
        }
    }

    /// A source that yields nothing.
    pub(super) fn ended() -> Self {
        Self {
            body: futures::stream::empty().boxed(),
            decoder: Decoder::new(0),
            ended: true,
        }
    }

    /// The next frame; `None` at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(event) = self.decoder.next() {
                return event.map(|event| Some(event.into()));
            }
            match self.body.next().await {
                Some(piece) => self.decoder.push(piece?),
                None => {
                    self.ended = true;
                    return self
                        .decoder
                        .finish()
                        .transpose()
                        .map(|event| event.map(Frame::from));
                }
            }
        }
    }
}

/// What a frame adds to a choice.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) index: u32,
    /// Whether the choice begins here.
    pub(super) first: bool,
    pub(super) content: String,
    pub(super) reasoning: String,
    pub(super) tool_calls: Vec<CallDelta>,
    /// The JSON text of the log-probabilities.
    pub(super) logprobs: Option<String>,
    pub(super) finish: Option<&'static str>,
}

impl Delta {
    /// Bytes that it adds to the answer.
    pub(super) fn size(&self) -> usize {
        let calls = self.tool_calls.iter().map(|call| call.arguments.len());
        let logprobs = self.logprobs.as_ref().map_or(0, String::len);
        self.content.len() + self.reasoning.len() + logprobs + calls.sum::<usize>()
    }
}

/// What a frame adds to a tool call.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CallDelta {
    pub(super) index: u32,
    /// Whether the call begins here.
    pub(super) first: bool,
    pub(super) id: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

/// The state of an answer while its frames arrive.
#[derive(Debug, Default)]
pub(super) struct Frames {
    mode: Mode,
    choices: BTreeMap<u32, ChoiceState>,
    usage: Option<Usage>,
    request_id: Option<String>,
    /// Whether content may be a list of parts written as a string (Kimi models).
    nested_parts: bool,
}

#[derive(Debug, Default)]
struct ChoiceState {
    content: Text,
    reasoning: Text,
    calls: BTreeMap<u32, CallState>,
    finished: bool,
}

#[derive(Debug, Default)]
struct CallState {
    id: bool,
    name: String,
    arguments: Text,
}

impl Frames {
    pub(super) fn new(nested_parts: bool) -> Self {
        Self {
            nested_parts,
            ..Self::default()
        }
    }

    /// Reads a frame: what it adds, choice by choice.
    ///
    /// # Errors
    /// The provider's refusal, whatever the frame is called; `upstream_invalid_response` for what is not its protocol.
    pub(super) fn read(
        &mut self,
        frame: &Frame,
        secrets: &[SecretString],
    ) -> Result<Vec<Delta>, Failure> {
        let data = frame.data.trim_ascii();
        if data.is_empty() || data == b"[DONE]" {
            return Ok(Vec::new());
        }
        let refused = || {
            let status = frame.status.filter(|status| *status >= 400);
            Refusal::read(status.unwrap_or(500), None, data).into_failure(secrets)
        };
        if frame.named_error || frame.status.is_some_and(|status| status >= 400) {
            return Err(refused());
        }
        let answer: Answer<'_> = serde_json::from_slice(data)
            .map_err(|_| malformed("has a frame that cannot be read", &frame.data))?;
        if answer.is_error() {
            return Err(refused());
        }
        if self.request_id.is_none() {
            self.request_id = answer.request_id();
        }
        // A later report replaces the earlier one, also with something that cannot be true.
        if let Some(reported) = answer.usage {
            self.usage = usage(reported);
        }
        let Some(output) = answer.output else {
            return Ok(Vec::new());
        };
        let choices = output.choices.unwrap_or_default();
        let mut deltas = Vec::with_capacity(choices.len());
        if choices.is_empty() && output.text.and_then(text).is_some() {
            let message = Message {
                content: output.text,
                ..Message::default()
            };
            let choice = Choice {
                message: Some(message),
                finish_reason: output.finish_reason,
                ..Choice::default()
            };
            deltas.extend(self.choice(0, choice));
        }
        for (position, choice) in (0u32..).zip(choices) {
            let index = choice.index.unwrap_or(position);
            if !self.choices.contains_key(&index) && self.choices.len() >= MAX_PARALLEL {
                return Err(malformed("has too many choices", &frame.data).into());
            }
            let calls = choice
                .message
                .as_ref()
                .and_then(|message| message.tool_calls.as_ref());
            if calls.is_some_and(|calls| calls.len() > MAX_PARALLEL) {
                return Err(malformed("has too many tool calls", &frame.data).into());
            }
            deltas.extend(self.choice(index, choice));
        }
        Ok(deltas)
    }

    fn choice(&mut self, index: u32, choice: Choice<'_>) -> Option<Delta> {
        let first = !self.choices.contains_key(&index);
        let state = self.choices.entry(index).or_default();
        if state.finished {
            // The finishing frame may be repeated.
            return None;
        }
        let message = choice.message.unwrap_or_default();
        let fragments = message.tool_calls.unwrap_or_default();
        let calls = !state.calls.is_empty() || !fragments.is_empty();
        let finish = finish_reason(choice.finish_reason, calls);
        let at_end = finish.is_some();
        state.finished = at_end;
        let mut content = content_text(message.content);
        if self.nested_parts && content.starts_with('[') {
            content = nested(&content).unwrap_or(content);
        }
        let reasoning = message.reasoning_content.and_then(text).unwrap_or_default();
        let mode = &mut self.mode;
        let reasoning = state.reasoning.push(mode, reasoning, at_end);
        let content = state.content.push(mode, content, at_end);
        let mut tool_calls: Vec<CallDelta> = Vec::with_capacity(fragments.len());
        for (position, fragment) in (0u32..).zip(fragments) {
            let index = fragment.index.unwrap_or(position);
            if !state.calls.contains_key(&index) && state.calls.len() >= MAX_PARALLEL {
                continue;
            }
            tool_calls.extend(call(&mut state.calls, mode, index, fragment, at_end));
        }
        // What was held back of calls that this frame does not mention.
        for (index, call) in &mut state.calls {
            if tool_calls.iter().all(|delta| delta.index != *index) {
                let arguments = call.arguments.push(mode, String::new(), at_end);
                if !arguments.is_empty() {
                    tool_calls.push(CallDelta {
                        index: *index,
                        arguments,
                        ..CallDelta::default()
                    });
                }
            }
        }
        let logprobs = choice
            .logprobs
            .map(|logprobs| logprobs.get())
            .filter(|logprobs| *logprobs != "null");
        let delta = Delta {
            index,
            first,
            content,
            reasoning,
            tool_calls,
            logprobs: logprobs.map(str::to_owned),
            finish,
        };
        let bare = Delta {
            index,
            ..Delta::default()
        };
        (delta != bare).then_some(delta)
    }

    /// Reads an answer that came whole; nothing follows, so that a missing finish reason means the ordinary end.
    pub(super) fn read_whole(
        &mut self,
        body: Bytes,
        secrets: &[SecretString],
    ) -> Result<Vec<Delta>, Failure> {
        let mut deltas = self.read(&body.clone().into(), secrets)?;
        if deltas.is_empty() {
            return Err(malformed("has no choices", &body).into());
        }
        for delta in &mut deltas {
            let end = if delta.tool_calls.is_empty() {
                "stop"
            } else {
                "tool_calls"
            };
            delta.finish.get_or_insert(end);
        }
        for choice in self.choices.values_mut() {
            choice.finished = true;
        }
        Ok(deltas)
    }

    /// Whether the answer has begun and every choice has its finish reason.
    pub(super) fn complete(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|choice| choice.finished)
    }

    /// The usage as last reported, if it can be true.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The provider's id of the request.
    pub(super) fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

fn call(
    calls: &mut BTreeMap<u32, CallState>,
    mode: &mut Mode,
    index: u32,
    fragment: ToolCall<'_>,
    at_end: bool,
) -> Option<CallDelta> {
    let first = !calls.contains_key(&index);
    let state = calls.entry(index).or_default();
    let function = fragment.function.unwrap_or_default();
    let id = fragment.id.filter(|id| !id.is_empty() && !state.id);
    state.id |= id.is_some();
    let arguments = state.arguments.push(mode, function.arguments(), at_end);
    // A name comes once, or in parts that are to be joined, or again and again.
    let name = function.name.unwrap_or_default();
    let name = match name.strip_prefix(state.name.as_str()) {
        Some(more) => more.to_owned(),
        None => name,
    };
    state.name.push_str(&name);
    let delta = CallDelta {
        index,
        first,
        id,
        kind: first.then(|| {
            fragment
                .kind
                .filter(|kind| !kind.is_empty())
                .unwrap_or_else(|| "function".into())
        }),
        name: (!name.is_empty()).then_some(name),
        arguments,
    };
    let bare = CallDelta {
        index,
        ..CallDelta::default()
    };
    (delta != bare).then_some(delta)
}

/// The text of a list of parts that is written as a string.
fn nested(content: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Part {
        text: String,
    }
    let parts: Vec<Part> = serde_json::from_str(content).ok()?;
    Some(parts.into_iter().map(|part| part.text).collect())
}
