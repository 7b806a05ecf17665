//! [`Error`] → status, envelope and headers.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lyss_core::{Error, types::RequestId};

/// The gateway's id of the request.
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Tells the official SDKs whether to try again.
static X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Marks an answer that was given before, to the same request with the same `Idempotency-Key` (Stripe's name).
pub(crate) const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

/// The answer to a request that failed.
pub(crate) fn response(error: &Error, id: RequestId) -> Response {
    let id = error.request_id().unwrap_or(id).to_string();
    let mut response = Response::new(Body::from(error.to_json(Some(&id))));
    *response.status_mut() =
        StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    insert(headers, &X_REQUEST_ID, &id);
    headers.insert(
        X_SHOULD_RETRY.clone(),
        HeaderValue::from_static(if error.should_retry() {
            "true"
        } else {
            "false"
        }),
    );
    // Where the same request must not be sent again, a pause would invite to it. A 429 has one always.
    let invites = error.should_retry() || error.status() == 429;
    if let Some(pause) = error.retry_after().filter(|_| invites) {
        // Whole seconds, rounded up: a caller that comes back early is refused again.
        let seconds = pause.as_millis().div_ceil(1000).max(1);
        insert(headers, &header::RETRY_AFTER, &seconds.to_string());
    }
    if error.is_replayed() {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    if error.status() == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Sets a header, unless the text cannot be one.
pub(crate) fn insert(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lyss_core::{
        ErrorKind,
        error::{Retry, Work},
    };

    use super::*;

    #[test]
    fn a_pause_is_named_only_where_it_helps() {
        let pause = |error: Error| {
            let error = error.with_retry(Retry::After(Duration::from_millis(1200)));
            let response = response(&error, RequestId::new());
            let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            (header("x-should-retry"), header("retry-after"))
        };
        let yes_no =
            |retry: &str, after: Option<&str>| (Some(retry.to_owned()), after.map(str::to_owned));
        let of = |kind| Error::new(kind, "…");
        assert_eq!(pause(of(ErrorKind::Overloaded)), yes_no("true", Some("2")));
        assert_eq!(pause(of(ErrorKind::BudgetExceeded)), yes_no("false", None));
        let begun = of(ErrorKind::Overloaded).with_work(Work::Unknown);
        assert_eq!(pause(begun), yes_no("false", None));
        let limited = of(ErrorKind::RateLimited).with_work(Work::Unknown);
        assert_eq!(pause(limited), yes_no("false", Some("2")));
    }
}
