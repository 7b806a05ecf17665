//! Where a service lies.

use std::fmt;

use http::{Uri, uri::Scheme};

use crate::error::{Error, Result};

/// Where the API lies; OpenAI's SDKs are given the second.
const API: [&str; 2] = ["/api/v1", "/v1"];

/// The address of a service, split at what its API lies below.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Scheme, host and the path in front, without a slash at the end.
    root: String,
    /// The path of the API below that.
    api: &'static str,
}

impl Address {
    /// Reads an address, with the path of the API or without.
    ///
    /// # Errors
    /// `invalid_value` (param `url`).
    pub(super) fn parse(url: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                "url",
                "`url` must be the address of a Lyss service, such as http://127.0.0.1:8000, without credentials or a query",
            )
        };
        let uri: Uri = url.trim().parse().map_err(|_| wrong())?;
        let http = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if !http || authority.contains('@') || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        if uri.query().is_some() || url.contains('#') {
            return Err(wrong());
        }
        let path = uri.path().trim_end_matches('/');
        let found = API
            .into_iter()
            .find_map(|api| Some((path.strip_suffix(api)?, api)));
        let (front, api) = found.unwrap_or((path, API[1]));
        let scheme = uri.scheme_str().unwrap_or_default();
        Ok(Self {
            root: format!("{scheme}://{authority}{front}"),
            api,
        })
    }

    /// The URI of a path of the API.
    pub(super) fn api(&self, path: &str) -> Result<Uri> {
        uri(format!("{}{}{path}", self.root, self.api))
    }

    /// The URI of a path beside the API.
    pub(super) fn beside(&self, path: &str) -> Result<Uri> {
        uri(format!("{}{path}", self.root))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.root, self.api)
    }
}

/// Without the path: what a message needs to say which service is meant.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)
    }
}

fn uri(text: String) -> Result<Uri> {
    // What makes a URI too long is an id of the caller's.
    text.parse()
        .map_err(|_| Error::invalid("id", "this id is too long to be one"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_api_is_found_below_any_path() {
        for (url, models, health) in [
            (
                "http://h:8000",
                "http://h:8000/v1/models",
                "http://h:8000/health",
            ),
            (
                "http://h:8000/",
                "http://h:8000/v1/models",
                "http://h:8000/health",
            ),
            ("https://h/v1/", "https://h/v1/models", "https://h/health"),
            (
                "https://h/api/v1",
                "https://h/api/v1/models",
                "https://h/health",
            ),
            ("http://h/ai", "http://h/ai/v1/models", "http://h/ai/health"),
            (
                "http://h/ai/api/v1",
                "http://h/ai/api/v1/models",
                "http://h/ai/health",
            ),
            (
                "http://[::1]:80",
                "http://[::1]:80/v1/models",
                "http://[::1]:80/health",
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.api("/models").unwrap().to_string(), models);
            assert_eq!(address.beside("/health").unwrap().to_string(), health);
        }
        for wrong in [
            "",
            "h:8000",
            "/v1",
            "ftp://h",
            "http://",
            "http://:80",
            "http://u:p@h",
            "http://h?a=b",
            "http://h/#a",
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert_eq!(error.param(), Some("url"), "{wrong}");
        }
    }
}
