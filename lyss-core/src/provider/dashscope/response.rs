//! A native answer → OpenAI's `chat.completion`.
//!
//! A streamed answer is added up first, so that one that came whole and one that had to be streamed look the same.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue as Json;

use super::{stream::Delta, wire::push_string};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    types::{RawObject, Usage},
};

/// An answer under construction.
#[derive(Debug, Default)]
pub(super) struct Collected {
    choices: BTreeMap<u32, Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    content: String,
    reasoning: String,
    calls: BTreeMap<u32, Call>,
    logprobs: Vec<String>,
    finish: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Call {
    id: String,
    kind: String,
    name: String,
    arguments: String,
}

impl Collected {
    /// Adds what a frame brought.
    pub(super) fn add(&mut self, delta: Delta) {
        let choice = self.choices.entry(delta.index).or_default();
        choice.content.push_str(&delta.content);
        choice.reasoning.push_str(&delta.reasoning);
        for part in delta.tool_calls {
            let call = choice.calls.entry(part.index).or_default();
            if let Some(id) = part.id {
                call.id = id;
            }
            if let Some(kind) = part.kind {
                call.kind = kind;
            }
            call.name.push_str(part.name.as_deref().unwrap_or_default());
            call.arguments.push_str(&part.arguments);
        }
        choice.logprobs.extend(delta.logprobs);
        choice.finish = choice.finish.or(delta.finish);
    }

    /// The answer as OpenAI's object.
    pub(super) fn write(
        &self,
        id: &str,
        created: i64,
        model: &str,
        usage: Option<Usage>,
    ) -> Result<RawObject> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"id":"#);
        push_string(&mut out, id);
        out.extend_from_slice(br#","object":"chat.completion","created":"#);
        out.extend_from_slice(created.to_string().as_bytes());
        out.extend_from_slice(br#","model":"#);
        push_string(&mut out, model);
        out.extend_from_slice(br#","choices":["#);
        for (position, (index, choice)) in self.choices.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(format!(r#"{{"index":{index},"message":"#).as_bytes());
            choice.write_message(&mut out, id);
            out.extend_from_slice(br#","logprobs":"#);
            out.extend_from_slice(joined(&choice.logprobs).as_bytes());
            out.extend_from_slice(br#","finish_reason":"#);
            push_string(&mut out, choice.finish.unwrap_or("stop"));
            out.push(b'}');
        }
        out.push(b']');
        if let Some(usage) = usage {
            out.extend_from_slice(br#","usage":"#);
            out.extend_from_slice(usage.to_openai().as_bytes());
        }
        out.push(b'}');
        RawObject::parse(out.into()).map_err(|error| {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the provider's answer cannot be translated",
            )
            .with_work(Work::Unknown)
            .with_source(error)
        })
    }
}

impl Choice {
    fn write_message(&self, out: &mut Vec<u8>, id: &str) {
        out.extend_from_slice(br#"{"role":"assistant","content":"#);
        if self.content.is_empty() && !self.calls.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            push_string(out, &self.content);
        }
        if !self.reasoning.is_empty() {
            out.extend_from_slice(br#","reasoning_content":"#);
            push_string(out, &self.reasoning);
        }
        if !self.calls.is_empty() {
            out.extend_from_slice(br#","tool_calls":["#);
            for (position, (index, call)) in self.calls.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                call.write(out, id, *index);
            }
            out.push(b']');
        }
        out.push(b'}');
    }
}

impl Call {
    fn write(&self, out: &mut Vec<u8>, answer: &str, index: u32) {
        out.extend_from_slice(br#"{"id":"#);
        if self.id.is_empty() {
            // Older models give none, and a client needs one to answer with.
            push_string(
                out,
                &format!("call_{}_{index}", answer.trim_start_matches("chatcmpl-")),
            );
        } else {
            push_string(out, &self.id);
        }
        out.extend_from_slice(br#","type":"#);
        push_string(
            out,
            if self.kind.is_empty() {
                "function"
            } else {
                &self.kind
            },
        );
        out.extend_from_slice(br#","function":{"name":"#);
        push_string(out, &self.name);
        out.extend_from_slice(br#","arguments":"#);
        push_string(out, &self.arguments);
        out.extend_from_slice(b"}}");
    }
}

/// The log-probabilities of all parts as one object.
fn joined(parts: &[String]) -> String {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow, default)]
        content: Option<Vec<&'a Json>>,
    }
    match parts {
        [] => "null".into(),
        [only] => only.clone(),
        parts => {
            let tokens: Vec<&str> = parts
                .iter()
                .filter_map(|part| serde_json::from_str::<Part<'_>>(part).ok()?.content)
                .flatten()
                .map(Json::get)
                .collect();
            format!(r#"{{"content":[{}],"refusal":null}}"#, tokens.join(","))
        }
    }
}
