//! One HTTP request, as the API takes it.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, Method, header};
use secrecy::SecretString;
use serde::Serialize;

use super::options::bearer;
use crate::{
    error::{Error, ErrorKind, Result},
    types::{CallContext, Credential, Segments, call::Caller},
};

/// A call: method, path below the API with its query, and body.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Segments>,
    user_named: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: None,
            user_named: false,
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds a segment to the path.
    pub(super) fn at(mut self, segment: &str) -> Self {
        self.path.push('/');
        encode(&mut self.path, segment);
        self
    }

    /// Adds a parameter to the query, if it has a value.
    pub(super) fn query(mut self, name: &str, value: Option<&str>) -> Self {
        let Some(value) = value else { return self };
        self.path
            .push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self.path.push('=');
        encode(&mut self.path, value);
        self.user_named |= name == "user_id";
        self
    }

    /// Sets the body.
    pub(super) fn body(mut self, body: Segments) -> Self {
        self.body = Some(body);
        self
    }

    /// Sets the body to a value's JSON.
    ///
    /// # Errors
    /// `internal` for what has no JSON.
    pub(super) fn json(self, value: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Internal, "the request cannot be written as JSON")
                .with_source(error)
        })?;
        Ok(self.body(Segments(vec![text.into()])))
    }

    /// Names the user of the call, unless its query does.
    pub(super) fn of_user(self, context: &CallContext) -> Self {
        if self.user_named {
            return self;
        }
        self.query("user_id", context.user_id.as_deref())
    }
}

/// The headers of a call; `own` is the key of calls for this process.
///
/// # Errors
/// `invalid_api_key` for a key that cannot be sent, or one that was checked elsewhere and is not known any more.
pub(super) fn headers(
    context: &CallContext,
    own: Option<&SecretString>,
    accept: &'static str,
) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("lyss/", env!("CARGO_PKG_VERSION"))),
    );
    let key = match &context.credential {
        Credential::Process | Credential::Established(Caller::Process) => own,
        Credential::Key(key) => Some(key),
        Credential::Anonymous | Credential::Established(Caller::Anyone { .. }) => None,
        Credential::Established(_) => {
            return Err(Error::new(
                ErrorKind::InvalidApiKey,
                "this call's key was checked by another gateway and cannot be passed on",
            ));
        }
    };
    if let Some(value) = key.map(bearer).transpose()?.flatten() {
        headers.insert(header::AUTHORIZATION, value);
    }
    if let Some(key) = &context.idempotency_key
        && let Ok(value) = HeaderValue::from_str(key.as_str())
    {
        headers.insert("idempotency-key", value);
    }
    if let Some(id) = &context.client_request_id
        && let Ok(value) = HeaderValue::from_str(id)
    {
        headers.insert("x-client-request-id", value);
    }
    Ok(headers)
}

/// Writes a text as part of a URI: what is not unreserved (RFC 3986, section 2.3) by its bytes.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_and_names_are_escaped() {
        let context = CallContext::process("a&b é");
        let call = Call::get("/sessions")
            .at("s/1?x")
            .query("limit", Some("3"))
            .query("cursor", None)
            .of_user(&context);
        assert_eq!(
            call.path,
            "/sessions/s%2F1%3Fx?limit=3&user_id=a%26b%20%C3%A9"
        );
        let call = Call::get("/usage")
            .query("user_id", Some("u2"))
            .of_user(&context);
        assert_eq!(call.path, "/usage?user_id=u2");
    }

    #[test]
    fn the_key_is_that_of_the_call() {
        let own = SecretString::from("lyss_own");
        let sent = |credential| {
            let headers = headers(&CallContext::new(credential), Some(&own), "*/*").unwrap();
            let value = headers.get(header::AUTHORIZATION)?;
            assert!(value.is_sensitive());
            Some(value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            sent(Credential::Process).as_deref(),
            Some("Bearer lyss_own")
        );
        assert_eq!(
            sent(Credential::Key("k".into())).as_deref(),
            Some("Bearer k")
        );
        assert_eq!(sent(Credential::Key("".into())), None);
        assert_eq!(sent(Credential::Anonymous), None);
        let bad = CallContext::new(Credential::Key("a\nb".into()));
        assert!(headers(&bad, None, "*/*").is_err());
    }
}
