//! The promises of every provider, kept by this one over real sockets.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::DashScope;
use crate::{
    provider::{
        Provider, ProviderSpec,
        transport::{HyperTransport, TransportConfig},
    },
    testing::{
        conformance::provider::{self as conformance, Dialect, KEY},
        upstream::{Answer, Seen},
    },
};

/// The native protocol; the model decides the generation path, and with it the shape of messages.
struct Native {
    model: &'static str,
}

const USAGE: &str = r#"{"total_tokens":9,"input_tokens":7,"output_tokens":2,"prompt_tokens_details":{"cached_tokens":0}}"#;

impl Native {
    fn multimodal(&self) -> bool {
        self.model.contains("-vl")
    }

    fn choices(&self, text: &str, finish: &str) -> Value {
        let content = match self.multimodal() {
            true if text.is_empty() => json!([]),
            true => json!([{"text": text}]),
            false => json!(text),
        };
        json!({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]})
    }

    fn frame(&self, number: usize, text: &str, finish: &str) -> String {
        let output = self.choices(text, finish);
        format!(
            "id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{{\"output\":{output},\"usage\":{USAGE},\"request_id\":\"r-1\"}}\n\n"
        )
    }
}

impl Dialect for Native {
    fn provider(&self, url: &str) -> Arc<dyn Provider> {
        let transport = HyperTransport::new(&TransportConfig::default()).unwrap();
        let mut spec = ProviderSpec::new("aliyun", Arc::new(transport));
        spec.api_key = Some(KEY.into());
        spec.base_url = Some(format!("{url}/api/v1"));
        DashScope::from_spec(spec).unwrap()
    }

    fn model(&self) -> &str {
        self.model
    }

    fn answer(&self, text: &str) -> Answer {
        let output = self.choices(text, "stop");
        Answer::json(
            200,
            format!(r#"{{"output":{output},"usage":{USAGE},"request_id":"r-1"}}"#),
        )
    }

    fn stream(&self, texts: &[&str]) -> String {
        self.unfinished_stream(texts) + &self.frame(texts.len() + 1, "", "stop")
    }

    fn unfinished_stream(&self, texts: &[&str]) -> String {
        let frames = texts.iter().enumerate();
        frames
            .map(|(index, text)| self.frame(index + 1, text, "null"))
            .collect()
    }

    fn error_event(&self) -> String {
        "id:9\nevent:error\n:HTTP_STATUS/500\ndata:{\"code\":\"InternalError\",\"message\":\"m\",\"request_id\":\"r-1\"}\n\n".into()
    }

    fn refusal(&self, status: u16, message: &str) -> Answer {
        let code = match status {
            400 => "InvalidParameter",
            401 => "InvalidApiKey",
            403 => "AccessDenied",
            404 => "ModelNotFound",
            429 => "Throttling.RateQuota",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        let body = json!({"code": code, "message": message, "request_id": "r-1"}).to_string();
        // As it answers when a stream was asked for: one event under the status, labelled as JSON.
        let event = format!("id:1\nevent:error\n:HTTP_STATUS/{status}\ndata:{body}\n\n");
        Answer::json(status, if self.multimodal() { event } else { body })
    }

    fn embeddings(&self, request: &Seen) -> Answer {
        let texts = request.json()["input"]["texts"].as_array().unwrap().clone();
        if texts.len() > 10 {
            let body = include_bytes!(
                "../../../../tests/fixtures/providers/dashscope/embeddings_batch/response.json"
            );
            return Answer::json(400, Bytes::from_static(body));
        }
        let vector = |(index, text): (usize, &Value)| json!({"text_index": index, "embedding": [text.as_str().unwrap().len(), 0.5]});
        // The service may give them out of order.
        let vectors: Vec<Value> = texts.iter().enumerate().rev().map(vector).collect();
        let usage = json!({"total_tokens": texts.len()});
        Answer::json(
            200,
            json!({"output": {"embeddings": vectors}, "usage": usage, "request_id": "r-1"})
                .to_string(),
        )
    }

    fn models(&self) -> Answer {
        let output = json!({"total": 1, "models": [{"model": self.model}]});
        Answer::json(
            200,
            json!({"output": output, "request_id": "r-1"}).to_string(),
        )
    }

    fn asks_for_stream(&self, request: &Seen) -> bool {
        request.header("x-dashscope-sse") == Some("enable")
            && request.json()["parameters"]["incremental_output"] == true
    }
}

#[tokio::test]
async fn text_generation_keeps_the_promises() {
    conformance::all(&Native { model: "qwen-plus" }).await;
}

#[tokio::test]
async fn multimodal_generation_keeps_the_promises() {
    conformance::all(&Native {
        model: "qwen3-vl-plus",
    })
    .await;
}
