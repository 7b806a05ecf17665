//! The provider's refusals → errors.
//!
//! # Source
//! Model Studio, "Error codes", read 2026-11-22, and recorded answers. The status alone says little: 400 is "no such
//! model" and "account in debt" as well, and failures come inside HTTP 200. So the code decides, by its first part and
//! without regard to case; PascalCase (native) and snake_case (compatible mode) are the same codes.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue as Json;

use super::wire::{text, text_or_number};
use crate::{
    error::{Error, ErrorKind, Retry, Upstream, Work},
    provider::failure::{retry_after, scrub},
};

/// How long an account that cannot be charged is left alone: waiting does not help, an operator must.
const UNFUNDED_PAUSE: Duration = Duration::from_secs(3600);

/// A failed exchange, with what the adapter itself can do about it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) remedy: Option<Remedy>,
}

/// What the same request needs in order to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The other generation path.
    OtherPath,
    /// A stream.
    Stream,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            remedy: None,
        }
    }
}

/// What a provider said when it refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// The pause that it asked for.
    pub(super) pause: Option<Duration>,
    /// Whether it spoke its own protocol; a proxy or a wrong address does not.
    structured: bool,
}

impl Refusal {
    /// Reads the body of an answer: plain JSON, OpenAI's envelope, or one event of a stream, whatever the content type
    /// says.
    pub(super) fn read(status: u16, headers: Option<&HeaderMap>, body: &[u8]) -> Self {
        let mut refusal = Self {
            status,
            pause: headers.and_then(retry_after),
            ..Self::default()
        };
        let body = String::from_utf8_lossy(body);
        let body = body.trim_start_matches('\u{feff}').trim();
        if body.starts_with('{') {
            refusal.read_json(body);
        } else if let Some((status, data)) = event(body) {
            refusal.status = status.unwrap_or(refusal.status);
            refusal.read_json(&data);
        }
        if !refusal.structured {
            refusal.message = body.to_owned();
        }
        // Messages of the inference service begin with the status that it meant.
        let own = refusal
            .message
            .strip_prefix('<')
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse::<u16>().ok());
        if let Some(own) = own.filter(|own| (400..600).contains(own)) {
            refusal.status = own;
        }
        refusal
    }

    fn read_json(&mut self, json: &str) {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, default)]
            code: Option<&'a Json>,
            #[serde(borrow, default)]
            message: Option<&'a Json>,
            #[serde(borrow, default)]
            error: Option<&'a Json>,
        }
        let Ok(outer) = serde_json::from_str::<Body<'_>>(json) else {
            return;
        };
        let inner = outer
            .error
            .and_then(|error| serde_json::from_str::<Body<'_>>(error.get()).ok());
        let (code, message) = match &inner {
            Some(inner) => (inner.code.or(outer.code), inner.message.or(outer.message)),
            // Some gateways put a bare text there.
            None => (outer.code, outer.message.or(outer.error)),
        };
        self.code = code.and_then(text_or_number).unwrap_or_default();
        self.message = message.and_then(text).unwrap_or_default();
        self.structured = !self.code.is_empty() || !self.message.is_empty();
    }

    /// Decides what the refusal means for the call.
    pub(super) fn into_failure(self, secrets: &[SecretString]) -> Failure {
        let remedy = self.remedy();
        let meaning = self.meaning();
        let told = scrub(&self.message, secrets);
        let native = scrub(&self.code, secrets);
        let log = format!("status {}, code `{native}`: {told}", self.status);
        let shown = |kind: ErrorKind, status: u16, code: Option<&str>| {
            Error::new(
                kind,
                if told.is_empty() {
                    Cow::Borrowed("the provider refused the request")
                } else {
                    told.clone().into()
                },
            )
            .with_upstream(Upstream {
                status,
                code: code.map(str::to_owned),
                shown: true,
            })
        };
        let hidden = |kind: ErrorKind, message: String, retry: Retry, work: Work| {
            Error::new(kind, message)
                .with_retry(retry)
                .with_work(work)
                .with_upstream(Upstream {
                    status: self.status,
                    code: (!native.is_empty()).then(|| native.clone()),
                    shown: false,
                })
        };
        let error = match meaning {
            Meaning::Invalid => shown(ErrorKind::InvalidValue, shown_status(self.status), None),
            Meaning::TooLong => shown(ErrorKind::ContextLengthExceeded, 400, None),
            Meaning::TooLarge => shown(ErrorKind::RequestTooLarge, 413, None),
            Meaning::Content => shown(ErrorKind::InvalidValue, 400, Some("content_filter")),
            Meaning::NoModel => shown(ErrorKind::ModelNotFound, 404, None),
            // Whose key and which account is none of the caller's business: only the log has the provider's words.
            Meaning::Credentials => hidden(
                ErrorKind::UpstreamAuthFailed,
                "the provider refused the gateway's credentials".into(),
                Retry::Elsewhere,
                Work::None,
            ),
            Meaning::Account => hidden(
                ErrorKind::UpstreamError,
                "the gateway's account with the provider cannot be charged".into(),
                Retry::After(UNFUNDED_PAUSE),
                Work::None,
            ),
            Meaning::Throttled(default) => hidden(
                ErrorKind::RateLimited,
                format!("the provider limits the rate: {told}"),
                Retry::After(self.pause.unwrap_or(default)),
                Work::None,
            ),
            Meaning::Unavailable => hidden(
                ErrorKind::UpstreamError,
                format!("the provider is not available: {told}"),
                self.pause.map_or(Retry::Elsewhere, Retry::After),
                Work::None,
            ),
            Meaning::Failed => hidden(
                ErrorKind::UpstreamError,
                format!("the provider failed (status {}): {told}", self.status),
                Retry::Elsewhere,
                Work::Unknown,
            ),
            Meaning::TimedOut => hidden(
                ErrorKind::UpstreamTimeout,
                format!("the provider ran out of time: {told}"),
                Retry::Never,
                Work::Unknown,
            ),
        };
        Failure {
            error: error.with_source(log),
            remedy,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let message = self.message.to_ascii_lowercase();
        if message.contains("must be set to false for non-streaming")
            || message.contains("only support stream")
        {
            Some(Remedy::Stream)
        } else if message.contains("url error") {
            Some(Remedy::OtherPath)
        } else {
            None
        }
    }

    fn meaning(&self) -> Meaning {
        let message = self.message.to_ascii_lowercase();
        if message.contains("range of input length") || message.contains("maximum context length") {
            return Meaning::TooLong;
        }
        let code: String = self
            .code
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '.')
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        let (head, detail) = code.split_once('.').unwrap_or((&code, ""));
        let seconds = |seconds| Meaning::Throttled(Duration::from_secs(seconds));
        match (head, detail) {
            ("internalerror", detail) if detail.contains("invalidparameter") => Meaning::Invalid,
            // The service's words for a request that it cannot take, under a code of its own failures.
            ("internalerror", _)
                if (400..500).contains(&self.status) && message.starts_with('<') =>
            {
                Meaning::Invalid
            }
            ("invalidparameter" | "invalidparametererror", _)
                if message.contains("model not exist") =>
            {
                Meaning::NoModel
            }
            ("badrequest", "toolarge") => Meaning::TooLarge,
            (
                "invalidparameter"
                | "invalidparametererror"
                | "badrequest"
                | "conflict"
                | "apiconnectionerror",
                _,
            ) => Meaning::Invalid,
            (head, _) if head.starts_with("invalidurl") => Meaning::Invalid,
            (
                "datainspectionfailed"
                | "ipinfringementsuspect"
                | "customroleblocked"
                | "faqruleblocked",
                _,
            ) => Meaning::Content,
            (
                "arrearage"
                | "commoditynotpurchased"
                | "prepaidbilloverdue"
                | "postpaidbilloverdue",
                _,
            ) => Meaning::Account,
            ("allocationquota", "freetieronly") => Meaning::Account,
            ("invalidapikey" | "notauthorized" | "accessdenied", _) => Meaning::Credentials,
            ("model" | "app" | "workspace" | "endpoint", "accessdenied") => Meaning::Credentials,
            ("modelnotfound" | "modelnotsupported" | "notfound", _) | ("model", "notexist") => {
                Meaning::NoModel
            }
            // The configured workspace is ours, not the caller's.
            ("workspacenotfound", _) => Meaning::Credentials,
            // Despite its name `insufficient_quota` means tokens per minute, which come back by the minute.
            ("insufficientquota", _) | ("throttling", "allocationquota") => seconds(10),
            ("limitburstrate", _) | ("throttling", "burstrate") => seconds(5),
            ("throttling" | "limitrequests" | "ratelimitexceeded" | "allocationquota", _) => {
                seconds(2)
            }
            ("requesttimeout" | "gatewaytimeout", _) => Meaning::TimedOut,
            ("serviceunavailable" | "modelunavailable" | "modelservingerror", _) => {
                Meaning::Unavailable
            }
            ("internalerror" | "systemerror" | "modelservicefailed", _) => Meaning::Failed,
            _ => self.meaning_of_status(),
        }
    }

    fn meaning_of_status(&self) -> Meaning {
        match self.status {
            401 | 403 => Meaning::Credentials,
            402 => Meaning::Account,
            // Somebody else answered: the address is wrong, not the request.
            404 | 405 if !self.structured => Meaning::Failed,
            404 => Meaning::NoModel,
            408 | 504 => Meaning::TimedOut,
            413 => Meaning::TooLarge,
            429 => Meaning::Throttled(Duration::from_secs(2)),
            400..500 => Meaning::Invalid,
            502 | 503 => Meaning::Unavailable,
            _ => Meaning::Failed,
        }
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A value of the request.
    Invalid,
    /// The prompt does not fit.
    TooLong,
    /// The body does not fit.
    TooLarge,
    /// The content policy.
    Content,
    /// No such model.
    NoModel,
    /// Our key, or what it may do.
    Credentials,
    /// Our account: debts, unpaid or used-up packages.
    Account,
    /// A rate limit; how long to leave it alone unless it says so itself.
    Throttled(Duration),
    /// It refused the work for now.
    Unavailable,
    /// It failed at the work.
    Failed,
    /// It took too long, and may have charged.
    TimedOut,
}

/// OpenAI's SDKs retry 408 and 409 on their own, which cannot help here.
fn shown_status(status: u16) -> u16 {
    match status {
        400..500 if !matches!(status, 401 | 403 | 408 | 409 | 429) => status,
        _ => 400,
    }
}

/// Status and data of the first event of a stream's text.
fn event(body: &str) -> Option<(Option<u16>, String)> {
    let mut status = None;
    let mut data: Option<String> = None;
    for line in body.lines() {
        if let Some(part) = line.strip_prefix("data:") {
            let data = data.get_or_insert_default();
            data.push_str(part);
            data.push('\n');
        } else if let Some(comment) = line.strip_prefix(':') {
            status = http_status(comment.as_bytes()).or(status);
        } else if line.is_empty() && data.is_some() {
            break;
        }
    }
    Some((status, data?))
}

/// The status that the provider puts into a comment: `:HTTP_STATUS/429`.
pub(super) fn http_status(comment: &[u8]) -> Option<u16> {
    let status = comment.trim_ascii().strip_prefix(b"HTTP_STATUS/")?;
    let status = std::str::from_utf8(status).ok()?.trim().parse().ok()?;
    (100..600).contains(&status).then_some(status)
}

/// The provider's answer is not what its protocol says.
pub(super) fn malformed(what: &'static str, data: &Bytes) -> Error {
    Error::new(
        ErrorKind::UpstreamInvalidResponse,
        format!("the provider's answer {what}"),
    )
    .with_retry(Retry::Elsewhere)
    .with_work(Work::Unknown)
    .with_source(format!("{} bytes", data.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        Refusal::read(status, None, body.as_bytes()).into_failure(&[])
    }

    fn flat(code: &str, message: &str) -> String {
        format!(r#"{{"code":"{code}","message":"{message}","request_id":"r"}}"#)
    }

    #[test]
    fn the_table_of_codes() {
        let after = |seconds| Retry::After(Duration::from_secs(seconds));
        // Status and code of the answer → status and code for the caller, what the dispatcher may do.
        for (status, code, shown, as_code, retry) in [
            (400, "InvalidParameter", 400, "invalid_value", Retry::Never),
            (
                400,
                "invalid_parameter_error",
                400,
                "invalid_value",
                Retry::Never,
            ),
            (
                400,
                "InvalidParameter.NotSupportEnableThinking",
                400,
                "invalid_value",
                Retry::Never,
            ),
            (
                400,
                "InternalError.Algo.InvalidParameter",
                400,
                "invalid_value",
                Retry::Never,
            ),
            (
                400,
                "BadRequest.EmptyInput",
                400,
                "invalid_value",
                Retry::Never,
            ),
            (
                400,
                "BadRequest.TooLarge",
                413,
                "request_too_large",
                Retry::Never,
            ),
            (
                400,
                "InvalidURL.ConnectionRefused",
                400,
                "invalid_value",
                Retry::Never,
            ),
            (409, "Conflict", 400, "invalid_value", Retry::Never),
            (
                400,
                "DataInspectionFailed",
                400,
                "content_filter",
                Retry::Never,
            ),
            (
                400,
                "data_inspection_failed",
                400,
                "content_filter",
                Retry::Never,
            ),
            (400, "Arrearage", 502, "upstream_error", after(3600)),
            (
                429,
                "PrepaidBillOverdue",
                502,
                "upstream_error",
                after(3600),
            ),
            (
                403,
                "AllocationQuota.FreeTierOnly",
                502,
                "upstream_error",
                after(3600),
            ),
            (
                401,
                "InvalidApiKey",
                502,
                "upstream_auth_failed",
                Retry::Elsewhere,
            ),
            (
                401,
                "invalid_api_key",
                502,
                "upstream_auth_failed",
                Retry::Elsewhere,
            ),
            (
                401,
                "NOT AUTHORIZED",
                502,
                "upstream_auth_failed",
                Retry::Elsewhere,
            ),
            (
                403,
                "AccessDenied.Unpurchased",
                502,
                "upstream_auth_failed",
                Retry::Elsewhere,
            ),
            (
                403,
                "Model.AccessDenied",
                502,
                "upstream_auth_failed",
                Retry::Elsewhere,
            ),
            (404, "ModelNotFound", 404, "model_not_found", Retry::Never),
            (404, "model_not_found", 404, "model_not_found", Retry::Never),
            (404, "Model.NotExist", 404, "model_not_found", Retry::Never),
            (429, "Throttling", 429, "rate_limited", after(2)),
            (429, "limit_requests", 429, "rate_limited", after(2)),
            (429, "Throttling.BurstRate", 429, "rate_limited", after(5)),
            (429, "insufficient_quota", 429, "rate_limited", after(10)),
            (
                429,
                "Throttling.AllocationQuota",
                429,
                "rate_limited",
                after(10),
            ),
            (
                500,
                "InternalError",
                502,
                "upstream_error",
                Retry::Elsewhere,
            ),
            (
                500,
                "internal_error",
                502,
                "upstream_error",
                Retry::Elsewhere,
            ),
            (
                500,
                "InternalError.Algo",
                502,
                "upstream_error",
                Retry::Elsewhere,
            ),
            (500, "RequestTimeOut", 504, "upstream_timeout", Retry::Never),
            (504, "GatewayTimeout", 504, "upstream_timeout", Retry::Never),
            (
                503,
                "ServiceUnavailable",
                502,
                "upstream_error",
                Retry::Elsewhere,
            ),
            (418, "NewCode", 418, "invalid_value", Retry::Never),
            (500, "NewCode", 502, "upstream_error", Retry::Elsewhere),
        ] {
            let error = failure(status, &flat(code, "m")).error;
            assert_eq!(
                (error.status(), error.code(), error.retry()),
                (shown, as_code, retry),
                "{status} {code}"
            );
        }
    }

    #[test]
    fn every_shape_of_a_refusal_is_read() {
        let framed = "id:1\nevent:error\n:HTTP_STATUS/429\ndata:{\"code\":\"Throttling\",\ndata:\"message\":\"m\"}\n\n";
        for (status, body) in [
            (429, flat("Throttling", "m")),
            (
                429,
                r#"{"error":{"code":"Throttling","message":"m"}}"#.into(),
            ),
            (400, framed.into()),
            (200, framed.into()),
            (400, framed.replace('\n', "\r\n")),
        ] {
            let refusal = Refusal::read(status, None, body.as_bytes());
            assert_eq!(
                (refusal.status, &*refusal.code, &*refusal.message),
                (429, "Throttling", "m"),
                "{body}"
            );
        }
        // No API speaks there: the address is wrong, not the model's name.
        let nginx = failure(404, "<html>404 Not Found</html>").error;
        assert_eq!(nginx.kind(), ErrorKind::UpstreamError);
        let named = failure(404, r#"{"error":{"message":"no such model"}}"#).error;
        assert_eq!(named.kind(), ErrorKind::ModelNotFound);
    }

    #[test]
    fn messages_tell_where_codes_do_not() {
        let long = flat(
            "InvalidParameter",
            "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
        );
        let error = failure(400, &long).error;
        assert_eq!(
            (error.status(), error.code()),
            (400, "context_length_exceeded")
        );
        // The same inside a stream, where the status must be read from the message.
        let inside = flat(
            "InternalError.Algo",
            "<400> InternalError.Algo.InvalidParameter: x",
        );
        assert_eq!(failure(200, &inside).error.status(), 400);
        let unknown = failure(400, &flat("InvalidParameter", "Model not exist.")).error;
        assert_eq!(unknown.kind(), ErrorKind::ModelNotFound);
        let remedy = |message: &str| failure(400, &flat("InvalidParameter", message)).remedy;
        assert_eq!(
            remedy("url error, please check url！ For details"),
            Some(Remedy::OtherPath)
        );
        assert_eq!(
            remedy("parameter.enable_thinking must be set to false for non-streaming calls"),
            Some(Remedy::Stream)
        );
        assert_eq!(remedy("other"), None);
    }

    #[test]
    fn credentials_and_accounts_are_not_discussed_with_callers() {
        for body in [
            flat("InvalidApiKey", "Incorrect API key provided: sk-12"),
            flat(
                "Arrearage",
                "Access denied, account 12 is not in good standing.",
            ),
        ] {
            assert!(!failure(400, &body).error.message().contains("12"));
        }
    }
}
