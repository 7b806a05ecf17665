//! Waits for the session's turn, loads the session and splits the request into what is new and what is stored.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    compaction,
    history::{History, already_stored},
    turn::Reply,
};
use crate::{
    config::SessionConcurrency,
    context::tokens::Counter,
    engine::Inner,
    error::{Error, ErrorKind, Result, Work},
    session::{self, Patience, TurnLease},
    types::{
        ChatRequest, Message, Principal, RawObject, RequestId, SessionKey, StoredMessage, Turn,
        Version,
        session::{Appended, Prefix},
    },
};

/// The id that asks for a fresh session.
pub(crate) const NEW_SESSION: &str = "new";

/// The turn of a session that a request makes; nothing for a stateless one.
pub(crate) struct Turning(Option<Conversation>);

/// A conversation at one of its turns.
pub(crate) struct Conversation {
    pub key: SessionKey,
    /// For whom the turn is made; a summary is on the same account.
    caller: Principal,
    /// The model that the turn asks for.
    model: String,
    /// Counts for the model that is asked first.
    pub counter: Counter,
    /// Held until the turn is stored or given up; a fresh session needs none, nobody else knows it.
    lease: Option<TurnLease>,
    version: Version,
    history: History,
    /// The system prompt to store from now on; `None` leaves the stored one.
    system: Option<Bytes>,
    /// The system prompt in force, message by message.
    pub prompt: Vec<Bytes>,
    /// What stands for the messages before `stored`.
    pub prefix: Prefix,
    /// Stored messages after the prefix.
    pub stored: Vec<StoredMessage>,
    /// What the request adds.
    pub new: Vec<Bytes>,
    /// Their tokens, once they have been counted.
    pub new_tokens: Option<Vec<u32>>,
}

/// Waits for the turn and loads the session of a request, if it names one.
///
/// # Errors
/// `session_busy`, `session_store_unavailable`, `session_corrupt`, and those of reading the messages.
pub(crate) async fn assemble(
    inner: &Inner,
    principal: &Principal,
    request_id: RequestId,
    request: &ChatRequest,
) -> Result<Turning> {
    let Some(id) = request.session_id().map(str::to_owned) else {
        return Ok(Turning(None));
    };
    let fresh = request.in_fresh_session();
    if request
        .body()
        .get("n")
        .and_then(|n| n.as_u64())
        .is_some_and(|n| n > 1)
    {
        return Err(Error::invalid(
            "n",
            "`n` must be 1 in a session: a turn has one reply",
        ));
    }
    let key = SessionKey {
        user_id: principal.user()?.to_string(),
        id,
    };
    let messages = request.messages()?;
    let (lease, loaded) = if fresh {
        (None, None)
    } else {
        let patience = patience(inner);
        let (lease, loaded) = inner.turns.enter(&key, request_id, patience).await?;
        (Some(lease), loaded)
    };

    // Leading system messages are the session's prompt: kept apart, so that a resent one replaces the stored one.
    let (system, rest) = messages.split_at(leading_system(&messages));
    let system =
        (!system.is_empty()).then(|| join(system.iter().map(|message| message.0.to_bytes())));
    let (history, count) = loaded.as_ref().map_or(("", 0), |loaded| {
        (&*loaded.history, loaded.session.message_count)
    });
    let new = rest
        .get(already_stored(history, count, rest)..)
        .unwrap_or_default();
    if new.is_empty() {
        return Err(Error::invalid(
            "messages",
            "a turn of a session needs at least one message besides the system prompt",
        ));
    }
    let mut history = History::stored(history);
    for message in new {
        history.push(message);
    }
    let new = new.iter().map(|message| message.0.to_bytes()).collect();

    let (version, stored_system, prefix, stored) = match loaded {
        Some(loaded) => (
            loaded.version,
            loaded.system,
            loaded.prefix,
            loaded.messages,
        ),
        None => Default::default(),
    };
    let prompt = system.as_ref().or(stored_system.as_ref());
    let prompt = prompt.map(elements).transpose()?.unwrap_or_default();
    Ok(Turning(Some(Conversation {
        key,
        caller: principal.clone(),
        model: request.model().to_owned(),
        counter: Counter::for_model(request.model()),
        lease,
        version,
        history,
        system: system.filter(|system| Some(system) != stored_system.as_ref()),
        prompt,
        prefix,
        stored,
        new,
        new_tokens: None,
    })))
}

/// How many messages the prompt begins with that are instructions.
pub(super) fn leading_system(messages: &[Message]) -> usize {
    messages
        .iter()
        .take_while(|message| matches!(&*message.role(), "system" | "developer"))
        .count()
}

fn patience(inner: &Inner) -> Patience {
    let settings = inner.settings();
    let session = &settings.config.session;
    Patience {
        wait: match session.concurrency {
            SessionConcurrency::Queue => session.queue_timeout,
            SessionConcurrency::Reject => Duration::ZERO,
        },
        queue_max: session.queue_max,
    }
}

/// Makes up the session of a call that asks for a fresh one. The doors do it first, to name the session before the answer
/// is there.
pub(crate) fn name_session(inner: &Inner, request: &mut ChatRequest) {
    let wanted = match request.session_id() {
        Some(id) => id == NEW_SESSION,
        None => inner.settings().auto_create_sessions,
    };
    if wanted {
        request.set_fresh_session(new_session_id());
    }
}

/// A fresh session id: unguessable, since within a user it is all that names the session.
pub(crate) fn new_session_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn join(messages: impl Iterator<Item = Bytes>) -> Bytes {
    let mut text = vec![b'['];
    for (index, message) in messages.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&message);
    }
    text.push(b']');
    text.into()
}

fn elements(array: &Bytes) -> Result<Vec<Bytes>> {
    let corrupt = |error: crate::types::raw::RawError| {
        Error::new(
            ErrorKind::SessionCorrupt,
            "the session's system prompt cannot be read",
        )
        .with_source(error)
    };
    let mut wrapper = RawObject::empty();
    wrapper.set("m", array.clone());
    let wrapper = RawObject::parse(wrapper.to_bytes()).map_err(corrupt)?;
    Ok(wrapper
        .get("m")
        .map(|m| m.elements().iter().map(|element| element.bytes()).collect())
        .unwrap_or_default())
}

impl Conversation {
    /// The session as compressing it needs it.
    pub fn session(&self) -> compaction::Session {
        compaction::Session {
            key: self.key.clone(),
            caller: self.caller.clone(),
            model: self.model.clone(),
            counter: self.counter.clone(),
            prefix: self.prefix.clone(),
        }
    }

    /// Tokens of the stored conversation: of what stands for its older part, and of the messages after it.
    pub fn context_tokens(&self) -> u64 {
        let stored = self.stored.iter().map(|message| u64::from(message.tokens));
        self.prefix.tokens() + stored.sum::<u64>()
    }

    /// Takes over what stands for the older part of the conversation now.
    pub fn adopt(&mut self, prefix: Prefix) {
        self.stored.retain(|message| message.seq > prefix.upto);
        self.prefix = prefix;
    }

    /// The new messages and the reply with their tokens.
    async fn counted(&mut self, reply: Bytes) -> Vec<(Bytes, u32)> {
        let known = self.new_tokens.take().unwrap_or_default();
        let mut messages = self.new.clone();
        messages.push(reply);
        let uncounted = messages.get(known.len()..).unwrap_or_default().to_vec();
        let counted = self.counter.count_messages(uncounted).await;
        messages
            .into_iter()
            .zip(known.into_iter().chain(counted))
            .collect()
    }

    /// The messages after the prefix with those of a turn that has been stored.
    fn with(&mut self, turn: Turn) -> Vec<StoredMessage> {
        let mut messages = std::mem::take(&mut self.stored);
        let last = messages.last().map_or(self.prefix.upto, |last| last.seq);
        let turns = turn.messages.into_iter().zip(last + 1..);
        messages.extend(turns.map(|((json, tokens), seq)| StoredMessage {
            seq,
            turn: self.version + 1,
            json,
            tokens,
        }));
        messages
    }
}

impl Turning {
    /// The session.
    pub fn session_id(&self) -> Option<&str> {
        self.0
            .as_ref()
            .map(|conversation| conversation.key.id.as_str())
    }

    /// The session and its owner.
    pub fn key(&self) -> Option<&SessionKey> {
        self.0.as_ref().map(|conversation| &conversation.key)
    }

    /// What the request adds to its session; `None` without one.
    pub fn new_messages(&self) -> Option<&[Bytes]> {
        self.0.as_ref().map(|conversation| &*conversation.new)
    }

    /// Whether the request belongs to a session.
    pub fn in_session(&self) -> bool {
        self.0.is_some()
    }

    /// The conversation; `None` for a stateless request, whose own body is sent as it is.
    pub fn conversation(&mut self) -> Option<&mut Conversation> {
        self.0.as_mut()
    }

    /// Lets the session's next turn begin: this one stores nothing.
    pub fn give_up(&mut self) {
        if let Some(conversation) = &mut self.0 {
            conversation.lease = None;
        }
    }

    /// Stores the turn with the reply of a complete answer; durable when it returns. Nothing to do without a session.
    ///
    /// # Errors
    /// `session_conflict`, `session_store_unavailable`, `upstream_invalid_response` (an answer without a message).
    pub async fn append_answer(
        &mut self,
        inner: &Arc<Inner>,
        request_id: RequestId,
        answer: &RawObject,
    ) -> Result<()> {
        match &self.0 {
            Some(_) => {
                self.append(inner, request_id, Reply::of_answer(answer)?)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Stores the turn with a reply; durable when it returns. The session's next turn may begin then.
    pub async fn append(
        &mut self,
        inner: &Arc<Inner>,
        request_id: RequestId,
        reply: Bytes,
    ) -> Result<()> {
        let Some(conversation) = &mut self.0 else {
            return Ok(());
        };
        let messages = conversation.counted(reply.clone()).await;
        let mut history = conversation.history.clone();
        history.push_json(&reply);
        let turn = Turn {
            request_id,
            system: conversation.system.clone(),
            history: history.into_stored(),
            messages,
        };
        let (key, version) = (&conversation.key, conversation.version);
        let stored = session::save(&*inner.sessions, key, &turn, version).await;
        // The provider has answered, and charged: the caller's SDK must not buy the answer again.
        let stored = stored.map_err(|error| error.with_work(Work::Unknown))?;
        if let Some(mut lease) = conversation.lease.take() {
            lease.appended();
        }
        if stored == Appended::Deleted {
            tracing::debug!(%request_id, "the session was deleted during its turn and stays so");
        } else {
            let session = conversation.session();
            compaction::after_turn(inner, session, conversation.with(turn));
        }
        Ok(())
    }
}
