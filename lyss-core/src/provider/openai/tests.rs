#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use serde_json::json;

use super::*;
use crate::{
    provider::transport::{HyperTransport, TransportConfig},
    testing::{
        conformance::provider::{self as conformance, Dialect, KEY},
        upstream::{Answer, Seen, Upstream},
    },
    types::RequestId,
};

/// OpenAI's protocol as a service of a preset speaks it.
struct Service {
    preset: &'static str,
}

fn spec(preset: &str, url: &str) -> ProviderSpec {
    let transport = HyperTransport::new(&TransportConfig::default()).unwrap();
    let mut spec = ProviderSpec::new("service", Arc::new(transport));
    spec.preset = Some(preset.to_owned());
    spec.base_url = Some(format!("{url}/v1"));
    spec.api_key = Some(KEY.into());
    spec
}

fn delta(text: &str) -> String {
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795380238, "model": "m-1",
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}], "usage": null});
    format!("data: {chunk}\n\n")
}

impl Dialect for Service {
    fn provider(&self, url: &str) -> Arc<dyn Provider> {
        OpenAi::from_spec(spec(self.preset, url)).unwrap()
    }

    fn model(&self) -> &str {
        "m-1"
    }

    fn answer(&self, text: &str) -> Answer {
        let body = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1795380238, "model": "m-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}});
        Answer::json(200, body.to_string())
    }

    fn stream(&self, texts: &[&str]) -> String {
        let finish = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795380238,"model":"m-1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#;
        let usage = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795380238,"model":"m-1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
        let deltas = self.unfinished_stream(texts);
        format!("{deltas}: keep-alive\n\n{finish}\n\n{usage}\n\ndata: [DONE]\n\n")
    }

    fn unfinished_stream(&self, texts: &[&str]) -> String {
        texts.iter().map(|text| delta(text)).collect()
    }

    fn error_event(&self) -> String {
        "data: {\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n".into()
    }

    fn refusal(&self, status: u16, message: &str) -> Answer {
        let body = json!({"error": {"message": message, "type": "t", "param": null, "code": null}});
        Answer::json(status, body.to_string())
    }

    fn embeddings(&self, request: &Seen) -> Answer {
        let request = request.json();
        let texts = request["input"].as_array().unwrap();
        let limit = preset_batch(self.preset);
        assert!(texts.len() <= limit, "more than {limit} inputs at once");
        let vector = |text: &serde_json::Value| {
            let length = text.as_str().unwrap().len();
            let json = json!([length as f64, 0.5]);
            let base64 = request["encoding_format"] == "base64";
            match base64 {
                true => serde_json::from_str(
                    &crate::provider::vectors::to_base64(&json.to_string()).unwrap(),
                )
                .unwrap(),
                false => json,
            }
        };
        // From the last to the first: the order must be made by index.
        let data: Vec<_> = texts
            .iter()
            .enumerate()
            .rev()
            .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": vector(text)}))
            .collect();
        let usage = json!({"prompt_tokens": texts.len(), "total_tokens": texts.len()});
        Answer::json(
            200,
            json!({"object": "list", "data": data, "model": "m-1", "usage": usage}).to_string(),
        )
    }

    fn models(&self) -> Answer {
        Answer::json(
            200,
            r#"{"object":"list","data":[{"id":"m-1","object":"model","created":1,"owned_by":"x"}]}"#,
        )
    }

    fn asks_for_stream(&self, request: &Seen) -> bool {
        let body = request.json();
        body["stream"] == true
    }
}

fn preset_batch(preset: &str) -> usize {
    let quirks = crate::provider::preset::preset(preset).unwrap().quirks;
    quirks.embedding_batch.unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_every_promise_of_a_provider() {
    conformance::all(&Service { preset: "openai" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_them_where_a_service_differs() {
    for service in [
        &Service {
            preset: "dashscope_compatible",
        },
        &Service { preset: "deepseek" },
        &Service { preset: "mistral" },
    ] {
        conformance::a_stream_says_what_the_answer_says(service).await;
        conformance::unknown_fields_are_forwarded(service).await;
        conformance::undeclared_capabilities_are_refused(service).await;
        conformance::embeddings_keep_order_and_encoding(service).await;
    }
}

fn call() -> ProviderCall {
    ProviderCall {
        request_id: RequestId::new(),
        attempt: 1,
    }
}

#[tokio::test]
async fn a_request_is_the_callers_bytes_below_the_base_url() {
    let service = Service { preset: "openai" };
    let server = Upstream::start(move |_| service.answer("x")).await;
    let mut spec = spec("openai", server.url());
    spec.base_url = Some(format!("{}/openai/?api-version=1", server.url()));
    spec.headers.insert("api-key".into(), "azure-secret".into());
    spec.headers.insert("user-agent".into(), "mine/1".into());
    let provider = OpenAi::from_spec(spec).unwrap();
    let text =
        r#"{ "model":"a/b?c",  "messages":[{"role":"user","content":"\u0041"}], "seed":1.0e2 }"#;
    let request = ChatRequest::parse(text.into()).unwrap();
    provider.chat(&call(), request).await.unwrap();
    let seen = server.seen().remove(0);
    assert_eq!(seen.target(), "/openai/chat/completions?api-version=1");
    assert_eq!(seen.body, text);
    assert_eq!(seen.header("api-key"), Some("azure-secret"));
    assert_eq!(seen.header("user-agent"), Some("mine/1"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(provider.endpoint(), format!("{}/openai", server.url()));
}

#[tokio::test]
async fn connections_are_used_again_after_streams() {
    let service = Service { preset: "openai" };
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server =
        Upstream::start(move |_| Answer::events([Bytes::from(service.stream(&["a"]))])).await;
    let counted = Counting {
        target: server.url().to_owned(),
        connections: connections.clone(),
    };
    let url = counted.start().await;
    let provider = OpenAi::from_spec(spec("openai", &url)).unwrap();
    for _ in 0..5 {
        let request =
            ChatRequest::parse(r#"{"model":"m","messages":[{}],"stream":true}"#.into()).unwrap();
        let stream = provider.chat_stream(&call(), request).await.unwrap();
        assert!(stream.chunks.all(async |chunk| chunk.is_ok()).await);
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// Counts the connections made through it.
struct Counting {
    target: String,
    connections: Arc<std::sync::atomic::AtomicUsize>,
}

impl Counting {
    async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                self.connections
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let target = self.target.trim_start_matches("http://").to_owned();
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        url
    }
}

#[tokio::test]
async fn a_service_that_ignores_stream_is_found_out() {
    let service = Service { preset: "openai" };
    for (answer, kind) in [
        (service.answer("x"), ErrorKind::UpstreamInvalidResponse),
        (
            Answer::json(200, r#"{"error":{"message":"m","code":429}}"#),
            ErrorKind::RateLimited,
        ),
        (
            Answer::json(200, "<html>").with_header("x", "y"),
            ErrorKind::UpstreamInvalidResponse,
        ),
    ] {
        let server = Upstream::start(move |_| answer.clone()).await;
        let provider = OpenAi::from_spec(spec("openai", server.url())).unwrap();
        let request =
            ChatRequest::parse(r#"{"model":"m","messages":[{}],"stream":true}"#.into()).unwrap();
        let error = provider.chat_stream(&call(), request).await.unwrap_err();
        assert_eq!((error.kind(), error.work()), (kind, Work::Unknown));
    }
}

#[test]
fn settings_that_cannot_work_are_named() {
    let refused = |change: fn(&mut ProviderSpec)| {
        let mut spec = spec("openai", "http://h");
        change(&mut spec);
        let error = OpenAi::from_spec(spec).err().unwrap();
        assert!(!error.message().contains("secret"), "{error}");
        error.param().unwrap().to_owned()
    };
    assert_eq!(
        refused(|spec| spec.preset = Some("nobody".into())),
        "preset"
    );
    assert_eq!(
        refused(|spec| spec.base_url = Some("not a url".into())),
        "base_url"
    );
    assert_eq!(
        refused(|spec| spec.base_url = Some("ftp://h/v1".into())),
        "base_url"
    );
    assert_eq!(
        refused(|spec| spec.base_url = Some("http://u:secret@h/v1".into())),
        "base_url"
    );
    assert_eq!(
        refused(|spec| spec.api_key = Some("secret\n".into())),
        "api_key"
    );
    assert_eq!(
        refused(|spec| drop(spec.headers.insert("host".into(), "secret".into()))),
        "headers"
    );
    assert_eq!(
        refused(|spec| drop(spec.headers.insert("x".into(), "secret\r\n".into()))),
        "headers"
    );
    let unknown =
        crate::provider::registry::Registry::builtin().build("openay", spec("openai", "http://h"));
    let unknown = unknown.err().unwrap();
    assert!(unknown.message().contains("openai, simulated"), "{unknown}");
}
