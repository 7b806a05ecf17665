//! An answer that is an error, as the error that it was.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::head;
use crate::{
    error::{Error, ErrorKind, Retry, Upstream, Work},
    provider::failure::retry_after,
    types::RequestId,
};

/// The envelope of contract section 5.
#[derive(Deserialize)]
struct Envelope {
    error: Body,
}

#[derive(Deserialize)]
struct Body {
    message: String,
    #[serde(rename = "type")]
    type_name: String,
    #[serde(default)]
    param: Option<String>,
    code: String,
    #[serde(default)]
    request_id: Option<String>,
}

/// An answer with a status that is no success.
pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let should_retry = head::flag(headers, "x-should-retry");
    let pause = retry_after(headers);
    let Ok(Envelope { error: said }) = serde_json::from_slice(body) else {
        return nameless(status, pause.map(Retry::After))
            .with_request_id(head::request_id(headers));
    };
    let error = said.error(status.as_u16(), head::request_id(headers));
    let retry = match (pause, should_retry) {
        (Some(pause), _) => Retry::After(pause),
        (None, Some(true)) => Retry::Elsewhere,
        _ => Retry::Never,
    };
    let error = error.with_retry(retry);
    let error = match head::flag(headers, "idempotent-replayed") {
        Some(true) => error.replayed(),
        _ => error,
    };
    match should_retry {
        Some(false) => error.exhausted(),
        _ => error,
    }
}

/// An event of a stream, if it is the one that ends a stream with an error.
pub(super) fn event(json: &[u8]) -> Option<Error> {
    // As it is written; a chunk of a provider begins otherwise.
    if !json.starts_with(br#"{"error":{"#) {
        return None;
    }
    let Envelope { error: said } = serde_json::from_slice(json).ok()?;
    let known = kind_of(&said.code);
    let status = known.filter(|kind| kind.type_name() == said.type_name);
    let status = status.map_or_else(|| status_of(&said.type_name), ErrorKind::status);
    // The provider had begun: what comes after the head says nothing of trying again.
    Some(said.error(status, None).with_work(Work::Unknown))
}

impl Body {
    fn error(self, status: u16, id: Option<RequestId>) -> Error {
        let known = kind_of(&self.code);
        let plain =
            known.filter(|kind| kind.status() == status && kind.type_name() == self.type_name);
        let error = match plain {
            Some(kind) => Error::new(kind, self.message),
            // A provider's refusal that was passed on, under its own status and perhaps code; or a code that is newer
            // than this program.
            None => Error::new(known.unwrap_or_else(|| kind_like(status)), self.message)
                .with_upstream(Upstream {
                    status,
                    code: Some(self.code),
                    shown: true,
                }),
        };
        let error = match self.param {
            Some(param) => error.with_param(param),
            None => error,
        };
        let id = id.or_else(|| RequestId::parse(self.request_id.as_deref()?));
        error.with_request_id(id)
    }
}

/// What answers with this status without saying why, such as a proxy in front of a service that is away.
fn nameless(status: StatusCode, retry: Option<Retry>) -> Error {
    let kind = match status.as_u16() {
        502..=504 => ErrorKind::ServiceUnreachable,
        429 => ErrorKind::RateLimited,
        _ => ErrorKind::UpstreamInvalidResponse,
    };
    let message = format!(
        "status {} came without Lyss's error envelope: something in front of the service answers, or the address is wrong",
        status.as_u16()
    );
    // Whether the service saw the request is not known, but for 429.
    let work = match kind {
        ErrorKind::RateLimited => Work::None,
        _ => Work::Unknown,
    };
    Error::new(kind, message)
        .with_retry(retry.unwrap_or(Retry::Never))
        .with_work(work)
}

fn kind_of(code: &str) -> Option<ErrorKind> {
    let mut kinds = ErrorKind::ALL.iter().copied();
    kinds.find(|kind| kind.code() == code)
}

/// The kind whose retry advice fits a status.
fn kind_like(status: u16) -> ErrorKind {
    match status {
        404 => ErrorKind::ModelNotFound,
        413 => ErrorKind::RequestTooLarge,
        429 => ErrorKind::RateLimited,
        400..500 => ErrorKind::InvalidValue,
        503 => ErrorKind::Overloaded,
        504 => ErrorKind::UpstreamTimeout,
        502 => ErrorKind::UpstreamError,
        _ => ErrorKind::Internal,
    }
}

/// The status of an error of which only the `type` is known.
fn status_of(type_name: &str) -> u16 {
    match type_name {
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "conflict_error" => 409,
        "rate_limit_error" => 429,
        "upstream_error" => 502,
        "overloaded_error" => 503,
        "timeout_error" => 504,
        "gateway_error" => 500,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    /// Reads an error as the HTTP door writes it.
    fn through_http(error: &Error) -> Error {
        let mut headers = HeaderMap::new();
        let retry = if error.should_retry() {
            "true"
        } else {
            "false"
        };
        headers.insert("x-should-retry", retry.parse().unwrap());
        if let Some(pause) = error.retry_after() {
            headers.insert("retry-after", pause.as_secs().into());
        }
        let status = StatusCode::from_u16(error.status()).unwrap();
        read(status, &headers, error.to_json(Some("r")).as_bytes())
    }

    fn same(error: &Error) {
        let read = through_http(error);
        let told = |error: &Error| {
            (
                (error.status(), error.code().to_owned(), error.type_name()),
                error.message().to_owned(),
                error.param().map(str::to_owned),
                (error.should_retry(), error.retry_after()),
            )
        };
        assert_eq!(told(&read), told(error));
    }

    #[test]
    fn every_kind_comes_back_as_itself() {
        for kind in ErrorKind::ALL {
            let error = Error::new(*kind, "what was wrong").with_param("model");
            same(&error);
            same(&error.with_work(Work::Unknown));
            assert_eq!(through_http(&Error::new(*kind, "…")).kind(), *kind);
            let pause = Retry::After(Duration::from_secs(7));
            same(&Error::new(*kind, "later").with_retry(pause));
            same(&Error::new(*kind, "later").with_retry(pause).exhausted());
        }
    }

    #[test]
    fn a_providers_refusal_keeps_status_and_code() {
        for (kind, status, code) in [
            (ErrorKind::InvalidValue, 422, Some("bad_voice")),
            (ErrorKind::InvalidValue, 409, None),
            (ErrorKind::ModelNotFound, 404, Some("gone")),
            (
                ErrorKind::ContextLengthExceeded,
                400,
                Some("context_length_exceeded"),
            ),
            (ErrorKind::InvalidValue, 400, Some("rate_limited")),
        ] {
            same(&Error::new(kind, "no").with_upstream(Upstream {
                status,
                code: code.map(str::to_owned),
                shown: true,
            }));
        }
    }

    #[test]
    fn ends_of_streams_are_told_from_chunks() {
        let id = RequestId::new();
        let cut = Error::new(ErrorKind::UpstreamIncomplete, "cut").to_json(Some(&id.to_string()));
        let read = event(cut.as_bytes()).unwrap();
        assert_eq!(read.kind(), ErrorKind::UpstreamIncomplete);
        assert_eq!((read.request_id(), read.should_retry()), (Some(id), false));
        for chunk in [
            r#"{"error":null,"choices":[]}"#,
            r#"{"error":{"odd":1}}"#,
            r#"{"id":"x","error":{"message":"m","type":"t","code":"c"}}"#,
        ] {
            assert!(event(chunk.as_bytes()).is_none(), "{chunk}");
        }
    }

    #[test]
    fn an_answer_of_something_else_is_no_refusal() {
        for (status, kind, retry) in [
            (503, ErrorKind::ServiceUnreachable, false),
            (502, ErrorKind::ServiceUnreachable, false),
            (429, ErrorKind::RateLimited, true),
            (404, ErrorKind::UpstreamInvalidResponse, false),
            (401, ErrorKind::UpstreamInvalidResponse, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = read(status, &HeaderMap::new(), b"<html>");
            assert_eq!((error.kind(), error.should_retry()), (kind, retry));
        }
    }
}
