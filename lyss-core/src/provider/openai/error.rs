//! OpenAI's errors, and those of the services that speak its protocol, as ours.
//!
//! A refusal of the request itself is the caller's: status, code and message are kept. A refusal of *our* account is
//! never shown as the caller's; the provider's words then go to the log only.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use secrecy::SecretString;

use super::wire::Details;
use crate::{
    error::{Error, ErrorKind, Retry, Upstream, Work},
    provider::failure::{retry_after, scrub},
    types::{RawObject, Usage},
};

/// How long an account without money or quota is left alone: waiting does not help, an operator must.
const UNFUNDED_PAUSE: Duration = Duration::from_secs(3600);

/// An answer with a status that is no success.
pub(in crate::provider) fn refused(
    status: u16,
    headers: &HeaderMap,
    body: &Bytes,
    secrets: &[SecretString],
) -> Error {
    let object = RawObject::parse(body.clone()).ok();
    let details = object.as_ref().and_then(Details::of);
    let described = details.is_some();
    let mut details = details.unwrap_or_default();
    if !described && !body.trim_ascii_start().starts_with(b"<") {
        let text = String::from_utf8_lossy(body);
        details.message = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    }
    if status == 404 && !described {
        // No API speaks here: a wrong path is the operator's mistake, not an unknown model.
        return Error::new(
            ErrorKind::UpstreamError,
            "the provider has no such path (status 404); check `base_url`",
        )
        .with_retry(Retry::Elsewhere)
        .with_upstream(Upstream {
            status,
            code: None,
            shown: false,
        });
    }
    let usage = object.as_ref().and_then(|object| object.get("usage"));
    classify(status, details, retry_after(headers), secrets)
        .with_usage(usage.and_then(Usage::from_openai))
}

/// An error that came with status 200: as an answer, or inside a stream. The status is guessed from what it says.
pub(super) fn reported(details: Details, secrets: &[SecretString]) -> Error {
    let is =
        |word: &str| details.code.as_deref() == Some(word) || details.kind.as_deref() == Some(word);
    let numeric = details
        .code
        .as_deref()
        .and_then(|code| code.parse().ok())
        .filter(|status| (400..600).contains(status));
    let status = match numeric {
        Some(status) => status,
        None if is("insufficient_quota") || is("rate_limit_exceeded") || is("rate_limit_error") => {
            429
        }
        None if is("invalid_api_key") || is("authentication_error") => 401,
        None if is("permission_error") => 403,
        None if is("model_not_found") => 404,
        None if is("invalid_request_error") || is("context_length_exceeded") => 400,
        None if is("service_unavailable_error") || is("overloaded_error") => 503,
        None => 500,
    };
    classify(status, details, None, secrets).with_work(Work::Unknown)
}

/// The table.
fn classify(
    status: u16,
    details: Details,
    pause: Option<Duration>,
    secrets: &[SecretString],
) -> Error {
    let said = details
        .message
        .as_deref()
        .map(|message| scrub(message, secrets))
        .unwrap_or_default();
    let code = details
        .code
        .as_deref()
        .map(|code| scrub(code, secrets))
        // A number repeats the status.
        .filter(|code| code.parse::<u16>().is_err());
    let is = |word: &str| code.as_deref() == Some(word) || details.kind.as_deref() == Some(word);
    let retry = pause.map_or(Retry::Elsewhere, Retry::After);
    let ours = |kind, message: String, retry, work| {
        Error::new(kind, message).with_retry(retry).with_work(work)
    };
    let bad_key = is("invalid_api_key") || said.starts_with("Incorrect API key");
    let (error, shown) = match status {
        // xAI answers 400 for a wrong key.
        401 | 403 | 407 => (refused_account(status), false),
        400 if bad_key => (refused_account(status), false),
        402 => (unfunded(status), false),
        429 if is("insufficient_quota") => (unfunded(status), false),
        429 => {
            let message = match said.as_str() {
                "" => "the provider's rate limit is reached".to_owned(),
                said => format!("the provider's rate limit is reached: {said}"),
            };
            (
                ours(ErrorKind::RateLimited, message, retry, Work::None),
                false,
            )
        }
        408 => (
            ours(
                ErrorKind::UpstreamTimeout,
                "the provider gave up waiting (status 408)".into(),
                retry,
                Work::Unknown,
            ),
            false,
        ),
        400..500 => {
            let kind = match status {
                _ if is("context_length_exceeded") => ErrorKind::ContextLengthExceeded,
                404 => ErrorKind::ModelNotFound,
                413 => ErrorKind::RequestTooLarge,
                _ => ErrorKind::InvalidValue,
            };
            let message = match said.as_str() {
                "" => format!("the provider refused the request with status {status}"),
                said => said.to_owned(),
            };
            let mut error = Error::new(kind, message);
            if let Some(param) = &details.param {
                error = error.with_param(scrub(param, secrets));
            }
            (error, true)
        }
        _ => {
            let message = match said.as_str() {
                "" => format!("the provider failed with status {status}"),
                said => format!("the provider failed with status {status}: {said}"),
            };
            // 503 and 529 say that the work was not begun.
            let work = if matches!(status, 503 | 529) {
                Work::None
            } else {
                Work::Unknown
            };
            (ours(ErrorKind::UpstreamError, message, retry, work), false)
        }
    };
    let error = error.with_upstream(Upstream {
        status,
        code,
        shown,
    });
    match said.is_empty() {
        true => error,
        false => error.with_source(said),
    }
}

fn refused_account(status: u16) -> Error {
    Error::new(
        ErrorKind::UpstreamAuthFailed,
        format!("the provider refused the gateway's own credentials (status {status})"),
    )
    .with_retry(Retry::Elsewhere)
}

fn unfunded(status: u16) -> Error {
    Error::new(
        ErrorKind::UpstreamError,
        format!(
            "the gateway's account at the provider has no funds or quota left (status {status})"
        ),
    )
    .with_retry(Retry::After(UNFUNDED_PAUSE))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "sk-secret-key";

    fn error(status: u16, body: &'static str) -> Error {
        let secrets = [SecretString::from(KEY)];
        refused(
            status,
            &HeaderMap::new(),
            &Bytes::from_static(body.as_bytes()),
            &secrets,
        )
    }

    #[test]
    fn the_table() {
        use ErrorKind::*;
        let quota = r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
        let plain = r#"{"error":{"message":"m","type":"t","param":null,"code":null}}"#;
        for (status, body, kind, shown_as, work, retry) in [
            (400, plain, InvalidValue, 400, Work::None, Retry::Never),
            (422, plain, InvalidValue, 422, Work::None, Retry::Never),
            (404, plain, ModelNotFound, 404, Work::None, Retry::Never),
            (413, plain, RequestTooLarge, 413, Work::None, Retry::Never),
            (
                401,
                plain,
                UpstreamAuthFailed,
                502,
                Work::None,
                Retry::Elsewhere,
            ),
            (
                403,
                plain,
                UpstreamAuthFailed,
                502,
                Work::None,
                Retry::Elsewhere,
            ),
            (
                402,
                plain,
                UpstreamError,
                502,
                Work::None,
                Retry::After(UNFUNDED_PAUSE),
            ),
            (
                429,
                quota,
                UpstreamError,
                502,
                Work::None,
                Retry::After(UNFUNDED_PAUSE),
            ),
            (429, plain, RateLimited, 429, Work::None, Retry::Elsewhere),
            (
                408,
                plain,
                UpstreamTimeout,
                504,
                Work::Unknown,
                Retry::Elsewhere,
            ),
            (
                500,
                plain,
                UpstreamError,
                502,
                Work::Unknown,
                Retry::Elsewhere,
            ),
            (
                502,
                "<html>x</html>",
                UpstreamError,
                502,
                Work::Unknown,
                Retry::Elsewhere,
            ),
            (503, "", UpstreamError, 502, Work::None, Retry::Elsewhere),
            (529, plain, UpstreamError, 502, Work::None, Retry::Elsewhere),
            (
                404,
                "<html>x</html>",
                UpstreamError,
                502,
                Work::None,
                Retry::Elsewhere,
            ),
            (
                404,
                r#"{"object":"x"}"#,
                UpstreamError,
                502,
                Work::None,
                Retry::Elsewhere,
            ),
        ] {
            let error = error(status, body);
            let found = (error.kind(), error.status(), error.work(), error.retry());
            assert_eq!(found, (kind, shown_as, work, retry), "{status} {body}");
            assert_eq!(error.upstream().unwrap().status, status);
            assert!(!error.message().contains("html"), "{}", error.message());
        }
    }

    #[test]
    fn a_refused_request_keeps_what_the_provider_said() {
        let error = error(
            400,
            r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
        );
        let found = (error.kind(), error.code(), error.message(), error.param());
        let code = "context_length_exceeded";
        assert_eq!(
            found,
            (
                ErrorKind::ContextLengthExceeded,
                code,
                "too long",
                Some("messages")
            )
        );
    }

    #[test]
    fn our_key_is_never_shown() {
        for status in [400, 401, 404, 429, 500] {
            let error = error(
                status,
                r#"{"error":{"message":"bad sk-secret-key","param":"sk-secret-key","code":"sk-secret-key"}}"#,
            );
            let all = format!("{error} {error:?} {}", error.to_json(None));
            assert!(!all.contains(KEY), "{all}");
        }
        let wrong_key = r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: sk-***"}"#;
        assert_eq!(error(400, wrong_key).kind(), ErrorKind::UpstreamAuthFailed);
    }

    #[test]
    fn an_error_with_status_200_is_judged_by_its_words() {
        for (code, kind, expected) in [
            (Some("429"), None, ErrorKind::RateLimited),
            (Some("rate_limit_exceeded"), None, ErrorKind::RateLimited),
            (None, Some("invalid_request_error"), ErrorKind::InvalidValue),
            (Some("model_not_found"), None, ErrorKind::ModelNotFound),
            (Some("invalid_api_key"), None, ErrorKind::UpstreamAuthFailed),
            (None, Some("server_error"), ErrorKind::UpstreamError),
            (None, None, ErrorKind::UpstreamError),
        ] {
            let details = Details {
                code: code.map(str::to_owned),
                kind: kind.map(str::to_owned),
                ..Details::default()
            };
            assert_eq!(reported(details, &[]).kind(), expected, "{code:?} {kind:?}");
        }
    }
}
