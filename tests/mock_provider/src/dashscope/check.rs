//! What DashScope refuses.

use serde_json::Value;

use super::Failure;
use crate::openai::NO_SUCH_MODEL;

const URL_ERROR: &str = "url error, please check url！ For details, see: https://help.aliyun.com/zh/model-studio/error-code#error-url";

/// Which of the two generation paths a model is bound to.
pub(super) fn is_multimodal(model: &str) -> bool {
    let prefixes = [
        "qwen-vl",
        "qwen2-vl",
        "qwen2.5-vl",
        "qwen3-vl",
        "qvq",
        "qwen-audio",
        "qwen3.5-",
        "qwen3.6-",
        "qwen3.7-plus",
        "qwen3.7-flash",
        "qwen3.8-",
    ];
    prefixes.iter().any(|prefix| model.starts_with(prefix)) || model.contains("-omni")
}

/// Open-weight hybrids (`qwen3-8b`) and QwQ think unless told not to, and then only in a stream.
pub(super) fn thinks_only_in_streams(model: &str) -> bool {
    let open_weight = model
        .strip_prefix("qwen3-")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    open_weight || model.starts_with("qwq")
}

/// Model, messages and parameters of a generation request.
pub(super) struct Request<'a> {
    pub(super) model: &'a str,
    pub(super) messages: &'a [Value],
    pub(super) parameters: &'a Value,
    pub(super) thinking: bool,
}

pub(super) fn model(body: Option<&Value>) -> Result<(&Value, &str), Failure> {
    let Some(body) = body.filter(|body| body.is_object()) else {
        return Err(Failure::new(
            400,
            "BadRequest.IllegalInput",
            "The request body is not valid JSON.",
        ));
    };
    match body
        .get("model")
        .and_then(Value::as_str)
        .filter(|model| !model.is_empty())
    {
        None => Err(Failure::new(
            400,
            "BadRequest.EmptyModel",
            "Required parameter \"model\" missing.",
        )),
        Some(model) if model.starts_with(NO_SUCH_MODEL) => {
            Err(Failure::invalid("Model not exist."))
        }
        Some(model) => Ok((body, model)),
    }
}

pub(super) fn generation<'a>(
    body: Option<&'a Value>,
    multimodal: bool,
    stream: bool,
) -> Result<Request<'a>, Failure> {
    let (body, model) = model(body)?;
    if is_multimodal(model) != multimodal {
        return Err(Failure {
            inside_200: stream,
            ..Failure::invalid(URL_ERROR)
        });
    }
    let messages = body
        .pointer("/input/messages")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return Err(Failure::new(
            400,
            "BadRequest.EmptyInput",
            "Required input parameter missing from request.",
        ));
    }
    let parameters = body.get("parameters").unwrap_or(&Value::Null);
    check_numbers(parameters)?;
    for message in messages {
        check_message(message, multimodal)?;
    }
    crate::openai::chat::check_tool_turns(messages).map_err(|message| {
        Failure::invalid(format!(
            "<400> InternalError.Algo.InvalidParameter: {message}"
        ))
    })?;
    let switch = parameters.get("enable_thinking").and_then(Value::as_bool);
    let thinking =
        model.starts_with("qwq") || switch.unwrap_or_else(|| thinks_only_in_streams(model));
    if thinking && thinks_only_in_streams(model) && !stream {
        return Err(Failure::invalid(
            "parameter.enable_thinking must be set to false for non-streaming calls",
        ));
    }
    check_tools(parameters, messages, thinking)?;
    Ok(Request {
        model,
        messages,
        parameters,
        thinking,
    })
}

fn check_numbers(parameters: &Value) -> Result<(), Failure> {
    let number = |name: &str| parameters.get(name).and_then(Value::as_f64);
    if number("temperature").is_some_and(|value| !(0.0..2.0).contains(&value)) {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: Temperature should be in [0.0, 2.0)",
        ));
    }
    if number("top_p").is_some_and(|value| value <= 0.0 || value > 1.0) {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: Range of top_p should be (0.0, 1.0]",
        ));
    }
    if number("max_tokens").is_some_and(|value| !(1.0..=32_768.0).contains(&value)) {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 32768]",
        ));
    }
    if number("seed").is_some_and(|value| value < 0.0) {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: Range of seed should be [0, 9223372036854775807]",
        ));
    }
    if number("n").is_some_and(|value| !(1.0..=4.0).contains(&value)) {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: Range of n should be [1, 4]",
        ));
    }
    Ok(())
}

fn check_message(message: &Value, multimodal: bool) -> Result<(), Failure> {
    let role = message
        .get("role")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !matches!(
        role,
        "system" | "user" | "assistant" | "tool" | "function" | "plugin"
    ) {
        return Err(Failure::invalid(format!(
            "<400> InternalError.Algo.InvalidParameter: {role} is not one of ['system', 'assistant', 'user', 'tool', 'function']"
        )));
    }
    let parts = match message.get("content") {
        Some(Value::String(_)) => return Ok(()),
        Some(Value::Array(parts)) => parts,
        _ => {
            return Err(Failure::invalid(
                "<400> InternalError.Algo.InvalidParameter: content field is a required field",
            ));
        }
    };
    for part in parts {
        let known = ["text", "image", "audio", "video"]
            .iter()
            .any(|kind| part.get(kind).is_some());
        let valid = if multimodal {
            known && part.get("type").is_none()
        } else {
            // On the text path an array is documented only with cache_control.
            part.get("text").is_some() && part.get("cache_control").is_some()
        };
        if !valid {
            return Err(Failure::invalid(
                "<400> InternalError.Algo.InvalidParameter: The content field has a wrong type or part",
            ));
        }
    }
    Ok(())
}

fn check_tools(parameters: &Value, messages: &[Value], thinking: bool) -> Result<(), Failure> {
    let tools = parameters
        .get("tools")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if !tools.is_empty()
        && parameters
            .get("n")
            .and_then(Value::as_u64)
            .is_some_and(|n| n > 1)
    {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: n must be 1 when tools are used",
        ));
    }
    if !tools.is_empty() && parameters.get("result_format").and_then(Value::as_str) == Some("text")
    {
        return Err(Failure::invalid(
            "result_format must be \"message\" when tools are used",
        ));
    }
    if tools
        .iter()
        .any(|tool| tool.pointer("/function/name").and_then(Value::as_str) == Some("search"))
    {
        return Err(Failure::invalid(
            "Tool names are not allowed to be [search]",
        ));
    }
    if parameters
        .get("tool_choice")
        .and_then(Value::as_str)
        .is_some_and(|choice| !matches!(choice, "auto" | "none"))
    {
        return Err(Failure::invalid(
            "<400> InternalError.Algo.InvalidParameter: tool_choice is one of the strings that should be [\"none\", \"auto\"]",
        ));
    }
    if parameters
        .pointer("/response_format/type")
        .and_then(Value::as_str)
        == Some("json_object")
    {
        if thinking {
            return Err(Failure::invalid(
                "Json mode response is not supported when enable_thinking is true",
            ));
        }
        if !messages
            .iter()
            .any(|message| message.to_string().to_lowercase().contains("json"))
        {
            return Err(Failure::invalid(
                "<400> InternalError.Algo.InvalidParameter: 'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            ));
        }
    }
    Ok(())
}
