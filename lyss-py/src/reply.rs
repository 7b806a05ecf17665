//! What the router answered.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use pyo3::{prelude::*, types::PyBytes};

use crate::stream::Stream;

/// An answer of the router, its body read unless it is a stream.
pub(crate) struct Received {
    status: StatusCode,
    headers: HeaderMap,
    body: ReceivedBody,
}

enum ReceivedBody {
    Whole(Bytes),
    Events(Body),
}

impl Received {
    /// Reads an answer.
    pub(crate) async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let events = parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let body = if events {
            ReceivedBody::Events(body)
        } else {
            // The router's bodies do not fail; one that did would be cut, and is not valid JSON then.
            let whole = body.collect().await.map(|body| body.to_bytes());
            ReceivedBody::Whole(whole.unwrap_or_default())
        };
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// The answer as Python sees it.
    pub(crate) fn into_reply(self, py: Python<'_>) -> PyResult<Reply> {
        let (body, stream) = match self.body {
            ReceivedBody::Whole(bytes) => (Some(PyBytes::new(py, &bytes).unbind()), None),
            ReceivedBody::Events(body) => (None, Some(Py::new(py, Stream::new(py, body)?)?)),
        };
        Ok(Reply {
            status: self.status.as_u16(),
            headers: self.headers,
            body,
            stream,
        })
    }
}

/// An answer: its body as bytes, or as a stream of events.
#[pyclass(frozen, module = "lyss._lyss")]
pub(crate) struct Reply {
    /// The HTTP status.
    #[pyo3(get)]
    status: u16,
    /// The body of an answer that is no stream.
    #[pyo3(get)]
    body: Option<Py<PyBytes>>,
    /// The events of one that is.
    #[pyo3(get)]
    stream: Option<Py<Stream>>,
    headers: HeaderMap,
}

#[pymethods]
impl Reply {
    /// One header, by its name in lower case.
    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// All headers, names in lower case.
    fn headers(&self) -> Vec<(String, String)> {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect()
    }
}
