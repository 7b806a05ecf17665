//! Faults, control and ledger, seen from a raw socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod raw;

use std::time::{Duration, Instant};

use lyss_mock_provider::{Bench, Entry, MockProvider, Options, Outcome, Rule, Script};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const NATIVE: &str = "/api/v1/services/aigc/text-generation/generation";
const SSE: &[(&str, &str)] = &[("X-DashScope-SSE", "enable")];

fn start() -> MockProvider {
    MockProvider::start(Options::default()).unwrap()
}

fn chat(content: &str, stream: bool) -> String {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], "stream": stream}).to_string()
}

fn native(content: &str) -> String {
    let parameters = json!({"result_format": "message", "incremental_output": true});
    json!({"model": "qwen-plus", "input": {"messages": [{"role": "user", "content": content}]}, "parameters": parameters}).to_string()
}

/// Waits until the last entry satisfies `want`.
fn entry_when(mock: &MockProvider, want: impl Fn(&Entry) -> bool) -> Entry {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let last = mock.ledger().pop();
        if let Some(entry) = last.filter(&want) {
            return entry;
        }
        assert!(Instant::now() < deadline, "{:?}", mock.ledger());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn status_directive_answers_the_error_and_retry_after() {
    let mock = start();
    let answer = raw::post(
        mock.addr(),
        CHAT,
        &[],
        &chat("[[status:429 retry-after:1]]", true),
    );
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(answer.header("x-request-id"), Some("req_mock_1"));
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    let entry = entry_when(&mock, |entry| entry.outcome == Outcome::Finished);
    assert_eq!(
        (entry.status, entry.prompt_tokens, entry.completion_tokens),
        (429, 0, 0)
    );
}

#[test]
fn cut_stops_after_exactly_n_body_bytes() {
    let mock = start();
    for stream in [false, true] {
        let answer = raw::post(mock.addr(), CHAT, &[], &chat("[[cut:50]]", stream));
        assert_eq!(
            (
                answer.status,
                answer.body.len(),
                answer.complete,
                answer.reset
            ),
            (200, 50, false, false)
        );
        let entry = entry_when(&mock, |entry| entry.outcome == Outcome::Cut);
        assert_eq!(entry.bytes_sent, 50);
    }
    let answer = raw::post(mock.addr(), NATIVE, SSE, &native("[[rst:0]]"));
    assert_eq!(
        (answer.status, answer.body.len(), answer.reset),
        (200, 0, true)
    );
}

#[test]
fn stall_delay_and_comments_take_their_time() {
    let mock = start();
    let start = Instant::now();
    let answer = raw::post(
        mock.addr(),
        CHAT,
        &[],
        &chat("[[delay:100]] [[stall:200@2 comment:50]] a b c", true),
    );
    assert!(
        start.elapsed() >= Duration::from_millis(290),
        "{:?}",
        start.elapsed()
    );
    assert!(answer.reads.first().unwrap().0 >= Duration::from_millis(90));
    assert_eq!(answer.text().matches(": keep-alive\n\n").count(), 4);
    let at = answer.text().find(": keep-alive").unwrap();
    assert_eq!(answer.text()[..at].matches("data: ").count(), 2);
}

#[test]
fn a_client_that_goes_is_noticed_within_a_second() {
    let mock = start();
    for directive in [
        "[[stall:30000@2]]",
        "[[delay:30000]]",
        "[[chunks:100000 every:20]]",
    ] {
        let stream = raw::send(mock.addr(), CHAT, &[], &chat(directive, true));
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(
            entry_when(&mock, |_| true).outcome,
            Outcome::Open,
            "{directive}"
        );
        let closed = Instant::now();
        drop(stream);
        let entry = entry_when(&mock, |entry| entry.outcome == Outcome::ClientClosed);
        assert!(
            closed.elapsed() < Duration::from_secs(1),
            "{directive}: {:?}",
            closed.elapsed()
        );
        assert!(
            entry.ended_ms.unwrap() >= entry.started_ms + 140,
            "{directive}"
        );
        assert!(entry.completion_tokens < 1000, "{directive}");
    }
}

#[test]
fn the_ledger_bills_what_its_rule_says() {
    let mock = start();
    let text = "one two three";
    raw::post(
        mock.addr(),
        CHAT,
        &[("authorization", "Bearer sk-1")],
        &chat(text, true),
    );
    let entry = entry_when(&mock, |entry| entry.outcome == Outcome::Finished);
    // 3 for the message and 3 words; the reply is "echo: one two three".
    assert_eq!(
        (
            entry.prompt_tokens,
            entry.planned_tokens,
            entry.completion_tokens
        ),
        (6, 4, 4)
    );
    assert_eq!(
        (entry.key.as_str(), entry.model.as_str(), entry.stream),
        ("sk-1", "gpt-4o-mini", true)
    );
    let whole = raw::post(mock.addr(), CHAT, &[], &chat(text, false));
    let body: Value = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(body["usage"]["prompt_tokens"], 6);
    assert_eq!(body["usage"]["completion_tokens"], 4);
    assert_eq!(
        body["choices"][0]["message"]["content"],
        "echo: one two three"
    );
    assert_eq!(mock.ledger()[1].bytes_sent, whole.body.len() as u64);
}

#[test]
fn streams_change_their_bytes_on_demand() {
    let mock = start();
    let ask = |text: &str| raw::post(mock.addr(), CHAT, &[], &chat(text, true)).text();
    assert!(ask("[[crlf]] hi").contains("}\r\n\r\ndata: [DONE]\r\n\r\n"));
    assert!(ask("[[cr]] hi").ends_with("}\r\rdata: [DONE]\r\r"));
    assert!(ask("[[bom]] hi").starts_with('\u{feff}'));
    assert!(!ask("[[noDONE]] hi").contains("[DONE]"));
    let broken = ask("[[badjson@1]] hi");
    let events: Vec<&str> = broken.split("\n\n").collect();
    assert!(serde_json::from_str::<Value>(&events[1]["data: ".len()..]).is_err());
    assert!(serde_json::from_str::<Value>(&events[2]["data: ".len()..]).is_ok());
    assert!(ask("[[bigevent:300000]] hi").len() > 300_000);
    let failed = ask("[[error@2]] a b c");
    assert!(
        failed.trim_end().ends_with("}}")
            && failed.contains("server_error")
            && !failed.contains("[DONE]")
    );
    let sliced = raw::post(mock.addr(), CHAT, &[], &chat("[[slice:7]] ünïcödé", true));
    assert!(sliced.text().contains("ünïcödé"));
    assert!(sliced.complete);
}

#[test]
fn usage_can_lie() {
    let mock = start();
    let ask = |word: &str| {
        let answer = raw::post(
            mock.addr(),
            CHAT,
            &[],
            &chat(&format!("[[{word}]] hi"), false),
        );
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    assert!(ask("nousage").get("usage").is_none());
    assert_eq!(ask("usage:null")["usage"], Value::Null);
    assert_eq!(ask("usage:zero")["usage"]["total_tokens"], 0);
    assert!(
        ask("usage:negative")["usage"]["prompt_tokens"]
            .as_i64()
            .unwrap()
            < 0
    );
    assert_eq!(
        ask("usage:huge")["usage"]["prompt_tokens"]
            .as_i64()
            .unwrap(),
        1 << 62
    );
    let every = raw::post(mock.addr(), CHAT, &[], &chat("[[usage:every]] a b", true)).text();
    assert_eq!(
        every.matches(r#""usage":{"#).count(),
        every.matches(r#""delta""#).count()
    );
    let native = raw::post(mock.addr(), NATIVE, SSE, &native("[[nousage]] a")).text();
    assert!(!native.contains("usage") && native.contains(r#""finish_reason":"stop""#));
}

#[test]
fn native_streams_have_their_variants() {
    let mock = start();
    let ask = |word: &str| {
        raw::post(
            mock.addr(),
            NATIVE,
            SSE,
            &native(&format!("[[{word}]] a b")),
        )
        .text()
    };
    let usual = ask("usage:7/2");
    assert_eq!(usual.matches(r#""finish_reason":"null""#).count(), 3);
    assert_eq!(
        ask("null-finish")
            .matches(r#""finish_reason":null"#)
            .count(),
        3
    );
    assert_eq!(ask("finish-with-last").matches("event:result").count(), 3);
    assert!(!ask("nofinish").contains(r#""finish_reason":"stop""#));
    let tail = ask("tail-usage");
    assert_eq!(tail.matches(r#""usage""#).count(), 1);
    assert!(
        tail.trim_end()
            .lines()
            .last()
            .unwrap()
            .starts_with(r#"data:{"output":{},"usage":{"#)
    );
    let lines = ask("multiline");
    assert_eq!(
        lines.matches("data:").count(),
        2 * lines.matches("event:").count()
    );
}

#[test]
fn control_rules_fail_keys_and_down() {
    let mock = start();
    let control = |body: &str| raw::post(mock.addr(), "/__control", &[], body).status;
    assert_eq!(control(r#"{"fail_next":2,"status":500}"#), 200);
    assert_eq!(control(r#"{"fail_nxt":2}"#), 400);
    let statuses: Vec<u16> = (0..3)
        .map(|_| raw::post(mock.addr(), CHAT, &[], &chat("hi", false)).status)
        .collect();
    assert_eq!(statuses, [500, 500, 200]);

    mock.rule(Rule {
        path: Some("/api/".into()),
        script: Script::status(503),
        ..Rule::default()
    });
    assert_eq!(
        raw::post(mock.addr(), NATIVE, &[], &native("hi")).status,
        503
    );
    assert_eq!(
        raw::post(mock.addr(), NATIVE, &[], &native("hi")).status,
        503
    );
    assert_eq!(
        raw::post(mock.addr(), CHAT, &[], &chat("hi", false)).status,
        200
    );

    assert_eq!(control(r#"{"reset":true,"keys":["good"]}"#), 200);
    assert_eq!(
        raw::post(
            mock.addr(),
            CHAT,
            &[("authorization", "Bearer bad")],
            &chat("hi", false)
        )
        .status,
        401
    );
    assert_eq!(
        raw::post(
            mock.addr(),
            CHAT,
            &[("authorization", "Bearer good")],
            &chat("hi", false)
        )
        .status,
        200
    );

    assert_eq!(control(r#"{"reset":true,"down":true}"#), 200);
    let down = raw::post(mock.addr(), CHAT, &[], &chat("hi", false));
    assert_eq!((down.status, down.reset), (0, true));
    assert_eq!(control(r#"{"down":false}"#), 200);
    assert_eq!(
        raw::post(mock.addr(), CHAT, &[], &chat("hi", false)).status,
        200
    );
}

#[test]
fn requests_are_kept_byte_for_byte() {
    let mock = start();
    let body = r#"{ "seed":12345678901234567890, "model":"m","messages":[{"role":"user","content":"\u00e9"}]}"#;
    raw::post(mock.addr(), CHAT, &[("x-one", "1")], body);
    let request = mock.requests().pop().unwrap();
    assert_eq!(
        (request.body.as_ref(), request.header("x-one")),
        (body.as_bytes(), Some("1"))
    );
}

#[test]
fn openai_refuses_what_openai_refuses() {
    let mock = start();
    let ask = |body: Value| {
        let answer = raw::post(mock.addr(), CHAT, &[], &body.to_string());
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        (
            answer.status,
            json["error"]["param"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let user = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(ask(json!({"messages": user})), (400, "model".into()));
    assert_eq!(
        ask(json!({"model": "m", "messages": []})),
        (400, "messages".into())
    );
    assert_eq!(ask(json!({"model": "no-such-1", "messages": user})).0, 404);
    assert_eq!(
        ask(json!({"model": "m", "messages": user, "stream_options": {}})),
        (400, "stream_options".into())
    );
    let orphan = json!([{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "x", "content": ""}]);
    assert_eq!(
        ask(json!({"model": "m", "messages": orphan})),
        (400, "messages".into())
    );
    assert_eq!(raw::post(mock.addr(), CHAT, &[], "{").status, 400);
    assert_eq!(raw::post(mock.addr(), "/v1/nothing", &[], "{}").status, 404);
}

#[test]
fn dashscope_refuses_what_dashscope_refuses() {
    let mock = start();
    let ask = |parameters: Value, message: Value, headers: &[(&str, &str)]| {
        let body = json!({"model": "qwen-plus", "input": {"messages": [message]}, "parameters": parameters});
        raw::post(mock.addr(), NATIVE, headers, &body.to_string()).status
    };
    let user = || json!({"role": "user", "content": "hi"});
    assert_eq!(
        ask(json!({"temperature": 1.99, "top_p": 1}), user(), &[]),
        200
    );
    assert_eq!(ask(json!({"temperature": 2.0}), user(), &[]), 400);
    assert_eq!(ask(json!({"top_p": 0}), user(), SSE), 400);
    assert_eq!(ask(json!({"tool_choice": "required"}), user(), &[]), 400);
    assert_eq!(
        ask(
            json!({}),
            json!({"role": "developer", "content": "hi"}),
            &[]
        ),
        400
    );
    assert_eq!(
        ask(
            json!({}),
            json!({"role": "user", "content": [{"type": "text", "text": "hi"}]}),
            &[]
        ),
        400
    );
}

#[test]
fn dashscope_ignores_tools_at_top_level() {
    let mock = start();
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}});
    let messages = json!([{"role": "user", "content": "[[tools:2]] hi"}]);
    let ask = |top: &Value, parameters: Value| {
        let body = json!({"model": "qwen-plus", "input": {"messages": messages}, "parameters": parameters, "tools": top});
        let answer = raw::post(mock.addr(), NATIVE, &[], &body.to_string());
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        json["output"]["choices"][0]["message"]["tool_calls"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(ask(&json!([tool]), json!({"result_format": "message"})), 0);
    assert_eq!(
        ask(
            &Value::Null,
            json!({"result_format": "message", "tools": [tool]})
        ),
        1
    );
    assert_eq!(
        ask(
            &Value::Null,
            json!({"result_format": "message", "tools": [tool], "parallel_tool_calls": true})
        ),
        2
    );
}

#[test]
fn embeddings_agree_between_shapes_and_protocols() {
    let mock = start();
    let openai = |format: &str| {
        let body = json!({"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8, "encoding_format": format});
        serde_json::from_slice::<Value>(
            &raw::post(mock.addr(), "/v1/embeddings", &[], &body.to_string()).body,
        )
        .unwrap()
    };
    let floats = openai("float");
    let encoded = openai("base64");
    for at in 0..2 {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded["data"][at]["embedding"].as_str().unwrap())
            .unwrap();
        let decoded: Vec<f32> = bytes
            .chunks(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect();
        let plain: Vec<f32> = floats["data"][at]["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.to_string().parse().unwrap())
            .collect();
        assert_eq!(decoded, plain);
        assert_eq!(decoded.len(), 8);
    }
    assert_ne!(
        floats["data"][0]["embedding"],
        floats["data"][1]["embedding"]
    );
    let path = "/api/v1/services/embeddings/text-embedding/text-embedding";
    let body = json!({"model": "text-embedding-v4", "input": {"texts": ["a", "b"]}, "parameters": {"dimension": 64}});
    let native: Value =
        serde_json::from_slice(&raw::post(mock.addr(), path, &[], &body.to_string()).body).unwrap();
    let rows = native["output"]["embeddings"].as_array().unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row["text_index"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 0]
    );
    assert_eq!(rows[0]["embedding"].as_array().unwrap().len(), 64);
}

#[test]
fn it_comes_back_on_its_port() {
    let mut mock = start();
    let addr = mock.addr();
    let open = raw::send(addr, CHAT, &[], &chat("[[delay:30000]]", false));
    std::thread::sleep(Duration::from_millis(50));
    mock.stop();
    assert!(std::net::TcpStream::connect(addr).is_err());
    drop(open);
    let again = MockProvider::start(Options {
        port: addr.port(),
        ..Options::default()
    })
    .unwrap();
    assert_eq!(
        raw::post(again.addr(), CHAT, &[], &chat("hi", false)).status,
        200
    );
}

#[test]
fn bench_answers_canned_bytes() {
    let bench = Bench {
        chunks: 5,
        every: Duration::from_millis(20),
        ..Bench::default()
    };
    let mock = MockProvider::start(Options {
        bench: Some(bench),
        ..Options::default()
    })
    .unwrap();
    let small = raw::post(mock.addr(), CHAT, &[], &chat("hi", false));
    let large = raw::post(mock.addr(), CHAT, &[], r#"{"model":"large","messages":[]}"#);
    assert!(
        (190..400).contains(&small.body.len()),
        "{}",
        small.body.len()
    );
    assert!(
        (100_000..110_000).contains(&large.body.len()),
        "{}",
        large.body.len()
    );
    assert!(serde_json::from_slice::<Value>(&large.body).is_ok());
    let start = Instant::now();
    let stream = raw::post(mock.addr(), CHAT, &[], &chat("hi", true));
    assert!(start.elapsed() >= Duration::from_millis(70));
    assert_eq!(stream.text().matches("data: ").count(), 5 + 3);
}
