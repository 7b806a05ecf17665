//! Streamed answers: the provider's own events, read for usage, errors and the end.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use secrecy::SecretString;
use tokio::time::Sleep;

use super::{
    error::reported,
    wire::{Choices, Details},
};
use crate::{
    error::{Error, ErrorKind, Result, Retry, Work},
    provider::{
        sse::{Decoder, Event},
        transport::BodyStream,
    },
    types::{ChatChunk, RawObject, RawValue, Usage},
};

/// How long the end of the body is awaited after `[DONE]`, so that the connection can be used again.
const LINGER: Duration = Duration::from_millis(50);

/// The chunks of an answer. Pulls from the connection only when polled, so a slow reader slows the provider.
pub(super) struct Chunks {
    body: BodyStream,
    decoder: Decoder,
    /// Whether the caller asked for usage: if not, no `usage` member is sent on.
    include_usage: bool,
    /// Choices that have not finished.
    unfinished: u64,
    secrets: Arc<[SecretString]>,
    begun: bool,
    phase: Phase,
}

enum Phase {
    Reading,
    /// The answer is complete; what still comes is ignored.
    Lingering(Option<Pin<Box<Sleep>>>),
    Over,
}

/// What an event comes to.
enum Found {
    Chunk(ChatChunk),
    Nothing,
    Done,
}

impl Chunks {
    pub(super) fn new(
        body: BodyStream,
        decoder: Decoder,
        include_usage: bool,
        choices: u64,
        secrets: Arc<[SecretString]>,
    ) -> Self {
        Self {
            body,
            decoder,
            include_usage,
            unfinished: choices.max(1),
            secrets,
            begun: false,
            phase: Phase::Reading,
        }
    }

    fn read(&mut self, event: Event) -> Result<Found> {
        let text = event.data.trim_ascii();
        if text.is_empty() {
            return Ok(Found::Nothing);
        }
        if text == b"[DONE]" {
            return Ok(Found::Done);
        }
        let object = RawObject::parse(event.data.clone()).map_err(|error| {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the provider sent an event that is not a JSON object",
            )
            .with_source(error)
        })?;
        if let Some(details) = Details::of(&object) {
            return Err(reported(details, &self.secrets));
        }
        if event.event.as_deref() == Some(b"error") {
            return Err(reported(Details::default(), &self.secrets));
        }
        let choices = match object.get_some("choices") {
            None => Choices::default(),
            // A form that nobody is known to send is passed on unread, as a chunk like others.
            Some(choices) => choices.decode().unwrap_or(Choices {
                count: 1,
                ..Choices::default()
            }),
        };
        let usage = object.get("usage");
        let mut chunk = match usage {
            // Callers that index `choices[0]` never see the usage chunk, so it may keep its member.
            Some(usage) if !self.include_usage && choices.count > 0 => {
                without_usage(&event, &object, usage)
            }
            _ => shared(&event),
        };
        chunk.usage = usage.and_then(Usage::from_openai);
        chunk.finish = choices.finished > 0;
        chunk.without_choices = choices.count == 0;
        chunk.delivered = choices.delivered;
        self.unfinished = self.unfinished.saturating_sub(choices.finished);
        Ok(Found::Chunk(chunk))
    }

    /// The next event that has arrived, if it is worth something. `at_end`: no more bytes will come.
    fn next_event(&mut self, at_end: bool) -> Option<Result<Found>> {
        loop {
            let next = if at_end {
                self.decoder.finish()
            } else {
                self.decoder.next()
            };
            match next?.and_then(|event| self.read(event)) {
                Ok(Found::Nothing) => {}
                found => return Some(found),
            }
        }
    }

    fn incomplete(&self) -> Error {
        Error::new(
            ErrorKind::UpstreamIncomplete,
            "the provider's stream ended before the answer was complete",
        )
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<ChatChunk>>> {
        self.phase = Phase::Over;
        let error = error.with_work(Work::Unknown);
        // Nothing has been delivered yet: a connection lost now is as good as one that was never made.
        let lost = error.kind() == ErrorKind::UpstreamIncomplete && !self.begun;
        Poll::Ready(Some(Err(match lost {
            true => error.with_retry(Retry::Elsewhere),
            false => error,
        })))
    }
}

impl Stream for Chunks {
    type Item = Result<ChatChunk>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Lingering(timer) => match this.body.as_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(_) => this.phase = Phase::Over,
                    Poll::Pending => {
                        let timer =
                            timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
                        if timer.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        this.phase = Phase::Over;
                    }
                },
                Phase::Reading => {
                    let found = match this.next_event(false) {
                        Some(found) => found,
                        None => match this.body.as_mut().poll_next(cx) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(Some(Ok(piece))) => {
                                this.decoder.push(piece);
                                continue;
                            }
                            Poll::Ready(Some(Err(error))) => return this.fail(error),
                            Poll::Ready(None) => match this.next_event(true) {
                                // Half an event means that the rest is missing.
                                Some(Err(error))
                                    if error.kind() == ErrorKind::UpstreamInvalidResponse =>
                                {
                                    let error = this.incomplete().with_source(error);
                                    return this.fail(error);
                                }
                                Some(found) => found,
                                None if this.unfinished == 0 => Ok(Found::Done),
                                None => {
                                    let error = this.incomplete();
                                    return this.fail(error);
                                }
                            },
                        },
                    };
                    match found {
                        Ok(Found::Chunk(chunk)) => {
                            this.begun = true;
                            return Poll::Ready(Some(Ok(chunk)));
                        }
                        Ok(Found::Nothing) => {}
                        Ok(Found::Done) => this.phase = Phase::Lingering(None),
                        Err(error) => return this.fail(error),
                    }
                }
            }
        }
    }
}

/// The chunk with the event's own bytes, where they have the one form that is sent on.
fn shared(event: &Event) -> ChatChunk {
    event
        .raw
        .clone()
        .and_then(ChatChunk::from_frame)
        .unwrap_or_else(|| one_line(&event.data))
}

/// JSON that was checked holds line ends between tokens only, where a space does as well.
fn one_line(json: &[u8]) -> ChatChunk {
    let json = json.trim_ascii();
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return ChatChunk::from_json(json);
    }
    let line: Vec<u8> = json
        .iter()
        .map(|byte| {
            if matches!(byte, b'\n' | b'\r') {
                b' '
            } else {
                *byte
            }
        })
        .collect();
    ChatChunk::from_json(&line)
}

/// The chunk without its `usage` member; every other byte stays (decision 10).
fn without_usage(event: &Event, object: &RawObject, usage: RawValue<'_>) -> ChatChunk {
    let data = &event.data[..];
    match member_span(data, b"usage", usage.range()) {
        Some(span) => {
            let mut json = Vec::with_capacity(data.len());
            json.extend_from_slice(data.get(..span.start).unwrap_or_default());
            json.extend_from_slice(data.get(span.end..).unwrap_or_default());
            one_line(&json)
        }
        // The key is written with escapes.
        None => {
            let mut object = object.clone();
            object.remove("usage");
            one_line(&object.to_bytes())
        }
    }
}

/// The bytes of a member with one of the commas around it, found backwards from its value.
fn member_span(data: &[u8], key: &[u8], value: Range<usize>) -> Option<Range<usize>> {
    let before = data.get(..value.start)?.trim_ascii_end();
    let before = before.strip_suffix(b":")?.trim_ascii_end();
    let before = before.strip_suffix(b"\"")?.strip_suffix(key)?;
    let before = before.strip_suffix(b"\"")?.trim_ascii_end();
    if let Some(before) = before.strip_suffix(b",") {
        return Some(before.len()..value.end);
    }
    let after = data.get(value.end..)?;
    let blank = after.len() - after.trim_ascii_start().len();
    let comma = usize::from(after.get(blank) == Some(&b','));
    Some(before.len()..value.end + (blank + comma) * comma)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
