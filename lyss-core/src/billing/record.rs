//! One record of the spool: `[u32 length][u32 crc32][u8 kind][16 bytes request id][payload]`, little endian. The length
//! and the checksum cover what follows them. The payload is a [`LogRow`] as JSON, ready for the database.

use crate::{
    Error, Result,
    types::{LogRow, RequestId},
};

/// Bytes before what the checksum covers.
const HEADER: usize = 8;
/// Kind and id.
const PREFIX: usize = 17;
/// A longer record is not written, and a longer length not believed.
pub(super) const MAX_RECORD: usize = 1 << 20;

/// The bytes of a request id.
pub(super) type Id = [u8; 16];

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request is about to be dispatched; the row holds if nothing follows.
    Intent = 1,
    /// The request has ended; the row is final.
    Settle = 2,
}

/// A record in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: Kind,
    pub id: Id,
    pub payload: &'a [u8],
    /// Bytes of the whole record.
    pub length: usize,
}

/// What the start of a buffer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    Record(Record<'a>),
    /// So many bytes must be there to tell.
    Incomplete(usize),
    /// No record.
    Corrupt,
}

/// Makes the record of a row.
pub(super) fn encode(kind: Kind, row: &LogRow) -> Result<Vec<u8>> {
    let id = RequestId::parse(&row.request_id)
        .ok_or_else(|| Error::invalid("request_id", "the id of a log row must be a UUIDv7"))?;
    let mut record = frame(kind, &id, row)?;
    if record.len() > MAX_RECORD {
        // What is charged must be kept, what explains it may go.
        let mut row = row.clone();
        row.decision = None;
        row.error_message = row
            .error_message
            .map(|text| text.chars().take(1_000).collect());
        record = frame(kind, &id, &row)?;
    }
    if record.len() > MAX_RECORD {
        return Err(Error::invalid("request_id", "the log row is over 1 MiB"));
    }
    Ok(record)
}

fn frame(kind: Kind, id: &RequestId, row: &LogRow) -> Result<Vec<u8>> {
    let mut record = Vec::with_capacity(2048);
    record.extend_from_slice(&[0; HEADER]);
    record.push(kind as u8);
    record.extend_from_slice(id.as_bytes());
    serde_json::to_writer(&mut record, row).map_err(internal)?;
    // PostgreSQL's text cannot hold NUL. Also found where a backslash is escaped before `u0000`: harmless.
    if memchr::memmem::find(&record, br"\u0000").is_some() {
        let mut value = serde_json::to_value(row).map_err(internal)?;
        replace_nul(&mut value);
        record.truncate(HEADER + PREFIX);
        serde_json::to_writer(&mut record, &value).map_err(internal)?;
    }
    let length = u32::try_from(record.len() - HEADER).map_err(internal)?;
    let (header, body) = record.split_at_mut(HEADER);
    let (length_bytes, checksum_bytes) = header.split_at_mut(4);
    length_bytes.copy_from_slice(&length.to_le_bytes());
    checksum_bytes.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    Ok(record)
}

fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(crate::ErrorKind::Internal, "a log row cannot be encoded").with_source(error)
}

fn replace_nul(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains('\0') => {
            *text = text.replace('\0', "\u{fffd}");
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(replace_nul),
        serde_json::Value::Object(members) => members.values_mut().for_each(replace_nul),
        _ => {}
    }
}

/// Reads the record at the start of a buffer. Never panics, whatever the buffer holds.
pub(super) fn parse(buffer: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Parsed::Incomplete(HEADER);
    };
    let Some((checksum, rest)) = rest.split_first_chunk::<4>() else {
        return Parsed::Incomplete(HEADER);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if !(PREFIX..=MAX_RECORD).contains(&length) {
        return Parsed::Corrupt;
    }
    let Some(body) = rest.get(..length) else {
        return Parsed::Incomplete(HEADER + length);
    };
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Parsed::Corrupt;
    }
    let Some((&kind, rest)) = body.split_first() else {
        return Parsed::Corrupt;
    };
    let kind = match kind {
        1 => Kind::Intent,
        2 => Kind::Settle,
        _ => return Parsed::Corrupt,
    };
    match rest.split_first_chunk::<16>() {
        Some((id, payload)) => Parsed::Record(Record {
            kind,
            id: *id,
            payload,
            length: HEADER + length,
        }),
        None => Parsed::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::types::{
        Status,
        log::{Decision, Purpose},
    };
    use proptest::prelude::*;

    fn row(text: &str) -> LogRow {
        LogRow {
            user_id: text.into(),
            error_message: Some(text.into()),
            decision: Some(Decision {
                endpoint: text.into(),
                ..Decision::default()
            }),
            status: Status::Error,
            ..LogRow::new(RequestId::new(), Purpose::Chat, "m", true)
        }
    }

    fn decoded(record: &[u8]) -> LogRow {
        match parse(record) {
            Parsed::Record(record) => serde_json::from_slice(record.payload).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nul_becomes_a_replacement_character_and_nothing_else_changes() {
        let record = encode(Kind::Settle, &row("a\0b \\u0000")).unwrap();
        assert_eq!(decoded(&record).user_id.as_ref(), "a\u{fffd}b \\u0000");
        assert_eq!(
            decoded(&record).decision.unwrap().endpoint,
            "a\u{fffd}b \\u0000"
        );
    }

    #[test]
    fn a_row_that_is_too_long_loses_its_explanation() {
        let mut long = row("x");
        long.decision = Some(Decision {
            endpoint: "e".repeat(MAX_RECORD),
            ..Decision::default()
        });
        let read = decoded(&encode(Kind::Settle, &long).unwrap());
        assert_eq!(read.decision, None);
        assert_eq!(read.request_id, long.request_id);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "\\PC*", tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let row = row(&text);
            let mut buffer = encode(Kind::Intent, &row).unwrap();
            let length = buffer.len();
            buffer.extend_from_slice(&tail);
            let Parsed::Record(record) = parse(&buffer) else { panic!("no record") };
            prop_assert_eq!(record.kind, Kind::Intent);
            prop_assert_eq!(record.length, length);
            prop_assert_eq!(RequestId::from_bytes(record.id).to_string(), row.request_id.clone());
            prop_assert_eq!(decoded(&buffer), row);
        }

        #[test]
        fn a_flipped_bit_is_noticed(text in "[a-z]{0,40}", at in any::<proptest::sample::Index>(), bit in 0..8u8) {
            let mut buffer = encode(Kind::Settle, &row(&text)).unwrap();
            let at = at.index(buffer.len());
            buffer[at] ^= 1 << bit;
            prop_assert!(!matches!(parse(&buffer), Parsed::Record(_)));
        }

        #[test]
        fn noise_is_no_panic(buffer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&buffer);
        }
    }
}
