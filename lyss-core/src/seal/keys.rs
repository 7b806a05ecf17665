//! From the configuration to the keys.

use std::sync::Arc;

use super::{SealKey, SealRing, SealedMemories, SealedReplies, SealedSessions};
use crate::{
    config::{DataConfig, Secret},
    error::{Error, Result},
    idempotency::SharedIdempotencyStore,
    secret_file::{LENGTH, SecretFile},
    session::SharedSessionStore,
};

const FILE: SecretFile = SecretFile {
    file: "encryption_key",
    what: "encryption key",
    key: "data.encryption_key",
    when_removed: "the providers that were set up through the admin API need their keys anew",
};

/// What is done with the content of conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// It is stored as it is, and none was ever sealed.
    Clear,
    /// It is stored as it is; what was sealed is opened.
    Opened,
    /// It is sealed.
    Sealed,
}

/// The keys of a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// All of them. Provider keys are always sealed.
    pub ring: SealRing,
    /// What is done with conversations.
    pub content: Content,
}

impl Keys {
    /// The keys that a configuration names; without one, a key in a file of the data directory, made if it is missing.
    ///
    /// # Errors
    /// `invalid_value` for a key that is none, and as [`SecretFile::load_or_create`].
    pub fn load(data: &DataConfig) -> Result<Self> {
        let parse = |key: &'static str, secret: &Secret| {
            SealKey::parse(secret.expose())
                .map_err(|why| Error::invalid(key, format!("`{key}`: the value {why}")))
        };
        let mut others = data
            .old_encryption_keys
            .iter()
            .map(|secret| parse("data.old_encryption_keys", secret))
            .collect::<Result<Vec<_>>>()?;
        let content = match (&data.encryption_key, others.is_empty()) {
            (Some(_), _) => Content::Sealed,
            (None, false) => Content::Opened,
            (None, true) => Content::Clear,
        };
        let current = match &data.encryption_key {
            Some(secret) => {
                // What was sealed before there was a configured key.
                if let Some(secret) = FILE.load_if_there(data.path())? {
                    others.push(of_file(&secret)?);
                }
                parse("data.encryption_key", secret)?
            }
            None => of_file(&FILE.load_or_create(data.path())?)?,
        };
        others.retain(|key| key.id() != current.id());
        Ok(Self {
            ring: SealRing::new(current, others),
            content,
        })
    }

    /// The store with its content sealed, if it is to be.
    pub fn sessions(&self, below: SharedSessionStore) -> SharedSessionStore {
        match self.seals() {
            Some(seals) => Arc::new(SealedSessions::new(below, self.ring.clone(), seals)),
            None => below,
        }
    }

    /// The store with its replies sealed, if they are to be.
    pub fn replies(&self, below: SharedIdempotencyStore) -> SharedIdempotencyStore {
        match self.seals() {
            Some(seals) => Arc::new(SealedReplies::new(below, self.ring.clone(), seals)),
            None => below,
        }
    }

    /// What seals memories. Without a configured key, it does nothing to what is in the clear.
    pub fn memories(&self) -> SealedMemories {
        SealedMemories::new(self.ring.clone(), self.content == Content::Sealed)
    }

    /// Whether new content is sealed; `None` if there cannot be any that was.
    fn seals(&self) -> Option<bool> {
        match self.content {
            Content::Clear => None,
            Content::Opened => Some(false),
            Content::Sealed => Some(true),
        }
    }
}

fn of_file(secret: &[u8]) -> Result<SealKey> {
    let secret: &[u8; LENGTH] = secret
        .try_into()
        .map_err(|_| Error::invalid(FILE.key, "the encryption key file does not hold 32 bytes"))?;
    Ok(SealKey::new(secret))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const TWO: &str = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_configured_key_takes_the_files_place_which_still_opens() {
        let directory = tempfile::tempdir().unwrap();
        let mut data = DataConfig {
            dir: Some(directory.path().to_owned()),
            ..DataConfig::default()
        };
        let made = Keys::load(&data).unwrap();
        assert_eq!(made.content, Content::Clear);
        let file = made.ring.current().id().to_owned();
        assert_eq!(Keys::load(&data).unwrap().ring.current().id(), file);

        data.encryption_key = Some(Secret::new(ONE));
        let configured = Keys::load(&data).unwrap();
        assert_eq!(configured.content, Content::Sealed);
        assert_ne!(configured.ring.current().id(), file);
        assert!(configured.ring.key(&file).is_some());

        data.encryption_key = Some(Secret::new(TWO));
        data.old_encryption_keys = vec![Secret::new(ONE), Secret::new(TWO)];
        let rotated = Keys::load(&data).unwrap();
        assert!(rotated.ring.key(configured.ring.current().id()).is_some());
        assert_eq!(rotated.ring.ids().count(), 3);

        data.encryption_key = None;
        assert_eq!(Keys::load(&data).unwrap().content, Content::Opened);
    }
}
