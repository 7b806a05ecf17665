#![allow(clippy::unwrap_used)]
use super::*;

fn count(model: &str, json: &str) -> u32 {
    Counter::for_model(model).message(json.as_bytes())
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
