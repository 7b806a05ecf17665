//! What a key is: `lyss_<id>_<secret>`.
//!
//! The id (12 characters) is public: it finds the row, stands in logs and in the admin API. The secret (43 characters of
//! base62, 256 bits) is shown once; kept is HMAC-SHA-256 of the whole key under the pepper. A slow hash would add
//! nothing, since a random secret of this length cannot be guessed.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;

use super::{
    scope::Scopes,
    settings::{KeyBudget, NewKey},
};
use crate::{
    error::{Error, ErrorKind, Result},
    types::{OnDisconnect, call::Principal},
};

const PREFIX: &str = "lyss_";
pub(super) const ID_LENGTH: usize = 12;
pub(super) const SECRET_LENGTH: usize = 43;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Bytes of a pepper, at least: a shorter one could be tried through.
pub(crate) const PEPPER_LENGTH: usize = 16;

/// A key as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public id.
    pub id: Arc<str>,
    /// The user that calls with this key are made for; `None` if they may name one.
    pub user_id: Option<Arc<str>>,
    /// What the operator calls it.
    pub name: String,
    /// Whether it opens the admin surface.
    pub admin: bool,
    /// What it may be used for; holds [`Scope::Admin`](super::Scope::Admin) if and only if `admin` is set.
    pub scopes: Scopes,
    /// Models it is limited to; `None` for all.
    pub models: Option<Arc<[String]>>,
    /// Its own limit of requests in any 60 s, in place of the default.
    pub rpm: Option<u64>,
    /// Its own limit of tokens in any 60 s, in place of the default.
    pub tpm: Option<u64>,
    /// Its own limit of requests at once, in place of the default.
    pub concurrent: Option<u64>,
    /// What may be spent with it.
    pub budget: Option<KeyBudget>,
    /// What becomes of its calls when their caller goes away; `None` for the gateway's default.
    pub on_disconnect: Option<OnDisconnect>,
    /// From when on it is no longer good, in milliseconds since the Unix epoch.
    pub expires_ms: Option<i64>,
    /// When it was revoked.
    pub revoked_ms: Option<i64>,
    /// When it was created.
    pub created_ms: i64,
    /// The secret before its rotation, as long as that is good or just has been.
    pub previous: Option<PreviousSecret>,
    /// Rises with every change.
    pub(crate) revision: i64,
    pub(crate) hash: [u8; 32],
}

/// The secret that a key had before its rotation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PreviousSecret {
    /// Until when it is good, in milliseconds since the Unix epoch.
    pub until_ms: i64,
    pub(crate) hash: [u8; 32],
}

impl KeyRecord {
    /// Who a call with this key is made for.
    pub fn principal(self: &Arc<Self>) -> Principal {
        Principal {
            user_id: self.user_id.clone(),
            api_key_id: Some(Arc::clone(&self.id)),
            scopes: self.scopes,
            models: self.models.clone(),
            key: Some(Arc::clone(self)),
        }
    }

    /// What the key is to be; for a change of some of it.
    pub(crate) fn settings(&self) -> NewKey {
        NewKey {
            user_id: self.user_id.as_deref().map(str::to_owned),
            name: self.name.clone(),
            admin: self.admin,
            scopes: Some(self.scopes),
            models: self.models.as_deref().map(<[String]>::to_vec),
            rpm: self.rpm,
            tpm: self.tpm,
            concurrent: self.concurrent,
            budget: self.budget.clone(),
            on_disconnect: self.on_disconnect,
            expires_ms: self.expires_ms,
        }
    }
}

/// Without the hashes.
impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("id", &self.id)
            .field("settings", &self.settings())
            .field("revoked_ms", &self.revoked_ms)
            .field("created_ms", &self.created_ms)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PreviousSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreviousSecret")
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// Hashes keys under the pepper: who has only the database cannot test guesses.
#[derive(Clone)]
pub struct KeyHasher(Hmac<Sha256>);

impl KeyHasher {
    /// A hasher under a pepper. All instances that share a database share the pepper.
    ///
    /// # Errors
    /// `invalid_value` for a pepper below 16 bytes.
    pub fn new(pepper: &[u8]) -> Result<Self> {
        let too_short = || {
            Error::invalid(
                "auth.pepper",
                format!("a pepper has at least {PEPPER_LENGTH} bytes"),
            )
        };
        if pepper.len() < PEPPER_LENGTH {
            return Err(too_short());
        }
        Hmac::new_from_slice(pepper)
            .map(Self)
            .map_err(|_| too_short())
    }

    /// By what the pepper is known again. No key has this text, so that it tells nothing of one.
    pub(super) fn check_value(&self) -> String {
        let hash = self.hash("lyss pepper");
        hash.iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    pub(super) fn hash(&self, key: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(key.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

/// The id in a key; `None` if this cannot be a key of ours, whatever the database says.
pub(super) fn id_of(presented: &str) -> Option<&str> {
    let (id, secret) = presented.strip_prefix(PREFIX)?.split_once('_')?;
    let well_formed = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    (well_formed(id, ID_LENGTH) && well_formed(secret, SECRET_LENGTH)).then_some(id)
}

/// A new id and the key that has it.
pub(super) fn generate() -> Result<(String, SecretString)> {
    let id = random_base62(ID_LENGTH)?;
    let key = generate_for(&id)?;
    Ok((id, key))
}

/// A new key with this id.
pub(super) fn generate_for(id: &str) -> Result<SecretString> {
    let secret = random_base62(SECRET_LENGTH)?;
    Ok(format!("{PREFIX}{id}_{secret}").into())
}

fn random_base62(length: usize) -> Result<String> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::new(ErrorKind::Internal, "the system gives no random bytes")
                .with_source(error.to_string())
        })?;
        // 248 is the last multiple of 62 in a byte: what is above would make the first characters likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let characters = fair.filter_map(|byte| BASE62.get(usize::from(byte % 62)));
        text.extend(
            characters
                .take(length - text.len())
                .map(|character| char::from(*character)),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn generated_keys_have_their_shape_and_differ() {
        let mut seen = std::collections::HashSet::new();
        let mut characters = std::collections::HashSet::new();
        for _ in 0..200 {
            let (id, key) = generate().unwrap();
            let key = key.expose_secret();
            assert_eq!(key.len(), 5 + 12 + 1 + 43);
            assert_eq!(id_of(key), Some(id.as_str()));
            characters.extend(key[18..].chars());
            assert!(seen.insert(key.to_owned()) && seen.insert(id));
        }
        assert_eq!(characters.len(), 62, "the whole alphabet is used");
    }

    #[test]
    fn the_hash_depends_on_key_and_pepper() {
        let (one, two) = (
            KeyHasher::new(&[1; 32]).unwrap(),
            KeyHasher::new(&[2; 32]).unwrap(),
        );
        assert_eq!(one.hash("a"), one.hash("a"));
        assert_ne!(one.hash("a"), one.hash("b"));
        assert_ne!(one.hash("a"), two.hash("a"));
        assert!(KeyHasher::new(b"").is_err());
        // RFC 4231, test case 1 (a key of 20 bytes).
        let rfc = KeyHasher::new(&[0x0b; 20]).unwrap().hash("Hi There");
        assert_eq!(rfc[..4], [0xb0, 0x34, 0x4c, 0x61]);
    }
}
