//! Making, listing and revoking keys.

use secrecy::{ExposeSecret, SecretString};

use super::key::{self, KeyHasher, KeyRecord};
use crate::{
    database::Database,
    error::{Error, Result},
};

/// What a new key is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    /// The user that it speaks for; `None` if its calls may name one.
    pub user_id: Option<String>,
    /// What the operator calls it; may be empty.
    pub name: String,
    /// Whether it opens the admin surface.
    pub admin: bool,
    /// Models that it is limited to; `None` for all.
    pub models: Option<Vec<String>>,
    /// Requests in any 60 s; `None` for the default limit.
    pub rpm: Option<u64>,
    /// Tokens in any 60 s; `None` for the default limit.
    pub tpm: Option<u64>,
    /// When it ends, in milliseconds since the Unix epoch; `None` for never.
    pub expires_ms: Option<i64>,
}

/// A key just made. The secret is nowhere else: show it now.
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

    /// Makes a key.
    ///
    /// # Errors
    /// `invalid_value` with the member's name; `store_unavailable`.
    pub async fn create(&self, new: NewKey) -> Result<CreatedKey> {
        check(&new)?;
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

    /// Revokes a key, for good; every instance refuses it within a second. Revoking it again changes nothing.
    ///
    /// # Errors
    /// `not_found` if no key has the id; `store_unavailable`.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        self.database.revoke_key(id).await
    }

    pub(super) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The number that rises with every change of the table.
    pub(super) async fn version(&self) -> Result<i64> {
        self.database.config_version("api_keys").await
    }
}

fn check(new: &NewKey) -> Result<()> {
    let empty = |text: &str| text.is_empty() || text.chars().any(char::is_control);
    if new.user_id.as_deref().is_some_and(empty) {
        return Err(Error::invalid(
            "user_id",
            "`user_id` must not be empty, nor contain control characters",
        ));
    }
    if new.name.chars().any(char::is_control) {
        return Err(Error::invalid(
            "name",
            "`name` must not contain control characters",
        ));
    }
    if new.models.iter().flatten().any(|model| empty(model)) {
        return Err(Error::invalid(
            "models",
            "a model's name must not be empty, nor contain control characters",
        ));
    }
    for (member, limit) in [("rpm", new.rpm), ("tpm", new.tpm)] {
        if limit.is_some_and(|limit| limit == 0 || i64::try_from(limit).is_err()) {
            return Err(Error::invalid(
                member,
                format!("`{member}` must be at least 1; leave it out for the default"),
            ));
        }
    }
    Ok(())
}
