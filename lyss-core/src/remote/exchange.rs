//! A request and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, response::Parts};
use serde::de::DeserializeOwned;

use super::{
    RemoteGateway,
    call::{Call, headers},
    head, refusal,
};
use crate::{
    error::{Error, ErrorKind, Result, Work},
    provider::transport::{BodyStream, announced, collect, collect_announced},
    types::{CallContext, RequestId, Segments},
};

/// The largest error body that is read.
const MAX_ERROR: usize = 64 << 10;

/// The longest wait for a service to say how it is.
const PROBE: Duration = Duration::from_secs(5);

/// A whole answer.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl RemoteGateway {
    /// Makes a call and reads its whole answer.
    ///
    /// # Errors
    /// What the service says; `service_unreachable`, `upstream_timeout`, `upstream_incomplete`,
    /// `upstream_invalid_response`.
    pub(super) async fn exchange(&self, context: &CallContext, call: Call) -> Result<Answer> {
        let exchange = async {
            let (head, body) = self.begin(context, call, "application/json").await?;
            let length = announced(&head.headers);
            let body = collect_announced(body, self.max_answer, length)
                .await
                .map_err(|error| self.broken(error, head::request_id(&head.headers)))?;
            Ok(Answer {
                headers: head.headers,
                body,
            })
        };
        within(self.timeout, exchange).await
    }

    /// Makes a call whose answer is a value.
    pub(super) async fn value<T: DeserializeOwned>(
        &self,
        context: &CallContext,
        call: Call,
    ) -> Result<T> {
        let answer = self.exchange(context, call).await?;
        serde_json::from_slice(&answer.body).map_err(|error| self.foreign().with_source(error))
    }

    /// Makes a call whose answer says nothing but that it is done.
    pub(super) async fn done(&self, context: &CallContext, call: Call) -> Result<()> {
        self.exchange(context, call).await.map(drop)
    }

    /// Makes a call up to the head of its answer. An answer that is no success is read, and is an error.
    pub(super) async fn begin(
        &self,
        context: &CallContext,
        call: Call,
        accept: &'static str,
    ) -> Result<(Parts, BodyStream)> {
        let call = call.of_user(context);
        let uri = self.address.api(&call.path)?;
        let headers = headers(context, self.api_key.as_ref(), accept)?;
        let (head, body) = self.send(call, uri, headers).await?;
        head::report(&head.headers, &context.report);
        if head.status.is_success() {
            return Ok((head, body));
        }
        // The status says enough if the body cannot be read.
        let body = collect(body, MAX_ERROR).await.unwrap_or_default();
        Err(refusal::read(head.status, &head.headers, &body))
    }

    /// Asks for what lies beside the API and is the same for everybody; an answer with status 503 is one.
    pub(super) async fn probe<T: DeserializeOwned>(&self, path: &'static str) -> Result<T> {
        let exchange = async {
            let uri = self.address.beside(path)?;
            let mut headers = HeaderMap::new();
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::ACCEPT, json);
            let (head, body) = self.send(Call::get(path), uri, headers).await?;
            let body = collect(body, MAX_ERROR)
                .await
                .map_err(|error| self.broken(error, None))?;
            match head.status {
                StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => {
                    serde_json::from_slice(&body).map_err(|error| self.foreign().with_source(error))
                }
                _ => Err(self.foreign()),
            }
        };
        within(self.timeout.min(PROBE), exchange).await
    }

    async fn send(
        &self,
        call: Call,
        uri: Uri,
        mut headers: HeaderMap,
    ) -> Result<(Parts, BodyStream)> {
        if call.body.is_some() {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        let mut request = http::Request::new(call.body.unwrap_or_default());
        *request.method_mut() = call.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let response = self.sent(request).await?;
        Ok(response.into_parts())
    }

    async fn sent(&self, request: http::Request<Segments>) -> Result<http::Response<BodyStream>> {
        self.transport.send(request).await.map_err(|error| {
            let message = match (error.kind(), error.work()) {
                (ErrorKind::UpstreamError, Work::None) => {
                    format!("the Lyss service at {} cannot be reached", self.address)
                }
                (ErrorKind::UpstreamError, Work::Unknown) => format!(
                    "the connection to the Lyss service at {} was lost before it answered",
                    self.address
                ),
                // A redirect, or a compressed answer.
                _ => return self.foreign().with_work(Work::Unknown).with_source(error),
            };
            Error::new(ErrorKind::ServiceUnreachable, message)
                .with_work(error.work())
                .with_source(error)
        })
    }

    /// What answers does not speak as a service does.
    pub(super) fn foreign(&self) -> Error {
        let message = format!(
            "what answers at {} does not speak as a Lyss service does; check the address",
            self.address
        );
        Error::new(ErrorKind::UpstreamInvalidResponse, message).with_work(Work::Unknown)
    }

    /// A body that could not be read to its end.
    pub(super) fn broken(&self, error: Error, id: Option<RequestId>) -> Error {
        let message = match error.kind() {
            ErrorKind::UpstreamIncomplete => {
                "the connection to the Lyss service was lost in the middle of its answer"
            }
            _ => "the Lyss service's answer is larger than `max_answer` allows",
        };
        Error::new(error.kind(), message)
            .with_work(Work::Unknown)
            .with_request_id(id)
            .with_source(error)
    }
}

/// Gives an exchange so much time.
pub(super) async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(silent(limit)))
}

/// The service has not answered in time.
pub(super) fn silent(limit: Duration) -> Error {
    let message = format!(
        "the Lyss service did not answer within {} s",
        limit.as_secs_f32()
    );
    Error::new(ErrorKind::UpstreamTimeout, message).with_work(Work::Unknown)
}
