//! Compressing a stored conversation: older messages leave the window, and a summary takes their place.
//!
//! In the background after a turn that went over `session.compression_threshold`, or while a turn waits
//! (`compress.rs`). The messages themselves stay stored. Of several that compress one session, here or on other
//! instances, one does; a turn that is appended meanwhile is not in the way, nor is this in its.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{compress::pieces, summary};
use crate::{
    config::{CompressionStrategy, SessionConfig},
    context::{
        groups::Groups,
        summarize,
        tokens::Counter,
        window::{self, Piece, Step},
    },
    engine::Inner,
    error::{ErrorKind, Result},
    types::{Principal, RequestId, SessionKey, StoredMessage, session::Prefix},
};

/// How much longer than the summary the mark of a running compression holds.
const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// How long a session whose summary failed is not summarised again: a summariser that is down must not cost every turn
/// its deadline.
const REST: Duration = Duration::from_secs(60);
/// Most sessions whose rest is remembered.
const RESTING_MOST: usize = 10_000;
/// The largest summary, and the smallest that is worth asking for, in tokens.
const SUMMARY_MOST: u64 = 1024;
const SUMMARY_LEAST: u64 = 16;

/// The compressions of one engine.
#[derive(Default)]
pub(crate) struct Compactions {
    running: AtomicUsize,
    resting: Mutex<HashMap<SessionKey, Instant>>,
}

/// A compression that is due.
pub(super) struct Compaction {
    session: Session,
    strategy: CompressionStrategy,
    leaving: Vec<StoredMessage>,
    /// Tokens of the messages that stay.
    staying: u64,
    /// Whether messages leave that are recent, because they do not fit.
    cuts_recent: bool,
    /// Most tokens of summary and messages afterwards.
    room: u64,
    summary_most: u64,
    /// What a transcript may have where the window of the summary's model is not known, in tokens.
    transcript_most: u64,
}

/// The session that is compressed, and for whom.
#[derive(Clone)]
pub(super) struct Session {
    pub key: SessionKey,
    pub caller: Principal,
    /// The model that the turn asks for.
    pub model: String,
    pub counter: Counter,
    pub prefix: Prefix,
}

/// How a compression ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Summarized(Prefix),
    Truncated(Prefix),
    /// Another one compresses the session, or the store does not.
    Busy,
    /// Another one was faster, or the session is gone.
    Lost,
    Failed(&'static str),
}

/// How it ended, and the request that it made.
pub(super) struct Ended {
    pub outcome: Outcome,
    pub summary_request_id: Option<RequestId>,
}

impl Outcome {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Summarized(_) => "summarized",
            Self::Truncated(_) => "truncated",
            Self::Busy => "busy",
            Self::Lost => "lost",
            Self::Failed(why) => why,
        }
    }
}

impl Compactions {
    /// Whether the summary of a session failed a moment ago.
    pub fn is_resting(&self, key: &SessionKey) -> bool {
        let mut resting = self.resting.lock();
        match resting.get(key) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                resting.remove(key);
                false
            }
            None => false,
        }
    }

    fn rest(&self, key: &SessionKey) {
        let mut resting = self.resting.lock();
        if resting.len() >= RESTING_MOST {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            // Where everything fails, forgetting some is no harm.
            if resting.len() >= RESTING_MOST {
                resting.clear();
            }
        }
        resting.insert(key.clone(), Instant::now() + REST);
    }

    /// A place among those that run in the background, if one is free.
    fn enter(inner: &Arc<Inner>, most: usize) -> Option<Place> {
        let running = &inner.compactions.running;
        running
            .fetch_update(Relaxed, Relaxed, |now| (now < most).then_some(now + 1))
            .ok()
            .map(|_| Place(Arc::clone(inner)))
    }
}

struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.compactions.running.fetch_sub(1, Relaxed);
    }
}

impl Compaction {
    /// What leaves so that summary and messages come down to half of the threshold, or of `room` if that is less;
    /// `None` if nothing can.
    pub fn plan(
        config: &SessionConfig,
        session: Session,
        stored: &[StoredMessage],
        pieces: &[Piece],
        room: u64,
    ) -> Option<Self> {
        let target = u64::from(config.compression_threshold).min(room) / 2;
        let summary_most = match config.strategy {
            CompressionStrategy::Truncate => 0,
            CompressionStrategy::Summarize => (target / 4).min(SUMMARY_MOST),
        };
        if config.strategy == CompressionStrategy::Summarize && summary_most < SUMMARY_LEAST {
            return None;
        }
        // Twice the summary that is asked for: models count words, not tokens.
        let step = Step {
            target: target.saturating_sub(summary_most),
            room: room.saturating_sub(2 * summary_most),
            keep_recent: config.keep_recent as usize,
        };
        let cut = window::step(pieces, &step);
        let leaving = stored.get(..cut).filter(|leaving| !leaving.is_empty())?;
        Some(Self {
            leaving: leaving.to_vec(),
            cuts_recent: cut > window::recent_from(pieces, step.keep_recent),
            staying: window::total(pieces.get(cut..).unwrap_or_default()),
            session,
            strategy: config.strategy,
            room,
            summary_most,
            transcript_most: u64::from(config.max_tokens).max(4_000),
        })
    }

    fn leaving_tokens(&self) -> u64 {
        let tokens = self.leaving.iter().map(|message| u64::from(message.tokens));
        tokens.sum()
    }

    /// Compresses, within the deadline.
    pub async fn run(self, inner: &Arc<Inner>, deadline: Duration) -> Ended {
        let id = RequestId::new();
        let summarizes = self.strategy == CompressionStrategy::Summarize;
        let outcome = if summarizes {
            self.summarize(inner, id, deadline).await
        } else {
            self.store(
                inner,
                id,
                self.session.prefix.summary.clone(),
                self.session.prefix.summary_tokens,
            )
            .await
            .map(|stored| stored.map_or(Outcome::Lost, Outcome::Truncated))
        };
        let outcome = outcome.unwrap_or_else(|error| {
            tracing::debug!(%error, "a session is not compressed: its store does not answer");
            Outcome::Failed("failed")
        });
        if let Outcome::Failed(why) = outcome
            && summarizes
        {
            inner.compactions.rest(&self.session.key);
            tracing::warn!(
                user_id = %self.session.key.user_id,
                session_id = %self.session.key.id,
                summary_request_id = %id,
                why,
                "a session was not summarised; its newest messages are sent as they fit"
            );
        }
        inner.metrics.compressed(outcome.as_str());
        let asked = summarizes && matches!(outcome, Outcome::Summarized(_) | Outcome::Failed(_));
        Ended {
            summary_request_id: asked.then_some(id),
            outcome,
        }
    }

    async fn summarize(
        &self,
        inner: &Arc<Inner>,
        id: RequestId,
        deadline: Duration,
    ) -> Result<Outcome> {
        let session = &self.session;
        let lease = deadline + LEASE_MARGIN;
        if !inner
            .sessions
            .begin_compression(&session.key, id, lease)
            .await?
        {
            return Ok(Outcome::Busy);
        }
        let mut mark = Mark {
            inner: Arc::clone(inner),
            key: session.key.clone(),
            by: id,
            ended: false,
        };
        // Another one may have ended between the turn's look at the session and the mark.
        let now = inner.sessions.get(&session.key).await?;
        if now.is_none_or(|now| now.compressed_count != session.prefix.upto) {
            return Ok(Outcome::Lost);
        }
        let texts: Vec<Bytes> = self
            .leaving
            .iter()
            .map(|message| message.json.clone())
            .collect();
        let wanted = summary::Wanted {
            session,
            messages: &texts,
            tokens_most: self.summary_most,
            transcript_most: self.transcript_most,
        };
        let text = match summary::summarize(inner, id, &wanted, deadline).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Outcome::Failed("empty")),
            Err(error) if error.kind() == ErrorKind::UpstreamTimeout => {
                return Ok(Outcome::Failed("timeout"));
            }
            Err(_) => return Ok(Outcome::Failed("failed")),
        };
        let counted = session
            .counter
            .count_messages(vec![summarize::message(&text)]);
        let tokens = counted.await.first().copied().unwrap_or(u32::MAX);
        let replaced = self.leaving_tokens() + session.prefix.tokens();
        let summary = u64::from(tokens);
        if summary >= replaced || summary > self.room / 2 || summary + self.staying > self.room {
            return Ok(Outcome::Failed("too_long"));
        }
        let stored = self.store(inner, id, Some(text), tokens).await?;
        mark.ended = true;
        Ok(stored.map_or(Outcome::Lost, Outcome::Summarized))
    }

    /// Puts the new prefix in the place of the old one, if that is still there.
    async fn store(
        &self,
        inner: &Inner,
        id: RequestId,
        summary: Option<Bytes>,
        summary_tokens: u32,
    ) -> Result<Option<Prefix>> {
        let old = &self.session.prefix;
        let prefix = Prefix {
            version: old.version + 1,
            upto: self.leaving.last().map_or(old.upto, |message| message.seq),
            covered_tokens: old.covered_tokens + self.leaving_tokens(),
            summary,
            summary_tokens,
        };
        let stored = inner
            .sessions
            .compress(&self.session.key, &prefix, id)
            .await?;
        Ok(stored.then_some(prefix))
    }
}

/// Ends the mark of a compression that came to nothing, also when it is dropped half-way.
struct Mark {
    inner: Arc<Inner>,
    key: SessionKey,
    by: RequestId,
    ended: bool,
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Without a runtime the mark runs out by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.ended {
            return;
        }
        let (sessions, key, by) = (Arc::clone(&self.inner.sessions), self.key.clone(), self.by);
        let end = async move {
            if let Err(error) = sessions.end_compression(&key, by).await {
                tracing::debug!(%error, "a session counts as compressing until its mark runs out");
            }
        };
        self.inner.tasks().spawn_on(end, &runtime);
    }
}

/// Compresses a session in the background if its turn has taken it over the threshold. `stored` is everything after
/// the prefix, the turn included.
pub(super) fn after_turn(inner: &Arc<Inner>, session: Session, stored: Vec<StoredMessage>) {
    let settings = inner.settings().clone();
    let config = &settings.config.session;
    let tokens = |stored: &[StoredMessage]| -> u64 {
        stored.iter().map(|message| u64::from(message.tokens)).sum()
    };
    let context = session.prefix.tokens() + tokens(&stored);
    let summarizes = config.strategy == CompressionStrategy::Summarize;
    if context <= u64::from(config.compression_threshold)
        || inner.is_draining()
        || (summarizes && inner.compactions.is_resting(&session.key))
    {
        return;
    }
    let Some(place) = Compactions::enter(inner, config.background_compressions) else {
        return;
    };
    let task_inner = Arc::clone(inner);
    inner.in_background(async move {
        let config = &settings.config.session;
        let groups = Groups::of(stored.iter().map(|message| &message.json), []);
        let mut pieces = pieces(&stored, &groups);
        pieces.truncate(groups.open_from);
        let room = u64::from(config.max_tokens);
        let Some(due) = Compaction::plan(config, session, &stored, &pieces, room) else {
            return;
        };
        // A step that frees little would be followed by another one at once; unless the next turn had to wait for it.
        let worth = due.leaving_tokens() >= u64::from(config.compression_threshold) / 4;
        if context > room || (worth && !due.cuts_recent) {
            due.run(&task_inner, config.background_summary_timeout)
                .await;
        }
        drop(place);
    });
}
