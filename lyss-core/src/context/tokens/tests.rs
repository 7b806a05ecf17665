#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn count(model: &str, json: &str) -> u32 {
    Counter::for_model(model).message(json.as_bytes())
}

fn request(body: Value) -> ChatRequest {
    ChatRequest::parse(body.to_string().into()).unwrap()
}

#[test]
fn nothing_is_too_odd_to_be_counted() {
    for model in ["gpt-4o", "gpt-4", "qwen-max"] {
        for json in [
            "",
            "{",
            "[]",
            "null",
            "\u{0}",
            r#"{"role":3,"content":{"a":1},"tool_calls":{}}"#,
            r#"{"role":"user","role":"user"}"#,
            r#"{"content":[1,"a",{"type":"image_url"},{"image_url":"x"},{"file":{}},{"input_audio":{}}]}"#,
            r#"{"content":"\ud800"}"#,
        ] {
            assert!(count(model, json) >= 3, "{model} {json}");
        }
    }
    assert_eq!(count("gpt-4o", "{}"), 3);
}

/// The examples of OpenAI's cookbook, with the `prompt_tokens` that OpenAI's API returned for them.
#[cfg(feature = "tiktoken")]
#[test]
fn the_cookbooks_examples_count_as_openai_billed_them() {
    let messages = json!([
        {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
        {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
        {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]);
    let weather = json!({"type": "function", "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {"type": "object", "required": ["location"], "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]},
        }},
    }});
    let asked = json!([
        {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
        {"role": "user", "content": "What's the weather like in San Francisco?"},
    ]);
    for (model, plain, with_tool) in [("gpt-4o", 124, 101), ("gpt-4", 129, 105)] {
        let counter = Counter::for_model(model);
        let counted = counter.request(&request(json!({"model": model, "messages": messages})));
        assert_eq!(counted.input_tokens, plain, "{model}");
        assert_eq!(counted.uncorrected, plain);
        let body = json!({"model": model, "messages": asked, "tools": [weather]});
        let counted = counter.request(&request(body));
        assert_eq!(counted.input_tokens, with_tool, "{model}: {counted:?}");
        let parts = counted.messages.iter().sum::<u32>() + counted.tools + counted.reply;
        assert_eq!(u64::from(parts), with_tool);
    }
}

#[cfg(feature = "tiktoken")]
#[test]
fn what_is_no_text_has_its_price() {
    use base64::Engine as _;
    let part = |model: &str, part: Value| {
        let with = json!({"role": "user", "content": [part]}).to_string();
        count(model, &with) - count(model, r#"{"role":"user","content":[]}"#)
    };
    let image = |model: &str, bytes: &[u8], detail: &str| {
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        let url = format!("data:image/png;base64,{data}");
        part(
            model,
            json!({"type": "image_url", "image_url": {"url": url, "detail": detail}}),
        )
    };
    let png = |width: u32, height: u32| {
        let header = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &width.to_be_bytes()];
        [&header.concat()[..], &height.to_be_bytes()].concat()
    };
    // OpenAI's own examples.
    assert_eq!(image("gpt-4o", &png(1024, 1024), "high"), 765);
    assert_eq!(image("gpt-4o", &png(2048, 4096), "auto"), 1105);
    assert_eq!(image("gpt-4o", &png(4096, 8192), "low"), 85);
    assert_eq!(image("gpt-4.1-mini", &png(1024, 1024), "high"), 1659);
    assert_eq!(image("gpt-4o", b"what is this?", "high"), 765);
    let gif = b"GIF89a\x00\x02\x00\x01";
    assert_eq!(image("gpt-5", gif, "high"), 70 + 140);
    let jpeg = b"\xFF\xD8\xFF\xE0\x00\x04xx\xFF\xC2\x00\x0B\x08\x04\x00\x04\x00\x03";
    assert_eq!(image("o3", jpeg, "high"), 75 + 4 * 150);
    // Two seconds of audio; a file of 4 kB; a part of tomorrow.
    let data = "A".repeat(64_000 / 3 * 4);
    let audio = json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}});
    assert_eq!(part("gpt-4o", audio), 20);
    let file = json!({"type": "file", "file": {"file_data": "A".repeat(4_000), "filename": "a"}});
    assert_eq!(part("gpt-4o", file), 375 + 1);
    assert!(part("gpt-4o", json!({"type": "hologram", "hologram": "x"})) > 5);
    let other = json!({"type": "image_url", "image_url": "https://example.com/a.png"});
    assert_eq!(part("qwen-vl-max", other), 765);
}

#[cfg(feature = "tiktoken")]
#[test]
fn calls_schemas_and_nested_tools_are_counted() {
    let counter = Counter::for_model("gpt-4o");
    let text = |text: &str| counter.text(text);
    let call = r#"{"role":"assistant","content":null,"tool_calls":[
        {"id":"call_abcdefgh","type":"function","function":{"name":"search","arguments":"{\"q\": \"rust\"}"}},
        {"id":"call_ijklmnop","type":"custom","custom":{"name":"shell","input":"ls -l"}}]}"#;
    let said =
        2 * TOOL_CALL + text("search") + text(r#"{"q": "rust"}"#) + text("shell") + text("ls -l");
    assert_eq!(count("gpt-4o", call), 3 + text("assistant") + said);
    assert_eq!(counter.answer(call.as_bytes()), said);
    let thought =
        r#"{"role":"assistant","reasoning_content":"hm","refusal":"no","annotations":[]}"#;
    assert_eq!(counter.answer(thought.as_bytes()), text("hm") + text("no"));

    let tools = |parameters: Value| {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
        let body = json!({"model": "m", "messages": [{"role": "user"}], "tools": [tool]});
        counter.request(&request(body)).tools
    };
    let bare = tools(json!({"type": "object"}));
    let flat = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let one = tools(flat.clone());
    assert_eq!(one - bare, 3 + 3 + text("a:string:"));
    let nested = tools(json!({"properties": {"b": {"type": "array", "items": flat}}}));
    assert_eq!(nested - one, 3 + 3 + text("b:array:"));
    let defined = tools(json!({"$defs": {"x": {"type": "string"}}}));
    assert_eq!(defined - bare, text(r#"{"x":{"type":"string"}}"#));

    let schema = json!({"name": "n", "schema": {"type": "object"}});
    let format = json!({"type": "json_schema", "json_schema": schema});
    let body = json!({"model": "m", "messages": [{"role": "user"}], "response_format": format});
    let counted = counter.request(&request(body)).response_format;
    assert_eq!(counted, text(&schema.to_string()));
}

#[test]
fn templates_of_others_write_tools_as_json() {
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let body = json!({"model": "m", "messages": [{"role": "user"}], "tools": [tool]});
    let counter = Counter::for_model("qwen-plus");
    let counted = counter.request(&request(body)).tools;
    assert_eq!(counted, 87 + counter.text(&tool.to_string()));
}

#[test]
fn what_is_beyond_the_bound_of_a_request_is_estimated() {
    let part = "four words are here. ".repeat(COUNTED_MOST / 21 / 2);
    let message = json!({"role": "user", "content": part});
    let body = json!({"model": "gpt-4o", "messages": vec![message; 5]});
    let counted = Counter::for_model("gpt-4o").request(&request(body));
    let (first, last) = (counted.messages[0], counted.messages[4]);
    assert!(last.abs_diff(first) < first / 4, "{counted:?}");
    #[cfg(feature = "tiktoken")]
    assert_eq!(first, (COUNTED_MOST / 21 / 2 * 5) as u32 + 5);
}

#[tokio::test]
async fn large_counts_and_first_ones_leave_the_thread() {
    let thread = std::thread::current().id();
    let counter = Counter::for_model("qwen-max");
    let on = |size| counter.run(size, |_| std::thread::current().id());
    assert_eq!(
        on(INLINE_MOST).await,
        thread,
        "no vocabulary is loaded for it"
    );
    assert_ne!(on(INLINE_MOST + 1).await, thread);
    #[cfg(feature = "tiktoken")]
    {
        let counter = Counter::for_model("gpt-4");
        let first = counter.run(1, |counter| {
            (std::thread::current().id(), counter.text("a"))
        });
        // Another test of this process may have loaded it.
        let (on, tokens) = first.await;
        assert_eq!(tokens, 1);
        assert!(on != thread || counter.family.is_ready());
        let ready = counter.run(1, |_| std::thread::current().id());
        assert_eq!(ready.await, thread);
    }
    let messages = vec![Bytes::from_static(b"{}"); 3];
    assert_eq!(counter.count_messages(messages).await, [3, 3, 3]);
}

/// Texts with all that the vocabularies look at.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z]{1,9}",
        "[0-9]{1,7}",
        "[ \n\r\t]{1,4}",
        "[.,;:!?(){}<>/'\"_-]{1,4}",
        "[你好世界的我们。，！？、々]{1,5}",
        "\\PC{1,3}",
        "[\u{300}-\u{310}\u{FE0F}\u{200D}👍🏽]{1,4}",
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_count_is_bounded_by_bytes_and_by_parts(left in texts(), right in texts()) {
        for model in ["gpt-4o", "gpt-4", "qwen-max", "mistral-large"] {
            let counter = Counter::for_model(model);
            let both = counter.text(&format!("{left}{right}"));
            prop_assert!(both as usize <= left.len() + right.len());
            // A seam can cost a token or two where pieces of digits or blanks shift.
            prop_assert!(both <= counter.text(&left) + counter.text(&right) + 4, "{}", model);
            let json = json!({"role": "user", "content": left}).to_string();
            prop_assert_eq!(counter.message(json.as_bytes()), 3 + counter.text("user") + counter.text(&left));
        }
    }
}
