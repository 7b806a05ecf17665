#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

use super::*;
use crate::{
    provider::transport::{BodyStream, HttpTransport},
    types::{ChatChunk, RequestId, Segments},
};

struct NoNetwork;

#[async_trait]
impl HttpTransport for NoNetwork {
    async fn send(&self, _: http::Request<Segments>) -> Result<http::Response<BodyStream>> {
        panic!("the simulated provider has no network")
    }
}

fn provider(options: Value) -> Result<Arc<dyn Provider>> {
    let mut spec = ProviderSpec::new("simulated", Arc::new(NoNetwork));
    spec.options = options.as_object().unwrap().clone();
    Simulated::from_spec(spec)
}

fn call() -> ProviderCall {
    ProviderCall {
        request_id: RequestId::new(),
        attempt: 1,
    }
}

fn request(extra: Value, text: &str) -> ChatRequest {
    let mut body = json!({"model": "echo", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    ChatRequest::parse(body.to_string().into()).unwrap()
}

async fn ask(options: Value, extra: Value, text: &str) -> Result<Value> {
    let completion = provider(options)?
        .chat(&call(), request(extra, text))
        .await?;
    Ok(serde_json::from_slice(&completion.body.to_bytes()).unwrap())
}

async fn stream(options: Value, extra: Value, text: &str) -> Vec<Result<ChatChunk>> {
    let mut extra = extra;
    extra["stream"] = true.into();
    let started = provider(options)
        .unwrap()
        .chat_stream(&call(), request(extra, text))
        .await;
    started.unwrap().chunks.collect().await
}

#[tokio::test]
async fn echoes_within_the_limits_of_the_request() {
    let cases = [
        (
            json!({}),
            "hello there world",
            "hello there world",
            "stop",
            3,
        ),
        (
            json!({"max_tokens": 2}),
            "hello there world",
            "hello there ",
            "length",
            2,
        ),
        (
            json!({"max_completion_tokens": 3}),
            "hello there world",
            "hello there world",
            "stop",
            3,
        ),
        (
            json!({"stop": ["zzz", " wor"]}),
            "hello there world",
            "hello there",
            "stop",
            2,
        ),
        (json!({"stop": "hello"}), "hello", "", "stop", 0),
        (json!({}), "世界 ok", "世界 ok", "stop", 3),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema":
                {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}}}}),
            "x",
            r#"{"a":0}"#,
            "stop",
            1,
        ),
    ];
    for (extra, text, content, finish, tokens) in cases {
        let answer = ask(json!({}), extra.clone(), text).await.unwrap();
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], content, "{extra}");
        assert_eq!(choice["finish_reason"], finish, "{extra}");
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{extra}");
        assert_eq!(answer["system_fingerprint"], "simulated");
        assert_eq!(
            answer,
            ask(json!({}), extra, text).await.unwrap(),
            "deterministic"
        );
    }
    let two = ask(json!({}), json!({"n": 2}), "a b").await.unwrap();
    assert_eq!(two["choices"][1]["index"], 1);
    assert_eq!(two["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn calls_a_tool_when_it_is_forced_to() {
    let tools = json!([
        {"type": "function", "function": {"name": "first", "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}}},
        {"type": "function", "function": {"name": "second"}}
    ]);
    for (choice, called) in [
        (json!("required"), Some(("first", r#"{"city":""}"#))),
        (
            json!({"type": "function", "function": {"name": "second"}}),
            Some(("second", "{}")),
        ),
        (json!("auto"), None),
        (json!("none"), None),
    ] {
        let extra = json!({"tools": tools, "tool_choice": choice});
        let answer = ask(json!({}), extra.clone(), "hi").await.unwrap();
        let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        let found = function["name"]
            .as_str()
            .zip(function["arguments"].as_str());
        assert_eq!(found, called, "{choice}");
        let streamed = stream(json!({}), extra, "hi").await;
        let arguments: String = streamed
            .iter()
            .map(|chunk| serde_json::from_slice::<Value>(&chunk.as_ref().unwrap().json()).unwrap())
            .filter_map(|chunk| {
                let call = &chunk["choices"][0]["delta"]["tool_calls"][0];
                call["function"]["arguments"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(arguments, called.map_or("", |(_, arguments)| arguments));
    }
    let unknown =
        json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "third"}}});
    assert_eq!(
        ask(json!({}), unknown, "hi").await.unwrap_err().param(),
        Some("tool_choice")
    );
}

#[tokio::test]
async fn a_stream_says_what_the_answer_says() {
    let chunks = stream(
        json!({}),
        json!({"stream_options": {"include_usage": true}}),
        "a b c",
    )
    .await;
    let chunks: Vec<ChatChunk> = chunks.into_iter().map(Result::unwrap).collect();
    let json: Vec<Value> = chunks
        .iter()
        .map(|chunk| serde_json::from_slice(&chunk.json()).unwrap())
        .collect();
    let text: String = json
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "a b c");
    let last = json.last().unwrap();
    assert_eq!(
        (
            last["choices"].as_array().unwrap().len(),
            &last["usage"]["completion_tokens"]
        ),
        (0, &json!(3))
    );
    assert!(json[0].as_object().unwrap()["usage"].is_null());
    assert_eq!(chunks.iter().filter(|chunk| chunk.finish).count(), 1);
    assert_eq!(chunks.last().unwrap().usage.unwrap().output_tokens, 3);
    let plain = stream(json!({}), json!({}), "a").await;
    assert!(!String::from_utf8_lossy(&plain[0].as_ref().unwrap().json()).contains("usage"));
}

#[tokio::test]
async fn faults_are_played_by_options_and_by_directives() {
    let told = json!({"directives": true});
    let kind = |result: Result<Value>| result.unwrap_err().kind();
    assert_eq!(
        kind(ask(told.clone(), json!({}), "hi [[status:503]]").await),
        ErrorKind::UpstreamError
    );
    assert_eq!(
        kind(ask(told.clone(), json!({}), "[[status:429]]").await),
        ErrorKind::RateLimited
    );
    assert_eq!(
        kind(ask(told.clone(), json!({}), "[[cut:1]]").await),
        ErrorKind::UpstreamIncomplete
    );
    assert_eq!(
        kind(ask(told.clone(), json!({}), "[[badjson]]").await),
        ErrorKind::UpstreamInvalidResponse
    );
    let by_option = json!({"faults": {"status": 401}});
    assert_eq!(
        kind(ask(by_option, json!({}), "hi").await),
        ErrorKind::UpstreamAuthFailed
    );

    let cut = stream(told.clone(), json!({}), "a b c [[cut:2]]").await;
    assert_eq!(cut.len(), 3);
    assert_eq!(
        cut[2].as_ref().unwrap_err().kind(),
        ErrorKind::UpstreamIncomplete
    );
    let broken = stream(told.clone(), json!({}), "a b c [[badjson]]").await;
    assert_eq!(
        broken.last().unwrap().as_ref().unwrap_err().kind(),
        ErrorKind::UpstreamInvalidResponse
    );

    for (directive, shown) in [("none", Value::Null), ("wrong", json!(-1))] {
        let text = format!("hi [[usage:{directive}]]");
        let body = request(json!({}), &text);
        let completion = provider(told.clone())
            .unwrap()
            .chat(&call(), body)
            .await
            .unwrap();
        assert_eq!(completion.usage, None);
        let body: Value = serde_json::from_slice(&completion.body.to_bytes()).unwrap();
        assert_eq!(body["usage"]["prompt_tokens"], shown);
        assert_eq!(body["choices"][0]["message"]["content"], "hi");
    }

    // Without leave, and with what is no directive, the text is only text.
    let untold = ask(json!({}), json!({}), "[[status:503]]").await.unwrap();
    assert_eq!(untold["choices"][0]["message"]["content"], "[[status:503]]");
    let other = ask(told, json!({}), "see [[wiki]] and [[status:200]] [[")
        .await
        .unwrap();
    assert_eq!(
        other["choices"][0]["message"]["content"],
        "see [[wiki]] and [[status:200]] [["
    );
    for options in [
        json!({"faults": {"status": 200}}),
        json!({"x": 1}),
        json!({"tokens_per_second": 0}),
    ] {
        assert_eq!(provider(options).err().unwrap().param(), Some("options"));
    }
}

#[tokio::test]
async fn pauses_last_as_long_as_they_are_told() {
    let start = std::time::Instant::now();
    ask(json!({"latency_ms": 60}), json!({}), "hi")
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
    let stalled = provider(json!({"faults": {"stall_ms": 60_000}})).unwrap();
    let mut stalled = stalled
        .chat_stream(&call(), request(json!({"stream": true}), "a b"))
        .await
        .unwrap();
    assert!(stalled.chunks.next().await.is_some());
    assert!(
        stalled.chunks.next().now_or_never().is_none(),
        "silent behind the first chunk"
    );
}

#[tokio::test]
async fn embeddings_are_unit_vectors_of_the_input() {
    let embed = async |extra: Value| {
        let mut body = json!({"model": "embed", "input": ["a b", "c"]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let request = EmbeddingRequest::parse(body.to_string().into()).unwrap();
        let answer = provider(json!({})).unwrap().embed(&call(), request).await?;
        Result::<Value>::Ok(serde_json::from_slice(&answer.body.to_bytes()).unwrap())
    };
    let floats = embed(json!({"dimensions": 5})).await.unwrap();
    let vector = |answer: &Value, index: usize| -> Vec<f32> {
        serde_json::from_value(answer["data"][index]["embedding"].clone()).unwrap()
    };
    let first = vector(&floats, 0);
    assert_eq!(first.len(), 5);
    assert!((first.iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-5);
    assert_ne!(first, vector(&floats, 1));
    assert_eq!(floats["usage"]["prompt_tokens"], 3);
    assert_eq!(floats, embed(json!({"dimensions": 5})).await.unwrap());
    let encoded = embed(json!({"dimensions": 5, "encoding_format": "base64"}))
        .await
        .unwrap();
    let expected = crate::provider::vectors::to_base64(&floats["data"][0]["embedding"].to_string());
    assert_eq!(
        encoded["data"][0]["embedding"].to_string(),
        expected.unwrap()
    );
    assert_eq!(vector(&embed(json!({})).await.unwrap(), 0).len(), 256);
    let wrong = embed(json!({"dimensions": 0})).await.unwrap_err();
    assert_eq!(wrong.param(), Some("dimensions"));
}
