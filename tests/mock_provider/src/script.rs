//! What one request is to be answered with: the faults and peculiarities of a
//! real provider, asked for by the test instead of by chance.
//!
//! The same [`Script`] is filled from a control message (JSON), from Rust, or
//! from directives in the last user message: `[[status:429 retry-after:1]]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How one request is answered. The default answers like a healthy provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Answer with this status; 400 and above carry the provider's error body.
    pub status: Option<u16>,
    /// `code` of an error answer; by default the usual one for the status.
    pub code: Option<String>,
    /// `message` of an error answer.
    pub message: Option<String>,
    /// Value of the `retry-after` header.
    pub retry_after: Option<String>,
    /// Further response headers; they replace those of the same name.
    pub headers: BTreeMap<String, String>,
    /// This exact body, instead of the one that would be made.
    pub body: Option<String>,
    /// Wait before the response head, in milliseconds.
    pub delay_ms: u64,
    /// Cut the TCP connection inside the body.
    pub cut: Option<Cut>,
    /// Pauses inside the body.
    pub stalls: Vec<Stall>,
    /// Pause between events, in milliseconds.
    pub every_ms: u64,
    /// Send an SSE comment this often, in milliseconds, during any pause inside the body.
    pub comment_ms: Option<u64>,
    /// The reply is this many pieces of `size` bytes, instead of the echo.
    pub chunks: Option<usize>,
    /// Split the reply into pieces of about this many bytes (never inside a character).
    pub size: Option<usize>,
    /// The reply is this many bytes of text.
    pub reply_bytes: Option<usize>,
    /// The reply is this text.
    pub text: Option<String>,
    /// The reply is a refusal.
    pub refusal: bool,
    /// The model thinks this first (`reasoning_content`).
    pub reasoning: Option<String>,
    /// The reply is this many tool calls.
    pub tools: Option<usize>,
    /// Finish reason to report, instead of the true one.
    pub finish_reason: Option<String>,
    /// Never send a finish reason (the stream just ends).
    pub no_finish: bool,
    /// DashScope: the last text and the finish reason share one frame.
    pub finish_with_last: bool,
    /// DashScope: unfinished frames say JSON `null` instead of the string `"null"`.
    pub null_finish: bool,
    /// DashScope: usage comes in a frame of its own after the finish, without `choices`.
    pub tail_usage: bool,
    /// What `usage` says.
    pub usage: UsageKind,
    /// Prompt and completion tokens to report, instead of the counted ones. An error (OpenAI's) then bills them, too.
    pub tokens: Option<(i64, i64)>,
    /// Cached prompt tokens to report.
    pub cached_tokens: i64,
    /// Tokens of each streamed event in turn, instead of the counted ones.
    pub frame_tokens: Vec<i64>,
    /// After this many events the next one is broken JSON.
    pub bad_json_at: Option<usize>,
    /// After this many events the stream reports an error and ends.
    pub error_at: Option<usize>,
    /// An error with status 200: as the first event of a stream, or as the body.
    pub error_200: bool,
    /// Leave out `data: [DONE]`.
    pub no_done: bool,
    /// One additional event with this many bytes of text.
    pub big_event: Option<usize>,
    /// Write at most this many bytes to the socket at once.
    pub slice: Option<usize>,
    /// Line ends of the stream.
    pub line_end: LineEnd,
    /// Start the stream with a UTF-8 byte order mark.
    pub bom: bool,
    /// DashScope: spread the JSON of each event over several `data:` lines.
    pub multiline: bool,
    /// Answer 307 to this location.
    pub redirect: Option<String>,
    /// Reply with the request's headers as a JSON object.
    pub echo_headers: bool,
    /// OpenAI: pad each event with `obfuscation`.
    pub obfuscation: bool,
    /// OpenAI: no `service_tier` and `system_fingerprint` (as compatible servers).
    pub plain: bool,
    /// Id of the answer (`chatcmpl-…`, or DashScope's `request_id`).
    pub id: Option<String>,
    /// `created` of the answer, Unix seconds.
    pub created: Option<i64>,
    /// Model name in the answer.
    pub model: Option<String>,
    /// DashScope embeddings: keep the order of the request (the default reverses it).
    pub in_order: bool,
}

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Body bytes that leave before the cut.
    pub after: u64,
    /// End with RST instead of FIN.
    #[serde(default)]
    pub reset: bool,
}

/// A pause inside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// How long, in milliseconds.
    pub ms: u64,
    /// After this many events.
    pub after: usize,
}

/// What `usage` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageKind {
    /// The true numbers, where the protocol puts them.
    #[default]
    Normal,
    /// No usage at all.
    None,
    /// `"usage":null` where numbers belong.
    Null,
    /// Zero tokens.
    Zero,
    /// Negative numbers.
    Negative,
    /// Numbers near 2^62.
    Huge,
    /// The final numbers in every event.
    Every,
    /// Growing numbers in every event (DashScope always does this).
    Cumulative,
}

/// Line ends of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnd {
    /// `\n`
    #[default]
    Lf,
    /// `\r\n`
    Crlf,
    /// `\r`
    Cr,
}

impl Script {
    /// A script that answers with this error status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status: Some(status),
            ..Self::default()
        }
    }

    /// A script that cuts the connection after this many body bytes.
    #[must_use]
    pub fn cut(after: u64) -> Self {
        Self {
            cut: Some(Cut {
                after,
                reset: false,
            }),
            ..Self::default()
        }
    }

    /// Applies the directives in `text` and returns the text without them.
    /// Brackets holding an unknown word stay in the text.
    pub fn apply_directives(&mut self, text: &str) -> String {
        let mut rest = text;
        let mut plain = String::with_capacity(text.len());
        while let Some(start) = rest.find("[[") {
            let (before, from) = rest.split_at(start);
            plain.push_str(before);
            let Some(end) = from.find("]]") else {
                rest = from;
                break;
            };
            let mut trial = self.clone();
            if from[2..end]
                .split_whitespace()
                .all(|word| trial.apply_word(word).is_some())
            {
                *self = trial;
            } else {
                plain.push_str(&from[..end + 2]);
            }
            rest = &from[end + 2..];
        }
        plain.push_str(rest);
        plain.trim().to_owned()
    }

    /// One word of a directive: `name`, `name:value`, `name@k` or `name:value@k`.
    fn apply_word(&mut self, word: &str) -> Option<()> {
        let (name, value) = match word.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let (name, at) = match name.split_once('@') {
            Some((name, at)) => (name, Some(at.parse().ok()?)),
            None => (name, None),
        };
        match name {
            "status" => self.status = Some(value?.parse().ok()?),
            "code" => self.code = Some(value?.to_owned()),
            "message" => self.message = Some(value?.to_owned()),
            "retry-after" => self.retry_after = Some(value?.to_owned()),
            "delay" => self.delay_ms = value?.parse().ok()?,
            "cut" => {
                self.cut = Some(Cut {
                    after: value?.parse().ok()?,
                    reset: false,
                })
            }
            "rst" => {
                self.cut = Some(Cut {
                    after: value?.parse().ok()?,
                    reset: true,
                })
            }
            "stall" => {
                let (ms, after) = value?.split_once('@').unwrap_or((value?, "0"));
                self.stalls.push(Stall {
                    ms: ms.parse().ok()?,
                    after: after.parse().ok()?,
                });
            }
            "every" => self.every_ms = value?.parse().ok()?,
            "comment" => self.comment_ms = Some(value?.parse().ok().filter(|ms| *ms > 0)?),
            "chunks" => self.chunks = Some(value?.parse().ok()?),
            "size" => self.size = Some(value?.parse().ok()?),
            "reply-bytes" => self.reply_bytes = Some(value?.parse().ok()?),
            "text" => self.text = Some(value?.replace('_', " ")),
            "refusal" => self.refusal = true,
            "reasoning" => {
                self.reasoning = Some(value.unwrap_or("Let me think.").replace('_', " "));
            }
            "tools" => self.tools = Some(value.unwrap_or("1").parse().ok()?),
            "finish" => self.finish_reason = Some(value?.to_owned()),
            "nofinish" => self.no_finish = true,
            "null-finish" => self.null_finish = true,
            "finish-with-last" => self.finish_with_last = true,
            "tail-usage" => self.tail_usage = true,
            "nousage" => self.usage = UsageKind::None,
            "usage" => self.apply_usage(value?)?,
            "cached" => self.cached_tokens = value?.parse().ok()?,
            "badjson" => self.bad_json_at = Some(at.unwrap_or(1)),
            "error" => self.error_at = Some(at.unwrap_or(1)),
            "error200" => self.error_200 = true,
            "noDONE" => self.no_done = true,
            "bigevent" => self.big_event = Some(value?.parse().ok()?),
            "slice" => self.slice = Some(value?.parse().ok().filter(|n| *n > 0)?),
            "crlf" => self.line_end = LineEnd::Crlf,
            "cr" => self.line_end = LineEnd::Cr,
            "bom" => self.bom = true,
            "multiline" => self.multiline = true,
            "redirect" => self.redirect = Some(value?.to_owned()),
            "echo-headers" => self.echo_headers = true,
            "obfuscation" => self.obfuscation = true,
            "plain" => self.plain = true,
            _ => return None,
        }
        Some(())
    }

    fn apply_usage(&mut self, value: &str) -> Option<()> {
        self.usage = match value {
            "none" => UsageKind::None,
            "null" => UsageKind::Null,
            "zero" => UsageKind::Zero,
            "negative" => UsageKind::Negative,
            "huge" => UsageKind::Huge,
            "every" => UsageKind::Every,
            "cumulative" => UsageKind::Cumulative,
            numbers => {
                let (prompt, completion) = numbers.split_once('/')?;
                self.tokens = Some((prompt.parse().ok()?, completion.parse().ok()?));
                self.usage
            }
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn directives_fill_the_script_and_leave_the_text() {
        let mut script = Script::default();
        let text = script.apply_directives(
            "say [[status:429 retry-after:1]] hi [[stall:200@3]] [[cut:10]] [[badjson@2]] \
             [[redirect:http://127.0.0.1:1/x]] [[usage:7/2]] [[unknown:1]] [[delay:x]] [[open",
        );
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>().join(" "),
            "say hi [[unknown:1]] [[delay:x]] [[open"
        );
        assert_eq!(
            script,
            Script {
                status: Some(429),
                retry_after: Some("1".into()),
                stalls: vec![Stall { ms: 200, after: 3 }],
                cut: Some(Cut {
                    after: 10,
                    reset: false
                }),
                bad_json_at: Some(2),
                redirect: Some("http://127.0.0.1:1/x".into()),
                tokens: Some((7, 2)),
                ..Script::default()
            }
        );
    }

    #[test]
    fn a_script_survives_json_and_refuses_unknown_names() {
        let script = Script {
            usage: UsageKind::Huge,
            line_end: LineEnd::Crlf,
            ..Script::cut(3)
        };
        let json = serde_json::to_string(&script).unwrap();
        assert_eq!(serde_json::from_str::<Script>(&json).unwrap(), script);
        assert!(serde_json::from_str::<Script>(r#"{"stats":500}"#).is_err());
    }
}
