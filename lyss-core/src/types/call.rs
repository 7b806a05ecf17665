//! Who calls, and under which id.

use std::{fmt, sync::Arc, time::Instant};

use secrecy::SecretString;
use uuid::Uuid;

use super::report::CallReport;
use crate::admission::{Bearer, KeyRecord, Scope, Scopes};

/// The id of one request: a UUIDv7, always made by the gateway. The log row's time is computed from it, so that a
/// replayed record lands on the same row of the same partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id. Ids made by one process rise.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads an id; `None` unless it is a UUIDv7.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text)
            .ok()
            .filter(|id| id.get_version_num() == 7)
            .map(Self)
    }

    /// The id as 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id from its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id as a UUID.
    pub fn uuid(&self) -> Uuid {
        self.0
    }

    /// When the id was made, in milliseconds since the Unix epoch (RFC 9562, section 5.7).
    pub fn unix_ms(&self) -> i64 {
        let bytes = self.0.as_bytes();
        bytes
            .iter()
            .take(6)
            .fold(0, |ms, byte| (ms << 8) | i64::from(*byte))
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a caller presents to say who it is.
#[derive(Debug, Clone, Default)]
pub enum Credential {
    /// Nothing.
    #[default]
    Anonymous,
    /// An API key or the admin key, as sent.
    Key(SecretString),
    /// The call comes from the program that the engine is linked into: the process is the principal (decision 27).
    Process,
    /// What the caller presented has been checked by [`Gateway::authenticate`](crate::Gateway::authenticate).
    Established(Caller),
}

/// A caller whose credential has been checked; whom it speaks for is decided with the request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Caller {
    /// Somebody without a key of their own.
    Anyone {
        /// Whether the admin surface is open.
        admin: bool,
    },
    /// The program that the engine is linked into; its default user is `local` where `auth.default_user` names none.
    Process,
    /// The holder of an API key.
    Key(Arc<KeyRecord>),
    /// The bearer of an identity provider's token.
    Token(Arc<Bearer>),
}

/// What a caller names a request by, so that sending it again does not do it again (the header `Idempotency-Key`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const MAX_LENGTH: usize = 255;

    /// Reads a key.
    ///
    /// # Errors
    /// `invalid_value` unless it is 1 to 255 visible ASCII characters.
    pub fn parse(text: &str) -> crate::Result<Self> {
        let wrong = text.is_empty()
            || text.len() > Self::MAX_LENGTH
            || !text.bytes().all(|byte| byte.is_ascii_graphic());
        if wrong {
            return Err(crate::Error::invalid(
                "Idempotency-Key",
                "`Idempotency-Key` must have 1 to 255 visible ASCII characters and no spaces, such as a UUID",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Without the key, which may be all that protects an answer from others who share its scope.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey")
    }
}

/// One call: its id, who makes it, and when it began.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The gateway's id of the request.
    pub request_id: RequestId,
    /// The client's own id (`x-client-request-id`), logged only.
    pub client_request_id: Option<String>,
    /// What the caller presented.
    pub credential: Credential,
    /// The user named outside the body (the query parameter `user_id` of `GET` and `DELETE`).
    pub user_id: Option<String>,
    /// What makes sending a chat or embeddings request again harmless.
    pub idempotency_key: Option<IdempotencyKey>,
    /// When the request arrived, on the monotonic clock.
    pub started: Instant,
    /// Where the gateway leaves what is told of the call beside its answer.
    pub report: CallReport,
}

impl CallContext {
    /// A call that starts now.
    pub fn new(credential: Credential) -> Self {
        Self {
            request_id: RequestId::new(),
            client_request_id: None,
            credential,
            user_id: None,
            idempotency_key: None,
            started: Instant::now(),
            report: CallReport::default(),
        }
    }

    /// A call of the program itself on behalf of a user.
    pub fn process(user_id: impl Into<String>) -> Self {
        Self {
            user_id: Some(user_id.into()),
            ..Self::new(Credential::Process)
        }
    }
}

/// Who a call is made for, as the engine has established it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user, if one is named: sessions, logs and limits belong to it.
    pub user_id: Option<Arc<str>>,
    /// The public id of the API key.
    pub api_key_id: Option<Arc<str>>,
    /// What the call may use.
    pub scopes: Scopes,
    /// Models the key is limited to; `None` for all.
    pub models: Option<Arc<[String]>>,
    /// The API key, with its limits and its budget.
    pub key: Option<Arc<KeyRecord>>,
}

impl Principal {
    /// Whether the admin surface is open to the call.
    pub fn is_admin(&self) -> bool {
        self.scopes.has(Scope::Admin)
    }

    /// Whether the call may use a part of the API.
    ///
    /// # Errors
    /// `scope_missing`.
    pub fn may(&self, scope: Scope) -> crate::Result<()> {
        if self.scopes.has(scope) {
            return Ok(());
        }
        Err(crate::Error::new(
            crate::ErrorKind::ScopeMissing,
            format!("this API key lacks the scope `{}`", scope.name()),
        ))
    }

    /// Whether the call may use a model.
    ///
    /// # Errors
    /// `model_not_allowed`.
    pub fn may_use(&self, model: &str) -> crate::Result<()> {
        match &self.models {
            Some(models) if !models.iter().any(|allowed| allowed == model) => {
                let shown: String = model.chars().take(100).collect();
                Err(crate::Error::new(
                    crate::ErrorKind::ModelNotAllowed,
                    format!("this API key may not use the model `{shown}`"),
                )
                .with_param("model"))
            }
            _ => Ok(()),
        }
    }

    /// The user, or the error that asks for one.
    pub fn user(&self) -> crate::Result<&Arc<str>> {
        self.user_id.as_ref().ok_or_else(|| {
            crate::Error::new(
                crate::ErrorKind::UserRequired,
                "no user is named: send `user_id` (or `user`), use an API key bound to a user, or set `auth.default_user`",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_time_is_in_the_id() {
        let before = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis() as i64;
        let id = RequestId::new();
        assert!((before - 1..before + 1000).contains(&id.unix_ms()));
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        assert_eq!(
            RequestId::parse("9c5b94b1-35ad-49bb-b118-8e8fc24abf80"),
            None,
            "not version 7"
        );
    }

    #[test]
    fn idempotency_keys_are_short_and_visible() {
        let longest = "x".repeat(255);
        for good in ["a", "~!{}\"", longest.as_str()] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(256);
        for bad in ["", " ", "a b", "a\tb", "\u{7f}", "é", too_long.as_str()] {
            let error = IdempotencyKey::parse(bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidValue, "{bad:?}");
            assert_eq!(error.param(), Some("Idempotency-Key"));
        }
    }
}
