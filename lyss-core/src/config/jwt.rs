//! `auth.jwt`: tokens of an identity provider as the second way in.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, Section, non_empty};

/// `auth.jwt`. Only asymmetric signatures are accepted, and tokens that expire.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtConfig {
    /// A file with the keys that tokens are signed with (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// The URL of these keys. With both, the file's are good until the URL has been read.
    pub jwks_url: Option<String>,
    /// Who must have made a token (`iss`).
    pub issuer: Option<String>,
    /// Whom a token must be made for (`aud`), one of these.
    pub audience: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim with the scopes: a text with spaces between them, or a list. A token without it has all but `admin`.
    pub scope_claim: String,
    /// The scope that opens the admin surface; unset: no token does.
    pub admin_scope: Option<String>,
    /// How far the clocks of gateway and issuer may be apart.
    pub leeway: Duration,
    /// How often the keys are read again. A token with a key that is not known has them read sooner.
    pub refresh: Duration,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_file: None,
            jwks_url: None,
            issuer: None,
            audience: Vec::new(),
            user_claim: "sub".to_owned(),
            scope_claim: "scope".to_owned(),
            admin_scope: None,
            leeway: Duration::from_secs(30),
            refresh: Duration::from_secs(600),
        }
    }
}

impl Section for JwtConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.path("jwks_file", &mut self.jwks_file);
        r.url("jwks_url", &["https", "http"], &mut self.jwks_url);
        if !r.has("jwks_file") && !r.has("jwks_url") {
            r.require("jwks_url", "the URL of the issuer's keys, or jwks_file");
        }
        r.require("issuer", "the `iss` of good tokens");
        r.text("issuer", &mut self.issuer);
        r.require("audience", "a list of `aud`, one of which a good token has");
        r.items("audience", "a text", non_empty, &mut self.audience);
        r.text("user_claim", &mut self.user_claim);
        r.text("scope_claim", &mut self.scope_claim);
        r.text("admin_scope", &mut self.admin_scope);
        r.duration("leeway", &mut self.leeway);
        r.duration("refresh", &mut self.refresh);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::Config;

    #[test]
    fn issuer_audience_and_a_source_are_needed() {
        let parse = |jwt: &str| {
            let text = format!("auth: {{ jwt: {{ {jwt} }} }}");
            Config::parse("j.yaml", &text, &Default::default()).map(|loaded| loaded.config.auth.jwt)
        };
        let good = parse("jwks_file: k.json, issuer: i, audience: [a, b]")
            .unwrap()
            .unwrap();
        assert_eq!((good.audience.len(), good.user_claim.as_str()), (2, "sub"));
        assert_eq!(good.admin_scope, None);
        for bad in [
            "issuer: i, audience: [a]",
            "jwks_url: 'file:///k', issuer: i, audience: [a]",
            "jwks_file: f, audience: [a]",
            "jwks_file: f, issuer: i",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Config::default().auth.jwt, None);
    }
}
