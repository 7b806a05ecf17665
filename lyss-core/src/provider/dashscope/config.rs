//! How an account is reached.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::{Map, Value};

use super::model::Generation;
use crate::error::{Error, Result};

/// Where the China (Beijing) region is reached. Keys, models and prices belong to a region, so that another one is a
/// matter of configuration, never derived from the key.
pub const DEFAULT_BASE_URL: &str = "https://dashscope.aliyuncs.com/api/v1";

/// What a DashScope account is configured with.
#[derive(Debug, Clone)]
pub struct Config {
    base_url: String,
    pub(super) headers: HeaderMap,
    pub(super) generation: HashMap<String, Generation>,
}

impl Config {
    /// An account at a base URL, by default [`DEFAULT_BASE_URL`].
    ///
    /// # Errors
    /// `invalid_value` with the parameter `base_url`.
    pub fn new(base_url: Option<&str>) -> Result<Self> {
        let base_url = base_url.unwrap_or(DEFAULT_BASE_URL).trim_end_matches('/');
        let wrong = |why: &str| Error::invalid("base_url", format!("`base_url` {why}"));
        let uri: Uri = base_url.parse().map_err(|_| wrong("is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(wrong("must begin with https:// or http:// and name a host"));
        }
        if uri.query().is_some()
            || uri
                .authority()
                .is_some_and(|host| host.as_str().contains('@'))
        {
            return Err(wrong("must have neither a query nor credentials"));
        }
        if uri.path().contains("/compatible-mode/") {
            return Err(wrong(
                "is the OpenAI-compatible one: end it in /api/v1, or use `preset: dashscope_compatible`",
            ));
        }
        Ok(Self {
            base_url: base_url.to_owned(),
            headers: HeaderMap::new(),
            generation: HashMap::new(),
        })
    }

    /// The base URL, without a trailing slash.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Adds a header to every call, such as `X-DashScope-WorkSpace` or `X-DashScope-DataInspection`. Its value is
    /// treated as a secret.
    ///
    /// # Errors
    /// `invalid_value` with the parameter `headers`.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                "headers",
                format!("the header `{}` cannot be sent", name.escape_debug()),
            )
        };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        self.headers.insert(header, value);
        Ok(self)
    }

    /// Binds a model to a generation path, where its name does not tell. It is then asked on this path only.
    pub fn with_generation(mut self, model: impl Into<String>, generation: Generation) -> Self {
        self.generation.insert(model.into(), generation);
        self
    }

    /// Reads the provider's free-form `options`: `generation`, an object from upstream model names to `text` or
    /// `multimodal`.
    ///
    /// # Errors
    /// `invalid_value` with the parameter `options`.
    pub fn with_options(mut self, options: &Map<String, Value>) -> Result<Self> {
        let wrong = |what: String| Error::invalid("options", what);
        for (key, value) in options {
            let ("generation", Value::Object(models)) = (key.as_str(), value) else {
                return Err(wrong(format!(
                    "`options.{}` is not known to dashscope; accepted: generation, an object from model names to text or multimodal",
                    key.escape_debug()
                )));
            };
            for (model, path) in models {
                let generation = match path.as_str() {
                    Some("text") => Generation::Text,
                    Some("multimodal") => Generation::Multimodal,
                    _ => {
                        return Err(wrong(format!(
                            "`options.generation.{}` must be text or multimodal",
                            model.escape_debug()
                        )));
                    }
                };
                self.generation.insert(model.clone(), generation);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
            assert_eq!(
                Config::new(Some(wrong)).unwrap_err().param(),
                Some("base_url"),
                "{wrong}"
            );
        }
        let config = Config::new(Some("https://dashscope-intl.aliyuncs.com/api/v1/")).unwrap();
        assert_eq!(
            config.base_url(),
            "https://dashscope-intl.aliyuncs.com/api/v1"
        );
    }

    #[test]
    fn options_bind_models() {
        let read = |json: &str| {
            Config::new(None)
                .unwrap()
                .with_options(&serde_json::from_str(json).unwrap())
        };
        let config = read(r#"{"generation":{"my-model":"multimodal"}}"#).unwrap();
        assert_eq!(
            config.generation.get("my-model"),
            Some(&Generation::Multimodal)
        );
        for wrong in [
            r#"{"generation":{"m":"audio"}}"#,
            r#"{"generation":"text"}"#,
            r#"{"x":1}"#,
        ] {
            assert_eq!(read(wrong).unwrap_err().param(), Some("options"), "{wrong}");
        }
    }
}
