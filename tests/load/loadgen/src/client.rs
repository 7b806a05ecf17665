//! One HTTP/1.1 connection that sends the same request again and again.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::measure::Samples;
use crate::sse::EventCounter;

/// The request that every connection sends; built once, so that sending costs as little as it can.
#[derive(Debug)]
pub struct RequestTemplate {
    address: String,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl RequestTemplate {
    /// Prepares a chat request whose body has `size` bytes, or as few more as it needs.
    ///
    /// # Errors
    /// A URL without a host, a header that is none.
    pub fn new(
        url: &str,
        model: &str,
        prompt: &str,
        size: usize,
        stream: bool,
        api_key: &str,
        extra: &[String],
    ) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let host = url
            .host()
            .ok_or("the URL needs a host: http://host:port/path")?;
        let address = format!("{host}:{}", url.port_u16().unwrap_or(80));
        let target = url.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = HeaderMap::new();
        headers.insert(HOST, header_value(&address)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !api_key.is_empty() {
            headers.insert(AUTHORIZATION, header_value(&format!("Bearer {api_key}"))?);
        }
        for line in extra {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("{line}: a header is `name: value`"))?;
            let name: HeaderName = name
                .trim()
                .parse()
                .map_err(|_| format!("{name}: no header name"))?;
            headers.insert(name, header_value(value.trim())?);
        }
        Ok(Self {
            target: target
                .parse()
                .map_err(|error| format!("{target}: {error}"))?,
            address,
            headers,
            body: chat_body(model, prompt, size, stream)?,
        })
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text)
        .map_err(|_| "a header has a character that may not be in one".to_owned())
}

/// A chat request in OpenAI's shape, in the field order of OpenAI's own clients.
#[derive(Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    messages: [ChatMessage<'a>; 1],
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
}

/// A chat request of `size` bytes. The padding is prose-like, so that a reader
/// meets neither one endless word nor escapes.
fn chat_body(model: &str, prompt: &str, size: usize, stream: bool) -> Result<Bytes, String> {
    let render = |content: &str| {
        let role = "user";
        let messages = [ChatMessage { role, content }];
        serde_json::to_vec(&ChatBody {
            model,
            stream,
            messages,
        })
        .map_err(|error| error.to_string())
    };
    let bare = render(prompt)?.len();
    let padding: String = "the quick brown fox jumps over the lazy dog "
        .chars()
        .cycle()
        .take(size.saturating_sub(bare))
        .collect();
    Ok(Bytes::from(render(&format!("{prompt}{padding}"))?))
}

/// A keep-alive connection with at most one request on it.
#[derive(Debug)]
pub struct Connection {
    template: Rc<RequestTemplate>,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to the template's address.
    ///
    /// # Errors
    /// The address does not answer.
    pub async fn open(template: Rc<RequestTemplate>) -> Result<Self, String> {
        let sender = connect(&template.address).await?;
        Ok(Self { template, sender })
    }

    /// Replaces the connection by a new one.
    ///
    /// # Errors
    /// The address does not answer.
    pub async fn reopen(&mut self) -> Result<(), String> {
        self.sender = connect(&self.template.address).await?;
        Ok(())
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke, or the status is not 200.
    pub async fn unary(&mut self, samples: &Samples) -> Result<(), String> {
        let start = Instant::now();
        let mut body = self.send().await?;
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("body: {error}"))?;
            size += frame.data_ref().map_or(0, Bytes::len);
        }
        samples.answer(start.elapsed(), size);
        Ok(())
    }

    /// Sends one streamed request and reads its events to the end.
    ///
    /// # Errors
    /// The connection broke, the status is not 200, or the stream ended without `[DONE]`.
    pub async fn stream(&mut self, samples: &Samples) -> Result<(), String> {
        let start = Instant::now();
        let mut body = self.send().await?;
        let mut counter = EventCounter::default();
        let mut size = 0;
        let mut last: Option<Instant> = None;
        let result = loop {
            let data = match body.frame().await {
                None if counter.done() => break Ok(()),
                None => break Err("the stream ended without [DONE]".to_owned()),
                Some(Err(error)) => break Err(format!("stream: {error}")),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            size += data.len();
            let events = counter.feed(&data);
            if events == 0 {
                continue;
            }
            let now = Instant::now();
            match last.replace(now) {
                None => samples.stream_opened(now - start),
                Some(previous) => samples.gap(now - previous),
            }
            samples.events(events);
        };
        if last.is_some() {
            samples.stream_closed();
        }
        if result.is_ok() {
            samples.answer(start.elapsed(), size);
        }
        result
    }

    async fn send(&mut self) -> Result<Incoming, String> {
        self.sender
            .ready()
            .await
            .map_err(|error| format!("connection: {error}"))?;
        let response = self
            .sender
            .send_request(self.template.request())
            .await
            .map_err(|error| format!("request: {error}"))?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let status = response.status();
        let text = response
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Err(format!(
            "{status}: {}",
            text.chars().take(300).collect::<String>()
        ))
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    stream
        .set_nodelay(true)
        .map_err(|error| format!("{address}: {error}"))?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    tokio::task::spawn_local(async move {
        // A broken connection shows as the error of the request on it.
        let _ = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_body_has_the_size_asked_for_and_is_json() {
        for size in [200, 1_000, 100_000] {
            let body = chat_body("gpt-4o-mini", "[[every_ms:10]]", size, true).unwrap();
            assert_eq!(body.len(), size);
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["stream"], true);
            let content = json["messages"][0]["content"].as_str().unwrap();
            assert!(content.starts_with("[[every_ms:10]]"));
        }
    }

    #[test]
    fn a_prompt_longer_than_the_size_is_sent_whole() {
        let body = chat_body("m", &"x".repeat(500), 10, false).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["messages"][0]["content"].as_str().unwrap().len(), 500);
        assert!(json.get("stream").is_none());
    }

    #[test]
    fn a_url_is_split_into_address_and_target() {
        let template =
            RequestTemplate::new("http://127.0.0.1:81/v1/x?y=1", "m", "", 0, false, "k", &[])
                .unwrap();
        assert_eq!(template.address, "127.0.0.1:81");
        assert_eq!(template.target, "/v1/x?y=1");
        assert_eq!(template.headers[AUTHORIZATION], "Bearer k");
        assert!(RequestTemplate::new("/v1", "m", "", 0, false, "", &[]).is_err());
        let bad = ["no colon".to_owned()];
        assert!(RequestTemplate::new("http://h/", "m", "", 0, false, "", &bad).is_err());
    }
}
