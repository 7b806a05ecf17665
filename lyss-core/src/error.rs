//! The one error type and the one table of codes.
//!
//! Every failure that a caller can see is a row of [`ErrorKind`]: its code string is API, its message is not.
//! Frontends read the row (status, type, retry advice) and never decide themselves.

use std::{borrow::Cow, fmt, time::Duration};

use crate::types::{RequestId, Usage};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The request was wrong or not allowed.
    Caller,
    /// The gateway or something it depends on.
    Gateway,
    /// The provider.
    Upstream,
}

/// How much the provider may already have done (and charged) when an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the request did not reach it, or it refused the work.
    None,
    /// Unknown: a retry may be charged twice.
    Unknown,
}

/// What the dispatcher may do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Another attempt cannot help.
    Never,
    /// Another target, or the same one after a pause.
    Elsewhere,
    /// As `Elsewhere`, and this target asked to be left alone for so long (`Retry-After`).
    After(Duration),
}

macro_rules! error_table {
    ($( $(#[$doc:meta])* $kind:ident => $code:literal, $status:literal, $type:literal, $grpc:literal, $origin:ident, $retry:literal; )*) => {
        /// The kinds of failure of the contract. Non-exhaustive: new codes may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $( $(#[$doc])* $kind, )* }

        impl ErrorKind {
            /// Every kind, in the order of the contract's table.
            pub const ALL: &'static [ErrorKind] = &[$( ErrorKind::$kind, )*];

            /// The code string: stable, part of the API.
            pub fn code(self) -> &'static str { match self { $( Self::$kind => $code, )* } }
            /// The HTTP status.
            pub fn status(self) -> u16 { match self { $( Self::$kind => $status, )* } }
            /// The `type` member of OpenAI's error envelope.
            pub fn type_name(self) -> &'static str { match self { $( Self::$kind => $type, )* } }
            /// The canonical gRPC status code.
            pub fn grpc(self) -> u8 { match self { $( Self::$kind => $grpc, )* } }
            /// Who has to act.
            pub fn origin(self) -> Origin { match self { $( Self::$kind => Origin::$origin, )* } }
            /// The contract's `x-should-retry` for an error raised before anything was dispatched.
            pub fn should_retry(self) -> bool { match self { $( Self::$kind => $retry, )* } }
        }
    };
}

error_table! {
    /// The body is not JSON, or not the JSON that is allowed (depth, surrogates, control characters).
    InvalidJson => "invalid_json", 400, "invalid_request_error", 3, Caller, false;
    /// An object that the gateway reads has the same key twice.
    DuplicateKey => "duplicate_key", 400, "invalid_request_error", 3, Caller, false;
    /// A required field is absent.
    MissingField => "missing_field", 400, "invalid_request_error", 3, Caller, false;
    /// A field has a value that is not accepted.
    InvalidValue => "invalid_value", 400, "invalid_request_error", 3, Caller, false;
    /// The prompt does not fit the model's window.
    ContextLengthExceeded => "context_length_exceeded", 400, "invalid_request_error", 3, Caller, false;
    /// Nobody is named as the user of the call.
    UserRequired => "user_required", 400, "invalid_request_error", 3, Caller, false;
    /// The `Host` header is missing, doubled, malformed or not served here.
    BadHost => "bad_host", 400, "invalid_request_error", 3, Caller, false;
    /// No API key was sent.
    MissingApiKey => "missing_api_key", 401, "authentication_error", 16, Caller, false;
    /// The key store answered that it does not know the key.
    InvalidApiKey => "invalid_api_key", 401, "authentication_error", 16, Caller, false;
    /// The key is past its expiry.
    ExpiredApiKey => "expired_api_key", 401, "authentication_error", 16, Caller, false;
    /// A budget does not cover the call.
    BudgetExceeded => "budget_exceeded", 402, "billing_error", 9, Caller, false;
    /// The model has no price and a budget applies.
    UnpricedModel => "unpriced_model", 402, "billing_error", 9, Caller, false;
    /// The key may not use this model.
    ModelNotAllowed => "model_not_allowed", 403, "permission_error", 7, Caller, false;
    /// The key belongs to another user.
    UserMismatch => "user_mismatch", 403, "permission_error", 7, Caller, false;
    /// The key lacks a scope.
    ScopeMissing => "scope_missing", 403, "permission_error", 7, Caller, false;
    /// The call needs an admin key.
    AdminRequired => "admin_required", 403, "permission_error", 7, Caller, false;
    /// No provider serves the model.
    ModelNotFound => "model_not_found", 404, "not_found_error", 5, Caller, false;
    /// The user has no such session.
    SessionNotFound => "session_not_found", 404, "not_found_error", 5, Caller, false;
    /// A record asked for by id (request, routing rule, key) does not exist for this caller.
    NotFound => "not_found", 404, "not_found_error", 5, Caller, false;
    /// No such path.
    UnknownPath => "unknown_path", 404, "not_found_error", 5, Caller, false;
    /// The path exists, the method does not.
    MethodNotAllowed => "method_not_allowed", 405, "invalid_request_error", 12, Caller, false;
    /// The body is over the limit.
    RequestTooLarge => "request_too_large", 413, "invalid_request_error", 8, Caller, false;
    /// The body is not `application/json`.
    UnsupportedMediaType => "unsupported_media_type", 415, "invalid_request_error", 3, Caller, false;
    /// The caller's body came too slowly.
    RequestTimeout => "request_timeout", 408, "timeout_error", 4, Caller, true;
    /// Another turn of the session is running.
    SessionBusy => "session_busy", 409, "conflict_error", 10, Caller, true;
    /// Another turn was stored while this one ran.
    SessionConflict => "session_conflict", 409, "conflict_error", 10, Caller, true;
    /// A request with the same idempotency key is running.
    IdempotencyInProgress => "idempotency_in_progress", 409, "conflict_error", 10, Caller, true;
    /// The request was sent to a provider and its answer is not known: the process died, or the answer could not be kept.
    IdempotencyOutcomeUnknown => "idempotency_outcome_unknown", 409, "conflict_error", 10, Caller, false;
    /// The idempotency key was used with another body.
    IdempotencyKeyReused => "idempotency_key_reused", 422, "invalid_request_error", 3, Caller, false;
    /// A rate limit, ours or the provider's.
    RateLimited => "rate_limited", 429, "rate_limit_error", 8, Caller, true;
    /// The client went away before the answer was complete. Seen only by in-process callers and the log.
    Cancelled => "cancelled", 499, "gateway_error", 1, Caller, false;
    /// A defect of the gateway.
    Internal => "internal", 500, "gateway_error", 13, Gateway, true;
    /// A stored session cannot be read.
    SessionCorrupt => "session_corrupt", 500, "gateway_error", 15, Gateway, false;
    /// The provider failed.
    UpstreamError => "upstream_error", 502, "upstream_error", 14, Upstream, false;
    /// The provider's answer is not what its protocol says.
    UpstreamInvalidResponse => "upstream_invalid_response", 502, "upstream_error", 14, Upstream, false;
    /// The provider refused *our* credentials.
    UpstreamAuthFailed => "upstream_auth_failed", 502, "upstream_error", 14, Upstream, false;
    /// The provider's answer ended early.
    UpstreamIncomplete => "upstream_incomplete", 502, "upstream_error", 14, Upstream, false;
    /// The gateway is at its limit.
    Overloaded => "overloaded", 503, "overloaded_error", 14, Gateway, true;
    /// No provider can take the call.
    NoHealthyProvider => "no_healthy_provider", 503, "overloaded_error", 14, Gateway, true;
    /// The gateway is draining.
    ShuttingDown => "shutting_down", 503, "overloaded_error", 14, Gateway, true;
    /// The key store is away and the key is not known locally.
    AuthStoreUnavailable => "auth_store_unavailable", 503, "overloaded_error", 14, Gateway, true;
    /// The session store is away.
    SessionStoreUnavailable => "session_store_unavailable", 503, "overloaded_error", 14, Gateway, true;
    /// The budget store is away.
    BudgetStoreUnavailable => "budget_store_unavailable", 503, "overloaded_error", 14, Gateway, true;
    /// The database that a read needs, or what keeps idempotency keys, is away.
    StoreUnavailable => "store_unavailable", 503, "overloaded_error", 14, Gateway, true;
    /// The billing spool cannot take another record.
    BillingSpoolFull => "billing_spool_full", 503, "overloaded_error", 14, Gateway, true;
    /// The Lyss service that the call was to be passed on to cannot be reached, or was lost before it answered.
    ServiceUnreachable => "service_unreachable", 503, "overloaded_error", 14, Gateway, true;
    /// The provider did not answer in time.
    UpstreamTimeout => "upstream_timeout", 504, "timeout_error", 4, Upstream, false;
}

/// A failure: what it is, who has to act, and whether trying again can help.
///
/// One pointer wide, so that `Result` stays small on the hot path.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    retry: Retry,
    work: Work,
    exhausted: bool,
    replayed: bool,
    request_id: Option<RequestId>,
    provider: Option<String>,
    upstream: Option<Upstream>,
    usage: Option<Usage>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the provider itself said, when its refusal is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its HTTP status.
    pub status: u16,
    /// Its own code string, if it gave one.
    pub code: Option<String>,
    /// Whether status and code are shown to the caller (a 4xx about the request), or only logged.
    pub shown: bool,
}

impl Error {
    /// Makes an error of a kind; the message says what was wrong and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            param: None,
            retry: Retry::Never,
            work: Work::None,
            exhausted: false,
            replayed: false,
            request_id: None,
            provider: None,
            upstream: None,
            usage: None,
            source: None,
        }))
    }

    /// A required field is absent.
    pub fn missing(param: &'static str) -> Self {
        Self::new(ErrorKind::MissingField, format!("`{param}` is required")).with_param(param)
    }

    /// A field's value is not accepted.
    pub fn invalid(
        param: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::InvalidValue, message).with_param(param)
    }

    /// Names the request field that is wrong.
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// Says whether another attempt can help.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Says what the provider may already have done.
    pub fn with_work(mut self, work: Work) -> Self {
        self.0.work = work;
        self
    }

    /// Names the provider.
    pub fn with_provider(mut self, provider: impl Into<String>) -> Self {
        self.0.provider = Some(provider.into());
        self
    }

    /// Keeps what the provider said.
    pub fn with_upstream(mut self, upstream: Upstream) -> Self {
        self.0.upstream = Some(upstream);
        self
    }

    /// Keeps what the provider says that the failed call used.
    pub fn with_usage(mut self, usage: Option<Usage>) -> Self {
        self.0.usage = usage;
        self
    }

    /// Keeps the cause, for logs only: callers never see it.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks that the gateway has used up its own retries, so that the caller's SDK does not multiply them.
    pub fn exhausted(mut self) -> Self {
        self.0.exhausted = true;
        self
    }

    /// Marks the error as the answer that was given before to the same request (`Idempotency-Key`).
    pub fn replayed(mut self) -> Self {
        self.0.replayed = true;
        self
    }

    /// Keeps the id under which a service that was called knows the request.
    pub(crate) fn with_request_id(mut self, id: Option<RequestId>) -> Self {
        self.0.request_id = id;
        self
    }

    /// The id under which the service that answered so knows the request; `None` for what this gateway says itself, about
    /// the request of the [`CallContext`](crate::types::CallContext).
    pub fn request_id(&self) -> Option<RequestId> {
        self.0.request_id
    }

    /// Whether the error is the answer that was given before.
    pub fn is_replayed(&self) -> bool {
        self.0.replayed
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code shown to the caller: the contract's, or the provider's own where its refusal is passed on.
    pub fn code(&self) -> &str {
        match &self.0.upstream {
            Some(Upstream {
                shown: true,
                code: Some(code),
                ..
            }) => code,
            _ => self.0.kind.code(),
        }
    }

    /// The HTTP status shown to the caller.
    pub fn status(&self) -> u16 {
        match &self.0.upstream {
            Some(Upstream {
                shown: true,
                status,
                ..
            }) => *status,
            _ => self.0.kind.status(),
        }
    }

    /// The `type` member of the envelope.
    pub fn type_name(&self) -> &'static str {
        match (&self.0.upstream, self.status()) {
            (Some(Upstream { shown: true, .. }), status) => match status {
                402 => "billing_error",
                403 => "permission_error",
                404 => "not_found_error",
                408 => "timeout_error",
                409 => "conflict_error",
                429 => "rate_limit_error",
                _ => "invalid_request_error",
            },
            _ => self.0.kind.type_name(),
        }
    }

    /// What was wrong and what to do.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The request field that is wrong.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// What the dispatcher may do.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The pause to tell the caller (`retry-after`), for the kinds that carry one.
    pub fn retry_after(&self) -> Option<Duration> {
        match (self.0.retry, self.status()) {
            (Retry::After(pause), _) => Some(pause),
            (_, 429 | 503) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The value of `x-should-retry` (decision 3): set by phase, not by status alone.
    pub fn should_retry(&self) -> bool {
        if self.0.exhausted {
            return false;
        }
        match self.0.kind.origin() {
            Origin::Upstream => self.0.work == Work::None && self.0.retry != Retry::Never,
            _ => self.0.work == Work::None && self.0.kind.should_retry(),
        }
    }

    /// What the provider may already have done.
    pub fn work(&self) -> Work {
        self.0.work
    }

    /// Whether the target's health is in question: connect failures, 5xx, timeouts and broken bodies are; a
    /// caller's mistake, a 429 and a refused key are not.
    pub fn counts_against_target(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::UpstreamError
                | ErrorKind::UpstreamTimeout
                | ErrorKind::UpstreamInvalidResponse
                | ErrorKind::UpstreamIncomplete
        )
    }

    /// The provider, if one was involved.
    pub fn provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }

    /// What the provider says that the failed call used.
    pub fn usage(&self) -> Option<Usage> {
        self.0.usage
    }

    /// What the provider said.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.0.upstream.as_ref()
    }

    /// OpenAI's error envelope as JSON text, with the request id.
    pub fn to_json(&self, request_id: Option<&str>) -> String {
        #[derive(serde::Serialize)]
        struct Envelope<'a> {
            error: Body<'a>,
        }
        #[derive(serde::Serialize)]
        struct Body<'a> {
            message: &'a str,
            #[serde(rename = "type")]
            type_name: &'a str,
            param: Option<&'a str>,
            code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }
        serde_json::to_string(&Envelope {
            error: Body {
                message: self.message(),
                type_name: self.type_name(),
                param: self.param(),
                code: self.code(),
                request_id,
            },
        })
        .unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind)
            .field("message", &self.0.message);
        if let Some(provider) = &self.0.provider {
            out.field("provider", provider);
        }
        if let Some(upstream) = &self.0.upstream {
            out.field("upstream", upstream);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_are_unique_and_statuses_make_sense() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            assert!(seen.insert(kind.code()), "{} twice", kind.code());
            assert!((400..600).contains(&kind.status()));
        }
        assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
    }

    #[test]
    fn a_provider_refusal_keeps_its_status_and_code() {
        let error = Error::new(ErrorKind::InvalidValue, "no such voice").with_upstream(Upstream {
            status: 404,
            code: Some("voice_not_found".into()),
            shown: true,
        });
        assert_eq!(
            (error.status(), error.code(), error.type_name()),
            (404, "voice_not_found", "not_found_error")
        );
        let json: serde_json::Value = serde_json::from_str(&error.to_json(Some("r1"))).unwrap();
        assert_eq!(json["error"]["request_id"], "r1");
    }

    #[test]
    fn exhausted_retries_stop_the_callers_sdk() {
        let error = Error::new(ErrorKind::RateLimited, "slow down")
            .with_retry(Retry::After(Duration::from_secs(2)));
        assert!(error.should_retry());
        let error = error.exhausted();
        assert!(!error.should_retry());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    }
}
