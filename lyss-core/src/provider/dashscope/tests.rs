//! The adapter against the recorded exchanges of `tests/fixtures/providers/dashscope`, over a transport that plays
//! them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use futures::stream;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    error::{Retry, Work},
    types::ChatChunk,
};

const KEY: &str = "sk-fixture-key";

/// Plays answers in order and keeps what was sent.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Play>>,
    requests: Mutex<Vec<Sent>>,
}

struct Play {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    pieces: Vec<Bytes>,
}

#[derive(Clone)]
struct Sent {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: String,
}

impl Sent {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn streamed(&self) -> bool {
        self.headers.contains_key("x-dashscope-sse")
    }
}

#[async_trait]
impl HttpTransport for Script {
    async fn send(&self, request: Request<Segments>) -> Result<Response<BodyStream>, Error> {
        let (head, body) = request.into_parts();
        self.requests.lock().push(Sent {
            method: head.method,
            target: head.uri.to_string(),
            headers: head.headers,
            body: String::from_utf8(body.into_bytes().to_vec()).unwrap(),
        });
        let play = self.answers.lock().pop_front().expect("an answer is left");
        let mut response = Response::builder()
            .status(play.status)
            .header(header::CONTENT_TYPE, play.content_type);
        for (name, value) in play.headers {
            response = response.header(name, value);
        }
        let pieces = play.pieces.into_iter().map(Ok);
        Ok(response
            .body(stream::iter(pieces).boxed() as BodyStream)
            .unwrap())
    }
}

fn unary(status: u16, body: impl Into<Bytes>) -> Play {
    Play {
        status,
        content_type: "application/json",
        headers: Vec::new(),
        pieces: vec![body.into()],
    }
}

fn events(body: impl Into<Bytes>) -> Play {
    Play {
        content_type: "text/event-stream;charset=UTF-8",
        ..unary(200, body)
    }
}

fn frame(data: &Value) -> String {
    format!("id:1\nevent:result\n:HTTP_STATUS/200\ndata:{data}\n\n")
}

fn said(content: &str, finish: &str) -> Value {
    json!({"output": {"choices": [{"message": {"content": content, "role": "assistant"}, "finish_reason": finish}]}, "request_id": "r"})
}

fn account(answers: impl IntoIterator<Item = Play>) -> (Arc<dyn Provider>, Arc<Script>) {
    let script = Arc::new(Script::default());
    script.answers.lock().extend(answers);
    let mut spec = ProviderSpec::new("aliyun", script.clone());
    spec.api_key = Some(KEY.into());
    spec.options = serde_json::from_str(r#"{"generation":{"bound":"text"}}"#).unwrap();
    (DashScope::from_spec(spec).unwrap(), script)
}

fn call() -> ProviderCall {
    ProviderCall {
        request_id: RequestId::new(),
        attempt: 1,
    }
}

fn chat(body: &Value) -> ChatRequest {
    ChatRequest::parse(body.to_string().into()).unwrap()
}

fn hi(model: &str) -> ChatRequest {
    chat(
        &json!({"model": model, "messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "hi"}]}),
    )
}

struct Scenario {
    meta: Value,
    request: Value,
    response: Bytes,
}

fn scenario(name: &str) -> Scenario {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/providers/dashscope")
        .join(name);
    let json = |file| serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
    let response = std::fs::read(folder.join("response.sse"))
        .or_else(|_| std::fs::read(folder.join("response.json")))
        .unwrap();
    Scenario {
        meta: json("meta.json"),
        request: json("request.json"),
        response: response.into(),
    }
}

impl Scenario {
    fn play(&self) -> Play {
        self.play_split(self.response.len())
    }

    /// The answer in two pieces.
    fn play_split(&self, at: usize) -> Play {
        let kind = self.meta["content_type"].as_str().unwrap();
        Play {
            status: self.meta["status"].as_u64().unwrap() as u16,
            content_type: if kind.starts_with("text/event-stream") {
                "text/event-stream;charset=UTF-8"
            } else {
                "application/json"
            },
            headers: Vec::new(),
            pieces: vec![self.response.slice(..at), self.response.slice(at..)],
        }
    }

    /// Whether what was sent is what the recorded client sent; `more` are parameters that only we send.
    fn expect(&self, sent: &Sent, more: &Value) {
        let mut expected = self.request.clone();
        let parameters = expected["parameters"].as_object_mut().unwrap();
        parameters.extend(more.as_object().unwrap().clone());
        assert_eq!(sent.json(), expected);
        let path = self.meta["path"].as_str().unwrap();
        assert!(sent.target.ends_with(path), "{}", sent.target);
        for (name, value) in self.meta["headers"].as_object().unwrap() {
            assert_eq!(sent.headers.get(name).unwrap(), value.as_str().unwrap());
        }
    }
}

/// The chunks of a stream without id and time, and how it ended.
async fn read(provider: &dyn Provider, request: ChatRequest) -> (Vec<ChatChunk>, Option<Error>) {
    let mut stream = match provider.chat_stream(&call(), request).await {
        Ok(stream) => stream.chunks,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut chunks = Vec::new();
    let mut end = None;
    while let Some(item) = stream.next().await {
        assert!(end.is_none(), "nothing follows an error");
        match item {
            Ok(chunk) => chunks.push(chunk),
            Err(error) => end = Some(error),
        }
    }
    (chunks, end)
}

fn value(chunk: &ChatChunk) -> Value {
    serde_json::from_slice(&chunk.json()).unwrap()
}

/// `delta` and `finish_reason` of the only choice of each chunk that has one.
fn steps(chunks: &[ChatChunk]) -> Vec<(Value, Value)> {
    chunks
        .iter()
        .filter(|chunk| !chunk.without_choices)
        .map(|chunk| {
            let choice = value(chunk)["choices"][0].take();
            (choice["delta"].clone(), choice["finish_reason"].clone())
        })
        .collect()
}

fn text_of(chunks: &[ChatChunk]) -> String {
    let part = |(delta, _): (Value, Value)| delta["content"].as_str().unwrap_or("").to_owned();
    steps(chunks).into_iter().map(part).collect()
}

#[tokio::test]
async fn a_recorded_answer_becomes_openais() {
    for name in ["chat", "chat_text_format"] {
        let recorded = scenario(name);
        let (provider, script) = account([recorded.play()]);
        let answer = provider.chat(&call(), hi("qwen-plus")).await.unwrap();
        let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["id"], "chatcmpl-42773b98-4856-428e-8500-37f661b4d537");
        assert_eq!(body["model"], "qwen-plus");
        assert!(body["created"].as_i64().unwrap() > 1_700_000_000);
        assert_eq!(
            body["choices"],
            json!([{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "logprobs": null, "finish_reason": "stop"}])
        );
        assert_eq!(
            body["usage"],
            json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
        );
        assert_eq!(answer.usage.unwrap().total_tokens(), 9);
        assert_eq!(
            answer.upstream_request_id.as_deref(),
            Some("42773b98-4856-428e-8500-37f661b4d537")
        );
        let sent = script.requests.lock()[0].clone();
        recorded.expect(&sent, &json!({"result_format": "message"}));
        assert_eq!(sent.method, Method::POST);
        assert_eq!(sent.headers["authorization"], format!("Bearer {KEY}"));
        assert!(!sent.streamed());
    }
}

#[tokio::test]
async fn a_recorded_stream_becomes_openais() {
    let recorded = scenario("stream");
    let (provider, script) = account([recorded.play()]);
    let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
    assert!(end.is_none());
    assert_eq!(
        steps(&chunks),
        [
            (json!({"role": "assistant", "content": "Hel"}), Value::Null),
            (json!({"content": "lo"}), Value::Null),
            (json!({}), json!("stop")),
        ]
    );
    let last = chunks.last().unwrap();
    assert!(last.without_choices);
    assert_eq!(last.usage.unwrap().total_tokens(), 9);
    assert_eq!(
        value(last)["usage"],
        json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
    );
    let ids: Vec<Value> = chunks
        .iter()
        .map(|chunk| value(chunk)["id"].take())
        .collect();
    assert!(
        ids.iter()
            .all(|id| id == "chatcmpl-5d8e86a2-165f-42fd-b5b3-a5e55571e8bc")
    );
    assert_eq!(chunks.iter().filter(|chunk| chunk.finish).count(), 1);
    let pieces = chunks.iter().flat_map(|chunk| &chunk.delivered);
    let delivered: usize = pieces.map(|piece| piece.text.len()).sum();
    assert_eq!(delivered, 5);
    recorded.expect(&script.requests.lock()[0], &json!({}));
}

#[tokio::test]
async fn recorded_thinking_comes_first() {
    let recorded = scenario("stream_thinking");
    let mut request = hi("qwen-plus");
    request.body_mut().set("enable_thinking", "true");
    let (provider, script) = account([recorded.play(), recorded.play()]);
    let (chunks, end) = read(&*provider, request.clone()).await;
    assert!(end.is_none());
    assert_eq!(
        steps(&chunks),
        [
            (
                json!({"role": "assistant", "content": "", "reasoning_content": "Let me"}),
                Value::Null
            ),
            (json!({"content": "Hi"}), Value::Null),
            (json!({}), json!("stop")),
        ]
    );
    assert_eq!(chunks.last().unwrap().usage.unwrap().reasoning_tokens, 2);
    recorded.expect(&script.requests.lock()[0], &json!({}));

    // The same for a caller that wants one answer: streamed from the provider and added up.
    let answer = provider.chat(&call(), request).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
    assert_eq!(
        body["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hi", "reasoning_content": "Let me"})
    );
    assert_eq!(
        body["usage"]["completion_tokens_details"]["reasoning_tokens"],
        2
    );
    assert!(script.requests.lock()[1].streamed());
}

#[tokio::test]
async fn recorded_tool_calls_keep_their_id() {
    let recorded = scenario("stream_tools");
    let request = chat(&json!({
        "model": "qwen-plus", "messages": recorded.request["input"]["messages"],
        "tools": recorded.request["parameters"]["tools"],
    }));
    let (provider, script) = account([recorded.play()]);
    let (chunks, end) = read(&*provider, request).await;
    assert!(end.is_none());
    assert_eq!(
        steps(&chunks),
        [
            (
                json!({"role": "assistant", "content": null, "tool_calls": [{"index": 0, "id": "call_a1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}]}),
                Value::Null
            ),
            (
                json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"city\": \"Oslo\"}"}}]}),
                Value::Null
            ),
            (json!({}), json!("tool_calls")),
        ]
    );
    recorded.expect(
        &script.requests.lock()[0],
        &json!({"parallel_tool_calls": true}),
    );
}

#[tokio::test]
async fn a_recorded_cumulative_stream_is_not_doubled() {
    let (provider, _) = account([scenario("stream_cumulative").play()]);
    let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
    assert!(end.is_none());
    assert_eq!(text_of(&chunks), "Hello");
}

#[tokio::test]
async fn a_recorded_multimodal_exchange() {
    let recorded = scenario("multimodal");
    let request = chat(
        &json!({"model": "qwen3-vl-plus", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://img.example/cat.png", "detail": "low"}},
        {"type": "text", "text": "What is it?"}]}]}),
    );
    let (provider, script) = account([recorded.play()]);
    let answer = provider.chat(&call(), request).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "A cat");
    let sent = script.requests.lock()[0].json();
    assert_eq!(sent["input"], recorded.request["input"]);
}

#[tokio::test]
async fn every_split_of_a_stream_gives_the_same_chunks() {
    for name in [
        "stream",
        "stream_tools",
        "stream_thinking",
        "stream_cumulative",
    ] {
        let recorded = scenario(name);
        let mut expected = None;
        for at in 0..=recorded.response.len() {
            let (provider, _) = account([recorded.play_split(at)]);
            let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
            assert!(end.is_none(), "{name} at {at}");
            let json: Vec<Value> = chunks
                .iter()
                .map(|chunk| {
                    let mut value = value(chunk);
                    value["created"].take();
                    value
                })
                .collect();
            assert_eq!(
                *expected.get_or_insert(json.clone()),
                json,
                "{name} at {at}"
            );
        }
    }
}

#[tokio::test]
async fn recorded_refusals_have_their_kind() {
    for (name, stream, kind) in [
        ("invalid_key", false, ErrorKind::UpstreamAuthFailed),
        ("error_in_200", false, ErrorKind::UpstreamError),
        ("stream_rate_limited", true, ErrorKind::RateLimited),
        ("stream_error_later", true, ErrorKind::UpstreamError),
    ] {
        let (provider, _) = account([scenario(name).play()]);
        let error = match stream {
            false => provider.chat(&call(), hi("qwen-plus")).await.unwrap_err(),
            true => read(&*provider, hi("qwen-plus")).await.1.unwrap(),
        };
        assert_eq!(error.kind(), kind, "{name}");
        assert_eq!(error.provider(), Some("aliyun"));
    }
    let (provider, _) = account([scenario("stream_error_later").play()]);
    let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
    assert_eq!(text_of(&chunks), "Hel");
    assert_eq!(end.unwrap().work(), Work::Unknown);
}

#[tokio::test]
async fn a_wrong_path_is_tried_once_the_other_way_and_remembered() {
    let ok = || events(frame(&said("Hi", "stop")));
    let wrong = || scenario("stream_url_error").play();
    let (provider, script) = account([wrong(), ok(), ok()]);
    for _ in 0..2 {
        let (chunks, end) = read(&*provider, hi("qwen-new")).await;
        assert!(end.is_none(), "{end:?}");
        assert_eq!(text_of(&chunks), "Hi");
    }
    let targets: Vec<String> = script
        .requests
        .lock()
        .iter()
        .map(|sent| sent.target.clone())
        .collect();
    assert!(targets[0].ends_with("/text-generation/generation"));
    assert!(targets[1].ends_with("/multimodal-generation/generation"));
    assert_eq!(targets[2], targets[1]);

    // On both paths: the model is not there. Nothing is remembered.
    let (provider, script) = account([
        wrong(),
        wrong(),
        scenario("url_error").play(),
        scenario("url_error").play(),
    ]);
    let error = read(&*provider, hi("qwen-new")).await.1.unwrap();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::ModelNotFound, 404)
    );
    let error = provider.chat(&call(), hi("qwen-new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotFound);
    assert_eq!(script.requests.lock().len(), 4);

    // A configured path is the only one.
    let (provider, script) = account([wrong()]);
    let error = read(&*provider, hi("bound")).await.1.unwrap();
    assert_eq!(error.kind(), ErrorKind::ModelNotFound);
    assert_eq!(script.requests.lock().len(), 1);
}

#[tokio::test]
async fn a_model_that_only_streams_is_streamed_and_remembered() {
    let ok = || events(frame(&said("Hi", "stop")));
    let refused = scenario("thinking_needs_stream").play();
    let (provider, script) = account([refused, ok(), ok(), ok()]);
    for model in ["qwen-new", "qwen-new", "qwq-plus"] {
        let answer = provider.chat(&call(), hi(model)).await.unwrap();
        let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], "Hi");
    }
    let streamed: Vec<bool> = script.requests.lock().iter().map(Sent::streamed).collect();
    assert_eq!(streamed, [false, true, true, true]);
}

#[tokio::test]
async fn odd_but_sound_streams() {
    let usage = json!({"usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}, "request_id": "r"});
    let finish = frame(&said("lo", "stop"));
    let hel = frame(&said("Hel", "null"));
    let spread = "data:{\"output\":{\"choices\":[{\"message\":\ndata:{\"content\":\"Hel\"},\"finish_reason\":null}]}}\n\n";
    for (why, body, with_usage) in [
        (
            "comments between",
            format!(":keepalive\n\n{hel}: x\n\n{finish}:bye\n\n"),
            false,
        ),
        (
            "usage in a tail frame",
            format!("{hel}{finish}{}", frame(&usage)),
            true,
        ),
        (
            "the finishing frame repeated",
            format!("{hel}{finish}{finish}"),
            false,
        ),
        (
            "JSON over several data lines",
            format!("{spread}{finish}"),
            false,
        ),
        (
            "CRLF",
            format!("{hel}{finish}").replace('\n', "\r\n"),
            false,
        ),
        (
            "no blank line at the end",
            format!("{hel}{}", finish.trim_end()),
            false,
        ),
        (
            "a closing [DONE]",
            format!("{hel}{finish}data:[DONE]\n\n"),
            false,
        ),
    ] {
        let (provider, _) = account([events(body)]);
        let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
        assert!(end.is_none(), "{why}: {end:?}");
        assert_eq!(text_of(&chunks), "Hello", "{why}");
        assert_eq!(
            chunks.iter().filter(|chunk| chunk.finish).count(),
            1,
            "{why}"
        );
        assert_eq!(chunks.last().unwrap().usage.is_some(), with_usage, "{why}");
    }
}

#[tokio::test]
async fn broken_streams_end_with_an_error() {
    let hel = frame(&said("Hel", "null"));
    for (why, body, text, kind) in [
        (
            "cut after a frame",
            hel.clone(),
            "Hel",
            ErrorKind::UpstreamIncomplete,
        ),
        (
            "cut at once",
            String::new(),
            "",
            ErrorKind::UpstreamIncomplete,
        ),
        (
            "comments alone",
            ":a\n\n:b\n\n".into(),
            "",
            ErrorKind::UpstreamIncomplete,
        ),
        (
            "not JSON",
            format!("{hel}data:oops\n\n"),
            "Hel",
            ErrorKind::UpstreamInvalidResponse,
        ),
        (
            "a code in a result frame",
            format!(
                "{hel}{}",
                frame(
                    &json!({"code": "DataInspectionFailed", "message": "Output data may contain inappropriate content."})
                )
            ),
            "Hel",
            ErrorKind::InvalidValue,
        ),
        (
            "an error frame first",
            frame(&json!({"code": "Throttling", "message": "slow"})),
            "",
            ErrorKind::RateLimited,
        ),
        (
            "an envelope",
            frame(&json!({"error": {"code": "internal_error", "message": "m"}})),
            "",
            ErrorKind::UpstreamError,
        ),
    ] {
        let (provider, _) = account([events(body)]);
        let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
        assert_eq!(text_of(&chunks), text, "{why}");
        assert_eq!(end.expect(why).kind(), kind, "{why}");
        assert!(
            chunks
                .iter()
                .all(|chunk| !chunk.finish && !chunk.without_choices),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_whole_answer_to_a_stream_request_is_taken() {
    let (provider, _) = account([scenario("chat").play()]);
    let (chunks, end) = read(&*provider, hi("qwen-plus")).await;
    assert!(end.is_none());
    assert_eq!(text_of(&chunks), "Hello.");
    assert!(chunks.iter().any(|chunk| chunk.finish));
}

#[tokio::test]
async fn parallel_tool_calls_and_objects_as_arguments() {
    let body = json!({"output": {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]}}]}, "request_id": "r9"});
    let (provider, _) = account([unary(200, body.to_string())]);
    let answer = provider.chat(&call(), hi("qwen-plus")).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
    assert_eq!(
        body["choices"][0],
        json!({"index": 0, "logprobs": null, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "call_r9_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]}})
    );
    assert!(answer.usage.is_none());
}

#[tokio::test]
async fn embeddings_are_split_and_joined_in_order() {
    let answer = |first: usize, count: usize| {
        // Out of order, as the provider may send them.
        let entries: Vec<String> = (0..count)
            .rev()
            .map(|index| {
                format!(
                    r#"{{"text_index":{index},"embedding":[{}.50,-0.2e1]}}"#,
                    first + index
                )
            })
            .collect();
        unary(
            200,
            format!(
                r#"{{"output":{{"embeddings":[{}]}},"usage":{{"total_tokens":{count}}},"request_id":"r{first}"}}"#,
                entries.join(",")
            ),
        )
    };
    let texts: Vec<String> = (0..23).map(|index| format!("t{index}")).collect();
    let request = |format: &str| {
        let body = json!({"model": "text-embedding-v4", "input": texts, "dimensions": 2, "encoding_format": format, "text_type": "query", "user": "u"});
        EmbeddingRequest::parse(body.to_string().into()).unwrap()
    };
    let (provider, script) = account([answer(0, 10), answer(10, 10), answer(20, 3)]);
    let completion = provider.embed(&call(), request("float")).await.unwrap();
    let text = String::from_utf8(completion.body.to_bytes().to_vec()).unwrap();
    assert!(
        text.contains(r#"{"object":"embedding","index":22,"embedding":[22.50,-0.2e1]}"#),
        "digits as received"
    );
    let body: Value = serde_json::from_str(&text).unwrap();
    for (index, entry) in body["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(entry["index"], index);
        assert_eq!(entry["embedding"][0], index as f64 + 0.5);
    }
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 23, "total_tokens": 23})
    );
    assert_eq!(completion.usage.unwrap().input_tokens, 23);
    let sent = script.requests.lock().clone();
    assert_eq!(
        sent[2].body,
        r#"{"model":"text-embedding-v4","input":{"texts":["t20","t21","t22"]},"parameters":{"dimension":2,"text_type":"query"}}"#
    );

    let (provider, _) = account([answer(0, 10), answer(10, 10), answer(20, 3)]);
    let completion = provider.embed(&call(), request("base64")).await.unwrap();
    let body: Value = serde_json::from_slice(&completion.body.to_bytes()).unwrap();
    // struct.pack('<2f', 0.5, -2.0)
    assert_eq!(body["data"][0]["embedding"], "AAAAPwAAAMA=");
}

#[tokio::test]
async fn embeddings_fail_as_a_whole() {
    let request = |input: Value| {
        EmbeddingRequest::parse(
            json!({"model": "text-embedding-v4", "input": input})
                .to_string()
                .into(),
        )
        .unwrap()
    };
    let (provider, script) = account([]);
    let error = provider
        .embed(&call(), request(json!([[1, 2]])))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.param()),
        (ErrorKind::InvalidValue, Some("input"))
    );
    assert!(script.requests.lock().is_empty());

    let eleven: Vec<String> = (0..11).map(|index| index.to_string()).collect();
    let refused = || scenario("embeddings_batch").play();
    let (provider, _) = account([refused(), refused()]);
    let error = provider
        .embed(&call(), request(json!(eleven)))
        .await
        .unwrap_err();
    assert_eq!((error.status(), error.code()), (400, "invalid_value"));
    assert_eq!(error.work(), Work::Unknown);

    for wrong in [
        json!([]),
        json!([{"text_index": 1, "embedding": [1]}]),
        json!([{"text_index": 0, "embedding": [1]}, {"text_index": 0, "embedding": [2]}]),
        json!([{"text_index": 0}]),
    ] {
        let body = json!({"output": {"embeddings": wrong}}).to_string();
        let (provider, _) = account([unary(200, body)]);
        let error = provider
            .embed(&call(), request(json!("a")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse, "{wrong}");
    }
}

#[tokio::test]
async fn models_are_read_page_by_page() {
    let page = |names: std::ops::Range<usize>| {
        let models: Vec<Value> = names
            .map(|index| json!({"model": format!("m{index:03}")}))
            .collect();
        unary(
            200,
            json!({"output": {"total": 130, "models": models}}).to_string(),
        )
    };
    let (provider, script) = account([page(0..100), page(100..130)]);
    let models = provider.models().await.unwrap();
    assert_eq!(models.len(), 130);
    assert_eq!(
        (models[129].id.as_str(), models[129].provider.as_str()),
        ("m129", "aliyun")
    );
    let sent = script.requests.lock().clone();
    assert_eq!((sent.len(), &sent[1].method), (2, &Method::GET));
    assert!(
        sent[1]
            .target
            .ends_with("/api/v1/models?page_no=2&page_size=100")
    );
}

#[tokio::test]
async fn health_is_whether_it_answers() {
    let empty = || unary(200, r#"{"output":{"total":0,"models":[]}}"#);
    let (provider, _) = account([
        empty(),
        unary(429, r#"{"code":"Throttling","message":"m"}"#),
        unary(404, r#"{"code":"NotFound","message":"m"}"#),
        unary(401, r#"{"code":"InvalidApiKey","message":"m"}"#),
        unary(500, r#"{"code":"InternalError","message":"m"}"#),
    ]);
    let mut kinds = Vec::new();
    for _ in 0..5 {
        kinds.push(
            provider
                .health_check()
                .await
                .err()
                .map(|error| error.kind()),
        );
    }
    assert_eq!(
        kinds,
        [
            None,
            None,
            None,
            Some(ErrorKind::UpstreamAuthFailed),
            Some(ErrorKind::UpstreamError)
        ]
    );
}

#[tokio::test]
async fn the_pause_that_it_asks_for_is_kept_and_our_key_is_not_told() {
    let mut play = unary(
        429,
        format!(r#"{{"code":"Throttling.RateQuota","message":"{KEY} is too fast"}}"#),
    );
    play.headers.push(("retry-after", "7".into()));
    let (provider, _) = account([play]);
    let error = provider.chat(&call(), hi("qwen-plus")).await.unwrap_err();
    assert_eq!(error.retry(), Retry::After(Duration::from_secs(7)));
    assert!(!format!("{error:?} {error}").contains(KEY), "{error:?}");
    assert_eq!((error.status(), error.code()), (429, "rate_limited"));
}

proptest! {
    #[test]
    fn frames_never_panic(datas in proptest::collection::vec(prop_oneof![
        any::<String>(),
        native_frame().prop_map(|value| value.to_string()),
    ], 0..8)) {
        let mut frames = Frames::new(true);
        let chunks = Chunks::new("id", 0, "m");
        let mut out = VecDeque::new();
        for data in datas {
            let frame = Bytes::from(data).into();
            let Ok(deltas) = frames.read(&frame, &[]) else { continue };
            for delta in &deltas {
                chunks.write(delta, &mut out);
            }
        }
        for chunk in out {
            let json: Value = serde_json::from_slice(&chunk.json()).unwrap();
            prop_assert!(json["choices"][0]["delta"].is_object());
        }
    }

    #[test]
    fn bodies_of_refusals_never_panic(status in 100u16..600, body in any::<Vec<u8>>(), text in "(id:1\n)?(:HTTP_STATUS/[0-9]{0,9}\n)?data:\\PC{0,40}\n\n") {
        for body in [&body[..], text.as_bytes()] {
            let failure = Refusal::read(status, None, body).into_failure(&[]);
            prop_assert!(failure.error.status() >= 400);
        }
    }
}

/// Something like a frame, with members of every type.
fn native_frame() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "(null|stop|length|tool_calls|\\PC{0,6})".prop_map(Value::from),
        Just(json!([{"text": "a"}, {"image": "b"}])),
        Just(json!({"x": []})),
    ];
    let choice = (leaf.clone(), leaf.clone(), leaf.clone(), leaf.clone(), 0..3u32).prop_map(
        |(content, reasoning, arguments, finish, index)| {
            json!({"index": index, "finish_reason": finish, "logprobs": content, "message": {
                "content": content, "reasoning_content": reasoning,
                "tool_calls": [{"index": index, "id": "i", "function": {"name": "n", "arguments": arguments}}]}})
        },
    );
    (proptest::collection::vec(choice, 0..3), leaf).prop_map(
        |(choices, other)| json!({"output": {"choices": choices, "text": other}, "usage": other}),
    )
}
