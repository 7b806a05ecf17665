//! The deadlines of an attempt. Four separate ones: connecting (in the transport), the unary answer or the first chunk,
//! the silence between chunks, and, only where configured, a stream's whole length.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::{
    error::{Error, ErrorKind, Result, Retry, Work},
    types::{ChatChunk, reply::ChunkStream},
};

/// The deadlines in force for one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A unary answer, all of it.
    pub unary: Duration,
    /// The first chunk of a stream.
    pub first_chunk: Duration,
    /// Between two chunks. Comments are no chunks.
    pub idle: Duration,
    /// A whole stream; `None` for no limit.
    pub total: Option<Duration>,
}

/// Bounds a unary call. A provider that was late may have charged: not tried again.
pub async fn unary<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(late(format!("no answer within {limit:?}"))),
    }
}

/// Bounds the wait for a first chunk. Another target may be tried (decision 13).
pub async fn first_chunk<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, call).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Err(late(format!("no first chunk within {limit:?}")).with_retry(Retry::Elsewhere))
        }
    }
}

fn late(what: String) -> Error {
    Error::new(
        ErrorKind::UpstreamTimeout,
        format!("the provider sent {what}"),
    )
    .with_work(Work::Unknown)
}

/// The chunks of a stream under its idle and total deadlines.
pub struct Paced {
    chunks: ChunkStream,
    idle: Duration,
    end: Option<Instant>,
    /// Follows the deadline lazily: to move it with every chunk would cost as much as the rest of the chunk.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    /// Bounds a stream that starts now.
    pub fn new(chunks: ChunkStream, timeouts: &Timeouts) -> Self {
        Self {
            chunks,
            idle: timeouts.idle,
            end: timeouts.total.map(|total| Instant::now() + total),
            timer: None,
        }
    }

    /// The next chunk.
    pub async fn next(&mut self) -> Option<Result<ChatChunk>> {
        let idle_end = Instant::now() + self.idle;
        let (deadline, total) = match self.end {
            Some(end) if end < idle_end => (end, true),
            _ => (idle_end, false),
        };
        match std::future::poll_fn(|cx| self.poll(cx, deadline)).await {
            Some(item) => item,
            None if total => Some(Err(late(
                "a stream longer than `stream_total_timeout`".into(),
            ))),
            None => Some(Err(late(format!("nothing for {:?}", self.idle)))),
        }
    }

    /// The next item, or nothing at the deadline.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<Option<Option<Result<ChatChunk>>>> {
        if let Poll::Ready(item) = self.chunks.as_mut().poll_next(cx) {
            return Poll::Ready(Some(item));
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(deadline);
        }
    }
}
