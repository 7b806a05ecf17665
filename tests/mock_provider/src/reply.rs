//! A reply before it becomes a response.

use crate::play::Events;

/// What is sent after the head.
pub(crate) enum ReplyBody {
    /// A body of known length and the completion tokens it delivers.
    Whole(String, i64),
    /// Events, and the one that reports an error in their midst.
    Stream(Events, String),
}

/// Status, type, body, and what the ledger should know.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: ReplyBody,
    pub(crate) prompt_tokens: i64,
    pub(crate) planned_tokens: i64,
}

pub(crate) const JSON: &str = "application/json";

impl Reply {
    /// A JSON body that bills nothing.
    pub(crate) fn json(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: JSON,
            body: ReplyBody::Whole(body, 0),
            prompt_tokens: 0,
            planned_tokens: 0,
        }
    }

    pub(crate) fn whole(body: String, prompt_tokens: i64, completion_tokens: i64) -> Self {
        Self {
            body: ReplyBody::Whole(body, completion_tokens),
            prompt_tokens,
            planned_tokens: completion_tokens,
            ..Self::json(200, String::new())
        }
    }

    pub(crate) fn stream(
        content_type: &'static str,
        events: Events,
        error_event: String,
        prompt_tokens: i64,
        planned_tokens: i64,
    ) -> Self {
        Self {
            status: 200,
            content_type,
            body: ReplyBody::Stream(events, error_event),
            prompt_tokens,
            planned_tokens,
        }
    }
}
