//! What every [`Provider`] promises, over real sockets. Run [`all`], or single promises.
//!
//! A [`Dialect`] is `'static`, because the scripted server calls it from its own tasks; a constant will do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::{
    error::{Error, ErrorKind, Retry, Work},
    provider::{Completion, Provider, ProviderCall},
    testing::upstream::{Answer, End, Seen, Upstream},
    types::{ChatChunk, ChatRequest, EmbeddingRequest, RequestId, Usage},
};

/// The key that [`Dialect::provider`] must use: no error may show it.
pub const KEY: &str = "sk-conformance-canary";

/// The usage that [`Dialect::answer`] and [`Dialect::stream`] must report.
pub const USAGE: Usage = Usage {
    input_tokens: 7,
    output_tokens: 2,
    cached_tokens: 0,
    cache_write_tokens: 0,
    reasoning_tokens: 0,
};

/// A provider's protocol as its service speaks it, and how to make the provider.
pub trait Dialect: Send + Sync + 'static {
    /// The provider under test, pointed at a loopback URL without path, with the key [`KEY`].
    fn provider(&self, url: &str) -> Arc<dyn Provider>;

    /// A model that the dialect's answers fit.
    fn model(&self) -> &str;

    /// A complete answer with this text and the usage [`USAGE`].
    fn answer(&self, text: &str) -> Answer;

    /// The body of a complete stream that delivers these texts and the usage [`USAGE`].
    fn stream(&self, texts: &[&str]) -> String;

    /// The body of a stream that delivers these texts and stops, with nothing that says that the answer is complete.
    fn unfinished_stream(&self, texts: &[&str]) -> String;

    /// An event that reports a failure of the service, as it stands behind others.
    fn error_event(&self) -> String;

    /// A refusal with this status and message.
    fn refusal(&self, status: u16, message: &str) -> Answer;

    /// The answer to an embeddings request; the first number of each vector tells its input: the length of the text.
    fn embeddings(&self, request: &Seen) -> Answer;

    /// A list of models that holds [`Dialect::model`].
    fn models(&self) -> Answer;

    /// Whether a request asks for a stream.
    fn asks_for_stream(&self, request: &Seen) -> bool;
}

fn call() -> ProviderCall {
    ProviderCall {
        request_id: RequestId::new(),
        attempt: 1,
    }
}

fn chat_with(dialect: &'static dyn Dialect, stream: bool, extra: Value) -> ChatRequest {
    let mut body =
        json!({"model": dialect.model(), "messages": [{"role": "user", "content": "hi"}]});
    let members = body.as_object_mut().unwrap();
    if stream {
        members.insert("stream".into(), true.into());
    }
    members.extend(extra.as_object().unwrap().clone());
    ChatRequest::parse(body.to_string().into()).unwrap()
}

fn chat(dialect: &'static dyn Dialect, stream: bool) -> ChatRequest {
    chat_with(dialect, stream, json!({}))
}

fn embedding(dialect: &'static dyn Dialect, inputs: &[String], format: &str) -> EmbeddingRequest {
    let body = json!({"model": dialect.model(), "input": inputs, "encoding_format": format});
    EmbeddingRequest::parse(body.to_string().into()).unwrap()
}

async fn upstream(answer: Answer) -> Upstream {
    Upstream::start(move |_| answer.clone()).await
}

fn events(body: &str) -> Answer {
    Answer::events([Bytes::copy_from_slice(body.as_bytes())])
}

async fn ask(dialect: &'static dyn Dialect, answer: Answer) -> Result<Completion, Error> {
    let upstream = upstream(answer).await;
    dialect
        .provider(upstream.url())
        .chat(&call(), chat(dialect, false))
        .await
}

/// The chunks of a stream and the error that ended it, which may also come instead of the stream.
async fn stream(provider: &dyn Provider, request: ChatRequest) -> (Vec<ChatChunk>, Option<Error>) {
    let mut chunks = match provider.chat_stream(&call(), request).await {
        Ok(stream) => stream.chunks,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut read = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => read.push(chunk),
            Err(error) => {
                assert!(chunks.next().await.is_none(), "an error is the last item");
                return (read, Some(error));
            }
        }
    }
    (read, None)
}

async fn stream_of(
    dialect: &'static dyn Dialect,
    answer: Answer,
) -> (Vec<ChatChunk>, Option<Error>) {
    let upstream = upstream(answer).await;
    stream(&*dialect.provider(upstream.url()), chat(dialect, true)).await
}

fn text_of(chunks: &[ChatChunk]) -> String {
    let mut text = String::new();
    for chunk in chunks {
        let json: Value = serde_json::from_slice(&chunk.json()).unwrap();
        text.push_str(
            json["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    text
}

/// Runs every promise.
pub async fn all(dialect: &'static dyn Dialect) {
    declared_capabilities_work(dialect).await;
    undeclared_capabilities_are_refused(dialect).await;
    a_stream_says_what_the_answer_says(dialect).await;
    every_split_gives_the_same_chunks(dialect).await;
    failures_have_the_right_kind(dialect).await;
    the_pause_asked_for_is_read(dialect).await;
    broken_answers_are_refused(dialect).await;
    an_early_end_is_incomplete(dialect).await;
    an_error_event_ends_the_stream(dialect).await;
    an_unreachable_service_did_no_work(dialect).await;
    unknown_fields_are_forwarded(dialect).await;
    dropping_closes_the_connection(dialect).await;
    redirects_are_not_followed(dialect).await;
    no_error_shows_the_key(dialect).await;
    embeddings_keep_order_and_encoding(dialect).await;
}

/// What is declared works: chat, models, the health check, usage and the provider's request id.
pub async fn declared_capabilities_work(dialect: &'static dyn Dialect) {
    let answer = dialect
        .answer("Hello.")
        .with_header("x-request-id", "req_7");
    let completion = ask(dialect, answer).await.unwrap();
    assert_eq!(completion.usage, Some(USAGE));
    assert_eq!(completion.upstream_request_id.as_deref(), Some("req_7"));
    let body: Value = serde_json::from_slice(&completion.body.to_bytes()).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello.");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["usage"]["prompt_tokens"], 7);

    let models = upstream(dialect.models()).await;
    let provider = dialect.provider(models.url());
    let listed = provider.models().await.unwrap();
    assert!(
        listed.iter().any(|model| model.id == dialect.model()),
        "{listed:?}"
    );
    provider.health_check().await.unwrap();
    let down = upstream(dialect.refusal(503, "down")).await;
    assert!(dialect.provider(down.url()).health_check().await.is_err());
    let wrong_key = upstream(dialect.refusal(401, "no")).await;
    let refused = dialect
        .provider(wrong_key.url())
        .health_check()
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UpstreamAuthFailed);
}

/// What is not declared is refused before anything is sent.
pub async fn undeclared_capabilities_are_refused(dialect: &'static dyn Dialect) {
    let upstream = upstream(dialect.answer("x")).await;
    let provider = dialect.provider(upstream.url());
    let declared = provider.capabilities();
    let mut refusals = Vec::new();
    if !declared.chat {
        refusals.push(provider.chat(&call(), chat(dialect, false)).await.err());
    }
    if !declared.stream {
        refusals.push(
            provider
                .chat_stream(&call(), chat(dialect, true))
                .await
                .err(),
        );
    }
    if !declared.embeddings {
        let request = embedding(dialect, &["a".into()], "float");
        refusals.push(provider.embed(&call(), request).await.err());
    }
    for refusal in refusals {
        assert_eq!(refusal.unwrap().kind(), ErrorKind::InvalidValue);
    }
    assert!(upstream.seen().is_empty());
}

/// The texts of a stream joined are the answer; usage and the finish come exactly once; usage only if it was asked
/// for, but always to the gateway.
pub async fn a_stream_says_what_the_answer_says(dialect: &'static dyn Dialect) {
    let texts = ["Hel", "lo, w\u{f6}rld \u{1f600}", "\n\"x\""];
    let unary = ask(dialect, dialect.answer(&texts.concat())).await.unwrap();
    let unary: Value = serde_json::from_slice(&unary.body.to_bytes()).unwrap();
    for asked in [false, true] {
        let server = upstream(events(&dialect.stream(&texts))).await;
        let options = match asked {
            true => json!({"stream_options": {"include_usage": true}}),
            false => json!({}),
        };
        let request = chat_with(dialect, true, options);
        let (chunks, error) = stream(&*dialect.provider(server.url()), request).await;
        assert!(error.is_none(), "{error:?}");
        assert!(dialect.asks_for_stream(&server.seen()[0]));
        assert_eq!(
            text_of(&chunks),
            unary["choices"][0]["message"]["content"].as_str().unwrap()
        );
        assert_eq!(chunks.iter().filter(|chunk| chunk.finish).count(), 1);
        // Providers may report usage as it grows: the last report counts.
        let usage = chunks.iter().filter_map(|chunk| chunk.usage).next_back();
        assert_eq!(usage, Some(USAGE), "asked for: {asked}");
        let pieces = chunks.iter().flat_map(|chunk| &chunk.delivered);
        let delivered: String = pieces.map(|piece| &*piece.text).collect();
        assert_eq!(delivered, texts.concat());
        for chunk in &chunks {
            let json: Value = serde_json::from_slice(&chunk.json()).unwrap();
            assert_eq!(json["object"], "chat.completion.chunk", "{json}");
            assert_eq!(
                chunk.without_choices,
                json["choices"].as_array().unwrap().is_empty()
            );
            let shown = json.get("usage").is_some();
            assert!(
                asked || chunk.without_choices || !shown,
                "usage that nobody asked for: {json}"
            );
        }
    }
}

/// However the bytes of a stream are cut, the chunks are the same.
pub async fn every_split_gives_the_same_chunks(dialect: &'static dyn Dialect) {
    let body = Bytes::from(dialect.stream(&["Hé", "llo"]));
    let pieces_of = {
        let body = body.clone();
        move |cut: usize| match cut {
            0 => body
                .chunks(1)
                .map(Bytes::copy_from_slice)
                .collect::<Vec<_>>(),
            cut => vec![body.slice(..cut), body.slice(cut..)],
        }
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let server = Upstream::start(move |_| {
        Answer::events(pieces_of(
            next.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        ))
    })
    .await;
    let provider = dialect.provider(server.url());
    let (whole, _) = stream_of(dialect, Answer::events([body.clone()])).await;
    // Adapters that translate may stamp their chunks with the time.
    let plain = |chunks: &[ChatChunk]| -> Vec<Value> {
        let read = |chunk: &ChatChunk| {
            let mut json: Value = serde_json::from_slice(&chunk.json()).unwrap();
            json["created"].take();
            json
        };
        chunks.iter().map(read).collect()
    };
    for cut in 0..=body.len() {
        let (chunks, error) = stream(&*provider, chat(dialect, true)).await;
        assert!(error.is_none(), "cut at {cut}: {error:?}");
        assert_eq!(plain(&chunks), plain(&whole), "cut at {cut}");
    }
}

/// A refusal has the kind, the status and the advice of the contract, streamed or not.
pub async fn failures_have_the_right_kind(dialect: &'static dyn Dialect) {
    for (status, kind, shown, retry) in [
        (400, ErrorKind::InvalidValue, 400, false),
        (404, ErrorKind::ModelNotFound, 404, false),
        (401, ErrorKind::UpstreamAuthFailed, 502, true),
        (403, ErrorKind::UpstreamAuthFailed, 502, true),
        (429, ErrorKind::RateLimited, 429, true),
        (500, ErrorKind::UpstreamError, 502, true),
        (503, ErrorKind::UpstreamError, 502, true),
    ] {
        let answer = dialect.refusal(status, "said by the service");
        let unary = ask(dialect, answer.clone()).await.unwrap_err();
        let streamed = stream_of(dialect, answer).await.1.unwrap();
        for error in [unary, streamed] {
            assert_eq!(
                (error.kind(), error.status()),
                (kind, shown),
                "{status}: {error:?}"
            );
            assert_eq!(error.retry() != Retry::Never, retry, "{status}: {error:?}");
            assert_eq!(error.upstream().map(|said| said.status), Some(status));
            if shown == status && status != 429 {
                assert!(error.message().contains("said by the service"), "{error:?}");
            }
        }
    }
}

/// `Retry-After` is taken over.
pub async fn the_pause_asked_for_is_read(dialect: &'static dyn Dialect) {
    for status in [429, 503] {
        let answer = dialect
            .refusal(status, "later")
            .with_header("retry-after", "7");
        let error = ask(dialect, answer).await.unwrap_err();
        assert_eq!(
            error.retry(),
            Retry::After(Duration::from_secs(7)),
            "{status}"
        );
    }
}

/// What is not the protocol is an invalid response, never a half answer.
pub async fn broken_answers_are_refused(dialect: &'static dyn Dialect) {
    for body in [
        "",
        "<html>hello</html>",
        "{\"choices\":[{\"mess",
        "[]",
        "null",
        "{}",
    ] {
        let error = ask(dialect, Answer::json(200, body)).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::UpstreamInvalidResponse,
            "{body}: {error:?}"
        );
        assert_eq!(error.work(), Work::Unknown, "{body}");
    }
    let body = format!("{}data: {{\"broken\n\n", dialect.unfinished_stream(&["a"]));
    let (chunks, error) = stream_of(dialect, events(&body)).await;
    assert_eq!(text_of(&chunks), "a");
    assert_eq!(error.unwrap().kind(), ErrorKind::UpstreamInvalidResponse);
}

/// A stream that stops without its end is incomplete, however it stops; what came before is delivered.
pub async fn an_early_end_is_incomplete(dialect: &'static dyn Dialect) {
    for end in [End::Clean, End::Cut] {
        let body = dialect.unfinished_stream(&["a", "b"]);
        let (chunks, error) = stream_of(dialect, events(&body).with_end(end)).await;
        assert_eq!(text_of(&chunks), "ab", "{end:?}");
        let error = error.unwrap();
        assert_eq!(
            (error.kind(), error.work()),
            (ErrorKind::UpstreamIncomplete, Work::Unknown)
        );
        let (_, error) = stream_of(dialect, events("").with_end(end)).await;
        assert_eq!(
            error.unwrap().kind(),
            ErrorKind::UpstreamIncomplete,
            "{end:?}"
        );
    }
    let cut = ask(dialect, dialect.answer("Hello").with_end(End::Cut))
        .await
        .unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::UpstreamIncomplete);
}

/// An error that the service reports inside a stream is an error.
pub async fn an_error_event_ends_the_stream(dialect: &'static dyn Dialect) {
    let body = format!(
        "{}{}",
        dialect.unfinished_stream(&["a"]),
        dialect.error_event()
    );
    let (chunks, error) = stream_of(dialect, events(&body)).await;
    assert_eq!(text_of(&chunks), "a");
    let error = error.unwrap();
    assert_eq!(
        (error.kind(), error.work()),
        (ErrorKind::UpstreamError, Work::Unknown)
    );
}

/// A service that cannot be reached has done nothing; one that hangs up in silence may have.
pub async fn an_unreachable_service_did_no_work(dialect: &'static dyn Dialect) {
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = dialect
        .provider(&gone)
        .chat(&call(), chat(dialect, false))
        .await
        .unwrap_err();
    let found = (error.kind(), error.work(), error.retry());
    assert_eq!(
        found,
        (ErrorKind::UpstreamError, Work::None, Retry::Elsewhere)
    );
    let error = ask(dialect, Answer::silence().with_end(End::Cut))
        .await
        .unwrap_err();
    let found = (error.kind(), error.work(), error.retry());
    assert_eq!(
        found,
        (ErrorKind::UpstreamError, Work::Unknown, Retry::Elsewhere)
    );
}

/// Fields that nobody here knows reach the service, with every digit.
pub async fn unknown_fields_are_forwarded(dialect: &'static dyn Dialect) {
    let server = upstream(dialect.answer("x")).await;
    let number = "12345678901234567890.10";
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"h\u00e9"}}],"x_unknown":{{"n":{number}}}}}"#,
        dialect.model()
    );
    let request = ChatRequest::parse(body.into()).unwrap();
    dialect
        .provider(server.url())
        .chat(&call(), request)
        .await
        .unwrap();
    let sent = String::from_utf8(server.seen()[0].body.to_vec()).unwrap();
    assert!(
        sent.contains(&format!(r#""x_unknown":{{"n":{number}}}"#)),
        "{sent}"
    );
}

/// Dropping the stream, or the call, hangs up on the service; the first chunk has left long before.
pub async fn dropping_closes_the_connection(dialect: &'static dyn Dialect) {
    let body = dialect.unfinished_stream(&["a"]);
    let server = upstream(events(&body).with_end(End::Silent)).await;
    let provider = dialect.provider(server.url());
    let mut started = provider
        .chat_stream(&call(), chat(dialect, true))
        .await
        .unwrap();
    let first = tokio::time::timeout(Duration::from_secs(5), started.chunks.next()).await;
    first
        .expect("the first chunk leaves while more is awaited")
        .unwrap()
        .unwrap();
    drop(started);
    assert!(server.was_hung_up().await, "the stream");

    let silent = upstream(Answer::silence()).await;
    let provider = dialect.provider(silent.url());
    let call = call();
    let waiting = provider.chat(&call, chat(dialect, false));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waiting)
            .await
            .is_err()
    );
    assert!(silent.was_hung_up().await, "the call");
}

/// A redirect is not followed: the key and the prompt go nowhere else.
pub async fn redirects_are_not_followed(dialect: &'static dyn Dialect) {
    let elsewhere = upstream(dialect.answer("x")).await;
    for status in [302, 307, 308] {
        let location = format!("{}/x", elsewhere.url());
        let answer = Answer::json(status, "{}").with_header("location", &location);
        let error = ask(dialect, answer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse, "{status}");
    }
    assert!(elsewhere.seen().is_empty());
}

/// The key is sent to the service and shown nowhere else, even if the service echoes it.
pub async fn no_error_shows_the_key(dialect: &'static dyn Dialect) {
    for status in [400, 401, 404, 429, 500] {
        let server = upstream(dialect.refusal(status, &format!("your key {KEY} is bad"))).await;
        let provider = dialect.provider(server.url());
        let error = provider
            .chat(&call(), chat(dialect, false))
            .await
            .unwrap_err();
        let said = format!("{error} {error:?} {}", error.to_json(None));
        assert!(!said.contains(KEY), "{status}: {said}");
        let authorization = server.seen()[0].header("authorization").map(str::to_owned);
        assert_eq!(authorization, Some(format!("Bearer {KEY}")));
        assert!(!provider.endpoint().contains(KEY));
    }
}

/// Embeddings come in the order of their inputs and in the encoding asked for, also where the service takes fewer at
/// once.
pub async fn embeddings_keep_order_and_encoding(dialect: &'static dyn Dialect) {
    let server = Upstream::start(|seen| dialect.embeddings(seen)).await;
    let provider = dialect.provider(server.url());
    if !provider.capabilities().embeddings {
        return;
    }
    for count in [1, 3, 25] {
        let inputs: Vec<String> = (1..=count).map(|length| "x".repeat(length)).collect();
        for format in ["float", "base64"] {
            let request = embedding(dialect, &inputs, format);
            let answer = provider.embed(&call(), request).await.unwrap();
            let body: Value = serde_json::from_slice(&answer.body.to_bytes()).unwrap();
            let data = body["data"].as_array().unwrap();
            assert_eq!(data.len(), count);
            for (index, entry) in data.iter().enumerate() {
                assert_eq!(entry["index"], index, "{format} of {count}");
                let first = match &entry["embedding"] {
                    Value::String(text) if format == "base64" => {
                        use base64::Engine as _;
                        let bytes = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
                        f64::from(f32::from_le_bytes(bytes[..4].try_into().unwrap()))
                    }
                    Value::Array(numbers) if format == "float" => numbers[0].as_f64().unwrap(),
                    other => panic!("{format} was asked for, not {other}"),
                };
                assert_eq!(first, (index + 1) as f64, "{format} of {count}");
            }
            assert!(answer.usage.is_some());
        }
    }
}
