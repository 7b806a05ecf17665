//! Making, listing, changing, rotating and revoking keys.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{
    key::{self, KeyHasher, KeyRecord},
    settings::{KeyChanges, NewKey},
};
use crate::{
    database::Database,
    error::{Error, ErrorKind, Result},
};

/// How long the old secret of a rotated key may go on working.
pub const MAX_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often a change is made anew because another one came in between.
const CHANGES: usize = 5;

/// A key just made, or made anew. The secret is nowhere else: show it now.
#[derive(Debug)]
pub struct CreatedKey {
    /// The public id.
    pub id: String,
    /// The key itself, `lyss_<id>_<secret>`.
    pub secret: SecretString,
}

/// The keys in the database.
#[derive(Debug, Clone)]
pub struct KeyStore {
    database: Database,
    hasher: KeyHasher,
}

impl KeyStore {
    /// The keys of a migrated database, hashed under a pepper.
    pub fn new(database: Database, hasher: KeyHasher) -> Self {
        Self { database, hasher }
    }

    /// Checks that the keys in use were hashed under this pepper: under another one each of them would be refused. A
    /// database that knows of none, or has no key in use, takes this one for its own.
    ///
    /// # Errors
    /// `invalid_value` (param `auth.pepper`) if it is another one; `store_unavailable`.
    pub async fn check_pepper(&self) -> Result<()> {
        let own = self.hasher.check_value();
        if self.database.pepper_in_use(&own).await? == own {
            return Ok(());
        }
        Err(Error::invalid(
            "auth.pepper",
            "the API keys in the database were hashed under another pepper, so that none of them would be accepted: \
             restore `auth.pepper`, or the file `pepper` in the data directory; if it is lost, revoke every key with \
             `lyss keys revoke` and make new ones",
        ))
    }

    /// Makes a key.
    ///
    /// # Errors
    /// `invalid_value` with the member's name, or as [`check_pepper`](Self::check_pepper); `store_unavailable`.
    pub async fn create(&self, new: NewKey) -> Result<CreatedKey> {
        new.check()?;
        self.check_pepper().await?;
        let (id, secret) = key::generate()?;
        let hash = self.hasher.hash(secret.expose_secret());
        self.database.insert_key(&id, &hash, &new).await?;
        Ok(CreatedKey { id, secret })
    }

    /// All keys, revoked and expired ones too, oldest first.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn list(&self) -> Result<Vec<KeyRecord>> {
        self.database.list_keys().await
    }

    /// One key.
    ///
    /// # Errors
    /// `not_found` if no key has the id; `store_unavailable`.
    pub async fn get(&self, id: &str) -> Result<KeyRecord> {
        self.database.key(id).await?.ok_or_else(no_key)
    }

    /// Changes what a key may use and spend; every instance knows within a second. Gives the key as it is then.
    ///
    /// # Errors
    /// `invalid_value` with the member's name, or for a key that is revoked; `not_found` if no key has the id;
    /// `store_unavailable`, also if other changes of the key come in between all the time.
    pub async fn change(&self, id: &str, changes: &KeyChanges) -> Result<KeyRecord> {
        for _ in 0..CHANGES {
            let record = self.get(id).await?;
            if record.revoked_ms.is_some() {
                return Err(revoked());
            }
            let settings = record.settings().changed(changes);
            settings.check()?;
            let revision = record.revision;
            if self.database.update_key(id, revision, &settings).await? {
                return self.get(id).await;
            }
        }
        Err(Error::new(
            ErrorKind::StoreUnavailable,
            "the key is being changed by others; try again",
        ))
    }

    /// Gives a key a new secret. The old one goes on working for `grace`; one before that ends now.
    ///
    /// # Errors
    /// `invalid_value` if `grace` is above [`MAX_GRACE`], for a key that is revoked, or as
    /// [`check_pepper`](Self::check_pepper); `not_found` if no key has the id; `store_unavailable`.
    pub async fn rotate(&self, id: &str, grace: Duration) -> Result<CreatedKey> {
        if grace > MAX_GRACE {
            return Err(Error::invalid("grace", "`grace` must be at most 365 days"));
        }
        // A made-up id must not get into a key.
        if self.get(id).await?.revoked_ms.is_some() {
            return Err(revoked());
        }
        self.check_pepper().await?;
        let secret = key::generate_for(id)?;
        let hash = self.hasher.hash(secret.expose_secret());
        if !self.database.rotate_key(id, &hash, grace).await? {
            return Err(revoked());
        }
        let id = id.to_owned();
        Ok(CreatedKey { id, secret })
    }

    /// Revokes a key, for good; every instance refuses it within a second. Revoking it again changes nothing.
    ///
    /// # Errors
    /// `not_found` if no key has the id; `store_unavailable`.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        match self.database.revoke_key(id).await? {
            true => Ok(()),
            false => Err(no_key()),
        }
    }

    pub(super) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The number that rises with every change of the table.
    pub(super) async fn version(&self) -> Result<i64> {
        self.database.config_version("api_keys").await
    }
}

fn no_key() -> Error {
    Error::new(ErrorKind::NotFound, "no API key has this id").with_param("id")
}

fn revoked() -> Error {
    Error::invalid("id", "this API key is revoked for good; create a new one")
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::database::testing;

    fn under(database: &Database, pepper: u8) -> KeyStore {
        KeyStore::new(database.clone(), KeyHasher::new(&[pepper; 32]).unwrap())
    }

    async fn another_pepper_is_noticed(database: Database) {
        let (own, other) = (under(&database, 7), under(&database, 8));
        // While no key is in use, any pepper will do.
        other.check_pepper().await.unwrap();
        own.check_pepper().await.unwrap();
        let key = own.create(NewKey::default()).await.unwrap();
        own.check_pepper().await.unwrap();
        for refused in [
            other.check_pepper().await.unwrap_err(),
            other.create(NewKey::default()).await.unwrap_err(),
            other.rotate(&key.id, Duration::ZERO).await.unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::InvalidValue);
            assert_eq!(refused.param(), Some("auth.pepper"));
            assert!(refused.message().contains("the file `pepper`"), "{refused}");
        }
        own.rotate(&key.id, Duration::ZERO).await.unwrap();
        assert!(database.known_keys().await.unwrap().is_empty());
        // The way out where it is lost.
        other.revoke(&key.id).await.unwrap();
        other.create(NewKey::default()).await.unwrap();
        other.check_pepper().await.unwrap();
        own.check_pepper().await.unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_pepper_is_noticed_on_postgres() {
        another_pepper_is_noticed(testing::postgres().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_pepper_is_noticed_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        another_pepper_is_noticed(testing::sqlite(directory.path()).await).await;
    }
}
