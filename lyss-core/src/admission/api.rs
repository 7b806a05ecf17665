//! Keys as the admin API shows them: never a secret, but for one just made.

use std::sync::Arc;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{key::KeyRecord, scope::Scopes, settings::KeyBudget};
use crate::types::{OnDisconnect, log::rfc3339};

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public id.
    pub id: String,
    /// `active`, `expired` or `revoked`.
    pub state: KeyState,
    /// The user that calls with it are made for; `None` if they may name one.
    pub user_id: Option<Arc<str>>,
    /// What the operator calls it.
    pub name: String,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Models it is limited to; `None` for all.
    pub models: Option<Arc<[String]>>,
    /// Its own limit of requests in any 60 s.
    pub rpm: Option<u64>,
    /// Its own limit of tokens in any 60 s.
    pub tpm: Option<u64>,
    /// Its own limit of requests at once.
    pub concurrent: Option<u64>,
    /// What may be spent with it.
    pub budget: Option<KeyBudget>,
    /// What becomes of its calls when their caller goes away.
    pub on_disconnect: Option<OnDisconnect>,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// Until when the secret before its last rotation is good.
    pub previous_secret_until: Option<String>,
}

/// Whether a key is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is.
    Active,
    /// It was until its expiry.
    Expired,
    /// It was until it was revoked.
    Revoked,
}

/// A key just made, or rotated. The secret is nowhere else: show it now.
#[derive(Debug)]
pub struct IssuedKey {
    /// The key itself, `lyss_<id>_<secret>`.
    pub secret: SecretString,
    /// What it is.
    pub key: ApiKey,
}

impl KeyState {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl From<&KeyRecord> for ApiKey {
    fn from(record: &KeyRecord) -> Self {
        let now = crate::session::now_ms();
        let previous = record.previous.map(|previous| previous.until_ms);
        Self {
            id: record.id.to_string(),
            state: record.state(now),
            user_id: record.user_id.clone(),
            name: record.name.clone(),
            scopes: record.scopes,
            models: record.models.clone(),
            rpm: record.rpm,
            tpm: record.tpm,
            concurrent: record.concurrent,
            budget: record.budget.clone(),
            on_disconnect: record.on_disconnect,
            created_at: rfc3339(record.created_ms),
            expires_at: record.expires_ms.map(rfc3339),
            revoked_at: record.revoked_ms.map(rfc3339),
            previous_secret_until: previous.filter(|end| *end > now).map(rfc3339),
        }
    }
}

impl KeyRecord {
    /// Whether it is good at a time, in milliseconds since the Unix epoch.
    pub fn state(&self, at_ms: i64) -> KeyState {
        match (self.revoked_ms, self.expires_ms) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(end)) if end <= at_ms => KeyState::Expired,
            _ => KeyState::Active,
        }
    }
}
