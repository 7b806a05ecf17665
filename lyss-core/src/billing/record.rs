//! One record of the request log, the body of a frame of the spool: `[u8 kind][16 bytes request id][payload]`. The
//! payload is a [`LogRow`] as `columns.rs` writes it.

use super::columns;
use crate::{
    Error, Result,
    spool::frame::{self, HEADER, MAX_RECORD},
    types::{LogRow, RequestId},
};

/// The bytes of a request id.
pub(super) type Id = [u8; 16];

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request is about to be dispatched; the row holds if nothing follows. Of several the last one counts.
    Intent = 1,
    /// The request has ended; the row is final.
    Settle = 2,
}

/// What a body says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: Kind,
    pub id: Id,
    pub payload: &'a [u8],
}

/// Makes the record of a row.
pub(super) fn encode(kind: Kind, row: &LogRow) -> Result<Vec<u8>> {
    let id = RequestId::parse(&row.request_id)
        .ok_or_else(|| Error::invalid("request_id", "the id of a log row must be a UUIDv7"))?;
    let mut record = unsealed(kind, &id, row)?;
    if record.len() > HEADER + MAX_RECORD {
        // What is charged must be kept, what explains it may go.
        let mut row = row.clone();
        row.decision = None;
        row.error_message = row
            .error_message
            .map(|text| text.chars().take(1_000).collect());
        record = unsealed(kind, &id, &row)?;
    }
    frame::seal(&mut record).map_err(internal)?;
    Ok(record)
}

fn unsealed(kind: Kind, id: &RequestId, row: &LogRow) -> Result<Vec<u8>> {
    let mut record = Vec::with_capacity(1024);
    record.extend_from_slice(&[0; HEADER]);
    record.push(kind as u8);
    record.extend_from_slice(id.as_bytes());
    columns::write(row, &mut record)?;
    Ok(record)
}

pub(super) fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(crate::ErrorKind::Internal, "a log row cannot be encoded").with_source(error)
}

/// Reads a body; nothing if it is no record.
pub(super) fn parse(body: &[u8]) -> Option<Record<'_>> {
    let (&kind, rest) = body.split_first()?;
    let kind = match kind {
        1 => Kind::Intent,
        2 => Kind::Settle,
        _ => return None,
    };
    let (id, payload) = rest.split_first_chunk::<16>()?;
    Some(Record {
        kind,
        id: *id,
        payload,
    })
}

/// Reads a whole record, as [`encode`] makes it.
pub(super) fn parse_whole(record: &[u8]) -> Option<Record<'_>> {
    match frame::parse(record) {
        frame::Parsed::Body(body) => parse(body),
        _ => None,
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
        let record = parse_whole(record).unwrap();
        let columns = columns::Columns::read(&record.id, record.payload).unwrap();
        serde_json::from_value(serde_json::to_value(&columns).unwrap()).unwrap()
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

    /// Kind and id.
    const PREFIX: usize = 17;

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "\\PC*", tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let row = row(&text);
            let mut buffer = encode(Kind::Intent, &row).unwrap();
            let length = buffer.len();
            buffer.extend_from_slice(&tail);
            let Some(record) = parse_whole(&buffer) else { panic!("no record") };
            prop_assert_eq!(record.kind, Kind::Intent);
            prop_assert_eq!(HEADER + PREFIX + record.payload.len(), length);
            prop_assert_eq!(RequestId::from_bytes(record.id).to_string(), row.request_id.clone());
            prop_assert_eq!(decoded(&buffer), row);
        }

        #[test]
        fn a_flipped_bit_is_noticed(text in "[a-z]{0,40}", at in any::<proptest::sample::Index>(), bit in 0..8u8) {
            let mut buffer = encode(Kind::Settle, &row(&text)).unwrap();
            let at = at.index(buffer.len());
            buffer[at] ^= 1 << bit;
            prop_assert!(parse_whole(&buffer).is_none());
        }

        #[test]
        fn noise_is_no_panic(buffer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&buffer);
            let _ = parse_whole(&buffer);
        }
    }
}
