//! What the scripts answer.

use ::redis::Value;
use bytes::Bytes;

use crate::{
    error::Result,
    session::corrupt,
    types::session::{Session, SessionKey, SessionStatus, StoredMessage, Version},
};

/// A session's header.
pub(super) struct Header {
    pub(super) session: Session,
    pub(super) version: Version,
    /// Whether its end of life was moved.
    pub(super) renewed: bool,
}

/// A header and a run of messages.
pub(super) struct Read {
    pub(super) header: Header,
    pub(super) system: Option<Bytes>,
    pub(super) messages: Vec<StoredMessage>,
}

impl Header {
    /// Reads `ok, version, messages, tokens, created, used, renewed, metadata`, or `none`.
    pub(super) fn parse(key: &SessionKey, answer: &[Value]) -> Result<Option<Self>> {
        if text(answer.first()) == Some("none") {
            return Ok(None);
        }
        check(answer)?;
        let field = |at: usize| {
            number(answer.get(at)).ok_or_else(|| corrupt(format!("field {at} is not a number")))
        };
        let metadata = match answer.get(7) {
            Some(Value::BulkString(json)) => Some(
                serde_json::from_slice(json)
                    .map_err(|error| corrupt(format!("the metadata is not JSON: {error}")))?,
            ),
            _ => None,
        };
        Ok(Some(Self {
            version: field(1)?,
            session: Session {
                id: key.id.clone(),
                user_id: key.user_id.clone(),
                message_count: field(2)?,
                token_count: field(3)?,
                created_ms: field(4)?.cast_signed(),
                last_activity_ms: field(5)?.cast_signed(),
                compressed_count: 0,
                status: SessionStatus::Active,
                metadata,
            },
            renewed: field(6)? > 0,
        }))
    }
}

impl Read {
    pub(super) fn parse(key: &SessionKey, mut answer: Vec<Value>) -> Result<Option<Self>> {
        let Some(header) = Header::parse(key, &answer)? else {
            return Ok(None);
        };
        let Some(Value::Array(messages)) = answer.pop() else {
            return Err(corrupt("the answer has no messages"));
        };
        let system = match answer.pop() {
            Some(Value::BulkString(system)) => Some(Bytes::from(system)),
            _ => None,
        };
        Ok(Some(Self {
            header,
            system,
            messages: messages.into_iter().map(message).collect::<Result<_>>()?,
        }))
    }
}

/// Passes `ok`; anything else is what the script found wrong.
pub(super) fn check(answer: &[Value]) -> Result<()> {
    match text(answer.first()) {
        Some("ok") => Ok(()),
        Some("corrupt") => Err(corrupt(text(answer.get(1)).unwrap_or("unknown"))),
        _ => Err(corrupt("the script's answer cannot be read")),
    }
}

pub(super) fn text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

pub(super) fn number(value: Option<&Value>) -> Option<u64> {
    match value {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        value => text(value)?.parse().ok(),
    }
}

/// Reads `<seq> <turn> <tokens> <json>`.
fn message(value: Value) -> Result<StoredMessage> {
    let bad = || corrupt("a message is not `<seq> <turn> <tokens> <json>`");
    let Value::BulkString(element) = value else {
        return Err(bad());
    };
    let element = Bytes::from(element);
    let read = || {
        let mut parts = element.splitn(4, |byte| *byte == b' ');
        let mut number = || -> Option<u64> {
            let part = parts.next()?;
            std::str::from_utf8(part).ok()?.parse().ok()
        };
        let (seq, turn, tokens) = (number()?, number()?, number()?);
        let json = parts.next()?;
        Some(StoredMessage {
            seq,
            turn,
            tokens: u32::try_from(tokens).ok()?,
            json: element.slice_ref(json),
        })
    };
    read().ok_or_else(bad)
}
