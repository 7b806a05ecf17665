//! `/sessions`.

use axum::response::Response;
use http::StatusCode;
use http_body::Body as _;
use lyss_core::{
    Error, Result,
    gateway::{NewSession, PageQuery},
    types::{Session, StoredMessage, log::rfc3339, session::SessionStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Call, List, internal, json, no_content};

/// A session as the API shows it.
#[derive(Serialize)]
struct Shown {
    id: String,
    object: &'static str,
    user_id: String,
    message_count: u64,
    token_count: u64,
    /// How many of the messages, from the first, are no longer sent one by one.
    compressed_count: u64,
    created_at: String,
    last_activity: String,
    status: SessionStatus,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl From<Session> for Shown {
    fn from(session: Session) -> Self {
        Self {
            id: session.id,
            object: "session",
            user_id: session.user_id,
            message_count: session.message_count,
            token_count: session.token_count,
            compressed_count: session.compressed_count,
            created_at: rfc3339(session.created_ms),
            last_activity: rfc3339(session.last_activity_ms),
            status: session.status,
            metadata: session.metadata,
        }
    }
}

/// A stored message: the object as it came, and where it stands.
#[derive(Serialize)]
struct ShownMessage {
    seq: u64,
    turn: u64,
    tokens: u32,
    /// Whether a summary stands for it in what the model is sent.
    compressed: bool,
    message: Box<RawValue>,
}

impl ShownMessage {
    fn of(stored: StoredMessage, compressed_count: u64) -> Result<Self> {
        let message =
            serde_json::from_slice(&stored.json).map_err(|error| internal().with_source(error))?;
        Ok(Self {
            seq: stored.seq,
            turn: stored.turn,
            tokens: stored.tokens,
            compressed: stored.seq <= compressed_count,
            message,
        })
    }
}

pub(super) async fn create(mut call: Call) -> Result<Response> {
    // A session without wishes needs no body.
    let new = if call.body.is_end_stream() {
        NewSession::default()
    } else {
        call.json().await?
    };
    let session = call.app.gateway.create_session(call.context, new).await?;
    json(StatusCode::OK, &Shown::from(session))
}

pub(super) async fn list(call: Call) -> Result<Response> {
    let page: PageQuery = call.query()?;
    let page = call.app.gateway.sessions(call.context, page).await?;
    let data = page.sessions.into_iter().map(Shown::from).collect();
    json(StatusCode::OK, &List::page(data, page.next_cursor))
}

pub(super) async fn retrieve(call: Call) -> Result<Response> {
    let session = call.app.gateway.session(call.context, &call.param).await?;
    json(StatusCode::OK, &Shown::from(session))
}

pub(super) async fn delete(call: Call) -> Result<Response> {
    call.app
        .gateway
        .delete_session(call.context, &call.param)
        .await?;
    Ok(no_content())
}

/// Messages in one page at most, and where nothing is said.
const PAGE: (usize, usize) = (1000, 100);

#[derive(Deserialize)]
struct MessagesQuery {
    after: Option<u64>,
    cursor: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn messages(call: Call) -> Result<Response> {
    let query: MessagesQuery = call.query()?;
    let limit = query.limit.unwrap_or(PAGE.1);
    if !(1..=PAGE.0).contains(&limit) {
        let message = format!("`limit` must be an integer from 1 to {}", PAGE.0);
        return call.counted(Err(Error::invalid("limit", message)));
    }
    let after = match &query.cursor {
        None => query.after.unwrap_or(0),
        Some(cursor) => match cursor.parse() {
            Ok(after) => after,
            Err(_) => {
                let message = "`cursor` must be the `next_cursor` of the page before";
                return call.counted(Err(Error::invalid("cursor", message)));
            }
        },
    };
    let page = call
        .app
        .gateway
        .session_messages(call.context, &call.param, after, limit)
        .await?;
    let next = page
        .messages
        .last()
        .filter(|last| last.seq < page.session.message_count)
        .map(|last| last.seq.to_string());
    let compressed = page.session.compressed_count;
    let data = page
        .messages
        .into_iter()
        .map(|message| ShownMessage::of(message, compressed))
        .collect::<Result<_>>()?;
    json(StatusCode::OK, &List::page(data, next))
}
