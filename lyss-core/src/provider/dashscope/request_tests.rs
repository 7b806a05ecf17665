#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::error::ErrorKind;

fn native(generation: Generation, body: &str) -> Result<String> {
    let request = ChatRequest::parse(body.to_owned().into()).unwrap();
    let native = translate(&request, generation, false)?;
    let text = String::from_utf8(native.body.into_bytes().to_vec()).unwrap();
    let _: serde_json::Value = serde_json::from_str(&text).expect("what is sent is JSON");
    Ok(text)
}

/// The native messages of these messages.
fn messages(generation: Generation, messages: &str) -> Result<String> {
    let text = native(
        generation,
        &format!(r#"{{"model":"m","messages":{messages}}}"#),
    )?;
    let text = text
        .strip_prefix(r#"{"model":"m","input":{"messages":"#)
        .unwrap();
    Ok(text
        .strip_suffix(r#"},"parameters":{"result_format":"message"}}"#)
        .unwrap()
        .to_owned())
}

/// The native parameters of these members, without the one that is always sent.
fn parameters(members: &str) -> Result<String> {
    let text = native(
        Generation::Text,
        &format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{members}}}"#),
    )?;
    let (_, parameters) = text
        .split_once(r#""parameters":{"result_format":"message""#)
        .unwrap();
    let parameters = parameters.strip_suffix("}}").unwrap();
    Ok(parameters.trim_start_matches(',').to_owned())
}

#[test]
fn values_travel_byte_for_byte() {
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"z":1.0,"a":{"type":"object","properties":{"b":{},"a":{}}},"n":1e2}}}]"#;
    let members = format!(
        r#""temperature":0.70,"seed":18446744073709551615,"stop":["\u4f60"],"top_k":1E1,"enable_search":true,"tools":{tools},"parallel_tool_calls":false"#
    );
    assert_eq!(parameters(&members).unwrap(), members);
    let content = format!(
        r#"[{{"role":"user","content":"{}\u4f60\/"}}]"#,
        "x".repeat(5000)
    );
    assert_eq!(messages(Generation::Text, &content).unwrap(), content);
}

#[test]
fn parameters_follow_the_table() {
    let tool = |name: &str| format!(r#"{{"type":"function","function":{{"name":"{name}"}}}}"#);
    let (one, two) = (tool("f"), format!("{},{}", tool("f"), tool("g")));
    for (members, expected) in [
        (r#""temperature":2.0"#.to_owned(), r#""temperature":1.99"#.to_owned()),
        (r#""temperature":2"#.into(), r#""temperature":1.99"#.into()),
        (r#""temperature":1.999"#.into(), r#""temperature":1.999"#.into()),
        (r#""top_p":0"#.into(), String::new()),
        (r#""top_p":0.5"#.into(), r#""top_p":0.5"#.into()),
        (r#""max_tokens":5,"max_completion_tokens":7"#.into(), r#""max_tokens":7"#.into()),
        (r#""max_tokens":5,"max_completion_tokens":null"#.into(), r#""max_tokens":5"#.into()),
        (
            r#""user":"u","metadata":{},"store":true,"service_tier":"auto","logit_bias":{},"frequency_penalty":1,"verbosity":"low","seed":null"#.into(),
            String::new(),
        ),
        (format!(r#""tools":[{one}]"#), format!(r#""tools":[{one}],"parallel_tool_calls":true"#)),
        (
            format!(r#""tools":[{one}],"tool_choice":"required""#),
            format!(r#""tools":[{one}],"tool_choice":{one},"parallel_tool_calls":true"#),
        ),
        (
            format!(r#""tools":[{two}],"tool_choice":"required","parallel_tool_calls":false"#),
            format!(r#""tools":[{two}],"tool_choice":"auto","parallel_tool_calls":false"#),
        ),
        (r#""tools":[]"#.into(), String::new()),
        (r#""tool_choice":"none""#.into(), r#""tool_choice":"none""#.into()),
        (r#""result_format":"text","incremental_output":false"#.into(), String::new()),
    ] {
        assert_eq!(parameters(&members).unwrap(), expected, "{members}");
    }
    for (members, param) in [
        (r#""functions":[]"#, "functions"),
        (r#""modalities":["text","audio"]"#, "modalities"),
        (r#""tool_choice":{"type":"allowed_tools"}"#, "tool_choice"),
    ] {
        let error = parameters(members).unwrap_err();
        assert_eq!(
            (error.kind(), error.param()),
            (ErrorKind::InvalidValue, Some(param))
        );
    }
}

#[test]
fn a_stream_asks_for_increments() {
    let request = ChatRequest::parse(
        r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}"#.into(),
    );
    let native = translate(&request.unwrap(), Generation::Text, true).unwrap();
    assert_eq!(
        native.body.into_bytes(),
        r#"{"model":"m","input":{"messages":[{"role":"user","content":"x"}]},"parameters":{"result_format":"message","incremental_output":true}}"#
    );
}

#[test]
fn messages_of_text_models() {
    for (given, expected) in [
        (
            r#"[{"role":"developer","content":"d"}]"#,
            r#"[{"role":"system","content":"d"}]"#,
        ),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a\n"},{"type":"text","text":"\u00e9"}]}]"#,
            r#"[{"role":"user","content":"a\n\u00e9"}]"#,
        ),
        (
            r#"[{"role":"assistant","content":null,"reasoning_content":"old","refusal":null,"annotations":[],"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{ }"}}]},{"role":"tool","tool_call_id":"c","content":"3"}]"#,
            r#"[{"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{ }"}}]},{"role":"tool","content":"3","tool_call_id":"c"}]"#,
        ),
        (
            r#"[{"role":"assistant","refusal":"no"},{"name":"bob","role":"user","content":"x","partial":true}]"#,
            r#"[{"role":"assistant","content":"no"},{"role":"user","content":"x","name":"bob","partial":true}]"#,
        ),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]"#,
            r#"[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]"#,
        ),
        (
            r#"[{"role":"user","content":[]}]"#,
            r#"[{"role":"user","content":""}]"#,
        ),
    ] {
        assert_eq!(messages(Generation::Text, given).unwrap(), expected);
    }
}

#[test]
fn messages_of_multimodal_models() {
    for (given, expected) in [
        (
            r#"[{"role":"system","content":"s"}]"#,
            r#"[{"role":"system","content":[{"text":"s"}]}]"#,
        ),
        (
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https:\/\/i","detail":"low","min_pixels":9},"max_pixels":99},{"type":"text","text":"t"}]}]"#,
            r#"[{"role":"user","content":[{"image":"https:\/\/i","min_pixels":9,"max_pixels":99},{"text":"t"}]}]"#,
        ),
        (
            r#"[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}},{"type":"input_audio","input_audio":{"data":"data:audio/mp3;base64,AA==","format":"mp3"}}]}]"#,
            r#"[{"role":"user","content":[{"audio":"data:audio/wav;base64,UklGRg=="},{"audio":"data:audio/mp3;base64,AA=="}]}]"#,
        ),
        (
            r#"[{"role":"user","content":[{"type":"video_url","video_url":{"url":"v"},"fps":2},{"type":"video","video":["a","b"]},{"image":"native"}]}]"#,
            r#"[{"role":"user","content":[{"video":"v","fps":2},{"video":["a","b"]},{"image":"native"}]}]"#,
        ),
        (
            r#"[{"role":"assistant","content":"","tool_calls":[]}]"#,
            r#"[{"role":"assistant","content":"","tool_calls":[]}]"#,
        ),
    ] {
        assert_eq!(messages(Generation::Multimodal, given).unwrap(), expected);
    }
}

#[test]
fn what_a_model_cannot_take_is_the_callers_error() {
    let user = |content: &str| format!(r#"[{{"role":"user","content":{content}}}]"#);
    for (generation, content, param) in [
        (
            Generation::Text,
            r#"[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"x"}}]"#,
            "messages[0].content[1]",
        ),
        (
            Generation::Text,
            r#"[{"type":"input_audio","input_audio":{"data":"x"}}]"#,
            "messages[0].content[0]",
        ),
        (
            Generation::Multimodal,
            r#"[{"type":"file","file":{}}]"#,
            "messages[0].content[0]",
        ),
        (
            Generation::Multimodal,
            r#"[{"type":"image_url","image_url":{}}]"#,
            "messages[0].content[0].image_url.url",
        ),
        (
            Generation::Multimodal,
            r#"[{"type":"image_url","image_url":7}]"#,
            "messages[0].content[0].image_url",
        ),
        (
            Generation::Multimodal,
            r#"[{"type":"input_audio","input_audio":{}}]"#,
            "messages[0].content[0].input_audio.data",
        ),
        (Generation::Multimodal, r#"["x"]"#, "messages[0].content[0]"),
        (Generation::Text, r#"[{}]"#, "messages[0].content[0]"),
        (Generation::Text, "7", "messages[0].content"),
    ] {
        let error = messages(generation, &user(content)).unwrap_err();
        assert_eq!(
            (error.kind(), error.param()),
            (ErrorKind::InvalidValue, Some(param)),
            "{content}"
        );
    }
}

#[test]
fn large_images_are_shared_and_oss_is_announced() {
    let image = format!("data:image/png;base64,{}", "A".repeat(100_000));
    let request = ChatRequest::parse(
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{image}"}}}}]}}]}}"#).into(),
    )
    .unwrap();
    assert!(has_media(&request));
    let native = translate(&request, Generation::Multimodal, false).unwrap();
    assert!(!native.resolves_oss);
    let original = request.to_segments().into_bytes();
    let range = original.as_ptr_range();
    assert!(
        native
            .body
            .0
            .iter()
            .any(|piece| piece.len() > 100_000 && range.contains(&piece.as_ptr()))
    );

    let oss = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"oss://b/k"}}]}]}"#;
    let request = ChatRequest::parse(oss.into()).unwrap();
    assert!(
        translate(&request, Generation::Multimodal, false)
            .unwrap()
            .resolves_oss
    );
}
