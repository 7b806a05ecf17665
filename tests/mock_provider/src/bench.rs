//! Canned answers for benchmarks: the upstream must cost next to nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::play::CutShort;

/// What a benchmark upstream answers. A request with `"stream":true` gets the
/// stream; a model name containing `large` the large body; all others the small one.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Bytes of the small body, about.
    pub small: usize,
    /// Bytes of the large body, about.
    pub large: usize,
    /// Content chunks of a stream.
    pub chunks: usize,
    /// Pause between chunks; zero sends them as fast as they are taken.
    pub every: Duration,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            small: 200,
            large: 100 * 1024,
            chunks: 100,
            every: Duration::from_millis(10),
        }
    }
}

/// The bodies, made once.
#[derive(Debug)]
pub(crate) struct Canned {
    small: Bytes,
    large: Bytes,
    chunk: Bytes,
    last: Bytes,
    chunks: usize,
    every: Duration,
}

impl Canned {
    pub(crate) fn new(bench: &Bench) -> Self {
        let head = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795380238,"model":"bench""#;
        let chunk = format!(
            "data: {head},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word \"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
        );
        let last = format!(
            "data: {head},\"choices\":[{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":null}}\n\n\
             data: {head},\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{n},\"total_tokens\":{t}}}}}\n\n\
             data: [DONE]\n\n",
            n = bench.chunks,
            t = bench.chunks + 7
        );
        Self {
            small: unary(bench.small),
            large: unary(bench.large),
            chunk: chunk.into(),
            last: last.into(),
            chunks: bench.chunks,
            every: bench.every,
        }
    }

    pub(crate) fn stream(&self) -> Paced {
        let pace = (!self.every.is_zero()).then(|| {
            let mut pace = interval(self.every);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Paced {
            chunk: self.chunk.clone(),
            last: Some(self.last.clone()),
            left: self.chunks,
            pace,
        }
    }

    pub(crate) fn unary(&self, large: bool) -> Bytes {
        if large {
            self.large.clone()
        } else {
            self.small.clone()
        }
    }
}

/// A chat completion of about `bytes` bytes.
fn unary(bytes: usize) -> Bytes {
    let body = |content: &str| {
        format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1795380238,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}}}"#
        )
    };
    let rest = bytes.saturating_sub(body("").len()).max(2);
    body(&"word ".repeat(rest / 5 + 1)[..rest]).into()
}

/// What a request asks for, found without parsing: (stream, large).
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) stream: bool,
    pub(crate) large: bool,
    started: bool,
}

impl Scan {
    pub(crate) fn feed(&mut self, data: &[u8]) {
        if !std::mem::replace(&mut self.started, true) {
            // The model's name comes early in every client's body.
            let start = data.get(..data.len().min(256)).unwrap_or_default();
            self.large = memmem::find(start, b"large").is_some();
        }
        if !self.stream {
            self.stream = memmem::find(data, b"\"stream\":true").is_some()
                || memmem::find(data, b"\"stream\": true").is_some();
        }
    }
}

/// Equal chunks at an even pace, then the end of the stream.
#[derive(Debug)]
pub(crate) struct Paced {
    chunk: Bytes,
    last: Option<Bytes>,
    left: usize,
    pace: Option<Interval>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.left > 0 {
            if let Some(pace) = self.pace.as_mut() {
                ready!(pace.poll_tick(cx));
            }
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))));
        }
        Poll::Ready(self.last.take().map(|last| Ok(Frame::data(last))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
