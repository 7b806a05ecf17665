//! A client of the service, for tests in which connections break: nothing here panics because an answer did not come.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Connections, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::secrets;

/// The path of chat completions.
pub const CHAT: &str = "/v1/chat/completions";

/// A caller with an address and a key.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    key: Option<String>,
    idempotency_key: Option<String>,
    connections: Connections<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A caller without a key.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            key: None,
            idempotency_key: None,
            connections: Connections::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The same with a key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// The same, naming its requests by this idempotency key.
    pub fn with_idempotency_key(&self, key: &str) -> Self {
        Self {
            idempotency_key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// Sends a request; gives the answer as soon as its head is there.
    ///
    /// # Errors
    /// The connection failed before that.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reading, String> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).expect("a request");
        let response = self
            .connections
            .request(request)
            .await
            .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
        let (head, body) = response.into_parts();
        Ok(Reading {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            read: Vec::new(),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection failed before its end.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        self.open(method, path, body).await?.whole().await
    }

    /// Reads a resource; the connection must hold.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await.expect("an answer")
    }

    /// Makes a chat call; the connection must hold.
    pub async fn chat(&self, body: &Value) -> Answer {
        self.send("POST", CHAT, Some(body))
            .await
            .expect("an answer")
    }
}

/// A chat request of one user message.
pub fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

/// One answer.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// An answer whose body is still coming. Dropped before its end, it closes the connection.
pub struct Reading {
    pub status: u16,
    pub headers: http::HeaderMap,
    body: Incoming,
    read: Vec<u8>,
}

impl Reading {
    /// Waits until the body so far holds this many `data:` events; whether it does before its end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn events(&mut self, count: usize) -> Result<bool, String> {
        loop {
            let text = String::from_utf8_lossy(&self.read);
            if text
                .split_inclusive("\n\n")
                .filter(|event| event.starts_with("data:") && event.ends_with("\n\n"))
                .count()
                >= count
            {
                return Ok(true);
            }
            match self.body.frame().await {
                None => return Ok(false),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The content that the events so far have brought.
    pub fn content(&self) -> String {
        String::from_utf8_lossy(&self.read)
            .split_inclusive("\n\n")
            .filter(|event| event.ends_with("\n\n"))
            .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data:")?).ok())
            .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
            .collect()
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The connection broke before it.
    pub async fn whole(mut self) -> Result<Answer, String> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
        secrets::none_in("an answer", &self.read);
        secrets::none_in("an answer's head", format!("{:?}", self.headers).as_bytes());
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body: self.read.into(),
        })
    }
}

/// Whether a streamed answer came to its proper end.
pub fn is_done(answer: &Answer) -> bool {
    answer.body.ends_with(b"data: [DONE]\n\n")
}
