//! Server-sent events: chunks go out as they come.
//!
//! The body polls through to the stream: there is no channel and no task between them, so a client that reads
//! slowly slows the upstream read, and a client that goes away drops the stream.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, header};
use http_body::Frame;
use lyss_core::{
    Error, Result,
    types::{ChatStream, RequestId, reply::ChunkStream},
};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    RouterOptions,
    edge::seldom::Seldom,
    routes::{describe, internal, shutting_down},
};

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The answer to a streamed call.
///
/// Until `keep_alive` has passed a failure is an ordinary error answer; after that the status is committed.
pub(crate) async fn response(
    mut opening: BoxFuture<'static, Result<ChatStream>>,
    id: RequestId,
    options: &RouterOptions,
) -> Result<Response> {
    let (info, source, due) = match tokio::time::timeout(options.keep_alive, opening.as_mut()).await
    {
        Ok(stream) => {
            let ChatStream { info, chunks } = stream?;
            let due = Instant::now() + options.keep_alive;
            (Some(info), Source::Chunks(chunks), due)
        }
        Err(_) => (None, Source::Opening(opening), Instant::now()),
    };
    let body = Events {
        source,
        id,
        period: options.keep_alive,
        due,
        timer: Box::pin(tokio::time::sleep_until(due)),
        cut: Seldom::new(Box::pin(
            options.shutdown.cut_token().clone().cancelled_owned(),
        )),
    };
    let mut response = Response::new(Body::new(body));
    if let Some(info) = info {
        describe(&mut response, &info);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

enum Source {
    /// The first chunk is awaited.
    Opening(BoxFuture<'static, Result<ChatStream>>),
    Chunks(ChunkStream),
    Finished,
}

struct Events {
    source: Source,
    id: RequestId,
    period: Duration,
    /// When silence has lasted long enough for a comment. The timer follows it lazily: moving it with every chunk
    /// would cost more than the chunk.
    due: Instant,
    timer: Pin<Box<Sleep>>,
    cut: Seldom<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Events {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let next = match &mut self.source {
                Source::Finished => return Poll::Ready(None),
                Source::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => {
                        self.source = Source::Chunks(stream.chunks);
                        continue;
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                    Poll::Pending => Poll::Pending,
                },
                Source::Chunks(chunks) => chunks.as_mut().poll_next(cx),
            };
            return match next {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.due = Instant::now() + self.period;
                    Poll::Ready(Some(chunk.frame()))
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error),
                Poll::Ready(None) => {
                    self.source = Source::Finished;
                    Poll::Ready(Some(DONE))
                }
                Poll::Pending => self.poll_silence(cx),
            };
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if Pin::new(&mut self.cut).poll(cx).is_ready() {
            return self.fail(&shutting_down());
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.due <= now {
                self.due = now + self.period;
                self.timer.as_mut().reset(self.due);
                // Registers the timer: the next poll may come from nowhere else.
                let _ = self.timer.as_mut().poll(cx);
                return Poll::Ready(Some(KEEP_ALIVE));
            }
            self.timer.as_mut().reset(self.due);
        }
        Poll::Pending
    }

    /// One error event and the end, without `[DONE]`: SDKs take a clean end for a complete answer.
    fn fail(&mut self, error: &Error) -> Poll<Option<Bytes>> {
        self.source = Source::Finished;
        let id = error.request_id().unwrap_or(self.id);
        let json = error.to_json(Some(&id.to_string()));
        Poll::Ready(Some(format!("data: {json}\n\n").into()))
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let events = self.get_mut();
        // A panic must not take the other streams of an HTTP/2 connection with it.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| events.poll_event(cx)))
            .unwrap_or_else(|_| events.fail(&internal()));
        polled.map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Finished)
    }
}
