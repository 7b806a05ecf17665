//! A chat request in OpenAI's shape: the fields that the engine acts on, over the bytes that came.

use std::borrow::Cow;

use bytes::Bytes;

use super::raw::{RawObject, RawValue, Segments};
use crate::error::{Error, Result};

/// The longest `model`, `user_id` and `session_id` that is accepted, in bytes.
pub const MAX_NAME: usize = 256;

/// OpenAI's names of the limit of an answer: the one of now, and the one before.
const OUTPUT_LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// The most messages of a request that the engine reads one by one.
pub const MAX_MESSAGES: usize = 10_000;

/// A chat completion request.
///
/// # Shape
/// OpenAI's `POST /chat/completions` body plus `session_id` and `user_id`. Fields that the engine does not act on
/// are neither read nor changed.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    body: RawObject,
    model: String,
    stream: bool,
    include_usage: bool,
    session_id: Option<String>,
    fresh_session: bool,
    user_id: Option<String>,
    user: Option<String>,
    /// Members that were left of the text.
    kept: usize,
}

/// One message of a conversation, as an object over its bytes.
#[derive(Debug, Clone)]
pub struct Message(pub RawObject);

impl ChatRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// `invalid_json`, `duplicate_key`, `missing_field`, `invalid_value`; the message names the field.
    pub fn parse(text: Bytes) -> Result<Self> {
        let mut body = RawObject::parse(text)?;
        let model = required_name(&body, "model")?;
        match body.get_some("messages") {
            None => return Err(Error::missing("messages")),
            Some(messages) if !messages.is_array() => {
                return Err(Error::invalid(
                    "messages",
                    "`messages` must be an array of message objects",
                ));
            }
            Some(messages) if messages.is_empty_array() => {
                return Err(Error::invalid(
                    "messages",
                    "`messages` must hold at least one message",
                ));
            }
            Some(_) => {}
        }
        let stream = bool_field(&body, "stream")?.unwrap_or(false);
        let include_usage = match body.get_some("stream_options") {
            None => false,
            Some(_) if !stream => {
                return Err(Error::invalid(
                    "stream_options",
                    "`stream_options` is only allowed with `stream: true`",
                ));
            }
            Some(options) if options.is_object() => {
                bool_field(&options.object()?, "include_usage")?.unwrap_or(false)
            }
            Some(_) => {
                return Err(Error::invalid(
                    "stream_options",
                    "`stream_options` must be an object",
                ));
            }
        };
        for (limit, least, most) in [
            ("max_tokens", 1, i64::from(i32::MAX)),
            ("max_completion_tokens", 1, i64::from(i32::MAX)),
            ("n", 1, 128),
        ] {
            integer_field(&body, limit, least, most)?;
        }
        let session_id = name_field(&body, "session_id")?;
        let user_id = name_field(&body, "user_id")?;
        let user = name_field(&body, "user")?;
        // Ours, never the provider's business.
        body.remove("session_id");
        body.remove("user_id");
        Ok(Self {
            kept: body.len(),
            body,
            model,
            stream,
            include_usage,
            session_id,
            fresh_session: false,
            user_id,
            user,
        })
    }

    /// The model that is asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Sets the model that goes upstream.
    pub fn set_model(&mut self, model: &str) {
        if self.model != model {
            self.model = model.to_owned();
            self.body.set_str("model", model);
        }
    }

    /// Whether a stream is asked for.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether the caller asked for the usage chunk of a stream.
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// The session the call belongs to (`"new"` asks for a fresh one).
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_deref()
    }

    /// Puts the call into a session that nobody knows yet.
    pub fn set_fresh_session(&mut self, id: String) {
        self.session_id = Some(id);
        self.fresh_session = true;
    }

    /// Whether the session was made up for this call.
    pub fn in_fresh_session(&self) -> bool {
        self.fresh_session
    }

    /// The gateway's `user_id` in the body: whom the call is made for.
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// OpenAI's `user` in the body: a tag that goes upstream, and names the user when nothing else does.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The limit of each answer in tokens; where both of OpenAI's names are given, the lower one.
    pub fn output_limit(&self) -> Option<u64> {
        output_limit(&self.body)
    }

    /// Sets the limit of each answer under every name that the request uses, so that whichever a provider reads is
    /// covered; under `max_completion_tokens` where it uses none. Providers that know only `max_tokens` are sent that by
    /// their adapter.
    pub fn set_output_limit(&mut self, tokens: u64) {
        let limit = |name| self.body.get_some(name).map(|value| value.as_u64());
        let given = OUTPUT_LIMITS.map(limit);
        for (name, given) in OUTPUT_LIMITS.into_iter().zip(given) {
            if given.is_some_and(|limit| limit != Some(tokens)) {
                self.body.set(name, tokens.to_string());
            }
        }
        if given == [None, None] {
            self.body.set("max_completion_tokens", tokens.to_string());
        }
    }

    /// How many answers are asked for (`n`).
    pub fn choices(&self) -> u64 {
        choices(&self.body)
    }

    /// The messages, each checked to be an object with a `role`.
    ///
    /// # Errors
    /// `duplicate_key`, `missing_field`, `invalid_value`, naming `messages[i]`.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let messages = self.body.get("messages");
        let elements = messages
            .map(|messages| messages.elements())
            .unwrap_or_default();
        if elements.len() > MAX_MESSAGES {
            let message = format!(
                "`messages` may hold at most {MAX_MESSAGES} messages, not {}",
                elements.len()
            );
            return Err(Error::invalid("messages", message));
        }
        elements
            .into_iter()
            .enumerate()
            .map(|(index, element)| Message::read(index, element))
            .collect()
    }

    /// Replaces the messages by these, in order.
    pub fn set_messages(&mut self, messages: impl IntoIterator<Item = Bytes>) {
        let mut text = vec![b'['];
        for (index, message) in messages.into_iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            text.extend_from_slice(&message);
        }
        text.push(b']');
        self.body.set("messages", text);
    }

    /// The body in OpenAI's shape, without the gateway's own fields.
    pub fn body(&self) -> &RawObject {
        &self.body
    }

    /// The body, to be edited by a provider.
    pub fn body_mut(&mut self) -> &mut RawObject {
        &mut self.body
    }

    /// The body in slices, as it would go to an OpenAI-compatible service.
    pub fn to_segments(&self) -> Segments {
        self.body.to_segments()
    }

    /// The body as it would go to a Lyss service, which takes `session_id` and `user_id`: the very bytes that came, unless
    /// something was changed.
    pub(crate) fn as_received(&self) -> Segments {
        if !self.body.is_changed() && self.body.len() == self.kept && !self.fresh_session {
            return Segments(vec![self.body.received().clone()]);
        }
        let mut body = self.body.clone();
        for (name, value) in [("session_id", &self.session_id), ("user_id", &self.user_id)] {
            if let Some(value) = value {
                body.set_str(name, value);
            }
        }
        body.to_segments()
    }
}

/// As [`ChatRequest::output_limit`], of a body that has not been read yet.
pub(crate) fn output_limit(body: &RawObject) -> Option<u64> {
    OUTPUT_LIMITS
        .iter()
        .filter_map(|name| body.get_some(name)?.as_u64())
        .min()
}

/// As [`ChatRequest::choices`], of a body that has not been read yet.
pub(crate) fn choices(body: &RawObject) -> u64 {
    let n = body.get_some("n").and_then(|value| value.as_u64());
    n.unwrap_or(1).max(1)
}

impl Message {
    fn read(index: usize, value: RawValue<'_>) -> Result<Self> {
        let name = format!("messages[{index}]");
        if !value.is_object() {
            return Err(Error::invalid(name, "a message must be an object"));
        }
        let object = value
            .object()
            .map_err(|error| Error::from(error).with_param(name.clone()))?;
        match object.get("role").map(|role| role.as_str()) {
            Some(Some(_)) => Ok(Self(object)),
            Some(None) => Err(Error::invalid(
                format!("{name}.role"),
                "`role` must be a string",
            )),
            None => Err(Error::new(
                crate::ErrorKind::MissingField,
                format!("`{name}.role` is required"),
            )
            .with_param(format!("{name}.role"))),
        }
    }

    /// The role.
    pub fn role(&self) -> Cow<'_, str> {
        self.0
            .get("role")
            .and_then(|role| role.as_str())
            .unwrap_or_default()
    }

    /// The content: string, array of parts, `null`, or absent.
    pub fn content(&self) -> Option<RawValue<'_>> {
        self.0.get_some("content")
    }

    /// The text of the content: the string, or its text parts joined.
    pub fn text(&self) -> String {
        let Some(content) = self.content() else {
            return String::new();
        };
        if let Some(text) = content.as_str() {
            return text.into_owned();
        }
        content
            .elements()
            .into_iter()
            .filter_map(|part| part.object().ok())
            .filter_map(|part| {
                part.get("text")
                    .and_then(|text| text.as_str().map(Cow::into_owned))
            })
            .collect()
    }
}

pub(super) fn required_name(body: &RawObject, field: &'static str) -> Result<String> {
    name_field(body, field)?.ok_or_else(|| Error::missing(field))
}

/// A short, non-empty string without control characters: it becomes a label, a key or a path segment.
pub(super) fn name_field(body: &RawObject, field: &'static str) -> Result<Option<String>> {
    let Some(value) = body.get_some(field) else {
        return Ok(None);
    };
    let Some(name) = value.as_str() else {
        return Err(Error::invalid(field, format!("`{field}` must be a string")));
    };
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::invalid(
            field,
            format!("`{field}` must have 1 to {MAX_NAME} bytes and no control characters"),
        ));
    }
    Ok(Some(name.into_owned()))
}

fn bool_field(body: &RawObject, field: &'static str) -> Result<Option<bool>> {
    match body.get_some(field) {
        None => Ok(None),
        Some(value) => match value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(Error::invalid(
                field,
                format!("`{field}` must be true or false"),
            )),
        },
    }
}

fn integer_field(body: &RawObject, field: &'static str, least: i64, most: i64) -> Result<()> {
    match body.get_some(field) {
        None => Ok(()),
        Some(value) => match value.text().parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(()),
            _ => Err(Error::invalid(
                field,
                format!("`{field}` must be an integer from {least} to {most}"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ErrorKind;

    fn parse(text: &str) -> Result<ChatRequest> {
        ChatRequest::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let cases = [
            (r#"{"messages":[{}]}"#, ErrorKind::MissingField, "model"),
            (r#"{"model":"m"}"#, ErrorKind::MissingField, "messages"),
            (
                r#"{"model":"m","messages":[ ]}"#,
                ErrorKind::InvalidValue,
                "messages",
            ),
            (
                r#"{"model":"m","messages":{}}"#,
                ErrorKind::InvalidValue,
                "messages",
            ),
            (
                r#"{"model":3,"messages":[{}]}"#,
                ErrorKind::InvalidValue,
                "model",
            ),
            (
                r#"{"model":"m","messages":[{}],"stream":"yes"}"#,
                ErrorKind::InvalidValue,
                "stream",
            ),
            (
                r#"{"model":"m","messages":[{}],"max_tokens":-1}"#,
                ErrorKind::InvalidValue,
                "max_tokens",
            ),
            (
                r#"{"model":"m","messages":[{}],"max_tokens":1.5}"#,
                ErrorKind::InvalidValue,
                "max_tokens",
            ),
            (
                r#"{"model":"m","messages":[{}],"max_tokens":"10"}"#,
                ErrorKind::InvalidValue,
                "max_tokens",
            ),
            (
                r#"{"model":"m","messages":[{}],"max_completion_tokens":1e308}"#,
                ErrorKind::InvalidValue,
                "max_completion_tokens",
            ),
            (
                r#"{"model":"m","messages":[{}],"n":0}"#,
                ErrorKind::InvalidValue,
                "n",
            ),
            (
                r#"{"model":"m","messages":[{}],"session_id":""}"#,
                ErrorKind::InvalidValue,
                "session_id",
            ),
            (
                r#"{"model":"m","messages":[{}],"stream_options":{}}"#,
                ErrorKind::InvalidValue,
                "stream_options",
            ),
        ];
        for (text, kind, param) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{text}");
        }
    }

    #[test]
    fn null_is_absent_and_our_fields_do_not_travel() {
        let request = parse(
            r#"{"session_id":"s","model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":null,"user_id":"u","user":"x"}"#,
        )
        .unwrap();
        assert_eq!(
            (request.session_id(), request.user_id(), request.user()),
            (Some("s"), Some("u"), Some("x"))
        );
        assert_eq!(
            request.to_segments().into_bytes(),
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":null,"user":"x"}"#
        );
    }

    #[test]
    fn a_service_of_ours_gets_the_bytes_that_came() {
        let text = r#"{"session_id":"s", "model":"m","messages":[{"role":"user"}],"user_id":null}"#;
        let mut request = parse(text).unwrap();
        assert_eq!(request.as_received().into_bytes(), text);
        request.set_model("n");
        assert_eq!(
            request.as_received().into_bytes(),
            r#"{"model":"n","messages":[{"role":"user"}],"session_id":"s"}"#
        );
        let mut request = parse(text).unwrap();
        request.set_fresh_session("t".into());
        assert_eq!(
            request.as_received().into_bytes(),
            r#"{"model":"m","messages":[{"role":"user"}],"session_id":"t"}"#
        );
        let mut request = parse(text).unwrap();
        request.body_mut().remove("messages");
        assert_eq!(
            request.as_received().into_bytes(),
            r#"{"model":"m","session_id":"s"}"#
        );
    }

    #[test]
    fn messages_are_checked_when_they_are_read() {
        let request =
            parse(r#"{"model":"m","messages":[{"role":"user","role":"system"}]}"#).unwrap();
        let error = request.messages().unwrap_err();
        assert_eq!(
            (error.kind(), error.param()),
            (ErrorKind::DuplicateKey, Some("messages[0]"))
        );
        let request = parse(
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]}]}"#,
        )
        .unwrap();
        assert_eq!(request.messages().unwrap().first().unwrap().text(), "ab");
    }

    #[test]
    fn a_limit_holds_under_every_name() {
        let request = |limits: &str| {
            let json = format!(r#"{{"model":"m","messages":[{{"role":"user"}}]{limits}}}"#);
            ChatRequest::parse(json.into()).unwrap()
        };
        for (limits, before, wanted) in [
            ("", None, r#","max_completion_tokens":5"#),
            (r#","max_tokens":9"#, Some(9), r#","max_tokens":5"#),
            (
                r#","max_tokens":1,"max_completion_tokens":9"#,
                Some(1),
                r#","max_tokens":5,"max_completion_tokens":5"#,
            ),
            (
                r#","max_tokens":9,"max_completion_tokens":5"#,
                Some(5),
                r#","max_tokens":5,"max_completion_tokens":5"#,
            ),
        ] {
            let mut changed = request(limits);
            assert_eq!(changed.output_limit(), before, "{limits}");
            changed.set_output_limit(5);
            assert_eq!(changed.output_limit(), Some(5), "{limits}");
            let text = changed.to_segments().into_bytes();
            let wanted = format!(r#"{{"model":"m","messages":[{{"role":"user"}}]{wanted}}}"#);
            assert_eq!(text, wanted, "{limits}");
        }
    }
}
