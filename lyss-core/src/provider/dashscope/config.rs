//! A [`ProviderSpec`] turned into what every call needs.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::model::Generation;
use crate::{
    error::{Error, Result},
    provider::ProviderSpec,
};

/// Where the China (Beijing) region is reached. Keys, models and prices belong to a region, so that another one is a
/// matter of configuration, never derived from the key.
pub const DEFAULT_BASE_URL: &str = "https://dashscope.aliyuncs.com/api/v1";

/// Headers that belong to the exchange itself, or switch what the adapter must decide.
const RESERVED: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "x-dashscope-sse",
    "x-dashscope-async",
];

/// A DashScope account.
#[derive(Debug)]
pub(super) struct Config {
    /// Without a trailing slash.
    pub(super) base_url: String,
    /// Of every call.
    pub(super) headers: HeaderMap,
    /// Must not be in any text that is passed on.
    pub(super) secrets: Arc<[SecretString]>,
    /// The generation path of models whose names do not tell.
    pub(super) generation: HashMap<String, Generation>,
}

impl Config {
    /// Reads a specification.
    ///
    /// # Errors
    /// `invalid_value` naming `base_url`, `api_key`, `headers` or `options`.
    pub(super) fn new(spec: &ProviderSpec) -> Result<Self> {
        let secrets = spec.api_key.iter().chain(spec.headers.values());
        Ok(Self {
            base_url: base_url(spec.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL))?,
            headers: headers(spec)?,
            secrets: secrets.cloned().collect(),
            generation: generation(&spec.options)?,
        })
    }
}

fn base_url(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let wrong = |why: &str| Error::invalid("base_url", format!("`base_url` {why}"));
    let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(wrong("must begin with https:// or http:// and name a host"));
    }
    let credentials = uri
        .authority()
        .is_some_and(|host| host.as_str().contains('@'));
    if uri.query().is_some() || credentials {
        return Err(wrong("must have neither a query nor credentials"));
    }
    if uri.path().contains("/compatible-mode/") {
        return Err(wrong(
            "is the OpenAI-compatible one: end it in /api/v1, or use `preset: dashscope_compatible`",
        ));
    }
    Ok(text.to_owned())
}

fn headers(spec: &ProviderSpec) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("lyss/", env!("CARGO_PKG_VERSION"))),
    );
    let secret = |value: &str| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    if let Some(key) = &spec.api_key {
        let value = secret(&format!("Bearer {}", key.expose_secret())).ok_or_else(|| {
            Error::invalid(
                "api_key",
                "`api_key` has characters that no header can carry",
            )
        })?;
        headers.insert(header::AUTHORIZATION, value);
    }
    for (name, value) in &spec.headers {
        let wrong = || {
            let name = name.escape_debug();
            Error::invalid("headers", format!("the header `{name}` cannot be set"))
        };
        let header = HeaderName::try_from(name)
            .ok()
            .filter(|name| !RESERVED.contains(&name.as_str()))
            .ok_or_else(wrong)?;
        headers.insert(header, secret(value.expose_secret()).ok_or_else(wrong)?);
    }
    Ok(headers)
}

/// Reads `options`: `generation`, an object from upstream model names to `text` or `multimodal`.
fn generation(options: &Map<String, Value>) -> Result<HashMap<String, Generation>> {
    let mut generation = HashMap::new();
    for (key, value) in options {
        let ("generation", Value::Object(models)) = (key.as_str(), value) else {
            let key = key.escape_debug();
            return Err(Error::invalid(
                "options",
                format!(
                    "`options.{key}` is not accepted: dashscope knows `generation`, an object from model names to `text` or `multimodal`"
                ),
            ));
        };
        for (model, path) in models {
            let path = match path.as_str() {
                Some("text") => Generation::Text,
                Some("multimodal") => Generation::Multimodal,
                _ => {
                    let model = model.escape_debug();
                    return Err(Error::invalid(
                        "options",
                        format!("`options.generation.{model}` must be `text` or `multimodal`"),
                    ));
                }
            };
            generation.insert(model.clone(), path);
        }
    }
    Ok(generation)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::provider::transport::{HyperTransport, TransportConfig};

    fn read(edit: impl FnOnce(&mut ProviderSpec)) -> Result<Config> {
        let transport = HyperTransport::new(&TransportConfig::default())?;
        let mut spec = ProviderSpec::new("aliyun", Arc::new(transport));
        edit(&mut spec);
        Config::new(&spec)
    }

    #[test]
    fn a_wrong_base_url_is_refused_at_the_start() {
        for wrong in [
            "",
            "dashscope.aliyuncs.com",
            "ftp://dashscope.aliyuncs.com",
            "https://user:pass@dashscope.aliyuncs.com/api/v1",
            "https://dashscope.aliyuncs.com/api/v1?key=x",
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
        ] {
            let error = read(|spec| spec.base_url = Some(wrong.into())).unwrap_err();
            assert_eq!(error.param(), Some("base_url"), "{wrong}");
        }
        let slash = "https://dashscope-intl.aliyuncs.com/api/v1/";
        let config = read(|spec| spec.base_url = Some(slash.into())).unwrap();
        assert_eq!(
            config.base_url,
            "https://dashscope-intl.aliyuncs.com/api/v1"
        );
        assert_eq!(read(|_| ()).unwrap().base_url, DEFAULT_BASE_URL);
    }

    #[test]
    fn headers_are_sent_unless_they_are_the_adapters() {
        let with = |name: &str, value: &str| {
            read(|spec| {
                spec.headers.insert(name.into(), value.into());
            })
        };
        let config = with("X-DashScope-WorkSpace", "ws-1").unwrap();
        assert!(config.headers["x-dashscope-workspace"].is_sensitive());
        for (name, value) in [
            ("X-DashScope-SSE", "enable"),
            ("a b", "x"),
            ("x-ok", "line\nbreak"),
        ] {
            assert_eq!(with(name, value).unwrap_err().param(), Some("headers"));
        }
        let key = read(|spec| spec.api_key = Some("a\nb".into()));
        assert_eq!(key.unwrap_err().param(), Some("api_key"));
    }

    #[test]
    fn options_bind_models() {
        let with = |json: &str| read(|spec| spec.options = serde_json::from_str(json).unwrap());
        let config = with(r#"{"generation":{"my-model":"multimodal"}}"#).unwrap();
        assert_eq!(
            config.generation.get("my-model"),
            Some(&Generation::Multimodal)
        );
        for wrong in [
            r#"{"generation":{"m":"audio"}}"#,
            r#"{"generation":"text"}"#,
            r#"{"x":1}"#,
        ] {
            assert_eq!(with(wrong).unwrap_err().param(), Some("options"), "{wrong}");
        }
    }
}
