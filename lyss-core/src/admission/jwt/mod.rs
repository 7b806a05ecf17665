//! Tokens of an identity provider (RFC 7519), signed with keys that it publishes (RFC 7517).
//!
//! ```text
//! keys    the published keys, and which algorithms each may be used with
//! source  where they are read from, and when
//! ```
//!
//! A token is checked with the keys that are known; the source is asked only when a token names a key that is not. A
//! source that is away makes no token wrong.

mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind as Wrong};
use serde_json::{Map, Value};
use tokio_util::sync::DropGuard;

use self::{
    keys::{KeySet, PublicKey},
    source::{KeySource, Looked},
};
use super::{Scope, Scopes};
use crate::{
    config::JwtConfig,
    error::{Error, ErrorKind, Result},
    types::chat::MAX_NAME,
};

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 << 10;

/// Whom a good token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The user.
    pub user_id: Arc<str>,
    /// What the token may be used for.
    pub scopes: Scopes,
}

/// Checks tokens.
#[derive(Debug)]
pub(crate) struct JwtVerifier {
    config: JwtConfig,
    source: Arc<KeySource>,
    _reading: DropGuard,
}

/// Whether this has the form of a token: three parts with dots between them, as no API key has.
pub(crate) fn is_token(presented: &str) -> bool {
    !presented.starts_with("lyss_") && presented.split('.').count() == 3
}

impl JwtVerifier {
    /// Begins to read the keys. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// `invalid_value` for a file that cannot be used; a URL that does not answer is tried on.
    pub fn start(config: &JwtConfig) -> Result<Self> {
        let (source, reading) = KeySource::start(config)?;
        Ok(Self {
            config: config.clone(),
            source,
            _reading: reading,
        })
    }

    /// What it was started with.
    pub fn config(&self) -> &JwtConfig {
        &self.config
    }

    /// Checks a token.
    ///
    /// # Errors
    /// `invalid_api_key`, `expired_api_key`; `auth_store_unavailable` if its key is not known here and the source
    /// cannot be asked.
    pub async fn verify(&self, token: &str) -> Result<Bearer> {
        if token.len() > LONGEST {
            return Err(invalid("it is too long"));
        }
        let header = decode_header(token).map_err(|_| invalid("it cannot be read"))?;
        if header.crit.is_some() {
            // None of them is understood here (RFC 7515, section 4.1.11).
            return Err(invalid("it has critical headers"));
        }
        let keys = self.source.keys();
        if let Some(checked) = self.check(token, header.kid.as_deref(), header.alg, &keys) {
            return checked;
        }
        match self.source.look().await {
            Looked::Keys(keys) => self
                .check(token, header.kid.as_deref(), header.alg, &keys)
                .unwrap_or_else(|| Err(invalid("it is signed with no key of the issuer's"))),
            Looked::Away => Err(Error::new(
                ErrorKind::AuthStoreUnavailable,
                "the keys of the token's issuer cannot be read and this one is not known here yet; try again",
            )),
        }
    }

    /// `None` if no key that is here may have signed it.
    fn check(
        &self,
        token: &str,
        kid: Option<&str>,
        algorithm: jsonwebtoken::Algorithm,
        keys: &KeySet,
    ) -> Option<Result<Bearer>> {
        let mut checked = None;
        for key in keys.candidates(kid, algorithm) {
            let claims = self.claims(token, key);
            let settled = !matches!(&claims, Err(Wrong::InvalidSignature));
            checked = Some(
                claims
                    .map_err(|wrong| said(&wrong))
                    .and_then(|claims| self.bearer(&claims)),
            );
            if settled {
                break;
            }
        }
        checked
    }

    fn claims(&self, token: &str, key: &PublicKey) -> Result<Map<String, Value>, Wrong> {
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = self.config.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_audience(&self.config.audience);
        validation.set_issuer(self.config.issuer.as_slice());
        decode(token, &key.key, &validation)
            .map(|token| token.claims)
            .map_err(jsonwebtoken::errors::Error::into_kind)
    }

    fn bearer(&self, claims: &Map<String, Value>) -> Result<Bearer> {
        let user = claims.get(&self.config.user_claim).and_then(Value::as_str);
        let user = user.filter(|user| {
            !user.is_empty() && user.len() <= MAX_NAME && !user.chars().any(char::is_control)
        });
        let user = user.ok_or_else(|| invalid("it names no user"))?;
        Ok(Bearer {
            user_id: user.into(),
            scopes: self.scopes(claims.get(&self.config.scope_claim)),
        })
    }

    /// The scopes that a claim names; a name that is none of ours opens nothing.
    fn scopes(&self, claim: Option<&Value>) -> Scopes {
        let names: Vec<&str> = match claim {
            None | Some(Value::Null) => return Scopes::CALLER,
            Some(Value::String(names)) => names.split_ascii_whitespace().collect(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => Vec::new(),
        };
        let scopes = Scopes::of_names(names.iter().copied()).without(Scope::Admin);
        match &self.config.admin_scope {
            Some(admin) if names.contains(&admin.as_str()) => Scopes::ALL,
            _ => scopes,
        }
    }
}

fn said(wrong: &Wrong) -> Error {
    match wrong {
        Wrong::ExpiredSignature => Error::new(
            ErrorKind::ExpiredApiKey,
            "this token has expired; get a new one from its issuer",
        ),
        Wrong::ImmatureSignature => invalid("it is not good yet (`nbf`)"),
        Wrong::InvalidIssuer => invalid("its issuer (`iss`) is another one"),
        Wrong::InvalidAudience => invalid("it is made for somebody else (`aud`)"),
        Wrong::MissingRequiredClaim(_) => invalid("it lacks `exp`, `iss` or `aud`"),
        _ => invalid("its signature or form is wrong"),
    }
}

/// Nothing of the token is repeated.
fn invalid(why: &'static str) -> Error {
    Error::new(
        ErrorKind::InvalidApiKey,
        format!("this token is not valid here: {why}"),
    )
}
