//! Rows of the tables, and what they mean.

use bytes::Bytes;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use crate::{
    error::Result,
    session::corrupt,
    types::session::{Prefix, Session, SessionStatus, StoredMessage, Version},
};

/// A session as the table has it, without what only a turn needs.
pub(super) struct HeaderRow {
    reference: i64,
    version: i64,
    message_count: i64,
    token_count: i64,
    created_ms: i64,
    pub last_activity_ms: i64,
    expires_ms: i64,
    pub id: String,
    metadata: Option<String>,
    prefix_upto: i64,
    compressing_left_ms: Option<i64>,
}

/// All of it.
pub(super) struct WholeRow {
    header: HeaderRow,
    history: String,
    system: Option<Vec<u8>>,
    prefix_version: i64,
    prefix_tokens: i64,
    summary: Option<Vec<u8>>,
    summary_tokens: i64,
    last_request: Option<String>,
}

impl<'r, R: Row> FromRow<'r, R> for HeaderRow
where
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            reference: row.try_get("ref")?,
            version: row.try_get("version")?,
            message_count: row.try_get("message_count")?,
            token_count: row.try_get("token_count")?,
            created_ms: row.try_get("created_ms")?,
            last_activity_ms: row.try_get("last_activity_ms")?,
            expires_ms: row.try_get("expires_ms")?,
            id: row.try_get("id")?,
            metadata: row.try_get("metadata")?,
            prefix_upto: row.try_get("prefix_upto")?,
            compressing_left_ms: row.try_get("compressing_left_ms")?,
        })
    }
}

impl<'r, R: Row> FromRow<'r, R> for WholeRow
where
    HeaderRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            header: HeaderRow::from_row(row)?,
            history: row.try_get("history")?,
            system: row.try_get("system")?,
            prefix_version: row.try_get("prefix_version")?,
            prefix_tokens: row.try_get("prefix_tokens")?,
            summary: row.try_get("summary")?,
            summary_tokens: row.try_get("summary_tokens")?,
            last_request: row.try_get("last_request")?,
        })
    }
}

/// A session, and how it is found again.
pub(super) struct Stored {
    pub reference: i64,
    pub version: Version,
    pub expires_ms: i64,
    pub session: Session,
}

/// What only a turn needs.
pub(super) struct Context {
    pub history: String,
    pub system: Option<Bytes>,
    pub prefix: Prefix,
    /// The request of the last turn.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub last_request: Option<String>,
}

impl HeaderRow {
    pub fn parse(self, user_id: &str) -> Result<Stored> {
        let metadata = self
            .metadata
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| corrupt(format!("the metadata is not a JSON object: {error}")))?;
        let status = match self.compressing_left_ms {
            Some(left) if left > 0 => SessionStatus::Compressing,
            _ => SessionStatus::Active,
        };
        Ok(Stored {
            reference: self.reference,
            version: number(self.version)?,
            expires_ms: self.expires_ms,
            session: Session {
                id: self.id,
                user_id: user_id.to_owned(),
                message_count: number(self.message_count)?,
                token_count: number(self.token_count)?,
                created_ms: self.created_ms,
                last_activity_ms: self.last_activity_ms,
                compressed_count: number(self.prefix_upto)?,
                status,
                metadata,
            },
        })
    }
}

impl WholeRow {
    pub fn parse(self, user_id: &str) -> Result<(Stored, Context)> {
        let stored = self.header.parse(user_id)?;
        let context = Context {
            last_request: self.last_request,
            history: self.history,
            system: self.system.map(Bytes::from),
            prefix: Prefix {
                version: number(self.prefix_version)?,
                upto: stored.session.compressed_count,
                covered_tokens: number(self.prefix_tokens)?,
                summary: self.summary.map(Bytes::from),
                summary_tokens: number(self.summary_tokens)?,
            },
        };
        Ok((stored, context))
    }
}

/// seq, turn, tokens, json.
pub(super) type MessageRow = (i64, i64, i64, Vec<u8>);

pub(super) fn message((seq, turn, tokens, json): MessageRow) -> Result<StoredMessage> {
    Ok(StoredMessage {
        seq: number(seq)?,
        turn: number(turn)?,
        tokens: number(tokens)?,
        json: Bytes::from(json),
    })
}

/// A number as it was written: never negative, and no greater than its type.
pub(super) fn number<T: TryFrom<i64>>(stored: i64) -> Result<T> {
    T::try_from(stored).map_err(|_| corrupt("a number of the session is out of range"))
}
