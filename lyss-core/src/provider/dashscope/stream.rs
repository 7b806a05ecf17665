//! What frames add → OpenAI's chunks, or one answer.
//!
//! A stream is complete when every choice that began has a finish reason; the provider then closes without `[DONE]`.

use std::{collections::VecDeque, sync::Arc};

use futures::StreamExt;
use secrecy::SecretString;

use super::{
    error::{Failure, malformed},
    frames::{CallDelta, Delta, Frames, Source},
    wire::push_string,
};
use crate::{
    error::{Error, ErrorKind, Result, Retry, Work},
    types::{
        ChatChunk, Usage,
        delivered::{Part, Piece, Slot},
        reply::ChunkStream,
    },
};

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

fn delivered(delta: &Delta) -> Vec<Piece> {
    let piece = |part, text: &str| {
        let slot = Slot {
            choice: delta.index,
            part,
        };
        (!text.is_empty()).then(|| Piece {
            slot,
            text: text.to_owned(),
        })
    };
    let calls = delta.tool_calls.iter().flat_map(|call| {
        let name = call.name.as_deref().unwrap_or_default();
        [
            piece(Part::CallName(call.index), name),
            piece(Part::CallArguments(call.index), &call.arguments),
        ]
    });
    [
        piece(Part::Reasoning, &delta.reasoning),
        piece(Part::Content, &delta.content),
    ]
    .into_iter()
    .chain(calls)
    .flatten()
    .collect()
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
    .with_retry(Retry::Elsewhere)
    .with_work(Work::Unknown)
}
