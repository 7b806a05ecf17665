//! Loads the session and builds the message list: system prompt, stored conversation, new messages.

use bytes::Bytes;

use super::turn::Reply;
use crate::{
    engine::Inner,
    error::{Error, ErrorKind, Result, Work},
    types::{
        ChatRequest, Message, Principal, RawObject, RequestId, SessionKey, StoredMessage, Turn,
        Version, reply::TextSize,
    },
};

/// The id that asks for a fresh session.
pub(crate) const NEW_SESSION: &str = "new";

/// The turn of a session that a request makes; nothing for a stateless one.
pub(crate) struct Turning(Option<Conversation>);

struct Conversation {
    key: SessionKey,
    version: Version,
    /// The system prompt to store from now on; `None` leaves the stored one.
    system: Option<Bytes>,
    /// What the request adds.
    new: Vec<Bytes>,
    /// What goes upstream; taken once.
    messages: Option<Vec<Bytes>>,
}

/// Loads the session of a request, if it names one.
///
/// # Errors
/// `session_store_unavailable`, `session_corrupt`, and those of reading the messages.
pub(crate) async fn assemble(
    inner: &Inner,
    principal: &Principal,
    request: &ChatRequest,
) -> Result<Turning> {
    let id = match request.session_id() {
        Some(NEW_SESSION) => new_session_id(),
        Some(id) => id.to_owned(),
        None if inner.settings().auto_create_sessions => new_session_id(),
        None => return Ok(Turning(None)),
    };
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
    let loaded = inner.sessions.load(&key).await?;
    let (version, stored_system, stored) = match loaded {
        Some(loaded) => (loaded.version, loaded.system, loaded.messages),
        None => (0, None, Vec::new()),
    };

    // Leading system messages are the session's prompt: kept apart, so that a resent one replaces the stored one.
    let lead = messages
        .iter()
        .take_while(|message| matches!(&*message.role(), "system" | "developer"))
        .count();
    let (system, rest) = messages.split_at(lead);
    let system =
        (!system.is_empty()).then(|| join(system.iter().map(|message| message.0.to_bytes())));
    let new: Vec<Bytes> = rest
        .iter()
        .skip(already_stored(&stored, rest))
        .map(|message| message.0.to_bytes())
        .collect();
    if new.is_empty() {
        return Err(Error::invalid(
            "messages",
            "a turn of a session needs at least one message besides the system prompt",
        ));
    }

    let prompt = system.as_ref().or(stored_system.as_ref());
    let mut all: Vec<Bytes> = prompt.map(elements).transpose()?.unwrap_or_default();
    all.extend(stored.iter().map(|message| message.json.clone()));
    all.extend(new.iter().cloned());
    let system = system.filter(|system| Some(system) != stored_system.as_ref());
    Ok(Turning(Some(Conversation {
        key,
        version,
        system,
        new,
        messages: Some(all),
    })))
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

/// How many leading messages of the request are the whole stored conversation sent again (the usual habit of clients
/// that keep the history themselves). Only the entire history followed by something new counts: a message that
/// happens to equal an old one is a message.
fn already_stored(stored: &[StoredMessage], sent: &[Message]) -> usize {
    if stored.is_empty() || sent.len() <= stored.len() {
        return 0;
    }
    let same = stored.iter().zip(sent).all(|(stored, sent)| {
        RawObject::parse(stored.json.clone())
            .is_ok_and(|object| same_message(&Message(object), sent))
    });
    if same { stored.len() } else { 0 }
}

/// Whether two messages say the same, however they are written.
fn same_message(left: &Message, right: &Message) -> bool {
    let value = |message: &Message, field: &str| -> Option<serde_json::Value> {
        message
            .0
            .get_some(field)
            .and_then(|value| value.decode().ok())
    };
    left.role() == right.role()
        && ["content", "tool_calls", "tool_call_id", "name"]
            .iter()
            .all(|field| {
                value(left, field).filter(|v| v != "") == value(right, field).filter(|v| v != "")
            })
}

impl Turning {
    /// The session.
    pub fn session_id(&self) -> Option<&str> {
        self.0
            .as_ref()
            .map(|conversation| conversation.key.id.as_str())
    }

    /// Whether the request belongs to a session.
    pub fn in_session(&self) -> bool {
        self.0.is_some()
    }

    /// The messages to send upstream; `None` for a stateless request, whose own body is sent as it is.
    pub fn take_messages(&mut self) -> Option<Vec<Bytes>> {
        self.0
            .as_mut()
            .and_then(|conversation| conversation.messages.take())
    }

    /// Stores the turn with the reply of a complete answer; durable when it returns. Nothing to do without a session.
    ///
    /// # Errors
    /// `session_conflict`, `session_store_unavailable`, `upstream_invalid_response` (an answer without a message).
    pub async fn append_answer(
        &self,
        inner: &Inner,
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

    /// Stores the turn with a reply; durable when it returns.
    pub async fn append(&self, inner: &Inner, request_id: RequestId, reply: Bytes) -> Result<()> {
        let Some(conversation) = &self.0 else {
            return Ok(());
        };
        let tokens = |json: &Bytes| {
            let size = TextSize::of(std::str::from_utf8(json).unwrap_or_default());
            u32::try_from(size.tokens()).unwrap_or(u32::MAX)
        };
        let turn = Turn {
            request_id,
            system: conversation.system.clone(),
            messages: conversation
                .new
                .iter()
                .chain([&reply])
                .map(|json| (json.clone(), tokens(json)))
                .collect(),
        };
        let append = || {
            let (key, version) = (&conversation.key, conversation.version);
            inner.sessions.append(key, &turn, version)
        };
        let stored = match append().await {
            // The store may have done it and not said so; the same turn twice is one turn.
            Err(error) if error.kind() == ErrorKind::SessionStoreUnavailable => append().await,
            stored => stored,
        };
        // The provider has answered, and charged: the caller's SDK must not buy the answer again.
        stored.map_err(|error| error.with_work(Work::Unknown))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(json: &str) -> Message {
        Message(RawObject::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap())
    }

    fn stored(json: &str) -> StoredMessage {
        StoredMessage {
            seq: 1,
            turn: 1,
            json: Bytes::copy_from_slice(json.as_bytes()),
            tokens: 1,
        }
    }

    #[test]
    fn a_resent_history_is_recognised_however_it_is_written() {
        let history = [
            stored(r#"{"role":"user","content":"h\u00e9"}"#),
            stored(r#"{"role":"assistant","content":"yes","refusal":null}"#),
        ];
        let resent = [
            message(r#"{"content": "hé", "role": "user"}"#),
            message(r#"{"role":"assistant","content":"yes"}"#),
            message(r#"{"role":"user","content":"more"}"#),
        ];
        assert_eq!(already_stored(&history, &resent), 2);
        assert_eq!(
            already_stored(&history, resent.get(..2).unwrap()),
            0,
            "nothing new: not a resend"
        );
        assert_eq!(already_stored(&history, resent.get(2..).unwrap()), 0);
        let other = [
            resent.first().unwrap().clone(),
            message(r#"{"role":"assistant","content":"no"}"#),
            resent.get(2).unwrap().clone(),
        ];
        assert_eq!(already_stored(&history, &other), 0);
    }
}
