//! The end of a request, exactly once: on success, on an error, or because the caller dropped it. (A stream gets here
//! through `deliver.rs`.)
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

use super::charge;
use crate::{
    admission::limit::Admitted,
    billing::Entry,
    budget::Reservation,
    engine::Inner,
    error::{Error, ErrorKind, Origin, Result, Work},
    price::{Price, PriceBook},
    routing::{Route, Target},
    telemetry::requests::Finished,
    types::{
        LogRow, ReplyInfo, RequestId, Status, Usage, UsageSource,
        log::{Attempt, Candidate, ContextDecision, MemoryNote, Reserved, rfc3339},
    },
};

/// The one row of a request in the making.
pub(crate) struct Record {
    inner: Arc<Inner>,
    id: RequestId,
    started: Instant,
    row: LogRow,
    entry: Option<Entry>,
    reservation: Option<Reservation>,
    /// The prices of the whole request, whatever changes while it runs.
    prices: Arc<PriceBook>,
    waited: Duration,
    attempt_started: Option<Instant>,
    /// The price of the target tried last.
    price: Option<Arc<Price>>,
    /// Tokens that the prompt has at least: what a call is known to have used of which nothing else is known.
    input_at_least: u64,
    first_chunk: Option<Duration>,
    answered: bool,
    gone: Option<Arc<AtomicBool>>,
    admitted: Option<Admitted>,
    ended: bool,
}

impl Record {
    pub fn new(inner: Arc<Inner>, id: RequestId, started: Instant, row: LogRow) -> Self {
        inner.entered();
        Self {
            prices: inner.prices.load_full(),
            inner,
            id,
            started,
            row,
            entry: None,
            reservation: None,
            waited: Duration::ZERO,
            attempt_started: None,
            price: None,
            input_at_least: 0,
            first_chunk: None,
            answered: false,
            gone: None,
            admitted: None,
            ended: false,
        }
    }

    /// Takes over what was reserved for the request in its budgets, in this currency. `lowered`: the output limit, where
    /// the budgets left less than was asked for.
    pub fn reserved(
        &mut self,
        reservation: Reservation,
        currency: &Arc<str>,
        lowered: Option<u64>,
    ) {
        self.row.decision.get_or_insert_default().reserved = Some(Reserved {
            amount: reservation.granted(),
            currency: Arc::clone(currency),
            max_tokens: lowered,
        });
        self.reservation = Some(reservation);
    }

    /// Writes that something is about to be reserved for the request. If the process dies before [`Record::begin`], its
    /// row says that it has cost nothing, and by that the reservation ends: without a row it would stay for ever.
    pub fn reserving(&mut self) -> Result<()> {
        let known = std::mem::replace(&mut self.row.usage_source, UsageSource::Partial);
        let begun = self.inner.ledger.begin(&self.row);
        self.row.usage_source = known;
        self.entry = Some(begun?);
        Ok(())
    }

    /// Writes the intent: what the row is if the process dies now. `price`: of the target that is likely.
    pub fn begin(&mut self, input_at_least: u64, price: Option<&Price>) -> Result<()> {
        self.input_at_least = input_at_least;
        charge::at_least(&mut self.row, input_at_least, 0, price);
        let written = match &self.entry {
            Some(entry) => entry.amend(&self.row),
            None => {
                let begun = self.inner.ledger.begin(&self.row);
                begun.map(|entry| self.entry = Some(entry))
            }
        };
        charge::nothing(&mut self.row);
        written
    }

    /// Holds the places under the caller's limits until the end.
    pub fn admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// The prices that hold for the request.
    pub fn prices(&self) -> &Arc<PriceBook> {
        &self.prices
    }

    /// Writes anew what the row is if the process dies now: so many tokens of the answer have been delivered.
    pub fn delivered(&mut self, output_tokens: u64) {
        let Some(entry) = &self.entry else { return };
        let mut row = self.row.clone();
        charge::at_least(
            &mut row,
            self.input_at_least,
            output_tokens,
            self.price.as_deref(),
        );
        charge::sum_up(&mut row, &self.inner.settings().exchange);
        // What was written before still holds; the end is written all the same.
        if let Err(error) = entry.amend(&row) {
            tracing::debug!(%error, "how far an answer has come cannot be recorded");
        }
    }

    pub fn request_id(&self) -> RequestId {
        self.id
    }

    /// The flag that tells that the caller has gone while the call goes on.
    pub fn gone_when(&mut self, gone: Arc<AtomicBool>) {
        self.gone = Some(gone);
    }

    /// The caller has gone; the call goes on.
    pub fn has_left(&mut self) {
        self.gone = Some(Arc::new(AtomicBool::new(true)));
    }

    pub fn is_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.load(Relaxed))
    }

    pub fn session(&mut self, id: Option<&str>) {
        self.row.session_id = id.map(Arc::from);
    }

    /// Notes that the answer is the one that another request was given: nothing is dispatched or charged.
    pub fn replays(&mut self, of: RequestId, info: Option<&ReplyInfo>) {
        let decision = self.row.decision.get_or_insert_default();
        decision.source = "idempotency_key".into();
        decision.replay_of = Some(of.to_string());
        if let Some(info) = info {
            self.row.session_id.clone_from(&info.session_id);
            decision.provider_id = Arc::clone(&info.provider);
            decision.model_name = Arc::clone(&info.upstream_model);
        }
    }

    /// What the caller is told beside the answer.
    pub fn info(&self, target: &Target, upstream_request_id: Option<String>) -> ReplyInfo {
        ReplyInfo {
            request_id: self.id,
            provider: Arc::clone(&target.account.id),
            upstream_model: Arc::clone(&target.upstream_model),
            session_id: None,
            context: None,
            attempts: self.row.attempts,
            memory_unavailable: self.memory_unavailable(),
            max_tokens_clamped: self
                .row
                .decision
                .as_ref()
                .and_then(|decision| decision.reserved.as_ref())
                .and_then(|reserved| reserved.max_tokens),
            upstream_request_id,
            replay_of: None,
        }
    }

    /// Whether the memory was asked and did not answer.
    pub fn memory_unavailable(&self) -> bool {
        let decision = self.row.decision.as_ref();
        let note = decision.and_then(|decision| decision.memory.as_ref());
        note.is_some_and(|note| !matches!(&*note.outcome, "found" | "empty"))
    }

    /// Notes what the memory gave.
    pub fn recalled(&mut self, note: MemoryNote) {
        self.row.decision.get_or_insert_default().memory = Some(note);
    }

    /// Notes how the session's conversation was made to fit.
    pub fn context(&mut self, context: ContextDecision) {
        self.row.decision.get_or_insert_default().context = Some(context);
    }

    /// Notes time that was spent waiting for a provider, other than for the answer.
    pub fn waited_for(&mut self, time: Duration) {
        self.waited += time;
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
        self.price = target.price(&self.prices, self.id.unix_ms());
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

    /// Notes an attempt that was given up before anything came of it, if there is one: the provider may have worked on it.
    fn gave_up(&mut self, error: Option<&Error>) {
        let Some(started) = self.attempt_started.take() else {
            return;
        };
        let unknown = Error::new(ErrorKind::UpstreamTimeout, "").with_work(Work::Unknown);
        let cost = charge::of_failure(&unknown, self.input_at_least, self.price.as_deref());
        let Some(decision) = &mut self.row.decision else {
            return;
        };
        decision.latency_ms = ms(started.elapsed());
        decision.attempts.push(Attempt {
            provider_id: Arc::clone(&decision.provider_id),
            model_name: Arc::clone(&decision.model_name),
            started_ms: ms(started.saturating_duration_since(self.started)),
            latency_ms: decision.latency_ms,
            outcome: error
                .map_or(ErrorKind::Cancelled, Error::kind)
                .code()
                .into(),
            upstream_status: None,
            error: error.map(|error| error.message().to_owned()),
            cost,
        });
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
            cost: error.and_then(|error| {
                charge::of_failure(error, self.input_at_least, self.price.as_deref())
            }),
        });
    }

    pub fn first_chunk(&mut self) {
        self.first_chunk = Some(self.started.elapsed());
    }

    /// Notes the tokens used by the attempt tried last, and charges them.
    ///
    /// # Errors
    /// `internal` if the cost is larger than an amount can be.
    pub fn used(&mut self, usage: Usage, source: UsageSource) -> Result<()> {
        charge::charge(&mut self.row, usage, source, self.price.as_deref())
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
            self.gave_up(Some(error));
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
        charge::sum_up(&mut self.row, &self.inner.settings().exchange);
        self.row.ttft_ms = self.first_chunk.map(ms);
        match self.entry.take() {
            Some(entry) => entry.settle(&self.row),
            // What cannot be written is logged there; a refusal has nothing else to lose.
            None => drop(self.inner.ledger.record(&self.row)),
        }
        if let Some(reservation) = self.reservation.take() {
            let charge = charge::reserved_of(&self.row, &self.inner.settings().exchange);
            reservation.settle(charge);
        }
        let row = &self.row;
        if let Some(mut admitted) = self.admitted.take() {
            admitted.used(row.input_tokens.saturating_add(row.output_tokens));
        }
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
            usage: charge::usage_of(row),
            charge: charge::told(row),
        };
        self.inner.metrics.requests.finished(
            &row.provider_id,
            &row.model_name,
            self.answered,
            &finished,
        );
        self.inner.left();
        tracing::info!(
            target: "lyss::request",
            request_id = row.request_id.as_str(),
            user_id = &*row.user_id,
            model = row.model_name.as_str(),
            provider = &*row.provider_id,
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
        if self.ended {
            return;
        }
        // Dropped in the middle: the caller went away, its deadline passed, or this thread is falling.
        let (kind, status) = match std::thread::panicking() {
            true => (ErrorKind::Internal, Status::Error),
            false => (ErrorKind::Cancelled, Status::Cancelled),
        };
        self.row
            .error_code
            .get_or_insert_with(|| kind.code().to_owned());
        let nothing_known = self.row.input_tokens == 0 && self.row.output_tokens == 0;
        if nothing_known && (self.answered || self.attempt_started.is_some()) {
            self.gave_up(None);
            let usage = Usage {
                input_tokens: self.input_at_least,
                ..Usage::default()
            };
            // An amount that does not fit is held at the largest: see `charge`.
            let _ = self.used(usage, UsageSource::Partial);
        } else if self.row.usage_source == UsageSource::Counted {
            self.row.usage_source = UsageSource::Partial;
        }
        self.settle(status);
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
