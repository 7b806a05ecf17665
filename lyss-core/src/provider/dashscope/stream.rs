//! Native frames → OpenAI's chunks.
//!
//! [`Frames`] reads frames and says what each adds; [`Chunks`] writes that as OpenAI's events. A stream is complete
//! when every choice that began has a finish reason; the provider then closes without `[DONE]`. Usage is cumulative in
//! every frame: the last one counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt;

use super::{
    error::{Failure, Refusal, http_status, malformed},
    text::{Mode, Text},
    wire::{
        Answer, Choice, Message, ToolCall, content_text, finish_reason, push_string, text, usage,
    },
};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    provider::{
        sse::{Decoder, Event},
        transport::BodyStream,
    },
    types::{
        ChatChunk, Usage,
        reply::{ChunkStream, TextSize},
    },
};
use secrecy::SecretString;

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
    pub(super) fn new(body: BodyStream, max_event: usize) -> Self {
        Self {
            body,
            decoder: Decoder::new(max_event),
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
    fn size(&self) -> usize {
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

/// Writes chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    /// The members that all chunks of an answer share, up to the opening bracket of `choices`.
    head: Vec<u8>,
}

impl Chunks {
    pub(super) fn new(id: &str, created: i64, model: &str) -> Self {
        let mut head = Vec::with_capacity(160);
        head.extend_from_slice(br#"{"id":"#);
        push_string(&mut head, id);
        head.extend_from_slice(br#","object":"chat.completion.chunk","created":"#);
        head.extend_from_slice(created.to_string().as_bytes());
        head.extend_from_slice(br#","model":"#);
        push_string(&mut head, model);
        head.extend_from_slice(br#","choices":["#);
        Self { head }
    }

    /// The chunks of a delta: what it delivers, then, with an empty delta, the finish reason.
    pub(super) fn write(&self, delta: &Delta, out: &mut VecDeque<ChatChunk>) {
        let delivers = delta.first
            || !delta.content.is_empty()
            || !delta.reasoning.is_empty()
            || !delta.tool_calls.is_empty()
            || delta.logprobs.is_some();
        if delivers {
            let mut chunk = ChatChunk::from_json(&self.choice(
                delta.index,
                &delta_json(delta),
                delta.logprobs.as_deref(),
                None,
            ));
            chunk.delivered = delivered(delta);
            out.push_back(chunk);
        }
        if delta.finish.is_some() {
            let mut chunk =
                ChatChunk::from_json(&self.choice(delta.index, b"{}", None, delta.finish));
            chunk.finish = true;
            out.push_back(chunk);
        }
    }

    fn choice(
        &self,
        index: u32,
        delta: &[u8],
        logprobs: Option<&str>,
        finish: Option<&str>,
    ) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.head.len() + delta.len() + 80);
        json.extend_from_slice(&self.head);
        json.extend_from_slice(format!(r#"{{"index":{index},"delta":"#).as_bytes());
        json.extend_from_slice(delta);
        json.extend_from_slice(br#","logprobs":"#);
        json.extend_from_slice(logprobs.unwrap_or("null").as_bytes());
        json.extend_from_slice(br#","finish_reason":"#);
        match finish {
            Some(finish) => push_string(&mut json, finish),
            None => json.extend_from_slice(b"null"),
        }
        json.extend_from_slice(b"}]}");
        // Log-probabilities are the one raw value; a chunk is one line, and outside strings a line break means nothing.
        json.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        json
    }

    /// The chunk without choices that carries the usage.
    pub(super) fn usage(&self, usage: Usage) -> ChatChunk {
        let mut json = self.head.clone();
        json.extend_from_slice(br#"],"usage":"#);
        json.extend_from_slice(usage.to_openai().as_bytes());
        json.push(b'}');
        let mut chunk = ChatChunk::from_json(&json);
        chunk.usage = Some(usage);
        chunk.without_choices = true;
        chunk
    }
}

fn delta_json(delta: &Delta) -> Vec<u8> {
    let mut out = vec![b'{'];
    let mut member = |key: &str, write: &mut dyn FnMut(&mut Vec<u8>)| {
        if out.len() > 1 {
            out.push(b',');
        }
        push_string(&mut out, key);
        out.push(b':');
        write(&mut out);
    };
    if delta.first {
        member("role", &mut |out| push_string(out, "assistant"));
        if delta.content.is_empty() {
            let empty: &[u8] = if delta.tool_calls.is_empty() {
                b"\"\""
            } else {
                b"null"
            };
            member("content", &mut |out| out.extend_from_slice(empty));
        }
    }
    if !delta.reasoning.is_empty() {
        member("reasoning_content", &mut |out| {
            push_string(out, &delta.reasoning)
        });
    }
    if !delta.content.is_empty() {
        member("content", &mut |out| push_string(out, &delta.content));
    }
    if !delta.tool_calls.is_empty() {
        member("tool_calls", &mut |out| write_calls(out, &delta.tool_calls));
    }
    out.push(b'}');
    out
}

fn write_calls(out: &mut Vec<u8>, calls: &[CallDelta]) {
    out.push(b'[');
    for (position, call) in calls.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!(r#"{{"index":{}"#, call.index).as_bytes());
        for (key, value) in [("id", &call.id), ("type", &call.kind)] {
            if let Some(value) = value {
                out.extend_from_slice(format!(r#","{key}":"#).as_bytes());
                push_string(out, value);
            }
        }
        out.extend_from_slice(br#","function":{"#);
        if let Some(name) = &call.name {
            out.extend_from_slice(br#""name":"#);
            push_string(out, name);
            out.push(b',');
        }
        out.extend_from_slice(br#""arguments":"#);
        push_string(out, &call.arguments);
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
}

fn delivered(delta: &Delta) -> TextSize {
    let calls = delta.tool_calls.iter().map(|call| {
        TextSize::of(call.name.as_deref().unwrap_or_default()).plus(TextSize::of(&call.arguments))
    });
    calls.fold(
        TextSize::of(&delta.content).plus(TextSize::of(&delta.reasoning)),
        TextSize::plus,
    )
}

/// An answer whose first frame has been read.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) frames: Frames,
    pub(super) first: Vec<Delta>,
}

impl Opened {
    /// Reads up to the first frame that says something. The provider accepts with status 200 what it refuses in that
    /// frame.
    pub(super) async fn read(
        mut source: Source,
        mut frames: Frames,
        secrets: &[SecretString],
    ) -> Result<Self, Failure> {
        while let Some(frame) = source.next().await.map_err(work_unknown)? {
            let first = frames.read(&frame, secrets)?;
            if !first.is_empty() {
                return Ok(Self {
                    source,
                    frames,
                    first,
                });
            }
        }
        Err(incomplete().into())
    }

    /// The rest of the answer as chunks.
    pub(super) fn into_chunks(self, chunks: Chunks, secrets: Arc<[SecretString]>) -> ChunkStream {
        let mut ready = VecDeque::new();
        for delta in &self.first {
            chunks.write(delta, &mut ready);
        }
        let state = Chunking {
            source: self.source,
            frames: self.frames,
            chunks,
            ready,
            ended: false,
            secrets,
        };
        futures::stream::unfold(state, |mut state| async move {
            state.next().await.map(|item| (item, state))
        })
        .boxed()
    }

    /// Reads the rest of the answer and adds it up.
    pub(super) async fn collect(
        mut self,
        secrets: &[SecretString],
        limit: usize,
        mut add: impl FnMut(Delta),
    ) -> Result<Frames> {
        let mut size = 0usize;
        self.first.drain(..).for_each(&mut add);
        loop {
            match self.source.next().await.map_err(work_unknown) {
                Ok(Some(frame)) => {
                    let deltas = self.frames.read(&frame, secrets).map_err(begun)?;
                    size += deltas.iter().map(Delta::size).sum::<usize>();
                    if size > limit {
                        return Err(malformed("is larger than `max_answer`", &frame.data));
                    }
                    deltas.into_iter().for_each(&mut add);
                }
                // After the last finish reason only the connection is left to fail.
                Err(error) if !self.frames.complete() => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        if self.frames.complete() {
            Ok(self.frames)
        } else {
            Err(incomplete())
        }
    }
}

/// An answer that is being passed on.
struct Chunking {
    source: Source,
    frames: Frames,
    chunks: Chunks,
    ready: VecDeque<ChatChunk>,
    ended: bool,
    secrets: Arc<[SecretString]>,
}

impl Chunking {
    async fn next(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.ended {
                return None;
            }
            match self.source.next().await.map_err(work_unknown) {
                Ok(Some(frame)) => match self.frames.read(&frame, &self.secrets) {
                    Ok(deltas) => deltas
                        .iter()
                        .for_each(|delta| self.chunks.write(delta, &mut self.ready)),
                    Err(failure) => {
                        self.ended = true;
                        return Some(Err(begun(failure)));
                    }
                },
                Err(error) if !self.frames.complete() => {
                    self.ended = true;
                    return Some(Err(error));
                }
                // After the last finish reason only the connection is left to fail.
                Ok(None) | Err(_) => {
                    self.ended = true;
                    if !self.frames.complete() {
                        return Some(Err(incomplete()));
                    }
                    let usage = self.frames.usage();
                    self.ready
                        .extend(usage.map(|usage| self.chunks.usage(usage)));
                }
            }
        }
    }
}

/// An error after the answer had begun: the provider has done work, whatever it says.
fn begun(failure: Failure) -> Error {
    failure.error.with_work(Work::Unknown)
}

fn work_unknown(error: Error) -> Error {
    error.with_work(Work::Unknown)
}

fn incomplete() -> Error {
    Error::new(
        ErrorKind::UpstreamIncomplete,
        "the provider's answer ended without a finish reason",
    )
    .with_retry(crate::error::Retry::Elsewhere)
    .with_work(Work::Unknown)
}
