//! A [`ProviderSpec`] turned into what every call needs: addresses and headers, made once.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    error::{Error, Result},
    provider::{
        ProviderSpec,
        preset::{self, Quirks},
    },
};

/// Headers that the transport sets, or whose answer it could not read.
const RESERVED: &[HeaderName] = &[
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::ACCEPT_ENCODING,
];

pub(super) struct Settings {
    pub(super) id: Arc<str>,
    /// The base URL, for people: it holds no credentials.
    pub(super) endpoint: String,
    pub(super) chat: Uri,
    pub(super) embeddings: Uri,
    pub(super) models: Uri,
    pub(super) headers: HeaderMap,
    /// What a provider may echo in a message, and must not be shown.
    pub(super) secrets: Arc<[SecretString]>,
    pub(super) quirks: Quirks,
}

impl Settings {
    pub(super) fn new(spec: &ProviderSpec) -> Result<Self> {
        let wrong = |param: &'static str, why: &str| {
            Error::invalid(param, format!("provider `{}`: {why}", spec.id))
        };
        let preset = spec.preset.as_deref().unwrap_or("openai");
        let preset = preset::preset(preset).ok_or_else(|| {
            let known: Vec<&str> = preset::PRESETS.iter().map(|preset| preset.id).collect();
            let known = known.join(", ");
            wrong(
                "preset",
                &format!("unknown preset `{preset}`; known are {known}"),
            )
        })?;
        let base = spec.base_url.as_deref().unwrap_or(preset.base_url);
        let base: Uri = base
            .trim_end_matches('/')
            .parse()
            .map_err(|_| wrong("base_url", "`base_url` is no URL"))?;
        if !matches!(base.scheme_str(), Some("http" | "https")) {
            return Err(wrong(
                "base_url",
                "`base_url` must begin with http:// or https://",
            ));
        }
        if base
            .authority()
            .is_none_or(|host| host.as_str().contains('@'))
        {
            return Err(wrong(
                "base_url",
                "`base_url` must name a host and hold no credentials; use `api_key`",
            ));
        }
        let target = |path: &str| {
            below(&base, path).ok_or_else(|| wrong("base_url", "`base_url` cannot be extended"))
        };

        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("lyss/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(key) = &spec.api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| {
                    wrong(
                        "api_key",
                        "`api_key` has characters that no header can carry",
                    )
                })?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        for (name, secret) in &spec.headers {
            let parsed = HeaderName::try_from(name)
                .ok()
                .filter(|name| !RESERVED.contains(name))
                .ok_or_else(|| wrong("headers", &format!("the header `{name}` cannot be set")))?;
            let mut value = HeaderValue::try_from(secret.expose_secret()).map_err(|_| {
                wrong(
                    "headers",
                    &format!("the value of `{name}` is no header value"),
                )
            })?;
            value.set_sensitive(true);
            headers.insert(parsed, value);
        }
        Ok(Self {
            id: spec.id.clone(),
            endpoint: format!(
                "{}://{}{}",
                base.scheme_str().unwrap_or_default(),
                base.authority().map_or("", |host| host.as_str()),
                base.path().trim_end_matches('/')
            ),
            chat: target("chat/completions")?,
            embeddings: target("embeddings")?,
            models: target("models")?,
            headers,
            secrets: spec
                .api_key
                .iter()
                .chain(spec.headers.values())
                .cloned()
                .collect(),
            quirks: preset.quirks,
        })
    }
}

/// A path below the base; its query (`?api-version=…`) stays.
fn below(base: &Uri, path: &str) -> Option<Uri> {
    let mut parts = base.clone().into_parts();
    let prefix = base.path().trim_end_matches('/');
    let path = match base.query() {
        Some(query) => format!("{prefix}/{path}?{query}"),
        None => format!("{prefix}/{path}"),
    };
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}
