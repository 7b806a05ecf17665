//! The end of a request, exactly once: on success, on an error, or because the caller dropped it.
//!
//! A [`Record`] is made when a request is admitted and leaves exactly one row, whatever happens to it: axum drops the
//! handler of a client that went away, so the row is written from `Drop` too. Writing it is an append to the spool
//! (`billing/`) and does not wait for anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;

use super::{assemble::Turning, execute::Opened, turn::Reply};
use crate::{
    billing::Entry,
    engine::Inner,
    error::{Error, ErrorKind, Origin, Result, Work},
    resilience::timeout::Paced,
    routing::{InFlight, Route, Target},
    telemetry::metrics::Finished,
    types::{
        ChatChunk, ChatRequest, LogRow, RequestId, Status, Usage, UsageSource,
        log::{Attempt, Candidate, rfc3339},
        reply::{ChunkStream, TextSize},
    },
};

/// The one row of a request in the making.
pub(crate) struct Record {
    inner: Arc<Inner>,
    id: RequestId,
    started: Instant,
    row: LogRow,
    entry: Option<Entry>,
    waited: Duration,
    attempt_started: Option<Instant>,
    first_chunk: Option<Duration>,
    answered: bool,
    gone: Option<Arc<AtomicBool>>,
    ended: bool,
}

impl Record {
    pub fn new(inner: Arc<Inner>, id: RequestId, started: Instant, row: LogRow) -> Self {
        inner.entered();
        Self {
            inner,
            id,
            started,
            row,
            entry: None,
            waited: Duration::ZERO,
            attempt_started: None,
            first_chunk: None,
            answered: false,
            gone: None,
            ended: false,
        }
    }

    /// Writes the intent: what the row is if the process dies now.
    pub fn begin(&mut self) -> Result<()> {
        self.row.usage_source = UsageSource::Partial;
        self.entry = Some(self.inner.ledger.begin(&self.row)?);
        self.row.usage_source = UsageSource::Counted;
        Ok(())
    }

    pub fn request_id(&self) -> RequestId {
        self.id
    }

    pub fn attempts(&self) -> u32 {
        self.row.attempts
    }

    /// The flag that tells that the caller has gone while the call goes on.
    pub fn gone_when(&mut self, gone: Arc<AtomicBool>) {
        self.gone = Some(gone);
    }

    pub fn is_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.load(Relaxed))
    }

    pub fn session(&mut self, id: Option<&str>) {
        self.row.session_id = id.map(Arc::from);
    }

    /// Notes why each target was taken or not.
    pub fn chose(&mut self, route: &Route, candidates: Vec<Candidate>) {
        let decision = self.row.decision.get_or_insert_default();
        decision.source = route.source.into();
        decision.candidates = candidates;
    }

    /// Notes that an attempt begins.
    pub fn attempting(&mut self, target: &Target) {
        self.row.attempts += 1;
        self.row.provider_id = Arc::clone(&target.account.id);
        self.attempt_started = Some(Instant::now());
        let at = self.row_ms(self.started.elapsed());
        let decision = self.row.decision.get_or_insert_default();
        decision.provider_id = Arc::clone(&target.account.id);
        decision.model_name = Arc::clone(&target.upstream_model);
        decision.endpoint = target.account.provider.endpoint().to_owned();
        decision.weight = target.rule_weight;
        decision.selected_at = at;
    }

    fn row_ms(&self, after: Duration) -> String {
        rfc3339(self.id.unix_ms() + i64::try_from(after.as_millis()).unwrap_or(0))
    }

    /// Notes how an attempt ended: with an answer, or a stream's first chunk.
    pub fn attempted(&mut self, target: &Target, latency: Duration, error: Option<&Error>) {
        let started_ms = self.attempt_started.take().map_or(0, |started| {
            ms(started.saturating_duration_since(self.started))
        });
        self.waited += latency;
        self.answered |= error.is_none();
        let decision = self.row.decision.get_or_insert_default();
        decision.latency_ms = ms(latency);
        decision.attempts.push(Attempt {
            provider_id: Arc::clone(&target.account.id),
            model_name: Arc::clone(&target.upstream_model),
            started_ms,
            latency_ms: ms(latency),
            outcome: error.map_or("ok".into(), |error| error.kind().code().into()),
            upstream_status: error
                .and_then(|error| error.upstream())
                .map(|upstream| upstream.status),
            error: error.map(|error| error.message().to_owned()),
        });
    }

    pub fn first_chunk(&mut self) {
        self.first_chunk = Some(self.started.elapsed());
    }

    /// Notes the tokens used.
    pub fn used(&mut self, usage: Usage, source: UsageSource) {
        self.row.input_tokens = usage.input_tokens;
        self.row.output_tokens = usage.output_tokens;
        self.row.cached_tokens = usage.cached_tokens;
        self.row.reasoning_tokens = usage.reasoning_tokens;
        self.row.usage_source = source;
    }

    /// Ends the request: with an answer, or with this error.
    pub fn end(&mut self, error: Option<&Error>) {
        let status = match error {
            None if self.is_gone() => Status::Cancelled,
            None => Status::Success,
            Some(error) if self.row.attempts == 0 && error.kind().origin() != Origin::Upstream => {
                Status::Rejected
            }
            Some(error) if error.kind() == ErrorKind::Cancelled => Status::Cancelled,
            Some(_) => Status::Error,
        };
        if let Some(error) = error {
            self.row.error_code = Some(error.code().to_owned());
            self.row.error_message = Some(error.message().to_owned());
        }
        self.settle(status);
    }

    fn settle(&mut self, status: Status) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let duration = self.started.elapsed();
        self.row.status = status;
        self.row.latency_ms = ms(duration);
        self.row.ttft_ms = self.first_chunk.map(ms);
        match self.entry.take() {
            Some(entry) => entry.settle(&self.row),
            // What cannot be written is logged there; a refusal has nothing else to lose.
            None => drop(self.inner.ledger.record(&self.row)),
        }
        let row = &self.row;
        let usage = Usage {
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            cached_tokens: row.cached_tokens,
            cache_write_tokens: 0,
            reasoning_tokens: row.reasoning_tokens,
        };
        // A stream is waited for to its end; what is ours is what lies before the first chunk.
        let ours = self
            .first_chunk
            .unwrap_or(duration)
            .saturating_sub(self.waited);
        let finished = Finished {
            status,
            duration,
            overhead: ours,
            first_token: self.first_chunk,
            usage,
        };
        self.inner
            .metrics
            .finished(&row.provider_id, &row.model_name, self.answered, &finished);
        self.inner.left();
        tracing::info!(
            target: "lyss::request",
            request_id = %row.request_id,
            user_id = %row.user_id,
            model = %row.model_name,
            provider = %row.provider_id,
            status = status.as_str(),
            code = row.error_code.as_deref(),
            stream = row.stream,
            attempts = row.attempts,
            input_tokens = row.input_tokens,
            output_tokens = row.output_tokens,
            latency_ms = row.latency_ms,
            "request"
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            // Dropped in the middle: the caller went away, or its deadline passed.
            self.row
                .error_code
                .get_or_insert_with(|| ErrorKind::Cancelled.code().to_owned());
            self.row.usage_source = UsageSource::Partial;
            self.settle(Status::Cancelled);
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The usage of a call whose provider reported none, as far as it can be told from the texts.
pub(crate) fn count(request: &ChatRequest, delivered: TextSize) -> Usage {
    let prompt = request
        .body()
        .get("messages")
        .map_or(TextSize::default(), |messages| {
            TextSize::of(messages.text())
        });
    Usage {
        input_tokens: prompt.tokens(),
        output_tokens: delivered.tokens(),
        ..Usage::default()
    }
}

/// A stream that is being delivered.
pub(crate) struct Running {
    pub inner: Arc<Inner>,
    pub record: Record,
    pub turn: Turning,
    pub request: ChatRequest,
    pub opened: Opened,
    pub in_flight: InFlight,
}

/// The chunks of a stream on their way to the caller.
///
/// Usage is read on the way; the usage chunk is shown only to who asked for it. In a session the `finish_reason` chunk
/// and what follows are held back until the turn is durable (clients stop at `finish_reason`), and the end is an error
/// if it cannot be stored.
struct Delivery {
    inner: Arc<Inner>,
    record: Record,
    turn: Turning,
    request: ChatRequest,
    first: Option<ChatChunk>,
    rest: Paced,
    _in_flight: InFlight,
    usage: Option<Usage>,
    delivered: TextSize,
    reply: Reply,
    held: std::collections::VecDeque<ChatChunk>,
    finishing: bool,
    over: bool,
}

/// Wraps a stream, so that it ends in exactly one row.
pub(crate) fn metered(running: Running) -> ChunkStream {
    let Running {
        inner,
        record,
        turn,
        request,
        opened,
        in_flight,
    } = running;
    let delivery = Delivery {
        inner,
        record,
        turn,
        request,
        first: Some(opened.first),
        rest: opened.rest,
        _in_flight: in_flight,
        usage: None,
        delivered: TextSize::default(),
        reply: Reply::default(),
        held: std::collections::VecDeque::new(),
        finishing: false,
        over: false,
    };
    futures::stream::unfold(delivery, |mut delivery| async move {
        delivery.next().await.map(|item| (item, delivery))
    })
    .boxed()
}

impl Delivery {
    async fn next(&mut self) -> Option<Result<ChatChunk>> {
        loop {
            if self.over {
                return self.held.pop_front().map(Ok);
            }
            let item = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => self.rest.next().await,
            };
            match item {
                Some(Ok(chunk)) => {
                    if let Some(chunk) = self.pass(chunk) {
                        return Some(Ok(chunk));
                    }
                }
                Some(Err(error)) => {
                    self.settle_usage(UsageSource::Partial);
                    self.over = true;
                    self.held.clear();
                    // Some of it has been delivered, so it has been worked on.
                    let error = error.with_work(Work::Unknown);
                    self.record.end(Some(&error));
                    return Some(Err(error));
                }
                None => {
                    self.settle_usage(UsageSource::Counted);
                    self.over = true;
                    if let Err(error) = self.store().await {
                        self.held.clear();
                        self.record.end(Some(&error));
                        return Some(Err(error));
                    }
                    self.record.end(None);
                }
            }
        }
    }

    /// Reads what a chunk says; gives it back unless it is held back or not for the caller.
    fn pass(&mut self, chunk: ChatChunk) -> Option<ChatChunk> {
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
        }
        self.delivered = self.delivered.plus(chunk.delivered);
        if self.turn.in_session() {
            self.reply.push(&chunk.json());
            self.finishing |= chunk.finish;
        }
        if chunk.without_choices && chunk.usage.is_some() && !self.request.include_usage() {
            return None;
        }
        if self.finishing {
            self.held.push_back(chunk);
            return None;
        }
        Some(chunk)
    }

    async fn store(&mut self) -> Result<()> {
        if !self.turn.in_session() {
            return Ok(());
        }
        let reply = std::mem::take(&mut self.reply).into_message();
        self.turn
            .append(&self.inner, self.record.request_id(), reply)
            .await
    }

    fn settle_usage(&mut self, otherwise: UsageSource) {
        match self.usage {
            Some(usage) => self.record.used(usage, UsageSource::Reported),
            None => self
                .record
                .used(count(&self.request, self.delivered), otherwise),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.over {
            // Cumulative usage of a cut stream is what the provider had counted so far.
            self.settle_usage(UsageSource::Partial);
            if self.usage.is_some() {
                self.record.row.usage_source = UsageSource::Partial;
            }
        }
    }
}
