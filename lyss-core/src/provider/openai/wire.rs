//! The parts of OpenAI's JSON that are read, and the forms in which other services write them.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::types::{
    Model, RawObject,
    delivered::{Part, Piece, Slot},
};

/// What an error object says, in any of the usual shapes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) message: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
}

impl Details {
    /// Reads `{"error": {…}}`, `{"error": "text"}`, a flat `{"message", "code"}`, or FastAPI's `{"detail"}`.
    /// `None` if the object reports no error.
    pub(super) fn of(body: &RawObject) -> Option<Self> {
        if let Some(error) = body.get_some("error") {
            if error.is_object() {
                return Some(
                    error
                        .object()
                        .map(|error| Self::members(&error))
                        .unwrap_or_default(),
                );
            }
            if matches!(error.text(), "false" | "\"\"") {
                return None;
            }
            let mut details = Self::members(body);
            details.message = error.as_str().map(Cow::into_owned).or(details.message);
            return Some(details);
        }
        if body.get("choices").is_some() || body.get("data").is_some() {
            return None;
        }
        if let Some(detail) = body.get_some("detail") {
            let message = detail
                .as_str()
                .map_or_else(|| detail.text().to_owned(), Cow::into_owned);
            return Some(Self {
                message: Some(message),
                ..Self::members(body)
            });
        }
        let flat = Self::members(body);
        (flat.message.is_some() && flat.code.is_some()).then_some(flat)
    }

    fn members(object: &RawObject) -> Self {
        let text = |key: &str| {
            let value = object.get_some(key)?;
            // `code` is a number at some services.
            let text = value
                .as_str()
                .or_else(|| value.as_u64().map(|_| value.text().into()))?;
            (!text.is_empty()).then(|| text.into_owned())
        };
        Self {
            message: text("message"),
            kind: text("type"),
            param: text("param"),
            code: text("code"),
        }
    }
}

/// What the choices of one chunk come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choices {
    /// Number of choices.
    pub(super) count: u64,
    /// Those with a `finish_reason`.
    pub(super) finished: u64,
    /// The texts in their deltas.
    pub(super) delivered: Vec<Piece>,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sum;
        impl<'de> Visitor<'de> for Sum {
            type Value = Choices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of choices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut choices: A) -> Result<Choices, A::Error> {
                let mut sum = Choices::default();
                while let Some(choice) = choices.next_element::<Choice<'de>>()? {
                    sum.count += 1;
                    sum.finished += u64::from(choice.is_finished());
                    let index = choice.index.unwrap_or(0);
                    let delta = choice.delta.unwrap_or_default();
                    delta.pieces(index, &mut sum.delivered);
                }
                Ok(sum)
            }
        }
        deserializer.deserialize_seq(Sum)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    delta: Option<Delta>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// Some services write the string "null" or an empty one for "not yet".
    fn is_finished(&self) -> bool {
        self.finish_reason
            .is_some_and(|reason| !matches!(reason.get(), "null" | "\"null\"" | "\"\""))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Delta {
    content: Text,
    reasoning_content: Text,
    /// OpenRouter's and vLLM's name.
    reasoning: Text,
    refusal: Text,
    tool_calls: Option<Vec<ToolCall>>,
    function_call: Option<Function>,
}

impl Delta {
    /// The texts, each with its place in the answer.
    fn pieces(self, choice: u32, out: &mut Vec<Piece>) {
        let mut add = |part, text: Text| {
            if !text.0.is_empty() {
                let slot = Slot { choice, part };
                out.push(Piece { slot, text: text.0 });
            }
        };
        add(Part::Reasoning, self.reasoning_content);
        add(Part::Reasoning, self.reasoning);
        add(Part::Content, self.content);
        add(Part::Refusal, self.refusal);
        let calls = self.tool_calls.unwrap_or_default().into_iter();
        let calls = calls.map(|call| (call.index.unwrap_or(0), call.function.or(call.custom)));
        for (index, function) in calls.chain([(0, self.function_call)]) {
            let function = function.unwrap_or_default();
            add(Part::CallName(index), function.name);
            add(Part::CallArguments(index), function.arguments);
            add(Part::CallArguments(index), function.input);
        }
    }
}

#[derive(Deserialize)]
struct ToolCall {
    #[serde(default)]
    index: Option<u32>,
    #[serde(default)]
    function: Option<Function>,
    #[serde(default)]
    custom: Option<Function>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Function {
    name: Text,
    arguments: Text,
    /// Of a custom tool.
    input: Text,
}

/// A text, whatever it is wrapped in: a string, parts with a `text`, or nothing.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text::default())
            }
            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Text, A::Error> {
                let mut all = Text::default();
                while let Some(part) = parts.next_element::<Text>()? {
                    all.0.push_str(&part.0);
                }
                Ok(all)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut part: A) -> Result<Text, A::Error> {
                let mut all = Text::default();
                while let Some(key) = part.next_key::<Cow<'de, str>>()? {
                    if key == "text" || key == "thinking" {
                        all.0.push_str(&part.next_value::<Text>()?.0);
                    } else {
                        part.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// One entry of an embeddings list.
#[derive(Deserialize)]
pub(super) struct Embedding<'a> {
    #[serde(default)]
    pub(super) index: u64,
    #[serde(borrow)]
    pub(super) embedding: &'a RawValue,
}

/// Reads a list of models: OpenAI's object, or Together's bare array. `None` if it is neither.
pub(super) fn models(body: &[u8], provider: &str) -> Option<Vec<Model>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List {
        Object { data: Vec<Entry> },
        Array(Vec<Entry>),
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        #[serde(default)]
        created: Option<f64>,
        #[serde(default)]
        owned_by: Option<String>,
        // The window, by OpenRouter and Together, Groq, vLLM, Mistral.
        #[serde(
            default,
            alias = "context_window",
            alias = "max_model_len",
            alias = "max_context_length"
        )]
        context_length: Option<u64>,
    }
    let list = match serde_json::from_slice(body).ok()? {
        List::Object { data } | List::Array(data) => data,
    };
    let model = |entry: Entry| {
        let mut model = Model::new(entry.id, provider);
        model.created = entry.created.unwrap_or_default() as i64;
        model.owned_by = entry.owned_by.unwrap_or(model.owned_by);
        model.max_tokens = entry.context_length;
        model
    };
    Some(list.into_iter().map(model).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn details(json: &'static str) -> Option<Details> {
        Details::of(&RawObject::parse(json.into()).unwrap())
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        let full = details(r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#);
        let expected = Details {
            message: Some("m".into()),
            kind: Some("t".into()),
            param: None,
            code: Some("c".into()),
        };
        assert_eq!(full, Some(expected));
        for (json, message, code) in [
            (r#"{"error":"m"}"#, Some("m"), None),
            (r#"{"code":"c","error":"m"}"#, Some("m"), Some("c")),
            (
                r#"{"error":{"message":"m","code":429}}"#,
                Some("m"),
                Some("429"),
            ),
            (
                r#"{"code":"c","message":"m","request_id":"r"}"#,
                Some("m"),
                Some("c"),
            ),
            (
                r#"{"object":"error","message":"m","code":400}"#,
                Some("m"),
                Some("400"),
            ),
            (r#"{"detail":"m"}"#, Some("m"), None),
            (
                r#"{"detail":[{"msg":"m"}]}"#,
                Some(r#"[{"msg":"m"}]"#),
                None,
            ),
            (r#"{"error":{}}"#, None, None),
            (r#"{"error":true}"#, None, None),
        ] {
            let read = details(json).unwrap();
            assert_eq!(
                (read.message.as_deref(), read.code.as_deref()),
                (message, code),
                "{json}"
            );
        }
        for json in [
            r#"{"choices":[],"error":null}"#,
            r#"{"choices":[],"message":"m","code":"c"}"#,
            r#"{"id":"x"}"#,
        ] {
            assert_eq!(details(json), None, "{json}");
        }
    }

    #[test]
    fn choices_are_read_whatever_their_form() {
        let sum = |json: &str| serde_json::from_str::<Choices>(json).unwrap();
        let choices = sum(
            r#"[{"index":0,"delta":{"content":"h\u00e9","reasoning_content":"ab","refusal":null},"finish_reason":null},
                {"index":1,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}},{"function":null}]},"finish_reason":"stop"},
                {"delta":{"content":[{"type":"text","text":"xy"},{"type":"image","url":"z"}]},"finish_reason":"null"},
                {"finish_reason":""}, {"delta":null}]"#,
        );
        let piece = |choice, part, text: &str| Piece {
            slot: Slot { choice, part },
            text: text.into(),
        };
        let delivered = vec![
            piece(0, Part::Reasoning, "ab"),
            piece(0, Part::Content, "hé"),
            piece(1, Part::CallName(0), "f"),
            piece(1, Part::CallArguments(0), "{}"),
            piece(0, Part::Content, "xy"),
        ];
        assert_eq!(
            choices,
            Choices {
                count: 5,
                finished: 1,
                delivered
            }
        );
        assert_eq!(sum("[]"), Choices::default());
    }

    #[test]
    fn models_are_read_in_both_shapes() {
        let list = models(
            br#"{"object":"list","data":[{"id":"a","created":1715367049,"owned_by":"system"},{"id":"b","context_window":8192}]}"#,
            "p",
        )
        .unwrap();
        assert_eq!(
            (list[0].created, list[0].owned_by.as_str()),
            (1_715_367_049, "system")
        );
        assert_eq!(
            (list[1].max_tokens, list[1].owned_by.as_str()),
            (Some(8192), "p")
        );
        assert_eq!(models(br#"[{"id":"a"}]"#, "p").unwrap().len(), 1);
        assert_eq!(models(b"<html>", "p"), None);
    }
}
