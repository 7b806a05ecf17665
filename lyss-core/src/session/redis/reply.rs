//! What the scripts answer.

use ::redis::Value;
use bytes::Bytes;

use crate::{
    error::Result,
    session::corrupt,
    types::session::{Prefix, Session, SessionKey, SessionStatus, StoredMessage, Version},
};

/// A session's header.
pub(super) struct Header {
    pub(super) session: Session,
    pub(super) version: Version,
    /// Whether its end of life was moved.
    pub(super) renewed: bool,
}

/// A header and a run of messages; what lies between only if the messages after the prefix were asked for.
pub(super) struct Read {
    pub(super) header: Header,
    pub(super) system: Option<Bytes>,
    pub(super) history: String,
    pub(super) prefix: Prefix,
    pub(super) messages: Vec<StoredMessage>,
}

impl Header {
    /// Reads `ok, version, messages, tokens, created, used, renewed, upto, compressing, metadata`, or `none`.
    pub(super) fn parse(key: &SessionKey, answer: &[Value]) -> Result<Option<Self>> {
        if text(answer.first()) == Some("none") {
            return Ok(None);
        }
        check(answer)?;
        let field = |at| field(answer, at);
        let metadata = match answer.get(9) {
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
                compressed_count: field(7)?,
                status: match field(8)? {
                    0 => SessionStatus::Active,
                    _ => SessionStatus::Compressing,
                },
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
        let (covered_tokens, summary_tokens) = (field(&answer, 13)?, field(&answer, 15)?);
        let prefix = Prefix {
            version: field(&answer, 12)?,
            upto: header.session.compressed_count,
            covered_tokens,
            summary: taken(&mut answer, 14),
            summary_tokens: u32::try_from(summary_tokens)
                .map_err(|_| corrupt("the summary's tokens are too many"))?,
        };
        let history = match text(answer.get(11)) {
            Some(history) => history.to_owned(),
            None if matches!(answer.get(11), Some(Value::BulkString(_))) => {
                return Err(corrupt("the history's digest is no text"));
            }
            None => String::new(),
        };
        Ok(Some(Self {
            header,
            system: taken(&mut answer, 10),
            history,
            prefix,
            messages: messages.into_iter().map(message).collect::<Result<_>>()?,
        }))
    }
}

fn field(answer: &[Value], at: usize) -> Result<u64> {
    number(answer.get(at)).ok_or_else(|| corrupt(format!("field {at} is not a number")))
}

/// Takes bytes out of an answer without copying them.
fn taken(answer: &mut [Value], at: usize) -> Option<Bytes> {
    match std::mem::replace(answer.get_mut(at)?, Value::Nil) {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        _ => None,
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
