//! The keys that an issuer publishes.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;

/// Most keys that are taken from a set.
const MOST: usize = 100;
/// The least modulus of RSA, in bytes: 2,048 bits (RFC 7518, section 3.3).
const RSA_LEAST: usize = 256;

/// A key, and what it may be used with.
pub(super) struct PublicKey {
    id: Option<String>,
    pub key: DecodingKey,
    /// The algorithms of its kind, or the one that it is published for: a token does not choose.
    pub algorithms: Vec<Algorithm>,
}

/// What an issuer publishes.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<PublicKey>);

impl KeySet {
    /// Reads a set (RFC 7517, section 5). Keys for other uses, of unknown kinds and secret ones are passed over.
    ///
    /// # Errors
    /// Says why there is no key to be had.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set =
            serde_json::from_slice(json).map_err(|error| format!("is no set of keys: {error}"))?;
        let keys: Vec<PublicKey> = set
            .keys
            .into_iter()
            .filter_map(|key| PublicKey::of(&serde_json::from_value(key).ok()?))
            .take(MOST)
            .collect();
        if keys.is_empty() {
            return Err("holds no key that signatures can be checked with".to_owned());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token: the one that it names, or without a name all of the algorithm.
    pub fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a PublicKey> {
        self.0.iter().filter(move |key| match id {
            Some(id) => key.id.as_deref() == Some(id),
            None => key.algorithms.contains(&algorithm),
        })
    }
}

impl PublicKey {
    fn of(jwk: &Jwk) -> Option<Self> {
        if !matches!(
            jwk.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        ) {
            return None;
        }
        let kinds: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
                if modulus.iter().skip_while(|byte| **byte == 0).count() < RSA_LEAST {
                    return None;
                }
                &[
                    Algorithm::RS256,
                    Algorithm::RS384,
                    Algorithm::RS512,
                    Algorithm::PS256,
                    Algorithm::PS384,
                    Algorithm::PS512,
                ]
            }
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            _ => return None,
        };
        let algorithms: Vec<Algorithm> = match jwk.common.key_algorithm {
            None => kinds.to_vec(),
            Some(published) => {
                let named = published.to_string().parse().ok()?;
                kinds
                    .iter()
                    .copied()
                    .filter(|kind| *kind == named)
                    .collect()
            }
        };
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            id: jwk.common.key_id.clone(),
            key: DecodingKey::from_jwk(jwk).ok()?,
            algorithms,
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}
