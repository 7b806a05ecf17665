//! The place in a listing: the last session of a page, so that pages neither repeat nor skip what did not change.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::{Error, Result},
    types::session::Session,
};

/// The listing goes down in (activity, id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) activity_ms: i64,
    pub(super) id: String,
}

impl Cursor {
    pub(super) fn after(session: &Session) -> Self {
        Self {
            activity_ms: session.last_activity_ms,
            id: session.id.clone(),
        }
    }

    /// The cursor as an opaque text.
    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1:{}:{}", self.activity_ms, self.id))
    }

    /// Reads a cursor; `invalid_value` for anything that [`Cursor::encode`] did not write.
    pub(super) fn decode(text: &str) -> Result<Self> {
        let read = || {
            let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let (activity, id) = plain.strip_prefix("1:")?.split_once(':')?;
            Some(Self {
                activity_ms: activity.parse().ok()?,
                id: id.to_owned(),
            })
        };
        read()
            .filter(|cursor| cursor.encode() == text)
            .ok_or_else(|| {
                Error::invalid(
                    "cursor",
                    "not a cursor of this listing: pass a `next_cursor` unchanged, or none",
                )
            })
    }
}

/// Cuts what was read with one row too many down to a page; says where the next one starts.
pub(super) fn cut_page(sessions: &mut Vec<Session>, limit: usize) -> Option<String> {
    if sessions.len() <= limit {
        return None;
    }
    sessions.truncate(limit);
    sessions.last().map(|last| Cursor::after(last).encode())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip_and_garbage() {
        for id in ["", "a:b", "日本 *{}\"'", &"x".repeat(256)] {
            let cursor = Cursor {
                activity_ms: -5,
                id: id.into(),
            };
            assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        }
        for bad in ["", "x", "MTo", "=", "MToxOg==", "日本"] {
            let error = Cursor::decode(bad).unwrap_err();
            assert_eq!(error.param(), Some("cursor"), "{bad}");
        }
    }
}
