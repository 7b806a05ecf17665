//! Messages, tools and schemas around the texts.
//!
//! # Source
//! OpenAI's cookbook, "How to count tokens with tiktoken" (`num_tokens_from_messages`, `num_tokens_for_tools`). What it does
//! not say is ours: a tool call costs its name, its arguments and 3; ids (`tool_call_id`) are not shown to models and
//! cost nothing; nested schemas follow the rule of the properties of the first level, and what they have besides (`anyOf`,
//! `$defs`) costs its JSON text, as does a `response_format` schema. Other vendors' templates write tools as JSON: there a definition costs its JSON text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    family::{Family, Tokenizer},
    media,
};

/// What a message costs by itself.
const MESSAGE: u64 = 3;
/// What a `name` costs besides its text.
const NAME: u64 = 1;
/// What primes a reply.
pub(super) const REPLY: u32 = 3;
/// What a tool call of a message costs besides its name and arguments.
pub(super) const CALL: u32 = 3;

/// What a function costs besides its texts: 7 for GPT-4o, 10 for GPT-4 and GPT-3.5.
const FUNCTION_O200K: u64 = 7;
const FUNCTION_CL100K: u64 = 10;
/// What its properties cost as such, and each of them.
const PROPERTIES: u64 = 3;
const PROPERTY: u64 = 3;
/// What a value of an `enum` costs; the `enum` itself is 3 cheaper.
const ENUM_ITEM: u64 = 3;
/// What closes the list of functions.
const FUNCTIONS_END: u64 = 12;
/// What the templates of others say around a list of tools, by Qwen2.5's.
const TOOLS_ELSEWHERE: u64 = 87;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow, default)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(borrow, default)]
    custom: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// Tokens of a message.
pub(super) fn message(family: &Family, json: &[u8]) -> u64 {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(json) else {
        return MESSAGE + unreadable(family, json);
    };
    let name = string(message.name).map_or(0, |name| NAME + family.text(&name));
    MESSAGE + text(family, message.role) + name + said(family, &message)
}

/// Tokens of a message without what it costs as one: what a model generates for it.
pub(super) fn answer(family: &Family, json: &[u8]) -> u64 {
    match serde_json::from_slice::<Message<'_>>(json) {
        Ok(message) => said(family, &message),
        Err(_) => unreadable(family, json),
    }
}

/// What cannot be read as a message counts as the text it is.
fn unreadable(family: &Family, json: &[u8]) -> u64 {
    family.text(&String::from_utf8_lossy(json))
}

fn said(family: &Family, message: &Message<'_>) -> u64 {
    let calls = message.tool_calls.iter().flatten();
    let calls = calls
        .flat_map(|call| [&call.function, &call.custom])
        .flatten()
        .chain(&message.function_call);
    let calls: u64 = calls
        .map(|call| {
            u64::from(CALL)
                + text(family, call.name)
                + text(family, call.arguments)
                + text(family, call.input)
        })
        .sum();
    content(family, message.content)
        + text(family, message.reasoning_content)
        + text(family, message.refusal)
        + calls
}

/// A string, or an array of parts.
fn content(family: &Family, content: Option<&RawValue>) -> u64 {
    let Some(content) = content else { return 0 };
    match serde_json::from_str::<Vec<&RawValue>>(content.get()) {
        Ok(parts) => parts
            .into_iter()
            .map(|part| media::part(family, part))
            .sum(),
        Err(_) => text(family, Some(content)),
    }
}

/// Tokens of a string; of any other value but `null` those of its JSON text.
pub(super) fn text(family: &Family, value: Option<&RawValue>) -> u64 {
    match value {
        None => 0,
        Some(value) => match string(Some(value)) {
            Some(text) => family.text(&text),
            None if value.get() == "null" => 0,
            None => family.text(value.get()),
        },
    }
}

/// A string, without a copy where it has no escapes.
pub(super) fn string(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let json = value?.get();
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// Tokens of the array `tools` (or `functions`).
pub(super) fn tools(family: &Family, json: &str) -> u64 {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, default)]
        function: Option<&'a RawValue>,
    }
    let Ok(tools) = serde_json::from_str::<Vec<&RawValue>>(json) else {
        return family.text(json);
    };
    if tools.is_empty() {
        return 0;
    }
    if family.tokenizer == Tokenizer::Estimate {
        let texts: u64 = tools.iter().map(|tool| family.text(tool.get())).sum();
        return TOOLS_ELSEWHERE + texts;
    }
    let each = tools.iter().map(|tool| {
        let definition = serde_json::from_str::<Tool<'_>>(tool.get())
            .ok()
            .and_then(|tool| tool.function)
            .unwrap_or(tool);
        function(family, definition.get())
    });
    each.sum::<u64>() + FUNCTIONS_END
}

#[derive(Deserialize)]
struct Definition<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow, default)]
    description: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<Schema<'a>>,
}

#[derive(Deserialize)]
struct Schema<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    description: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "enum")]
    values: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    properties: Option<Properties<'a>>,
    #[serde(borrow, default)]
    items: Option<Box<Schema<'a>>>,
    // What has no rule costs its JSON.
    #[serde(borrow, default, rename = "$defs")]
    defs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    definitions: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "anyOf")]
    any_of: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "oneOf")]
    one_of: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "allOf")]
    all_of: Option<&'a RawValue>,
}

/// Names and schemas, in order.
struct Properties<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Properties<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("properties")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut properties = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    properties.push(entry);
                }
                Ok(properties)
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}

fn function(family: &Family, json: &str) -> u64 {
    let start = match family.tokenizer {
        Tokenizer::O200k => FUNCTION_O200K,
        _ => FUNCTION_CL100K,
    };
    let Ok(definition) = serde_json::from_str::<Definition<'_>>(json) else {
        return start + family.text(json);
    };
    let name = string(Some(definition.name)).unwrap_or_default();
    let line = format!("{name}:{}", sentence(definition.description));
    let parameters = definition.parameters.as_ref();
    start + family.text(&line) + parameters.map_or(0, |schema| properties(family, schema))
}

/// Tokens of the properties of an object, and of those below them.
fn properties(family: &Family, schema: &Schema<'_>) -> u64 {
    let own = match &schema.properties {
        Some(Properties(list)) if !list.is_empty() => {
            let each = list.iter().map(|(name, json)| property(family, name, json));
            PROPERTIES + each.sum::<u64>()
        }
        _ => 0,
    };
    let items = schema.items.as_ref();
    let others = [
        schema.defs,
        schema.definitions,
        schema.any_of,
        schema.one_of,
        schema.all_of,
    ];
    let others = others.into_iter().map(|other| text(family, other));
    own + items.map_or(0, |items| properties(family, items)) + others.sum::<u64>()
}

fn property(family: &Family, name: &str, json: &RawValue) -> u64 {
    let Ok(schema) = serde_json::from_str::<Schema<'_>>(json.get()) else {
        return PROPERTY + family.text(name) + family.text(json.get());
    };
    let values: u64 = schema
        .values
        .iter()
        .flatten()
        .map(|value| ENUM_ITEM + text(family, Some(value)))
        .sum();
    // `enum` itself takes 3 away, and has at least one value.
    let values = match &schema.values {
        Some(_) => values.saturating_sub(3),
        None => 0,
    };
    let kind = schema.kind.map_or(Cow::Borrowed(""), |kind| {
        string(Some(kind)).unwrap_or(Cow::Borrowed(kind.get()))
    });
    let line = format!("{name}:{kind}:{}", sentence(schema.description));
    PROPERTY + values + family.text(&line) + properties(family, &schema)
}

/// A description without its full stop.
fn sentence(description: Option<&RawValue>) -> Cow<'_, str> {
    let text = string(description).unwrap_or_default();
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('.').unwrap_or(text)),
        Cow::Owned(mut text) => {
            if text.ends_with('.') {
                text.pop();
            }
            Cow::Owned(text)
        }
    }
}

/// Tokens of `response_format`: its schema, if it has one.
pub(super) fn response_format(family: &Family, json: &str) -> u64 {
    #[derive(Deserialize)]
    struct Format<'a> {
        #[serde(borrow, default)]
        json_schema: Option<&'a RawValue>,
    }
    match serde_json::from_str::<Format<'_>>(json) {
        Ok(Format {
            json_schema: Some(schema),
        }) => family.text(schema.get()),
        _ => 0,
    }
}
