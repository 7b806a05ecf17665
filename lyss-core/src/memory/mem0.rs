//! mem0, hosted (`platform`) or self-hosted (`oss`): two services with different paths, authentication and answers.
//!
//! # Source
//! PyPI `mem0ai` 2.2.1 (`mem0/client/main.py`), mem0's OpenAPI file and `server/main.py` of the self-hosted server, read
//! 2026-11-22. Every path of the platform ends with a slash, none of the self-hosted server's does; a wrong one loses the
//! body in a redirect.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Memorized, Memory, SpokenTurn};
use crate::{
    config::Mem0Flavor,
    error::{Error, ErrorKind, Result, Retry},
    provider::transport::{HttpTransport, collect},
    types::Segments,
};

/// Where the hosted service is.
const PLATFORM: &str = "https://api.mem0.ai";
/// A longer answer is not read.
const MAX_ANSWER: usize = 1 << 20;
/// The longest `Retry-After` that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A client of one mem0.
pub(crate) struct Mem0 {
    transport: Arc<dyn HttpTransport>,
    flavor: Mem0Flavor,
    base: String,
    headers: HeaderMap,
}

impl Mem0 {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// `invalid_value` for a base URL or key that cannot be used.
    pub fn new(
        flavor: Mem0Flavor,
        base_url: Option<&str>,
        api_key: Option<&SecretString>,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Self> {
        let wrong = |param: &'static str, message: &'static str| Error::invalid(param, message);
        let base = base_url.unwrap_or(PLATFORM).trim_end_matches('/');
        let uri: Uri = base
            .parse()
            .map_err(|_| wrong("memory.mem0.base_url", "`base_url` is not a URL"))?;
        if uri
            .authority()
            .is_none_or(|host| host.as_str().contains('@'))
            || uri.query().is_some()
        {
            return Err(wrong(
                "memory.mem0.base_url",
                "`base_url` must name a host, and hold no credentials and no query; use `api_key`",
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("lyss/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(key) = api_key.filter(|key| !key.expose_secret().is_empty()) {
            let key = key.expose_secret();
            let (name, value) = match flavor {
                // The word is `Token`; the platform answers 401 to `Bearer`.
                Mem0Flavor::Platform => (header::AUTHORIZATION, format!("Token {key}")),
                Mem0Flavor::Oss => (HeaderName::from_static("x-api-key"), key.to_owned()),
            };
            let mut value = HeaderValue::try_from(value).map_err(|_| {
                wrong(
                    "memory.mem0.api_key",
                    "`api_key` has characters that no header can carry",
                )
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self {
            transport,
            flavor,
            base: base.to_owned(),
            headers,
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Bytes> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let mut request = http::Request::new(body.map(Segments::from).unwrap_or_default());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base)
            .parse()
            .map_err(|_| Error::invalid("user_id", "mem0 cannot be asked for this id"))?;
        *request.headers_mut() = self.headers.clone();
        let response = self.transport.send(request).await?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return collect(body, MAX_ANSWER).await;
        }
        Err(refused(head.status.as_u16(), &head.headers))
    }
}

#[async_trait]
impl Memory for Mem0 {
    async fn search(&self, user_id: &str, query: &str, limit: usize) -> Result<Vec<Memorized>> {
        // Ids belong into the filters: the platform refuses them beside the query.
        let (path, filters) = match self.flavor {
            Mem0Flavor::Platform => (
                "/v3/memories/search/",
                json!({"AND": [{"user_id": user_id}]}),
            ),
            Mem0Flavor::Oss => ("/search", json!({"user_id": user_id})),
        };
        let body = json!({"query": query, "filters": filters, "top_k": limit});
        let answer = self.send(Method::POST, path, Some(body)).await?;
        read(&answer)
    }

    async fn add(&self, turn: &SpokenTurn) -> Result<()> {
        let path = match self.flavor {
            Mem0Flavor::Platform => "/v3/memories/add/",
            Mem0Flavor::Oss => "/memories",
        };
        let mut body = json!({
            "messages": turn.messages,
            "user_id": turn.user_id,
            "metadata": {"source": "lyss", "request_id": turn.request_id},
            "infer": true,
        });
        if let Some(session) = &turn.session_id {
            body["run_id"] = session.as_str().into();
        }
        // The platform only queues it; what becomes of the event is its own affair.
        self.send(Method::POST, path, Some(body)).await.map(drop)
    }

    async fn forget(&self, user_id: &str, session_id: &str) -> Result<()> {
        let base = match self.flavor {
            Mem0Flavor::Platform => "/v1/memories/",
            Mem0Flavor::Oss => "/memories",
        };
        // Both: a session's id is only unique within its user.
        let path = format!(
            "{base}?user_id={}&run_id={}",
            encoded(user_id),
            encoded(session_id)
        );
        match self.send(Method::DELETE, &path, None).await {
            Err(error) if error.upstream().is_some_and(|said| said.status == 404) => Ok(()),
            done => done.map(drop),
        }
    }
}

/// Reads a search's answer. Older versions answer with a plain list, or wrap the text.
fn read(answer: &[u8]) -> Result<Vec<Memorized>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        List(Vec<Item>),
        Results { results: Vec<Item> },
    }
    #[derive(Deserialize)]
    struct Item {
        memory: Option<String>,
        data: Option<Data>,
        user_id: Option<String>,
        score: Option<f64>,
    }
    #[derive(Deserialize)]
    struct Data {
        memory: String,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| {
        Error::new(
            ErrorKind::UpstreamInvalidResponse,
            "mem0's answer to a search cannot be read; check `memory.mem0.base_url` and `flavor`",
        )
    })?;
    let items = match answer {
        Answer::List(items) | Answer::Results { results: items } => items,
    };
    Ok(items
        .into_iter()
        .filter_map(|item| {
            Some(Memorized {
                text: item.memory.or(item.data.map(|data| data.memory))?,
                user_id: item.user_id,
                score: item.score,
            })
        })
        .collect())
}

/// What a status means. mem0's own words stay out of it: they may repeat what was sent.
fn refused(status: u16, headers: &HeaderMap) -> Error {
    let kind = match status {
        401 => ErrorKind::UpstreamAuthFailed,
        // 413 is a used-up quota.
        408 | 413 | 429 => ErrorKind::RateLimited,
        400..500 => ErrorKind::InvalidValue,
        502..=504 => ErrorKind::UpstreamError,
        _ => ErrorKind::UpstreamInvalidResponse,
    };
    let wait = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
    Error::new(kind, format!("mem0 answered with status {status}"))
        .with_retry(wait.map_or(Retry::Elsewhere, Retry::After))
        .with_upstream(crate::error::Upstream {
            status,
            code: None,
            shown: false,
        })
}

/// A value for a query: everything but RFC 3986's unreserved characters is encoded.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_of_all_versions_are_read() {
        let one = |json: &str| read(json.as_bytes()).unwrap().pop().unwrap();
        let expected = Memorized {
            text: "Lives in Oslo".into(),
            user_id: Some("u".into()),
            score: Some(0.5),
        };
        for json in [
            r#"{"results":[{"id":"1","memory":"Lives in Oslo","user_id":"u","run_id":null,"score":0.5,"categories":["x"]}]}"#,
            r#"[{"id":"1","memory":"Lives in Oslo","user_id":"u","score":0.5}]"#,
            r#"{"results":[{"data":{"memory":"Lives in Oslo"},"user_id":"u","score":0.5}],"relations":[]}"#,
        ] {
            assert_eq!(one(json), expected, "{json}");
        }
        assert_eq!(read(br#"{"results":[]}"#).unwrap(), []);
        assert_eq!(read(br#"{"results":[{"id":"1"}]}"#).unwrap(), []);
        for json in ["", "<html>", r#"{"detail":"no"}"#, "7"] {
            let error = read(json.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse, "{json}");
        }
    }

    #[test]
    fn ids_cannot_leave_their_place_in_the_query() {
        assert_eq!(encoded("a&user_id=b #é/"), "a%26user_id%3Db%20%23%C3%A9%2F");
    }

    #[test]
    fn a_status_says_whether_the_turn_or_the_service_is_at_fault() {
        let kind = |status| refused(status, &HeaderMap::new()).kind();
        assert_eq!(kind(400), ErrorKind::InvalidValue);
        assert_eq!(kind(401), ErrorKind::UpstreamAuthFailed);
        assert_eq!(kind(413), ErrorKind::RateLimited, "a quota");
        assert_eq!(kind(500), ErrorKind::UpstreamInvalidResponse);
        assert_eq!(kind(503), ErrorKind::UpstreamError);
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let error = refused(429, &headers);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }
}
