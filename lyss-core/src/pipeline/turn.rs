//! The reply of a turn as it is stored: from a complete answer, or put together from the chunks of a stream.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::{Error, ErrorKind, Result},
    types::RawObject,
};

/// A reply that is still coming: the first choice of a stream.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    content: Option<String>,
    reasoning_content: Option<String>,
    refusal: Option<String>,
    tool_calls: BTreeMap<u32, ToolCall>,
    /// Whether a chunk could not be read: what is here is then not the whole reply.
    torn: bool,
}

#[derive(Debug, Default, Serialize)]
struct ToolCall {
    id: String,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Function>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom: Option<Custom>,
}

#[derive(Debug, Default, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

#[derive(Debug, Default, Serialize)]
struct Custom {
    name: String,
    input: String,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Fragment<'a>>>,
}

#[derive(Deserialize)]
struct Fragment<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: Option<Piece<'a>>,
    #[serde(borrow, default)]
    custom: Option<Piece<'a>>,
}

#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<Cow<'a, str>>,
}

impl Reply {
    /// The message of a complete answer, byte for byte but for members that are `null` and `annotations`, which
    /// providers send and do not take back.
    pub fn of_answer(answer: &RawObject) -> Result<Bytes> {
        let unusable = || {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the provider's answer has no message to keep in the session",
            )
        };
        let choices = answer.get("choices").ok_or_else(unusable)?.elements();
        let choice = choices
            .first()
            .ok_or_else(unusable)?
            .object()
            .map_err(|_| unusable())?;
        let mut message = choice
            .get("message")
            .filter(|m| m.is_object())
            .ok_or_else(unusable)?
            .object()
            .map_err(|_| unusable())?;
        let drop: Vec<String> = message
            .members()
            .filter(|(key, value)| key == "annotations" || (value.is_null() && key != "content"))
            .map(|(key, _)| key.into_owned())
            .collect();
        for key in drop {
            message.remove(&key);
        }
        Ok(message.to_bytes())
    }

    /// Takes in one chunk.
    pub fn push(&mut self, json: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(json) else {
            self.torn = true;
            return;
        };
        for delta in chunk
            .choices
            .into_iter()
            .filter(|choice| choice.index.unwrap_or(0) == 0)
            .filter_map(|choice| choice.delta)
        {
            add(&mut self.content, delta.content.map(text_of));
            add(
                &mut self.reasoning_content,
                delta.reasoning_content.map(text_of),
            );
            add(&mut self.refusal, delta.refusal.map(text_of));
            for fragment in delta.tool_calls.unwrap_or_default() {
                let call = self
                    .tool_calls
                    .entry(fragment.index.unwrap_or(0))
                    .or_default();
                replace(&mut call.id, fragment.id.map(text_of));
                replace(&mut call.r#type, fragment.r#type);
                if let Some(piece) = fragment.function {
                    let function = call.function.get_or_insert_default();
                    function.name.push_str(&piece.name.unwrap_or_default());
                    function
                        .arguments
                        .push_str(&piece.arguments.unwrap_or_default());
                }
                if let Some(piece) = fragment.custom {
                    let custom = call.custom.get_or_insert_default();
                    custom.name.push_str(&piece.name.unwrap_or_default());
                    custom.input.push_str(&piece.input.unwrap_or_default());
                }
            }
        }
    }

    /// Bytes of text that are held.
    pub fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls = self.tool_calls.values().map(|call| {
            let function = call.function.as_ref();
            let custom = call.custom.as_ref();
            function.map_or(0, |f| f.name.len() + f.arguments.len())
                + custom.map_or(0, |c| c.name.len() + c.input.len())
        });
        text(&self.content)
            + text(&self.reasoning_content)
            + text(&self.refusal)
            + calls.sum::<usize>()
    }

    /// The whole message.
    ///
    /// # Errors
    /// `upstream_invalid_response` if a chunk could not be read: half a reply is not stored.
    pub fn into_message(self) -> Result<Bytes> {
        if self.torn {
            return Err(Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "a chunk of the provider's answer cannot be read, so the turn is not kept in the session",
            ));
        }
        #[derive(Serialize)]
        struct Message {
            role: &'static str,
            content: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reasoning_content: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            refusal: Option<String>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            tool_calls: Vec<ToolCall>,
        }
        let mut tool_calls: Vec<ToolCall> = self.tool_calls.into_values().collect();
        for call in &mut tool_calls {
            if call.r#type.is_empty() {
                call.r#type = if call.custom.is_some() {
                    "custom"
                } else {
                    "function"
                }
                .into();
            }
        }
        let content = match self.content {
            // Some chunk always opens with an empty text; beside tool calls it means "none".
            Some(text) if text.is_empty() && (!tool_calls.is_empty() || self.refusal.is_some()) => {
                None
            }
            content => content,
        };
        let message = Message {
            role: "assistant",
            content,
            reasoning_content: self.reasoning_content.filter(|text| !text.is_empty()),
            refusal: self.refusal.filter(|text| !text.is_empty()),
            tool_calls,
        };
        Ok(serde_json::to_vec(&message).unwrap_or_default().into())
    }
}

/// The text of a delta's member: a string, the `text` of its parts, or a number as it is written; nothing of `null`.
fn text_of(value: &RawValue) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        text: Option<String>,
    }
    if let Ok(text) = serde_json::from_str::<String>(value.get()) {
        return text.into();
    }
    if let Ok(parts) = serde_json::from_str::<Vec<Part>>(value.get()) {
        return parts
            .into_iter()
            .filter_map(|part| part.text)
            .collect::<String>()
            .into();
    }
    if value.get() == "null" {
        Cow::Borrowed("")
    } else {
        Cow::Borrowed(value.get())
    }
}

fn add(text: &mut Option<String>, more: Option<Cow<'_, str>>) {
    if let Some(more) = more {
        text.get_or_insert_default().push_str(&more);
    }
}

fn replace(text: &mut String, new: Option<Cow<'_, str>>) {
    if let Some(new) = new.filter(|new| !new.is_empty()) {
        *text = new.into_owned();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn puts_parallel_tool_calls_together() {
        let mut reply = Reply::default();
        for chunk in [
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null,"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"","function":{"arguments":"{\"x\":"}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"another choice"}}]}"#,
            r#"{"choices":[],"usage":{}}"#,
        ] {
            reply.push(chunk.as_bytes());
        }
        let message: serde_json::Value =
            serde_json::from_slice(&reply.into_message().unwrap()).unwrap();
        assert_eq!(
            message,
            serde_json::json!({"role":"assistant","content":null,"tool_calls":[
                {"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
                {"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]})
        );
    }

    #[test]
    fn reads_odd_chunks_and_refuses_torn_ones() {
        let mut reply = Reply::default();
        reply.push(br#"{"choices":[{"index":null,"delta":{"content":[{"type":"text","text":"a"}],"tool_calls":null}}]}"#);
        reply.push(br#"{"choices":[{"delta":{"content":"b","tool_calls":[{"id":7,"function":{"name":"f","arguments":"{}"}}]}}]}"#);
        let message: serde_json::Value =
            serde_json::from_slice(&reply.into_message().unwrap()).unwrap();
        assert_eq!(message["content"], "ab");
        assert_eq!(message["tool_calls"][0]["id"], "7");
        let mut reply = Reply::default();
        reply.push(br#"{"choices":{}}"#);
        let error = reply.into_message().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse);
    }

    #[test]
    fn keeps_a_complete_message_as_it_is() {
        let answer = RawObject::parse(
            r#"{"choices":[{"message":{"role":"assistant","content":null,"refusal":"n\u00f6","annotations":[],"tool_calls":null,"x":1.0}}]}"#.into(),
        )
        .unwrap();
        assert_eq!(
            Reply::of_answer(&answer).unwrap(),
            r#"{"role":"assistant","content":null,"refusal":"n\u00f6","x":1.0}"#
        );
        let empty = RawObject::parse(r#"{"choices":[]}"#.into()).unwrap();
        assert_eq!(
            Reply::of_answer(&empty).unwrap_err().kind(),
            ErrorKind::UpstreamInvalidResponse
        );
    }
}
