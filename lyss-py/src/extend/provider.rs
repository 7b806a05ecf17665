//! Providers that are written in Python.
//!
//! They answer in OpenAI's shape, so the engine's own `openai` provider reads them; only what carries the bytes is
//! another. Usage, ends, errors and bounds are therefore those of any service that speaks the protocol.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use lyss_core::{
    Error, ErrorKind, Result,
    error::Retry,
    provider::{
        Capabilities, Completion, CompletionStream, Provider, ProviderCall, ProviderSpec,
        openai::OpenAi,
        transport::{BodyStream, HttpTransport},
    },
    types::{ChatRequest, EmbeddingRequest, Model, Segments},
};
use pyo3::{IntoPyObjectExt, prelude::*};

use super::{Failure, invoke};
use crate::error;

/// An object with `chat`, and optionally `chat_stream`, `embeddings`, `models` and `health_check`.
pub(crate) struct PyProvider {
    reader: Arc<dyn Provider>,
    capabilities: Capabilities,
}

impl PyProvider {
    /// A provider over a Python object.
    ///
    /// # Errors
    /// `LyssError` for an id that cannot be one.
    pub(crate) fn new(py: Python<'_>, id: &str, object: Arc<Py<PyAny>>) -> PyResult<Self> {
        let has = |name: &str| object.bind(py).hasattr(name);
        let capabilities = Capabilities {
            chat: has("chat")?,
            stream: has("chat_stream")? || has("chat")?,
            embeddings: has("embeddings")?,
        };
        let mut spec = ProviderSpec::new(id, Arc::new(InPython(object)));
        // Shown in decisions; nothing is sent there.
        spec.base_url = Some("http://python".to_owned());
        let reader = OpenAi::from_spec(spec).map_err(|error| error::plain(error.message()))?;
        Ok(Self {
            reader,
            capabilities,
        })
    }
}

#[async_trait]
impl Provider for PyProvider {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn endpoint(&self) -> &str {
        "python"
    }

    async fn chat(&self, call: &ProviderCall, request: ChatRequest) -> Result<Completion> {
        self.reader.chat(call, request).await
    }

    async fn chat_stream(
        &self,
        call: &ProviderCall,
        request: ChatRequest,
    ) -> Result<CompletionStream> {
        self.reader.chat_stream(call, request).await
    }

    async fn embed(&self, call: &ProviderCall, request: EmbeddingRequest) -> Result<Completion> {
        self.reader.embed(call, request).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.reader.models().await
    }

    async fn health_check(&self) -> Result<()> {
        self.reader.health_check().await
    }
}

/// The object, in the place of a connection to a service.
struct InPython(Arc<Py<PyAny>>);

/// An answer's head, and its body or what gives it piece by piece.
struct Head {
    status: u16,
    retry_after: Option<String>,
    body: Bytes,
    pieces: Option<Arc<Py<PyAny>>>,
}

#[async_trait]
impl HttpTransport for InPython {
    async fn send(&self, request: Request<Segments>) -> Result<Response<BodyStream>> {
        let (parts, body) = request.into_parts();
        let object = Arc::clone(&self.0);
        let path = parts.uri.path().to_owned();
        let body = body.into_bytes();
        let head = invoke(
            "send",
            move |py| {
                let body = pyo3::types::PyBytes::new(py, &body);
                Ok(vec![
                    object.clone_ref(py),
                    path.into_py_any(py)?,
                    body.into_py_any(py)?,
                ])
            },
            |value| {
                type Wire = (u16, Option<String>, Vec<u8>, Option<Py<PyAny>>);
                let (status, retry_after, body, pieces): Wire = value.extract()?;
                Ok(Head {
                    status,
                    retry_after,
                    body: body.into(),
                    pieces: pieces.map(Arc::new),
                })
            },
        );
        let head = head.await.map_err(failed)?;
        let kind = match head.pieces {
            Some(_) => "text/event-stream",
            None => "application/json",
        };
        let body: BodyStream = match head.pieces {
            Some(pieces) => Box::pin(stream::unfold(Some(Pieces(pieces)), next)),
            None => Box::pin(stream::iter([Ok(head.body)])),
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(pause) = head.retry_after.and_then(|pause| pause.try_into().ok()) {
            headers.insert(header::RETRY_AFTER, pause);
        }
        Ok(response)
    }
}

/// What gives a stream's pieces. Dropping it closes the generator.
struct Pieces(Arc<Py<PyAny>>);

impl Drop for Pieces {
    fn drop(&mut self) {
        let pieces = Arc::clone(&self.0);
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            handle.spawn(async move {
                let args = move |py: Python<'_>| Ok(vec![pieces.clone_ref(py)]);
                let _ = invoke("close", args, |_| Ok(())).await;
            });
        }
    }
}

/// The next piece; `None` after the last, and after a failure.
async fn next(pieces: Option<Pieces>) -> Option<(Result<Bytes>, Option<Pieces>)> {
    let pieces = pieces?;
    let object = Arc::clone(&pieces.0);
    let args = move |py: Python<'_>| Ok(vec![object.clone_ref(py)]);
    let piece = invoke("advance", args, |value| value.extract::<Option<Vec<u8>>>()).await;
    match piece {
        Ok(Some(piece)) => Some((Ok(piece.into()), Some(pieces))),
        Ok(None) => None,
        Err(failure) => Some((Err(failed(failure)), None)),
    }
}

fn failed(failure: Failure) -> Error {
    let message = match failure {
        Failure::Raised { message, .. } => format!("the provider failed: {message}"),
        Failure::Gone => "the process that the provider runs in is ending".to_owned(),
    };
    Error::new(ErrorKind::UpstreamError, message).with_retry(Retry::Elsewhere)
}
