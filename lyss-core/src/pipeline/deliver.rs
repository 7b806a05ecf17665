//! A stream on its way to the caller, from its first chunk to its end, error or drop.
//!
//! Usage is read on the way; the usage chunk is shown only to who asked for it. In a session the `finish_reason` chunk
//! and what follows are held back until the turn is durable (clients stop at `finish_reason`), and the end is an error
//! if it cannot be stored. So it is with an idempotency key, until the answer is kept; a caller that leaves such a
//! stream is expected to come back for it, so that it goes on for a while. How the stream ends, not how it begins, tells whether the provider is well.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::{
    assemble::Turning, count, execute::Opened, finish::Record, once::Once, prepare::Prepared,
    recall::Remembering, turn::Reply,
};
use crate::{
    engine::Inner,
    error::{Error, ErrorKind, Result, Work},
    resilience::{stream_buffer::Share, timeout::Paced},
    routing::{InFlight, Target},
    types::{
        ChatChunk, ChatRequest, OnDisconnect, Usage, UsageSource, delivered::Delivered,
        reply::ChunkStream,
    },
};

/// How often it is recorded how far an answer has come, for the case that this process dies.
const RECORD_EVERY: Duration = Duration::from_millis(500);

/// How long the end of a stream is waited for whose caller left at `finish_reason`: the usage chunk is all that is
/// missing.
const READ_OUT: Duration = Duration::from_secs(2);

/// A stream that is being delivered.
pub(crate) struct Running {
    pub inner: Arc<Inner>,
    /// What becomes of it when its caller leaves.
    pub on_disconnect: OnDisconnect,
    pub record: Record,
    pub once: Once,
    pub prepared: Prepared,
    pub opened: Opened,
    pub target: Arc<Target>,
    pub in_flight: InFlight,
}

/// Wraps a stream, so that it ends in exactly one row.
pub(crate) fn deliver(running: Running) -> ChunkStream {
    let Running {
        inner,
        on_disconnect,
        record,
        once,
        prepared,
        opened,
        target,
        in_flight,
    } = running;
    let Prepared {
        turn,
        remembering,
        request,
        ..
    } = prepared;
    let kept = inner.stream_buffer.share();
    let delivery = Delivery {
        inner,
        on_disconnect,
        record,
        once,
        turn,
        remembering,
        request,
        target,
        first: Some(opened.first),
        rest: opened.rest,
        in_flight,
        usage: None,
        delivered: Arc::default(),
        reply: Reply::default(),
        held: VecDeque::new(),
        held_bytes: 0,
        kept,
        finished: false,
        pieces: 0,
        recorded: Instant::now(),
        exhausted: false,
        drained: 0,
        over: false,
    };
    if delivery.once.is_held() {
        return detached(delivery);
    }
    futures::stream::unfold(Guard(Some(Box::new(delivery))), |mut guard| async move {
        let item = match &mut guard.0 {
            Some(delivery) => delivery.next().await,
            None => None,
        };
        item.map(|item| (item, guard))
    })
    .boxed()
}

/// Chunks between the task of a detached delivery and its caller.
const AHEAD: usize = 4;

/// A delivery in a task of its own, which goes on for a while when its caller leaves: whoever has sent an idempotency
/// key is expected to come back for the answer.
fn detached(mut delivery: Delivery) -> ChunkStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let drain = delivery.inner.settings().config.idempotency.drain;
    let (tasks, cancel) = (delivery.inner.tasks().clone(), delivery.inner.cancelled());
    tasks.spawn(async move {
        let run = async {
            while let Some(item) = delivery.next().await {
                // Nobody reads any more: what is sent is kept all the same.
                let _ = sender.send(Some(item)).await;
            }
            let _ = sender.send(None).await;
        };
        let patience = async {
            sender.closed().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            biased;
            () = run => {}
            () = patience => {}
            () = cancel.cancelled() => {}
        }
        if !delivery.over {
            delivery.abandon();
        }
    });
    futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(item) => item.map(|item| (item, Some(receiver))),
            // The task was ended in the middle: a clean end would be taken for a complete answer.
            None => Some((Err(ended()), None)),
        }
    })
    .boxed()
}

fn ended() -> Error {
    Error::new(
        ErrorKind::ShuttingDown,
        "the gateway ended the call before its answer was complete",
    )
    .with_work(Work::Unknown)
}

struct Delivery {
    inner: Arc<Inner>,
    on_disconnect: OnDisconnect,
    record: Record,
    once: Once,
    turn: Turning,
    remembering: Remembering,
    request: ChatRequest,
    target: Arc<Target>,
    first: Option<ChatChunk>,
    rest: Paced,
    in_flight: InFlight,
    usage: Option<Usage>,
    /// Kept while no usage is reported.
    delivered: Arc<Delivered>,
    reply: Reply,
    held: VecDeque<ChatChunk>,
    held_bytes: usize,
    /// What the reply and the held chunks take of the budget of all streams.
    kept: Share,
    /// Whether a `finish_reason` has come.
    finished: bool,
    /// Pieces of text that have come.
    pieces: u64,
    /// When it was last recorded how far the answer has come.
    recorded: Instant,
    /// Whether the provider's stream has ended.
    exhausted: bool,
    /// Tokens read since the caller has gone.
    drained: u64,
    /// Whether the row is written.
    over: bool,
}

impl Delivery {
    async fn next(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            if self.over {
                return self.held.pop_front().map(Ok);
            }
            let item = match self.first.take() {
                Some(first) => Some(Ok(first)),
                // This may be called again when it was dropped while the end was being handled.
                None if self.exhausted => None,
                None => self.rest.next().await,
            };
            self.exhausted |= item.is_none();
            let passed = match item {
                Some(Ok(chunk)) => self.pass(chunk),
                Some(Err(error)) => Err(error),
                None => {
                    self.target.account.health.succeeded();
                    let stored = match self.settle_usage(UsageSource::Counted).await {
                        Ok(()) => self.store().await,
                        Err(error) => Err(error),
                    };
                    match stored {
                        Ok(()) => {
                            for chunk in &self.held {
                                self.once.send(chunk);
                            }
                            self.once.settle_stream(None).await;
                            self.end(Ok(()), |record| record.end(None));
                            if let Err(error) = self.inner.ledger.kept().await {
                                self.held.clear();
                                return Some(Err(error));
                            }
                        }
                        Err(error) => {
                            self.once.settle_stream(Some(&error)).await;
                            self.end(Err(error.kind()), |record| record.end(Some(&error)));
                            return Some(Err(error));
                        }
                    }
                    continue;
                }
            };
            match passed {
                Ok(Some(chunk)) => {
                    self.once.send(&chunk);
                    return Some(Ok(chunk));
                }
                Ok(None) => {}
                Err(error) => {
                    // Some of it has been delivered, so it has been worked on.
                    let error = error.with_work(Work::Unknown);
                    self.target.account.health.failed(&error);
                    // The first error is told.
                    let _ = self.settle_usage(UsageSource::Partial).await;
                    self.once.settle_stream(Some(&error)).await;
                    self.end(Err(error.kind()), |record| record.end(Some(&error)));
                    return Some(Err(error));
                }
            }
        }
    }

    fn end(&mut self, outcome: Result<(), ErrorKind>, settle: impl FnOnce(&mut Record)) {
        self.over = true;
        if outcome.is_err() {
            self.held.clear();
            // The stream may be kept a while by who reads it; the session's next turn need not wait for that.
            self.turn.give_up();
        }
        settle(&mut self.record);
    }

    /// Reads what a chunk says; gives it back unless it is held back or not for the caller.
    ///
    /// # Errors
    /// `overloaded` if all streams together hold too much.
    fn pass(&mut self, mut chunk: ChatChunk) -> Result<Option<ChatChunk>> {
        if self.record.is_gone() && self.on_disconnect.tokens().is_some() {
            let counter = count::counter(&self.inner, &self.target);
            let texts = chunk.delivered.iter().map(|piece| &*piece.text);
            self.drained += texts.map(|text| u64::from(counter.text(text))).sum::<u64>();
        }
        let delivered = Arc::make_mut(&mut self.delivered);
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
            delivered.forget();
        } else if self.usage.is_none() {
            for piece in std::mem::take(&mut chunk.delivered) {
                self.pieces += u64::from(!piece.text.is_empty());
                delivered.push(piece);
            }
            if self.recorded.elapsed() >= RECORD_EVERY {
                self.recorded = Instant::now();
                // A piece of text is a token at least.
                self.record.delivered(self.pieces);
            }
        }
        if self.record.is_gone() {
            return match self.on_disconnect.tokens() {
                Some(most) if self.drained >= most => Err(Error::new(
                    ErrorKind::Cancelled,
                    "the caller has gone, and as much was read as `on_disconnect` says",
                )),
                _ => Ok(None),
            };
        }
        let in_session = self.turn.in_session();
        if in_session || self.remembering.wants_reply() {
            self.reply.push(&chunk.json());
        }
        // After the finish a chunk without choices is the usage chunk, whether its numbers are believed or not.
        let is_usage = chunk.without_choices && (chunk.usage.is_some() || self.finished);
        self.finished |= chunk.finish;
        if is_usage && !self.request.include_usage() {
            return Ok(None);
        }
        let chunk = chunk.held_in(&self.inner.stream_buffer)?;
        if !in_session && !self.once.is_held() && !self.inner.ledger.keeps_more() {
            return Ok(Some(chunk));
        }
        let hold_back = self.finished;
        if hold_back {
            self.held_bytes += chunk.frame().len();
        }
        let reply = match in_session {
            true => self.reply.size(),
            false => 0,
        };
        self.kept.hold(self.held_bytes.saturating_add(reply))?;
        if hold_back {
            self.held.push_back(chunk);
            return Ok(None);
        }
        Ok(Some(chunk))
    }

    async fn store(&mut self) -> Result<()> {
        if self.record.is_gone() {
            // Nobody has seen this answer: it is no turn.
            return Ok(());
        }
        let id = self.record.request_id();
        let reply = std::mem::take(&mut self.reply);
        if self.turn.in_session() {
            let reply = reply.into_message()?;
            self.turn.append(&self.inner, id, reply.clone()).await?;
            self.remembering.remember(id, &reply);
        } else if self.remembering.wants_reply()
            && let Ok(reply) = reply.into_message()
        {
            self.remembering.remember(id, &reply);
        }
        Ok(())
    }

    async fn settle_usage(&mut self, otherwise: UsageSource) -> Result<()> {
        match self.usage {
            Some(usage) => {
                count::reported_at_end(&self.inner, &self.target, &self.request, usage);
                self.record.used(usage, UsageSource::Reported)
            }
            None => {
                let counter = count::counter(&self.inner, &self.target);
                let (request, delivered) = (self.request.clone(), Arc::clone(&self.delivered));
                let counted = count::of_delivered(counter, request, delivered).await;
                self.record.used(counted, otherwise)
            }
        }
    }

    /// Ends a stream whose caller is gone: what the provider had counted so far, else what was delivered. The call
    /// upstream ends at once; counting may take its time.
    fn abandon(self) {
        let Self {
            inner,
            mut record,
            turn,
            request,
            target,
            rest,
            in_flight,
            usage,
            delivered,
            ..
        } = self;
        drop((rest, in_flight, turn));
        let tasks = inner.tasks().clone();
        let mut settling = Box::pin(async move {
            // Nobody is left to tell of a cost that does not fit.
            let usage = match usage {
                Some(usage) => usage,
                None => {
                    let counter = count::counter(&inner, &target);
                    count::of_delivered(counter, request, delivered).await
                }
            };
            let _ = record.used(usage, UsageSource::Partial);
        });
        let settled = settling.as_mut().now_or_never().is_some();
        // While this thread is falling, the record is to see it: it is dropped here, uncounted.
        if !settled
            && !std::thread::panicking()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            tasks.spawn_on(settling, &runtime);
        }
    }

    /// Reads a stream on whose caller is gone, as far as `on_disconnect` says, so that what it costs is known.
    async fn drain(mut self) {
        let Ok(_place) = Arc::clone(&self.inner.drains).try_acquire_owned() else {
            return self.abandon();
        };
        self.record.has_left();
        // The session's next turn need not wait for an answer that nobody has seen.
        self.turn.give_up();
        self.held.clear();
        let cancel = self.inner.cancelled();
        let time = self.on_disconnect.time().unwrap_or(Duration::MAX);
        let rest = async { while self.next().await.is_some() {} };
        tokio::select! {
            biased;
            () = rest => {}
            () = tokio::time::sleep(time) => {}
            () = cancel.cancelled() => {}
        }
        if !self.over {
            self.abandon();
        }
    }

    /// Ends a stream whose caller has everything but the end.
    async fn read_out(mut self) {
        let rest = async { while let Some(Ok(_)) = self.next().await {} };
        if tokio::time::timeout(READ_OUT, rest).await.is_err() || !self.over {
            let _ = self.settle_usage(UsageSource::Counted).await;
            self.end(Ok(()), |record| record.end(None));
        }
    }
}

/// Ends a delivery that is dropped.
/// Boxed, because the stream's state moves with every chunk.
struct Guard(Option<Box<Delivery>>);

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(delivery) = self.0.take().filter(|delivery| !delivery.over) else {
            return;
        };
        let complete = delivery.finished && !delivery.turn.in_session();
        let drains = delivery.on_disconnect != OnDisconnect::Cancel;
        let tasks = delivery.inner.tasks().clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if complete => {
                tasks.spawn_on(delivery.read_out(), &runtime);
            }
            Ok(runtime) if drains && !std::thread::panicking() => {
                tasks.spawn_on(delivery.drain(), &runtime);
            }
            _ => delivery.abandon(),
        }
    }
}
