//! The deadlines of an attempt. Four separate ones: connecting (in the transport), the unary answer or the first chunk,
//! the silence between chunks, and, only where configured, a stream's whole length.

use std::{future::Future, time::Duration};

use futures::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};

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
}

impl Paced {
    /// Bounds a stream that starts now.
    pub fn new(chunks: ChunkStream, timeouts: &Timeouts) -> Self {
        Self {
            chunks,
            idle: timeouts.idle,
            end: timeouts.total.map(|total| Instant::now() + total),
        }
    }

    /// The next chunk.
    pub async fn next(&mut self) -> Option<Result<ChatChunk>> {
        let idle_end = Instant::now() + self.idle;
        let (deadline, total) = match self.end {
            Some(end) if end < idle_end => (end, true),
            _ => (idle_end, false),
        };
        match timeout_at(deadline, self.chunks.next()).await {
            Ok(item) => item,
            Err(_) if total => Some(Err(late(
                "a stream longer than `stream_total_timeout`".into(),
            ))),
            Err(_) => Some(Err(late(format!("nothing for {:?}", self.idle)))),
        }
    }
}
