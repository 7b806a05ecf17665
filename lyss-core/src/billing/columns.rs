//! A row of the log as a record of the spool carries it: the columns in order, compactly.
//!
//! JSON would do as well and cost ten times as much, twice a request. Integers are LEB128; a text is its length plus
//! one, then its bytes, and 0 stands for an absent one. Id and time are not among the columns: the record has the id,
//! and the time is in it. The decision is JSON already, since that is what the database keeps.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Result,
    types::{LogRow, RequestId, log::rfc3339},
};

use super::record::{Id, internal};

/// The first byte: how what follows is written.
const FORMAT: u8 = 2;
/// As now, without `cache_write_tokens`: a process that was updated finds such records in the spool of the one before.
const WITHOUT_CACHE_WRITES: u8 = 1;

/// A row as the columns of `request_logs`, over the bytes of a record.
///
/// As JSON it is an object with the columns as members, which is what PostgreSQL is given.
#[derive(Debug, Serialize)]
pub(super) struct Columns<'a> {
    pub request_id: String,
    pub created_at: String,
    pub user_id: &'a str,
    pub session_id: Option<&'a str>,
    pub api_key_id: Option<&'a str>,
    pub model_name: &'a str,
    pub provider_id: &'a str,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
    pub reasoning_tokens: u64,
    pub usage_source: &'a str,
    pub latency_ms: u64,
    pub ttft_ms: Option<u64>,
    pub status: &'a str,
    pub error_code: Option<&'a str>,
    pub error_message: Option<&'a str>,
    pub attempts: u64,
    pub purpose: &'a str,
    pub stream: bool,
    pub client_request_id: Option<&'a str>,
    pub user_charge_pico: i64,
    pub provider_cost_pico: i64,
    pub currency: Option<&'a str>,
    pub price_id: Option<&'a str>,
    pub decision: Option<&'a RawValue>,
}

/// Appends a row's columns.
pub(super) fn write(row: &LogRow, out: &mut Vec<u8>) -> Result<()> {
    let mut out = Writer(out);
    out.0.push(FORMAT);
    out.text(Some(&row.user_id));
    out.text(row.session_id.as_deref());
    out.text(row.api_key_id.as_deref());
    out.text(Some(&row.model_name));
    out.text(Some(&row.provider_id));
    out.number(row.input_tokens);
    out.number(row.output_tokens);
    out.number(row.cached_tokens);
    out.number(row.cache_write_tokens);
    out.number(row.reasoning_tokens);
    out.text(Some(row.usage_source.as_str()));
    out.number(row.latency_ms);
    out.number(row.ttft_ms.map_or(0, |ms| ms.saturating_add(1)));
    out.text(Some(row.status.as_str()));
    out.text(row.error_code.as_deref());
    out.text(row.error_message.as_deref());
    out.number(row.attempts.into());
    out.text(Some(row.purpose.as_str()));
    out.number(row.stream.into());
    out.text(row.client_request_id.as_deref());
    out.signed(row.user_charge_pico);
    out.signed(row.provider_cost_pico);
    out.text(row.currency.as_deref());
    out.text(row.price_id.as_deref());
    match &row.decision {
        None => out.text(None),
        Some(decision) => {
            let json = serde_json::to_string(decision).map_err(internal)?;
            // PostgreSQL's text cannot hold NUL. Also found where a backslash is escaped before `u0000`: harmless.
            if memchr::memmem::find(json.as_bytes(), br"\u0000").is_some() {
                let mut value = serde_json::to_value(decision).map_err(internal)?;
                replace_nul(&mut value);
                out.text(Some(&value.to_string()));
            } else {
                out.text(Some(&json));
            }
        }
    }
    Ok(())
}

impl<'a> Columns<'a> {
    /// Reads what [`write()`] wrote; nothing if it is something else.
    pub(super) fn read(id: &Id, bytes: &'a [u8]) -> Option<Self> {
        let id = RequestId::from_bytes(*id);
        let (&format, rest) = bytes.split_first()?;
        if !matches!(format, FORMAT | WITHOUT_CACHE_WRITES) {
            return None;
        }
        let mut from = Reader(rest);
        let columns = Self {
            request_id: id.to_string(),
            created_at: rfc3339(id.unix_ms()),
            user_id: from.text()??,
            session_id: from.text()?,
            api_key_id: from.text()?,
            model_name: from.text()??,
            provider_id: from.text()??,
            input_tokens: from.number()?,
            output_tokens: from.number()?,
            cached_tokens: from.number()?,
            cache_write_tokens: match format {
                WITHOUT_CACHE_WRITES => 0,
                _ => from.number()?,
            },
            reasoning_tokens: from.number()?,
            usage_source: from.text()??,
            latency_ms: from.number()?,
            ttft_ms: match from.number()? {
                0 => None,
                ms => Some(ms - 1),
            },
            status: from.text()??,
            error_code: from.text()?,
            error_message: from.text()?,
            attempts: from.number()?,
            purpose: from.text()??,
            stream: from.number()? == 1,
            client_request_id: from.text()?,
            user_charge_pico: from.signed()?,
            provider_cost_pico: from.signed()?,
            currency: from.text()?,
            price_id: from.text()?,
            decision: match from.text()? {
                None => None,
                Some(json) => Some(serde_json::from_str(json).ok()?),
            },
        };
        from.0.is_empty().then_some(columns)
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Zigzag, so that small negative numbers are short too.
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    fn text(&mut self, text: Option<&str>) {
        let Some(text) = text else {
            return self.number(0);
        };
        if memchr::memchr(0, text.as_bytes()).is_some() {
            return self.text(Some(&text.replace('\0', "\u{fffd}")));
        }
        self.number(text.len() as u64 + 1);
        self.0.extend_from_slice(text.as_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn text(&mut self) -> Option<Option<&'a str>> {
        let length = match self.number()? {
            0 => return Some(None),
            more => usize::try_from(more - 1).ok()?,
        };
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(std::str::from_utf8(text).ok()?))
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Status, UsageSource, log::Purpose};

    proptest! {
        #[test]
        fn every_column_comes_back(
            text in "\\PC{0,20}",
            other in proptest::option::of("[a-z\\\\\"é]{0,20}"),
            number in any::<u64>(),
            signed in any::<i64>(),
            flag in any::<bool>(),
        ) {
            let shared = other.as_deref().map(Into::into);
            let row = LogRow {
                user_id: text.as_str().into(),
                session_id: shared,
                api_key_id: other.as_deref().map(Into::into),
                provider_id: text.as_str().into(),
                input_tokens: number,
                output_tokens: number / 3,
                cached_tokens: number >> 40,
                cache_write_tokens: number >> 50,
                reasoning_tokens: number & 1,
                usage_source: UsageSource::Partial,
                latency_ms: number >> 7,
                ttft_ms: flag.then_some(number >> 20),
                status: Status::Cancelled,
                error_code: other.clone(),
                error_message: other.clone(),
                attempts: number as u32,
                client_request_id: other.clone(),
                user_charge_pico: signed,
                provider_cost_pico: signed >> 30,
                currency: other.as_deref().map(Into::into),
                price_id: other.as_deref().map(Into::into),
                decision: flag.then(crate::types::Decision::default),
                ..LogRow::new(RequestId::new(), Purpose::Summary, &text, flag)
            };
            let id = RequestId::parse(&row.request_id).unwrap();
            let mut bytes = Vec::new();
            write(&row, &mut bytes).unwrap();
            let columns = Columns::read(id.as_bytes(), &bytes).unwrap();
            let read: LogRow = serde_json::from_value(serde_json::to_value(&columns).unwrap()).unwrap();
            prop_assert_eq!(read, row);
            for cut in 0..bytes.len() {
                prop_assert!(Columns::read(id.as_bytes(), &bytes[..cut]).is_none());
            }
        }

        #[test]
        fn records_of_the_format_before_are_read(number in any::<u64>()) {
            let row = LogRow { cached_tokens: number, ..LogRow::new(RequestId::new(), Purpose::Chat, "m", false) };
            let id = RequestId::parse(&row.request_id).unwrap();
            let mut bytes = Vec::new();
            write(&row, &mut bytes).unwrap();
            let mut head = Vec::new();
            let mut writer = Writer(&mut head);
            writer.0.push(FORMAT);
            for text in [Some(&*row.user_id), None, None, Some(&row.model_name), Some(&row.provider_id)] {
                writer.text(text);
            }
            for number in [row.input_tokens, row.output_tokens, row.cached_tokens] {
                writer.number(number);
            }
            prop_assert_eq!(bytes.remove(head.len()), 0);
            bytes[0] = WITHOUT_CACHE_WRITES;
            let read = Columns::read(id.as_bytes(), &bytes).unwrap();
            prop_assert_eq!((read.cached_tokens, read.cache_write_tokens, read.model_name), (number, 0, "m"));
        }

        #[test]
        fn noise_is_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            bytes[0] = FORMAT;
            let _ = Columns::read(&[0; 16], &bytes);
        }
    }
}
