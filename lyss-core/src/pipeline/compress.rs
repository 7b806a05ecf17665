//! Keeps the message list within its bounds: the stage that yields what the model is sent.
//!
//! Usually everything fits and the list is put together without counting anything: the tokens of stored messages were
//! counted when they were stored. Over `session.max_tokens`, or over what the model's window leaves, the session is
//! compressed here and the turn waits for it (`compaction.rs`; usually that has been done in the background before).
//! Where that fails, the newest messages that fit are sent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use memchr::memmem;

use super::{
    assemble::{Conversation, Turning, leading_system},
    compaction::{Compaction, Outcome},
    finish::Record,
    fit::{self, Prompt, Reserve},
};
use crate::{
    config::{CompressionStrategy, SessionConfig},
    context::{
        groups::Groups,
        summarize,
        window::{self, Bounds, Piece, Room, Selection, TooLong},
    },
    engine::Inner,
    error::{Error, ErrorKind, Result},
    routing::Route,
    types::{
        ChatRequest, ContextUse, Message,
        log::ContextDecision,
        session::{SessionStatus, StoredMessage},
    },
};

/// How long a turn waits for a compression that another one has begun, and how often it looks.
const OTHERS_PATIENCE: Duration = Duration::from_secs(3);
const OTHERS_PAUSE: Duration = Duration::from_millis(40);

/// A request as it goes upstream.
pub(crate) struct Fitted {
    pub request: ChatRequest,
    /// What decides which targets are too small; `None`: none is.
    pub prompt: Option<Prompt>,
    /// What was sent of the stored conversation, where it was not all.
    pub context: Option<ContextUse>,
}

/// Makes the request fit. `memories`: the message with what is remembered of the user; it follows the summary, and is
/// left out before anything of the conversation would be lost altogether.
///
/// # Errors
/// `context_length_exceeded` if what cannot be left out fits no target.
pub(crate) async fn compress(
    inner: &Arc<Inner>,
    record: &mut Record,
    turn: &mut Turning,
    mut request: ChatRequest,
    route: &Route,
    memories: Option<Bytes>,
) -> Result<Fitted> {
    let settings = inner.settings().clone();
    let session = &settings.config.session;
    let Some(conversation) = turn.conversation() else {
        if let Some(memories) = memories {
            request = with_memories(request, memories)?;
        }
        return Ok(Fitted {
            prompt: fit::stateless(inner, route, &request, session).await,
            request,
            context: None,
        });
    };
    if let Some(target) = route.tiers.first().and_then(|tier| tier.targets.first()) {
        conversation.counter = inner.corrections.counter(&target.upstream_model);
        conversation.counter.warm();
    }
    let reserve = Reserve::of(&request, session);
    let asked = Asked {
        request: &request,
        memories,
        route,
        reserve,
        session,
    };
    let (prompt, selection, memories) = if fits_surely(conversation, &asked) {
        let selection = everything(conversation);
        note_whole(record, conversation, &selection, session);
        (None, selection, asked.memories)
    } else {
        let (prompt, selection, with) = make_fit(inner, record, conversation, &asked).await?;
        (Some(prompt), selection, asked.memories.filter(|_| with))
    };
    let context = used(conversation, &selection);
    Ok(Fitted {
        request: joined(conversation, request, memories, &selection),
        prompt,
        context,
    })
}

/// A request without a session, with the memories after its instructions.
fn with_memories(mut request: ChatRequest, memories: Bytes) -> Result<ChatRequest> {
    let messages = request.messages()?;
    let (system, rest) = messages.split_at(leading_system(&messages));
    let json = |message: &Message| message.0.to_bytes();
    let messages: Vec<Bytes> = system
        .iter()
        .map(json)
        .chain([memories])
        .chain(rest.iter().map(json))
        .collect();
    request.set_messages(messages);
    Ok(request)
}

/// What is to fit, and into what.
struct Asked<'a> {
    request: &'a ChatRequest,
    memories: Option<Bytes>,
    route: &'a Route,
    reserve: Reserve,
    session: &'a SessionConfig,
}

fn everything(conversation: &Conversation) -> Selection {
    Selection {
        summary: conversation.prefix.summary.is_some(),
        from: 0,
    }
}

/// Notes what stood for the older part, where there was nothing to decide in this turn.
fn note_whole(
    record: &mut Record,
    conversation: &Conversation,
    selection: &Selection,
    session: &SessionConfig,
) {
    let sent = used(conversation, selection);
    if sent.is_some() {
        record.context(ContextDecision {
            sent,
            sent_tokens: conversation.context_tokens(),
            room: u64::from(session.max_tokens),
            left_out: conversation.prefix.upto,
            ..ContextDecision::default()
        });
    }
}

/// Whether everything fits every target, as far as can be told without counting: no text has more tokens than bytes.
fn fits_surely(conversation: &Conversation, asked: &Asked<'_>) -> bool {
    let context = conversation.context_tokens();
    if context > u64::from(asked.session.max_tokens) {
        return false;
    }
    let Some(least) = fit::least(asked.route, asked.reserve) else {
        return true;
    };
    let body = asked.request.to_segments();
    let beside = conversation.prompt.iter().chain(&asked.memories);
    let bytes = (body.len() + beside.map(Bytes::len).sum::<usize>()) as u64;
    // The tokens of an image have nothing to do with the length of its address.
    let counts_otherwise = || {
        let names: [&[u8]; 3] = [b"image", b"audio", b"file"];
        body.0
            .iter()
            .chain(&conversation.prompt)
            .any(|piece| names.iter().any(|name| memmem::find(piece, name).is_some()))
    };
    context + bytes <= least && !counts_otherwise()
}

/// Counts, compresses where it must be, and chooses what is sent.
async fn make_fit(
    inner: &Arc<Inner>,
    record: &mut Record,
    conversation: &mut Conversation,
    asked: &Asked<'_>,
) -> Result<(Prompt, Selection, bool)> {
    let (session, reserve) = (asked.session, asked.reserve);
    let mut parts = Parts::of(conversation, asked).await;
    let bound = fit::bound(asked.route, reserve, parts.fixed).map_err(too_long)?;
    let bounds = Bounds {
        stored: u64::from(session.max_tokens),
        prompt: bound,
    };
    let room = window::room(&bounds, parts.fixed, parts.memories).map_err(too_long)?;
    let mut decision = ContextDecision {
        room: room.tokens,
        without_memories: !room.memories,
        ..ContextDecision::default()
    };
    if parts.context(conversation) > room.tokens {
        let started = Instant::now();
        make_room(inner, conversation, &parts, room, session, &mut decision).await;
        record.waited_for(started.elapsed());
        parts.pieces = parts
            .pieces
            .split_off(parts.pieces.len() - parts.closed(conversation).len());
    }
    let summary = conversation.prefix.summary.is_some();
    let selection = window::select(
        &parts.pieces,
        summary.then_some(u64::from(conversation.prefix.summary_tokens)),
        conversation.prefix.covered_tokens,
        room.tokens,
        session.keep_recent as usize,
    );
    let sent = window::total(parts.pieces.get(selection.from..).unwrap_or_default())
        + if selection.summary {
            u64::from(conversation.prefix.summary_tokens)
        } else {
            0
        };
    decision.sent = used(conversation, &selection);
    decision.sent_tokens = sent;
    decision.left_out = conversation.prefix.upto + selection.from as u64;
    if decision.sent.is_some() || decision.compression.is_some() || decision.without_memories {
        record.context(decision);
    }
    let memories = if room.memories { parts.memories } else { 0 };
    let prompt = Prompt {
        tokens: parts.fixed + memories + sent,
        reserve,
    };
    Ok((prompt, selection, room.memories))
}

/// What a prompt is made of, in tokens.
struct Parts {
    /// What is sent in any case: system prompt, tools, the new messages, and a call that these answer.
    fixed: u64,
    memories: u64,
    /// The stored messages that can be left out.
    pieces: Vec<Piece>,
    /// How many at the end of the stored messages cannot.
    open: usize,
}

impl Parts {
    async fn of(conversation: &mut Conversation, asked: &Asked<'_>) -> Self {
        let counter = conversation.counter.clone();
        let count = counter.count_request(asked.request.clone()).await;
        let memories = asked.memories.iter().cloned().collect();
        let memories = counter.count_messages(memories).await;
        let prompt = counter.count_messages(conversation.prompt.clone()).await;
        // What is new is the end of what was sent.
        let new = count
            .messages
            .len()
            .checked_sub(conversation.new.len())
            .and_then(|at| count.messages.get(at..))
            .unwrap_or_default();
        let sum = |tokens: &[u32]| tokens.iter().copied().map(u64::from).sum::<u64>();
        let mut fixed = sum(&prompt)
            + sum(new)
            + u64::from(count.tools)
            + u64::from(count.response_format)
            + u64::from(count.reply);
        conversation.new_tokens = Some(new.to_vec());

        let stored = conversation.stored.iter().map(|message| &message.json);
        let groups = Groups::of(stored, &conversation.new);
        let mut pieces = pieces(&conversation.stored, &groups);
        let open = pieces.split_off(groups.open_from.min(pieces.len()));
        fixed += window::total(&open);
        Self {
            fixed,
            memories: sum(&memories),
            pieces,
            open: open.len(),
        }
    }

    /// The stored messages that can be left out.
    fn closed<'a>(&self, conversation: &'a Conversation) -> &'a [StoredMessage] {
        let stored = &conversation.stored;
        let closed = stored.len().saturating_sub(self.open);
        stored.get(..closed).unwrap_or_default()
    }

    fn context(&self, conversation: &Conversation) -> u64 {
        window::total(&self.pieces) + conversation.prefix.tokens()
    }
}

/// The pieces of stored messages.
pub(super) fn pieces(stored: &[StoredMessage], groups: &Groups) -> Vec<Piece> {
    stored
        .iter()
        .zip(&groups.begins)
        .map(|(message, begins)| Piece {
            tokens: u64::from(message.tokens),
            begins: *begins,
        })
        .collect()
}

/// Compresses the session while the turn waits. What comes of it is the conversation's new prefix, or nothing.
async fn make_room(
    inner: &Arc<Inner>,
    conversation: &mut Conversation,
    parts: &Parts,
    room: Room,
    session: &SessionConfig,
    decision: &mut ContextDecision,
) {
    let truncates = session.strategy == CompressionStrategy::Truncate;
    // Left out for good is only what is too much for the session, not for a model that this turn happens to ask.
    if truncates && parts.context(conversation) <= u64::from(session.max_tokens) {
        return;
    }
    let (stored, place) = (parts.closed(conversation), conversation.session());
    let Some(due) = Compaction::plan(session, place, stored, &parts.pieces, room.tokens) else {
        return;
    };
    if !truncates && inner.compactions.is_resting(&conversation.key) {
        decision.compression = Some("resting".into());
        return;
    }
    let ended = due.run(inner, session.summary_timeout).await;
    decision.compression = Some(ended.outcome.as_str().into());
    decision.summary_request_id = ended.summary_request_id.map(|id| id.to_string());
    match ended.outcome {
        Outcome::Summarized(prefix) | Outcome::Truncated(prefix) => conversation.adopt(prefix),
        Outcome::Busy | Outcome::Lost => {
            if wait_for_other(inner, conversation, session).await {
                decision.compression = Some("waited".into());
            }
        }
        Outcome::Failed(_) => {}
    }
}

/// Waits for a compression that runs elsewhere, and takes over what it made; says whether it did.
async fn wait_for_other(
    inner: &Inner,
    conversation: &mut Conversation,
    session: &SessionConfig,
) -> bool {
    let end = Instant::now() + OTHERS_PATIENCE.min(session.summary_timeout);
    loop {
        let Ok(Some(now)) = inner.sessions.get(&conversation.key).await else {
            return false;
        };
        if now.compressed_count > conversation.prefix.upto {
            break;
        }
        if now.status != SessionStatus::Compressing || Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(OTHERS_PAUSE).await;
    }
    match inner.sessions.load(&conversation.key).await {
        Ok(Some(loaded)) => {
            conversation.adopt(loaded.prefix);
            true
        }
        _ => false,
    }
}

/// What was sent of the stored conversation, if not all.
fn used(conversation: &Conversation, selection: &Selection) -> Option<ContextUse> {
    if selection.from > 0 || (conversation.prefix.upto > 0 && !selection.summary) {
        Some(ContextUse::Truncated)
    } else if selection.summary {
        Some(ContextUse::Compressed)
    } else {
        None
    }
}

/// The request with the whole list: system prompt, summary, memories, stored messages, new ones.
fn joined(
    conversation: &Conversation,
    mut request: ChatRequest,
    memories: Option<Bytes>,
    selection: &Selection,
) -> ChatRequest {
    let summary = conversation.prefix.summary.as_ref();
    let summary = summary.filter(|_| selection.summary);
    let stored = conversation.stored.get(selection.from..);
    let stored = stored.unwrap_or_default().iter();
    let messages: Vec<Bytes> = conversation
        .prompt
        .iter()
        .cloned()
        .chain(summary.map(|summary| summarize::message(summary)))
        .chain(memories)
        .chain(stored.map(|message| message.json.clone()))
        .chain(conversation.new.iter().cloned())
        .collect();
    request.set_messages(messages);
    request
}

fn too_long(long: TooLong) -> Error {
    Error::new(
        ErrorKind::ContextLengthExceeded,
        format!(
            "the system prompt, the tools and the new messages have {} tokens; with what is kept for the answer \
             (`max_completion_tokens`) the model takes {} of them",
            long.needed, long.bound
        ),
    )
    .with_param("messages")
}
