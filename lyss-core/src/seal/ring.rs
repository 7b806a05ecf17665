//! The keys in use, and the form of what they seal.
//!
//! ```text
//! lyss.sealed.1.<key id>.<nonce, text and tag in base64url>
//! ```
//!
//! Text, so that it fits wherever the clear text did; no JSON begins so. Where something lies is sealed in with it: it
//! opens nowhere else.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::key::{ID, OVERHEAD, SealKey};

const PREFIX: &str = "lyss.sealed.1.";

/// Whether this is of the form of something sealed.
pub(crate) fn is_sealed(stored: &[u8]) -> bool {
    stored.starts_with(PREFIX.as_bytes())
}

/// Where something lies: what it is and whose, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(Vec<u8>);

impl Place {
    /// The place of these parts, each after its length: no two lists of parts are the same place.
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut place = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            place.extend_from_slice(&(part.len() as u64).to_le_bytes());
            place.extend_from_slice(part);
        }
        Self(place)
    }
}

/// Why something sealed cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The key of this id is not in the ring.
    UnknownKey(String),
    /// It was changed, moved from its place, or never sealed by this key.
    Altered,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(id) => write!(
                f,
                "it is sealed with the key {id}, which is neither data.encryption_key nor one of \
                 data.old_encryption_keys"
            ),
            Self::Altered => f.write_str("it was altered, or does not belong where it lies"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// The key that seals, and others that still open. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct SealRing(Arc<Keys>);

#[derive(Debug)]
struct Keys {
    current: SealKey,
    others: Vec<SealKey>,
}

impl SealRing {
    /// A ring of a key that seals and keys that only open.
    pub fn new(current: SealKey, others: Vec<SealKey>) -> Self {
        Self(Arc::new(Keys { current, others }))
    }

    /// The key that seals.
    pub fn current(&self) -> &SealKey {
        &self.0.current
    }

    /// The key of an id.
    pub fn key(&self, id: &str) -> Option<&SealKey> {
        std::iter::once(&self.0.current)
            .chain(&self.0.others)
            .find(|key| key.id() == id)
    }

    /// The ids of all keys, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.0.current)
            .chain(&self.0.others)
            .map(SealKey::id)
    }

    /// Seals a text for a place.
    pub fn seal(&self, place: &Place, clear: &[u8]) -> String {
        let key = &self.0.current;
        // Larger than the cipher takes is larger than memory.
        let sealed = key.seal(&place.0, clear).unwrap_or_default();
        let mut text = String::with_capacity(PREFIX.len() + ID + 1 + sealed.len() / 3 * 4 + 4);
        text.push_str(PREFIX);
        text.push_str(key.id());
        text.push('.');
        BASE64.encode_string(sealed, &mut text);
        text
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let rest = sealed
            .strip_prefix(PREFIX.as_bytes())
            .ok_or(Unreadable::Altered)?;
        let (id, rest) = rest.split_at_checked(ID).ok_or(Unreadable::Altered)?;
        let id = std::str::from_utf8(id).map_err(|_| Unreadable::Altered)?;
        let text = rest.strip_prefix(b".").ok_or(Unreadable::Altered)?;
        let key = self
            .key(id)
            .ok_or_else(|| Unreadable::UnknownKey(id.to_owned()))?;
        let bytes = BASE64.decode(text).map_err(|_| Unreadable::Altered)?;
        if bytes.len() < OVERHEAD {
            return Err(Unreadable::Altered);
        }
        key.open(&place.0, &bytes).ok_or(Unreadable::Altered)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> SealKey {
        SealKey::new(&[n; 32])
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_only() {
        let ring = SealRing::new(key(1), vec![]);
        let place = |user: &str, id: &str| Place::new(&[user.as_bytes(), id.as_bytes()]);
        let sealed = ring.seal(&place("ab", "c"), b"hello");
        assert!(is_sealed(sealed.as_bytes()) && !sealed.contains("hello"));
        assert_eq!(
            ring.open(&place("ab", "c"), sealed.as_bytes()).unwrap(),
            b"hello"
        );
        for elsewhere in [place("a", "bc"), place("ab", "d"), place("", "abc")] {
            let opened = ring.open(&elsewhere, sealed.as_bytes());
            assert_eq!(opened, Err(Unreadable::Altered));
        }
        assert_eq!(
            sealed,
            ring.seal(&place("ab", "c"), b"hello"),
            "a repeated write"
        );
        let other = ring.seal(&place("ab", "d"), b"hello");
        assert_ne!(
            sealed[40..70],
            other[40..70],
            "places do not show equal texts"
        );
    }

    #[test]
    fn old_keys_open_and_the_current_one_seals() {
        let place = Place::new(&[b"x"]);
        let old = SealRing::new(key(1), vec![]).seal(&place, b"old");
        let rotated = SealRing::new(key(2), vec![key(1)]);
        assert_eq!(rotated.open(&place, old.as_bytes()).unwrap(), b"old");
        let new = rotated.seal(&place, b"new");
        assert!(new.contains(key(2).id()));
        let without = SealRing::new(key(2), vec![]);
        let unknown = Unreadable::UnknownKey(key(1).id().to_owned());
        assert!(unknown.to_string().contains(key(1).id()));
        assert_eq!(without.open(&place, old.as_bytes()), Err(unknown));
    }

    /// So that what is stored today is read tomorrow.
    #[test]
    fn the_form_stays_the_same() {
        let ring = SealRing::new(
            SealKey::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
            vec![],
        );
        let sealed = "lyss.sealed.1.eea97a5a.ivoVipkTgas56jjISoQX95OmFbBpOWKt2cTDkm9ab8Bm8Gyt0Ct8nWVvG-c5QwouCAcrWJQUzA";
        let place = Place::new(&[b"message", b"u1", b"s1"]);
        assert_eq!(ring.seal(&place, b"{\"role\":\"user\"}"), sealed);
        assert_eq!(
            ring.open(&place, sealed.as_bytes()).unwrap(),
            b"{\"role\":\"user\"}"
        );
    }

    #[test]
    fn keys_are_32_bytes_that_nobody_guesses() {
        let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let id = SealKey::parse(good).unwrap().id().to_owned();
        assert_eq!(
            SealKey::parse(&format!(" {}\n", good.trim_end_matches('=')))
                .unwrap()
                .id(),
            id
        );
        for (bad, why) in [
            ("", "has 0 bytes"),
            ("c2hvcnQ=", "has 5 bytes"),
            ("not base64 at all!", "not base64"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "guess"),
        ] {
            let error = SealKey::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
        assert!(!format!("{:?}", SealKey::parse(good).unwrap()).contains("AAEC"));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(clear: Vec<u8>, place: Vec<u8>) {
            let ring = SealRing::new(key(1), vec![]);
            let place = Place::new(&[&place]);
            let sealed = ring.seal(&place, &clear);
            prop_assert_eq!(ring.open(&place, sealed.as_bytes()).unwrap(), clear);
        }

        #[test]
        fn a_changed_character_is_noticed(clear: Vec<u8>, at: prop::sample::Index, to: u8) {
            let ring = SealRing::new(key(1), vec![]);
            let place = Place::new(&[b"x"]);
            let mut sealed = ring.seal(&place, &clear).into_bytes();
            let at = at.index(sealed.len());
            prop_assume!(sealed[at] != to);
            sealed[at] = to;
            prop_assert!(ring.open(&place, &sealed).is_err());
        }
    }
}
