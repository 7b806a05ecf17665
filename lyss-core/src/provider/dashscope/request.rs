//! OpenAI's chat request → the native one.
//!
//! The JSON text is put together from slices of the request, so that numbers, tool schemas and their key order reach
//! the provider byte for byte.
//!
//! # Source
//! Model Studio, "Text generation" API reference, read 2026-11-22.

use super::{model::Generation, wire::JsonText};
use crate::{
    error::{Error, Result},
    types::{ChatRequest, Message, RawObject, RawValue, Segments},
};

/// Members that have no native counterpart: not sent, and their loss changes no meaning that the provider could keep.
const NOT_SENT: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "result_format",
    "incremental_output",
    "max_tokens",
    "max_completion_tokens",
    "frequency_penalty",
    "logit_bias",
    "user",
    "metadata",
    "store",
    "service_tier",
    "verbosity",
    "prediction",
    "moderation",
    "web_search_options",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
];

/// Message members of OpenAI's answers that the provider does not take back. Sending `reasoning_content` again would
/// be charged again.
const NOT_SENT_IN_MESSAGES: &[&str] = &["reasoning_content", "refusal", "audio", "annotations"];

/// A native request.
#[derive(Debug)]
pub(super) struct NativeRequest {
    pub(super) body: Segments,
    /// Whether a part refers to `oss://…`, which a header must announce.
    pub(super) resolves_oss: bool,
}

/// Translates a request.
///
/// # Errors
/// `invalid_value`, `missing_field` and `duplicate_key`, naming the field that the model cannot take.
pub(super) fn translate(
    request: &ChatRequest,
    generation: Generation,
    stream: bool,
) -> Result<NativeRequest> {
    let mut out = JsonText::default();
    out.push("{").key("model").string(request.model());
    out.key("input").push("{").key("messages").push("[");
    let mut resolves_oss = false;
    for (index, message) in request.messages()?.iter().enumerate() {
        out.comma();
        resolves_oss |= write_message(&mut out, index, message, generation)?;
    }
    out.push("]}").key("parameters").push("{");
    write_parameters(&mut out, request.body(), stream)?;
    out.push("}}");
    Ok(NativeRequest {
        body: out.finish(),
        resolves_oss,
    })
}

/// Whether any message has a part that is not text.
pub(super) fn has_media(request: &ChatRequest) -> bool {
    let messages = request.messages().unwrap_or_default();
    messages.iter().any(|message| {
        let parts = message.content().map(|content| content.elements());
        parts.unwrap_or_default().into_iter().any(|part| {
            part.object()
                .is_ok_and(|part| !matches!(Part::of(&part), Part::Text(_)))
        })
    })
}

/// The switch that callers may set for models that can think.
pub(super) fn enable_thinking(request: &ChatRequest) -> Option<bool> {
    request.body().get("enable_thinking")?.as_bool()
}

fn write_parameters(out: &mut JsonText, body: &RawObject, stream: bool) -> Result<()> {
    out.key("result_format").string("message");
    if stream {
        out.key("incremental_output").push("true");
    }
    let limit = body
        .get_some("max_completion_tokens")
        .or_else(|| body.get_some("max_tokens"));
    if let Some(limit) = limit {
        out.key("max_tokens").value(limit);
    }
    let tools = body
        .get_some("tools")
        .map(|tools| tools.elements())
        .unwrap_or_default();
    for (key, value) in body.members() {
        // `null` is OpenAI's way to say "the default"; the provider may refuse it.
        if NOT_SENT.contains(&&*key) || value.is_null() {
            continue;
        }
        match &*key {
            "temperature" if is_number(value, 2.0) => out.key(&key).push("1.99"),
            "top_p" if is_number(value, 0.0) => continue,
            "tools" if value.is_array() && tools.is_empty() => continue,
            "tool_choice" => match tool_choice(value, &tools)? {
                Some(choice) => out.key(&key).push(&choice),
                None => out.key(&key).value(value),
            },
            "functions" | "function_call" => {
                return Err(Error::invalid(
                    key.clone().into_owned(),
                    format!(
                        "`{key}` is not served by this provider: use `tools` and `tool_choice`"
                    ),
                ));
            }
            "modalities"
                if value
                    .elements()
                    .iter()
                    .any(|kind| kind.as_str().as_deref() == Some("audio")) =>
            {
                return Err(Error::invalid(
                    "modalities",
                    "audio output is not served by this provider",
                ));
            }
            _ => out.key(&key).value(value),
        };
    }
    // The provider's default is false, OpenAI's is true.
    if !tools.is_empty() && body.get_some("parallel_tool_calls").is_none() {
        out.key("parallel_tool_calls").push("true");
    }
    Ok(())
}

fn is_number(value: RawValue<'_>, number: f64) -> bool {
    value.text().parse::<f64>().is_ok_and(|own| own == number)
}

/// What to send in place of a `tool_choice` that the provider does not know; `None` to send it as it is.
///
/// `required` with several tools becomes `auto`: the provider cannot be made to call one of several.
fn tool_choice(value: RawValue<'_>, tools: &[RawValue<'_>]) -> Result<Option<String>> {
    if value.as_str().as_deref() == Some("required") {
        let [only] = tools else {
            return Ok(Some(r#""auto""#.into()));
        };
        let function = only
            .object()?
            .get_some("function")
            .map(|function| function.object());
        let named = match function
            .transpose()?
            .as_ref()
            .and_then(|function| function.get_some("name"))
        {
            Some(name) => format!(
                r#"{{"type":"function","function":{{"name":{}}}}}"#,
                name.text()
            ),
            None => r#""auto""#.into(),
        };
        return Ok(Some(named));
    }
    if value.is_object()
        && let Some(kind) = value.object()?.get_some("type")
        && kind.as_str().as_deref() == Some("allowed_tools")
    {
        return Err(Error::invalid(
            "tool_choice",
            "`allowed_tools` is not served by this provider: send only the tools that may be called",
        ));
    }
    Ok(None)
}

/// Writes a message; says whether it refers to `oss://…`.
fn write_message(
    out: &mut JsonText,
    index: usize,
    message: &Message,
    generation: Generation,
) -> Result<bool> {
    let role = message.role();
    let role = if role == "developer" { "system" } else { &role };
    out.push("{").key("role").string(role).key("content");
    let place = Place { message: index };
    let resolves_oss = match (message.content(), generation) {
        (None, _) => {
            // An assistant's refusal stands where its content would.
            match message.0.get_some("refusal") {
                Some(refusal) => write_text(out, refusal, generation),
                None => out.push(r#""""#),
            };
            false
        }
        (Some(content), Generation::Text) if content.is_array() => {
            write_flat(out, content, &place)?;
            false
        }
        (Some(content), Generation::Multimodal) if content.is_array() => {
            write_parts(out, content, &place)?
        }
        (Some(content), _) if content.as_str().is_some() => {
            // With tool calls an empty content is a plain string on both paths.
            if content.text() == r#""""# {
                out.push(r#""""#);
            } else {
                write_text(out, content, generation);
            }
            false
        }
        _ => {
            return Err(Error::invalid(
                format!("messages[{index}].content"),
                "`content` must be a string or an array of content parts",
            ));
        }
    };
    for (key, value) in message.0.members() {
        let written = matches!(&*key, "role" | "content");
        if written || NOT_SENT_IN_MESSAGES.contains(&&*key) || value.is_null() {
            continue;
        }
        out.key(&key).value(value);
    }
    out.push("}");
    Ok(resolves_oss)
}

/// Where an error is, for its `param`.
struct Place {
    message: usize,
}

impl Place {
    fn part(&self, part: usize) -> String {
        format!("messages[{}].content[{part}]", self.message)
    }
}

fn write_text<'a>(
    out: &'a mut JsonText,
    text: RawValue<'_>,
    generation: Generation,
) -> &'a mut JsonText {
    match generation {
        Generation::Text => out.value(text),
        Generation::Multimodal => out.push(r#"[{"text":"#).value(text).push("}]"),
    }
}

/// A content part, by what the provider needs of it.
enum Part<'a> {
    Text(RawValue<'a>),
    Image(RawValue<'a>),
    Video(RawValue<'a>),
    Audio(RawObject),
    /// A part in the provider's own form, which has no `type`.
    Native,
    Unknown(String),
}

impl<'a> Part<'a> {
    fn of(part: &'a RawObject) -> Self {
        let Some(kind) = part.get_some("type") else {
            let native = ["text", "image", "video", "audio"]
                .iter()
                .find_map(|key| Some((*key, part.get_some(key)?)));
            return match native {
                Some(("text", text)) if part.len() == 1 => Self::Text(text),
                Some(_) => Self::Native,
                None => Self::Unknown("without `type`".into()),
            };
        };
        let kind = kind.as_str().unwrap_or_default();
        let found = match &*kind {
            "text" => part.get_some("text").filter(is_string).map(Self::Text),
            "refusal" => part.get_some("refusal").filter(is_string).map(Self::Text),
            "image_url" => part.get_some("image_url").map(Self::Image),
            "video_url" => part.get_some("video_url").map(Self::Video),
            "video" => part.get_some("video").map(Self::Video),
            "input_audio" => part
                .get_some("input_audio")
                .and_then(|audio| audio.object().ok())
                .map(Self::Audio),
            _ => None,
        };
        found.unwrap_or_else(|| Self::Unknown(format!("of type `{}`", kind.escape_debug())))
    }
}

fn is_string(value: &RawValue<'_>) -> bool {
    value.text().starts_with('"')
}

fn part_object(part: RawValue<'_>, place: &Place, index: usize) -> Result<RawObject> {
    if !part.is_object() {
        return Err(Error::invalid(
            place.part(index),
            "a content part must be an object",
        ));
    }
    part.object()
        .map_err(|error| Error::from(error).with_param(place.part(index)))
}

/// Text parts as one string, which is what text models take. With `cache_control` the list is kept: it is documented
/// together with it, and the marks would be lost.
fn write_flat(out: &mut JsonText, content: RawValue<'_>, place: &Place) -> Result<()> {
    let mut cached = false;
    let mut flat = String::from("\"");
    for (index, part) in content.elements().into_iter().enumerate() {
        let part = part_object(part, place, index)?;
        let Part::Text(text) = Part::of(&part) else {
            let kind = match Part::of(&part) {
                Part::Unknown(kind) => kind,
                Part::Image(_) => "of type `image_url`".into(),
                Part::Video(_) => "of type `video_url`".into(),
                Part::Audio(_) => "of type `input_audio`".into(),
                Part::Text(_) | Part::Native => "with media".into(),
            };
            return Err(Error::invalid(
                place.part(index),
                format!("a content part {kind} cannot be sent to this model: it takes text only"),
            ));
        };
        cached |= part.get_some("cache_control").is_some();
        // Joined as they came: what stands between the quotes needs no second escaping.
        let quoted = text.text();
        flat.push_str(
            quoted
                .get(1..quoted.len().saturating_sub(1))
                .unwrap_or_default(),
        );
    }
    flat.push('"');
    if cached {
        out.value(content);
    } else {
        out.push(&flat);
    }
    Ok(())
}

/// Parts in the provider's form: no `type`, the key names the kind.
fn write_parts(out: &mut JsonText, content: RawValue<'_>, place: &Place) -> Result<bool> {
    let mut resolves_oss = false;
    out.push("[");
    for (index, value) in content.elements().into_iter().enumerate() {
        let part = part_object(value, place, index)?;
        out.comma();
        match Part::of(&part) {
            Part::Text(text) => {
                out.push("{").key("text").value(text);
            }
            Part::Image(image) => {
                resolves_oss |= write_url(out, "image", image, "image_url", place, index)?;
            }
            Part::Video(video) => {
                resolves_oss |= write_url(out, "video", video, "video_url", place, index)?;
            }
            Part::Audio(audio) => write_audio(out, &audio, place, index)?,
            Part::Native => {
                resolves_oss |= value.text().contains("\"oss://");
                out.value(value);
                continue;
            }
            Part::Unknown(kind) => {
                return Err(Error::invalid(
                    place.part(index),
                    format!(
                        "a content part {kind} cannot be sent to this provider: it takes text, image_url, video_url and input_audio"
                    ),
                ));
            }
        }
        let named = [
            "type",
            "text",
            "refusal",
            "image_url",
            "video_url",
            "video",
            "input_audio",
        ];
        for (key, value) in part.members() {
            if !named.contains(&&*key) && !value.is_null() {
                out.key(&key).value(value);
            }
        }
        out.push("}");
    }
    out.push("]");
    Ok(resolves_oss)
}

/// Begins a part with a URL: a string, a list of frames, or an object with `url` and vendor siblings.
fn write_url(
    out: &mut JsonText,
    key: &str,
    value: RawValue<'_>,
    field: &str,
    place: &Place,
    index: usize,
) -> Result<bool> {
    out.push("{").key(key);
    if !value.is_object() {
        if !is_string(&value) && !value.is_array() {
            return Err(Error::invalid(
                format!("{}.{field}", place.part(index)),
                format!("`{field}` must be an object with `url`"),
            ));
        }
        out.value(value);
        return Ok(value.text().contains("\"oss://"));
    }
    let object = value
        .object()
        .map_err(|error| Error::from(error).with_param(place.part(index)))?;
    let Some(url) = object
        .get_some("url")
        .filter(|url| is_string(url) || url.is_array())
    else {
        return Err(Error::invalid(
            format!("{}.{field}.url", place.part(index)),
            "`url` must be a string",
        ));
    };
    out.value(url);
    for (key, value) in object.members() {
        // `detail` has no counterpart.
        if !matches!(&*key, "url" | "detail") && !value.is_null() {
            out.key(&key).value(value);
        }
    }
    Ok(url.text().contains("\"oss://"))
}

/// Begins an audio part. The provider wants a URL; bare base64 becomes a `data:` URL.
fn write_audio(out: &mut JsonText, audio: &RawObject, place: &Place, index: usize) -> Result<()> {
    let Some(data) = audio.get_some("data").filter(is_string) else {
        return Err(Error::invalid(
            format!("{}.input_audio.data", place.part(index)),
            "`data` must be a string",
        ));
    };
    out.push("{").key("audio");
    // The closing quote stays: it closes the URL.
    let inner = data.text().strip_prefix('"').unwrap_or_default();
    if ["data:", "http:", "https:", "oss:"]
        .iter()
        .any(|scheme| inner.starts_with(scheme))
    {
        out.value(data);
        return Ok(());
    }
    let format = audio.get_some("format").and_then(|format| format.as_str());
    let format = match format.as_deref() {
        Some("mp3") => "mpeg",
        Some(format)
            if !format.is_empty() && format.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
        {
            format
        }
        None => "wav",
        Some(_) => {
            return Err(Error::invalid(
                format!("{}.input_audio.format", place.part(index)),
                "`format` must be a name such as \"wav\" or \"mp3\"",
            ));
        }
    };
    out.push("\"data:audio/")
        .push(format)
        .push(";base64,")
        .push(inner);
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
