//! What a request says about itself: its body, its caller, its ids.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use lyss_core::{
    Error, ErrorKind, Result,
    types::{CallContext, Credential, IdempotencyKey, chat::MAX_NAME},
};
use serde::de::DeserializeOwned;

/// The longest client request id that is logged; the rest is cut off.
const MAX_CLIENT_ID: usize = 128;
/// What is allocated before the first byte of a body has come, at most.
const MAX_PREALLOCATED: u64 = 1 << 20;

/// The call that a request makes. A [`Credential`] in the request's extensions, laid there by the program that mounts the
/// router, says who calls; else the headers do.
///
/// # Errors
/// `invalid_api_key` if two credentials are sent, `invalid_value` for a bad `user_id` in the query and for a bad
/// `Idempotency-Key`.
pub(crate) fn context(parts: &Parts) -> Result<CallContext> {
    let credential = match parts.extensions.get::<Credential>() {
        Some(established) => established.clone(),
        None => credential(&parts.headers)?,
    };
    let mut context = CallContext::new(credential);
    context.client_request_id = parts
        .headers
        .get("x-client-request-id")
        .and_then(|id| client_request_id(id.as_bytes()));
    if parts.method == Method::POST {
        context.idempotency_key = idempotency_key(&parts.headers)?;
    }
    #[derive(serde::Deserialize)]
    struct User {
        user_id: Option<String>,
    }
    if parts
        .uri
        .query()
        .is_some_and(|query| query.contains("user"))
    {
        context.user_id = query::<User>(parts)?.user_id;
        if let Some(user) = &context.user_id {
            check_name("user_id", user)?;
        }
    }
    Ok(context)
}

/// A short, non-empty text without control characters.
pub(crate) fn check_name(name: &'static str, value: &str) -> Result<()> {
    if value.is_empty() || value.len() > MAX_NAME || value.chars().any(char::is_control) {
        return Err(Error::invalid(
            name,
            format!("`{name}` must have 1 to {MAX_NAME} bytes and no control characters"),
        ));
    }
    Ok(())
}

fn credential(headers: &HeaderMap) -> Result<Credential> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let bearer = sent
        .next()
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
    if sent.next().is_some() {
        // Which of the two counts would depend on who reads it.
        return Err(Error::new(
            ErrorKind::InvalidApiKey,
            "the `Authorization` header was sent twice; send one",
        ));
    }
    let key = bearer.or_else(|| {
        ["api-key", "x-api-key"]
            .iter()
            .find_map(|name| headers.get(*name)?.to_str().ok())
            .map(str::trim)
    });
    Ok(match key {
        Some(key) if !key.is_empty() => Credential::Key(key.to_owned().into()),
        _ => Credential::Anonymous,
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut sent = headers.get_all("idempotency-key").iter();
    let Some(key) = sent.next() else {
        return Ok(None);
    };
    if sent.next().is_some() {
        return Err(Error::invalid(
            "Idempotency-Key",
            "the `Idempotency-Key` header was sent twice; send one",
        ));
    }
    // What is not text is no key either.
    IdempotencyKey::parse(key.to_str().unwrap_or_default()).map(Some)
}

fn client_request_id(value: &[u8]) -> Option<String> {
    let id: String = value
        .iter()
        .filter(|byte| byte.is_ascii_graphic())
        .take(MAX_CLIENT_ID)
        .map(|byte| char::from(*byte))
        .collect();
    (!id.is_empty()).then_some(id)
}

/// The query as a value; unknown parameters are ignored.
///
/// # Errors
/// `invalid_value`.
pub(crate) fn query<T: DeserializeOwned>(parts: &Parts) -> Result<T> {
    axum::extract::Query::try_from_uri(&parts.uri)
        .map(|query| query.0)
        .map_err(|rejection| {
            Error::new(
                ErrorKind::InvalidValue,
                format!("the query is not readable: {}", rejection.body_text()),
            )
        })
}

/// Refuses a body that is not plain `application/json`.
///
/// # Errors
/// `unsupported_media_type`.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media = text(header::CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match media {
        Some(media) if media.eq_ignore_ascii_case("application/json") => {}
        Some(other) => {
            return Err(Error::new(
                ErrorKind::UnsupportedMediaType,
                format!(
                    "send `content-type: application/json`, not `{}`",
                    other.chars().take(100).collect::<String>().escape_debug()
                ),
            ));
        }
        None => {
            return Err(Error::new(
                ErrorKind::UnsupportedMediaType,
                "send `content-type: application/json`",
            ));
        }
    }
    let plain = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if !plain {
        return Err(Error::new(
            ErrorKind::UnsupportedMediaType,
            "compressed request bodies are not accepted; send the body without `content-encoding`",
        ));
    }
    Ok(())
}

/// What is read and thrown away of a body that is too large, so that a client which is still sending gets to read the
/// answer: a socket closed with unread data resets the connection, and the answer is lost with it.
const LINGER: Duration = Duration::from_secs(2);
/// Most of a body that was announced, for clients that send all of it before they read a word.
const LINGER_MOST: u64 = 256 << 20;
/// A client that sends nothing for so long is listening.
const LINGER_GAP: Duration = Duration::from_millis(200);

async fn discard(body: &mut Body, max: usize) {
    let read = async {
        let mut length = 0_usize;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(LINGER_GAP, body.frame()).await {
            length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if length > max {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// The whole body. A body that came in one piece is not copied.
///
/// # Errors
/// `request_too_large` as soon as the limit is passed or announced to be, `request_timeout`.
pub(crate) async fn read_body(
    mut body: Body,
    headers: &HeaderMap,
    max: usize,
    timeout: Duration,
) -> Result<Bytes> {
    let announced = body.size_hint().lower();
    if announced > max as u64 {
        // Reading would invite the client to send (`100 Continue`).
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body, announced.min(LINGER_MOST) as usize).await;
        }
        return Err(too_large(max));
    }
    let read = async {
        let mut first: Option<Bytes> = None;
        let mut all = BytesMut::new();
        let mut length = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Error::new(
                    ErrorKind::InvalidJson,
                    "the request body ended before it was complete",
                )
                .with_source(error)
            })?;
            let Ok(data) = frame.into_data() else {
                continue; // trailers
            };
            length = length.saturating_add(data.len());
            if length > max {
                discard(&mut body, max).await;
                return Err(too_large(max));
            }
            match first.take() {
                None if all.is_empty() => first = Some(data),
                None => all.extend_from_slice(&data),
                Some(earlier) => {
                    all.reserve((announced.min(MAX_PREALLOCATED) as usize).max(length));
                    all.extend_from_slice(&earlier);
                    all.extend_from_slice(&data);
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    };
    match tokio::time::timeout(timeout, read).await {
        Ok(read) => read,
        Err(_) => Err(Error::new(
            ErrorKind::RequestTimeout,
            format!(
                "the request body was not complete after {} s",
                timeout.as_secs_f32()
            ),
        )),
    }
}

fn too_large(max: usize) -> Error {
    Error::new(
        ErrorKind::RequestTooLarge,
        format!("the request body is larger than {max} bytes (`server.max_body`)"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use secrecy::ExposeSecret;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn key(context: CallContext) -> Option<String> {
        match context.credential {
            Credential::Key(key) => Some(key.expose_secret().to_owned()),
            Credential::Anonymous => None,
            other => panic!("HTTP callers are not {other:?}"),
        }
    }

    #[test]
    fn the_key_is_found_in_three_headers() {
        for (headers, expected) in [
            (vec![("authorization", "Bearer k1")], Some("k1")),
            (vec![("authorization", "bearer  k1 ")], Some("k1")),
            (vec![("api-key", "k2")], Some("k2")),
            (vec![("x-api-key", "k3")], Some("k3")),
            (
                vec![("authorization", "Basic dTpw"), ("x-api-key", "k3")],
                Some("k3"),
            ),
            (vec![("authorization", "Basic dTpw")], None),
            (vec![("authorization", "Bearer ")], None),
            (vec![], None),
        ] {
            let found = key(context(&parts("/", &headers)).unwrap());
            assert_eq!(found.as_deref(), expected, "{headers:?}");
        }
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        let error = context(&parts("/", &twice)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidApiKey);
    }

    #[test]
    fn client_ids_are_bounded_and_harmless() {
        let long = "x".repeat(500);
        let context = context(&parts("/", &[("x-client-request-id", &long)])).unwrap();
        assert_eq!(context.client_request_id.unwrap().len(), MAX_CLIENT_ID);
        assert_eq!(
            client_request_id(b"a\tb \xffc").as_deref(),
            Some("abc"),
            "no separators, no bytes outside ASCII"
        );
        assert_eq!(client_request_id(b" "), None);
    }

    #[test]
    fn a_bad_idempotency_key_is_refused_and_none_is_none() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append("idempotency-key", value);
            }
            idempotency_key(&headers)
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["k-1"]).unwrap().unwrap().as_str(), "k-1");
        let long = "x".repeat(256);
        for bad in [&["a", "a"][..], &[""], &["a b"], &["\u{e9}"], &[&long]] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{bad:?}");
            assert_eq!(error.param(), Some("Idempotency-Key"));
        }
        // Only what changes something takes a key.
        let parts = parts("/", &[("idempotency-key", "a b")]);
        assert!(context(&parts).unwrap().idempotency_key.is_none());
    }

    #[test]
    fn the_user_of_the_query() {
        let user = |uri| context(&parts(uri, &[])).map(|context| context.user_id);
        assert_eq!(user("/?user_id=a%20b&x=1").unwrap().as_deref(), Some("a b"));
        assert_eq!(user("/?x=user").unwrap(), None);
        for uri in ["/?user_id=", "/?user_id=a%0ab", "/?user_id=a&user_id=b"] {
            assert_eq!(
                user(uri).unwrap_err().kind(),
                ErrorKind::InvalidValue,
                "{uri}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let text = Bytes::from(vec![b'x'; 1000]);
        let body = Body::from(text.clone());
        let read = read_body(body, &HeaderMap::new(), 1000, Duration::from_secs(1))
            .await
            .unwrap();
        assert_eq!(read.as_ptr(), text.as_ptr());
    }
}
