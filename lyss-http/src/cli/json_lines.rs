//! Log lines as JSON objects: `timestamp`, `level`, `message`, the event's fields, `target`.
//!
//! The subscriber crate has such a format too. Every request makes a line, though, and there a line costs as much as a
//! quarter of what else is done for a request; written straight into one text it is a tenth of that.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use lyss_core::types::log::rfc3339;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// The format.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(0));
        let mut line = Line {
            text: String::with_capacity(512),
            target: None,
        };
        line.text.push_str(r#"{"timestamp":""#);
        line.text.push_str(&rfc3339(now));
        line.text.push_str(r#"","level":""#);
        line.text.push_str(event.metadata().level().as_str());
        line.text.push('"');
        event.record(&mut line);
        line.text.push_str(r#","target":"#);
        let target = line.target.take();
        line.string(target.as_deref().unwrap_or(event.metadata().target()));
        line.text.push_str("}\n");
        writer.write_str(&line.text)
    }
}

/// A line in the making.
struct Line {
    text: String,
    /// Of a record that came by the `log` crate, whose own target is always `log`.
    target: Option<String>,
}

impl Line {
    /// Begins a member; false if the field is none.
    fn key(&mut self, field: &Field) -> bool {
        let name = field.name();
        // Where a record of the `log` crate comes from.
        if name.starts_with("log.") {
            return false;
        }
        self.text.push_str(",\"");
        self.text.push_str(name.strip_prefix("r#").unwrap_or(name));
        self.text.push_str("\":");
        true
    }

    fn string(&mut self, value: &str) {
        self.text.push('"');
        escape(&mut self.text, value);
        self.text.push('"');
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        if self.key(field) {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{value}");
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        } else if self.key(field) {
            self.string(value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.plain(field, "null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.key(field) {
            self.text.push('"');
            let _ = write!(Escaped(&mut self.text), "{value:?}");
            self.text.push('"');
        }
    }
}

/// Escapes what is written to it.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// Appends a text as it stands between the quotes of a JSON string.
fn escape(out: &mut String, text: &str) {
    let mut rest = text;
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    while let Some(at) = rest.as_bytes().iter().position(special) {
        let (plain, after) = rest.split_at(at);
        out.push_str(plain);
        let mut characters = after.chars();
        match characters.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some(control) => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            None => {}
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> serde_json::Value {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(JsonLines)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = written.0.lock().unwrap();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn every_kind_of_field_is_a_member() {
        let nothing: Option<&str> = None;
        let mut line = logged(|| {
            tracing::warn!(
                target: "here",
                text = "a\"b\\c\n\u{1}é",
                display = %"d\"",
                debug = ?["x"],
                number = 7_u64,
                negative = -7,
                flag = true,
                fraction = 0.5,
                endless = f64::NAN,
                nothing,
                r#type = "raw",
                "said \"{}\"", 1
            );
        });
        let time = line["timestamp"].take();
        assert_eq!(time.as_str().unwrap().len(), 24);
        let expected = serde_json::json!({
            "timestamp": null, "level": "WARN", "message": "said \"1\"", "target": "here",
            "text": "a\"b\\c\n\u{1}é", "display": "d\"", "debug": "[\"x\"]", "number": 7, "negative": -7,
            "flag": true, "fraction": 0.5, "endless": null, "type": "raw",
        });
        assert_eq!(line, expected);
    }
}
