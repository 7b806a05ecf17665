//! Keys through the admin API. Only an admin gets here, and no key changes itself.

use std::time::Duration;

use super::Engine;
use crate::{
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey},
    error::{Error, ErrorKind, Result},
    types::{CallContext, Principal},
};

impl Engine {
    pub(super) async fn list_keys(&self, context: &CallContext) -> Result<Vec<ApiKey>> {
        self.admin(context).await?;
        let records = self.0.key_store.list().await?;
        Ok(records.iter().map(ApiKey::from).collect())
    }

    pub(super) async fn get_key(&self, context: &CallContext, id: &str) -> Result<ApiKey> {
        self.admin(context).await?;
        Ok(ApiKey::from(&self.0.key_store.get(id).await?))
    }

    pub(super) async fn make_key(&self, context: &CallContext, new: NewKey) -> Result<IssuedKey> {
        let admin = self.admin(context).await?;
        let created = self.0.key_store.create(new).await?;
        self.changed(&admin, &created.id, "created").await;
        Ok(IssuedKey {
            key: ApiKey::from(&self.0.key_store.get(&created.id).await?),
            secret: created.secret,
        })
    }

    pub(super) async fn change_key_of(
        &self,
        context: &CallContext,
        id: &str,
        changes: &KeyChanges,
    ) -> Result<ApiKey> {
        let admin = self.admin_for_other(context, id).await?;
        let record = self.0.key_store.change(id, changes).await?;
        self.changed(&admin, id, "changed").await;
        Ok(ApiKey::from(&record))
    }

    pub(super) async fn rotate_key_of(
        &self,
        context: &CallContext,
        id: &str,
        grace: Duration,
    ) -> Result<IssuedKey> {
        let admin = self.admin_for_other(context, id).await?;
        let rotated = self.0.key_store.rotate(id, grace).await?;
        self.changed(&admin, id, "rotated").await;
        Ok(IssuedKey {
            key: ApiKey::from(&self.0.key_store.get(id).await?),
            secret: rotated.secret,
        })
    }

    pub(super) async fn revoke_key_of(&self, context: &CallContext, id: &str) -> Result<()> {
        let admin = self.admin_for_other(context, id).await?;
        self.0.key_store.revoke(id).await?;
        self.changed(&admin, id, "revoked").await;
        Ok(())
    }

    /// An admin, but not with the key that is to be changed.
    async fn admin_for_other(&self, context: &CallContext, id: &str) -> Result<Principal> {
        let admin = self.admin(context).await?;
        if admin.api_key_id.as_deref() == Some(id) {
            return Err(Error::new(
                ErrorKind::AdminRequired,
                "a key cannot change itself: use another admin key, or `lyss keys`",
            ));
        }
        Ok(admin)
    }

    /// Here it is in force at once; the other instances look within a second.
    async fn changed(&self, admin: &Principal, id: &str, what: &'static str) {
        tracing::info!(key = id, by = admin.api_key_id.as_deref(), "API key {what}");
        self.0.keys.catch_up().await;
    }
}
