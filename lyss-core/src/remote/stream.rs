//! A streamed answer: the service's events, passed on as they are.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use tokio::time::{Instant, Sleep};

use super::{exchange::silent, refusal};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    provider::{
        sse::{Decoder, Event},
        transport::BodyStream,
    },
    resilience::stream_buffer::StreamBuffer,
    types::{ChatChunk, RawObject, RequestId, Usage},
};

/// How long the end of the body is awaited after `[DONE]`, so that the connection can be used again.
const LINGER: Duration = Duration::from_millis(50);

/// The chunks of an answer. Pulls from the connection only when polled; dropping it closes the exchange, which is how
/// the service learns that nobody reads on.
pub(super) struct Chunks {
    body: BodyStream,
    decoder: Decoder,
    buffer: StreamBuffer,
    request_id: Option<RequestId>,
    /// How long nothing may come; comments count.
    patience: Duration,
    due: Instant,
    /// Follows `due` lazily: moving it with every piece would cost more than the piece.
    timer: Pin<Box<Sleep>>,
    phase: Phase,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Reading,
    /// The answer is complete; the end of the body is awaited for a moment.
    Lingering,
    Over,
}

impl Chunks {
    pub(super) fn new(
        body: BodyStream,
        max_event: usize,
        buffer: &StreamBuffer,
        request_id: Option<RequestId>,
        patience: Duration,
    ) -> Self {
        let due = Instant::now() + patience;
        Self {
            body,
            decoder: Decoder::new(max_event).within(buffer),
            buffer: buffer.clone(),
            request_id,
            patience,
            due,
            timer: Box::pin(tokio::time::sleep_until(due)),
            phase: Phase::Reading,
        }
    }

    /// A chunk; `None` for the end of a complete answer.
    fn read(&self, event: Event) -> Result<Option<ChatChunk>> {
        if event.data.trim_ascii() == b"[DONE]" {
            return Ok(None);
        }
        if let Some(error) = refusal::event(&event.data) {
            return Err(error);
        }
        let odd = || {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the Lyss service sent an event that is not a JSON object",
            )
            .with_work(Work::Unknown)
        };
        let object =
            RawObject::parse(event.data.clone()).map_err(|error| odd().with_source(error))?;
        let frame = event.raw.and_then(ChatChunk::from_frame);
        let mut chunk = frame.unwrap_or_else(|| ChatChunk::from_json(&event.data));
        chunk.usage = object.get("usage").and_then(Usage::from_openai);
        let choices = object.get_some("choices");
        // A form that nobody is known to send is passed on unread.
        let choices: Choices = choices.map_or(Ok(Choices::default()), |choices| {
            choices.decode().or(Ok::<_, Error>(Choices {
                count: 1,
                finished: false,
            }))
        })?;
        chunk.finish = choices.finished;
        chunk.without_choices = choices.count == 0;
        chunk.held_in(&self.buffer).map(Some)
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<ChatChunk>>> {
        self.phase = Phase::Over;
        let id = error.request_id().or(self.request_id);
        Poll::Ready(Some(Err(error.with_request_id(id))))
    }

    fn found(&mut self, event: Result<Event>) -> Poll<Option<Result<ChatChunk>>> {
        match event.and_then(|event| self.read(event)) {
            Ok(Some(chunk)) => Poll::Ready(Some(Ok(chunk))),
            Ok(None) => {
                self.phase = Phase::Lingering;
                self.timer.as_mut().reset(Instant::now() + LINGER);
                Poll::Pending
            }
            Err(error) => self.fail(error),
        }
    }

    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<ChatChunk>>> {
        loop {
            if let Some(event) = self.decoder.next() {
                return self.found(event);
            }
            match self.body.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    self.due = Instant::now() + self.patience;
                    self.decoder.push(piece);
                }
                Poll::Ready(Some(Err(error))) => return self.fail(cut().with_source(error)),
                Poll::Ready(None) => return self.fail(cut()),
                Poll::Pending => {
                    while self.timer.as_mut().poll(cx).is_ready() {
                        if self.due <= Instant::now() {
                            return self.fail(silent(self.patience));
                        }
                        self.timer.as_mut().reset(self.due);
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Stream for Chunks {
    type Item = Result<ChatChunk>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.phase == Phase::Reading {
            let found = this.poll_reading(cx);
            if this.phase != Phase::Lingering {
                return found;
            }
        }
        while this.phase == Phase::Lingering {
            match this.body.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => this.phase = Phase::Over,
                Poll::Pending if this.timer.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending => this.phase = Phase::Over,
            }
        }
        Poll::Ready(None)
    }
}

/// A stream that ended without saying that it is complete.
fn cut() -> Error {
    Error::new(
        ErrorKind::UpstreamIncomplete,
        "the Lyss service's stream ended before the answer was complete",
    )
    .with_work(Work::Unknown)
}

/// What the choices of a chunk come to.
#[derive(Default)]
struct Choices {
    count: u64,
    finished: bool,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Choice {
            finish_reason: Option<IgnoredAny>,
        }
        struct Sum;
        impl<'de> Visitor<'de> for Sum {
            type Value = Choices;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of choices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut choices: A) -> Result<Choices, A::Error> {
                let mut sum = Choices::default();
                while let Some(choice) = choices.next_element::<Choice>()? {
                    sum.count += 1;
                    sum.finished |= choice.finish_reason.is_some();
                }
                Ok(sum)
            }
        }
        deserializer.deserialize_seq(Sum)
    }
}
