//! The reply of a turn as it is stored: from a complete answer, or put together from the chunks of a stream.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    index: u32,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Fragment<'a>>>,
}

#[derive(Deserialize)]
struct Fragment<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
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
        // A chunk that does not read so is the provider's own; it adds nothing to the stored text.
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(json) else {
            return;
        };
        for delta in chunk
            .choices
            .into_iter()
            .filter(|choice| choice.index == 0)
            .filter_map(|choice| choice.delta)
        {
            add(&mut self.content, delta.content);
            add(&mut self.reasoning_content, delta.reasoning_content);
            add(&mut self.refusal, delta.refusal);
            for fragment in delta.tool_calls.unwrap_or_default() {
                let call = self.tool_calls.entry(fragment.index).or_default();
                replace(&mut call.id, fragment.id);
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

    /// The whole message.
    pub fn into_message(self) -> Bytes {
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
        serde_json::to_vec(&message).unwrap_or_default().into()
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
        let message: serde_json::Value = serde_json::from_slice(&reply.into_message()).unwrap();
        assert_eq!(
            message,
            serde_json::json!({"role":"assistant","content":null,"tool_calls":[
                {"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
                {"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]})
        );
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
