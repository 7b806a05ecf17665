//! What a key may use and spend, as the operator sets it.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::scope::{Scope, Scopes};
use crate::{
    config::BudgetPeriod,
    error::{Error, Result},
    types::{OnDisconnect, Pico, log::rfc3339},
};

/// The longest name, user and model name of a key, in bytes.
const TEXT_MOST: usize = 256;
/// Models that a key may be limited to, at most.
const MODELS_MOST: usize = 1000;

/// What a new key is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewKey {
    /// The user that it speaks for; `None` if its calls may name one.
    pub user_id: Option<String>,
    /// What the operator calls it; may be empty.
    pub name: String,
    /// Whether it opens the admin surface; naming the scope `admin` does the same.
    pub admin: bool,
    /// What it may be used for; `None` for all but `admin`.
    pub scopes: Option<Scopes>,
    /// Models that it is limited to; `None` for all.
    pub models: Option<Vec<String>>,
    /// Requests in any 60 s; `None` for the default limit.
    pub rpm: Option<u64>,
    /// Tokens in any 60 s; `None` for the default limit.
    pub tpm: Option<u64>,
    /// Requests at once; `None` for the default limit.
    pub concurrent: Option<u64>,
    /// What may be spent with it; `None` for as much as its user may.
    pub budget: Option<KeyBudget>,
    /// What becomes of its calls when their caller goes away; `None` for the gateway's default.
    pub on_disconnect: Option<OnDisconnect>,
    /// When it ends, in milliseconds since the Unix epoch; `None` for never. In JSON `expires_at`, RFC 3339.
    #[serde(
        rename = "expires_at",
        serialize_with = "write_time",
        deserialize_with = "time"
    )]
    pub expires_ms: Option<i64>,
}

/// What may be spent with a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBudget {
    /// The amount of a period.
    pub amount: Pico,
    /// Its currency, three capital letters (ISO 4217).
    pub currency: Arc<str>,
    /// When it renews.
    pub period: BudgetPeriod,
}

/// What is to be different about a key; what is absent stays, what is `null` is taken away (RFC 7396).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyChanges {
    /// What the operator calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may be used for.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Option<Scopes>>,
    /// Models that it is limited to.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub models: Option<Option<Vec<String>>>,
    /// Requests in any 60 s.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub rpm: Option<Option<u64>>,
    /// Tokens in any 60 s.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Option<u64>>,
    /// Requests at once.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<Option<u64>>,
    /// What may be spent with it.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub budget: Option<Option<KeyBudget>>,
    /// What becomes of its calls when their caller goes away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<Option<OnDisconnect>>,
    /// When it ends (RFC 3339).
    #[serde(
        rename = "expires_at",
        serialize_with = "write_given_time",
        deserialize_with = "given_time",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_ms: Option<Option<i64>>,
}

/// A member that is there, `null` or not.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn write_time<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.map(rfc3339).serialize(serializer)
}

fn write_given_time<S: Serializer>(
    ms: &Option<Option<i64>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    write_time(&ms.flatten(), serializer)
}

fn given_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    time(deserializer).map(Some)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let time = text.map(|text| text.parse::<jiff::Timestamp>()).transpose();
    let time = time.map_err(|_| {
        serde::de::Error::custom("`expires_at` is not a time such as 2027-01-31T12:00:00Z")
    })?;
    Ok(time.map(jiff::Timestamp::as_millisecond))
}

impl NewKey {
    /// What the key opens.
    pub(crate) fn effective_scopes(&self) -> Scopes {
        let scopes = self.scopes.unwrap_or(Scopes::CALLER);
        match self.admin {
            true => scopes.with(Scope::Admin),
            false => scopes,
        }
    }

    /// These settings with the changes.
    pub(crate) fn changed(mut self, changes: &KeyChanges) -> Self {
        fn set<T: Clone>(member: &mut T, change: &Option<T>) {
            if let Some(change) = change {
                member.clone_from(change);
            }
        }
        if let Some(scopes) = changes.scopes {
            self.scopes = scopes;
            self.admin = scopes.is_some_and(|scopes| scopes.has(Scope::Admin));
        }
        set(&mut self.name, &changes.name);
        set(&mut self.models, &changes.models);
        set(&mut self.rpm, &changes.rpm);
        set(&mut self.tpm, &changes.tpm);
        set(&mut self.concurrent, &changes.concurrent);
        set(&mut self.budget, &changes.budget);
        set(&mut self.on_disconnect, &changes.on_disconnect);
        set(&mut self.expires_ms, &changes.expires_ms);
        self
    }

    /// Whether a key can be so.
    ///
    /// # Errors
    /// `invalid_value` with the member's name.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |text: &str| text.len() > TEXT_MOST || text.chars().any(char::is_control);
        let refused = |member: &'static str, why: String| Err(Error::invalid(member, why));
        if self
            .user_id
            .as_deref()
            .is_some_and(|user| user.is_empty() || wrong(user))
        {
            let why = format!("`user_id` has 1 to {TEXT_MOST} bytes and no control characters");
            return refused("user_id", why);
        }
        if wrong(&self.name) {
            let why = format!("`name` has at most {TEXT_MOST} bytes and no control characters");
            return refused("name", why);
        }
        let models = self.models.as_deref().unwrap_or_default();
        if models.len() > MODELS_MOST || models.iter().any(|model| model.is_empty() || wrong(model))
        {
            let why = format!(
                "`models` has at most {MODELS_MOST} names of 1 to {TEXT_MOST} bytes without control characters"
            );
            return refused("models", why);
        }
        for (member, limit) in [
            ("rpm", self.rpm),
            ("tpm", self.tpm),
            ("concurrent", self.concurrent),
        ] {
            if limit.is_some_and(|limit| limit == 0 || limit > LIMIT_MOST) {
                let why = format!(
                    "`{member}` must be from 1 to {LIMIT_MOST}; leave it out for the default"
                );
                return refused(member, why);
            }
        }
        if let Some(budget) = &self.budget {
            budget.check()?;
        }
        if let Some(OnDisconnect::DrainUntil(bounds)) = self.on_disconnect
            && bounds.seconds.is_none()
            && bounds.tokens.is_none()
        {
            let why = "`drain_until` needs `seconds`, `tokens` or both";
            return refused("on_disconnect", why.to_owned());
        }
        Ok(())
    }
}

/// The largest limit: far beyond what a gateway does, and exact as a number of Redis's scripts.
const LIMIT_MOST: u64 = 1_000_000_000_000;

impl KeyBudget {
    fn check(&self) -> Result<()> {
        if self.amount.0 < 0 || self.amount.to_row().is_none() {
            return Err(Error::invalid(
                "budget",
                "the amount of a budget must be from 0 to 9000000",
            ));
        }
        if self.currency.len() != 3 || !self.currency.bytes().all(|c| c.is_ascii_uppercase()) {
            return Err(Error::invalid(
                "budget",
                "the currency of a budget must be three capital letters such as USD",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changes(json: &str) -> KeyChanges {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn changes_are_written_as_they_are_read() {
        for json in [
            "{}",
            r#"{"rpm":null,"expires_at":null}"#,
            r#"{"name":"n","scopes":["chat"],"tpm":5,"expires_at":"2027-01-31T12:00:00.000Z"}"#,
        ] {
            assert_eq!(serde_json::to_string(&changes(json)).unwrap(), json);
        }
        let key = NewKey {
            name: "ci".into(),
            expires_ms: Some(1_800_000_000_000),
            ..NewKey::default()
        };
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<NewKey>(&json).unwrap(), key);
    }

    #[test]
    fn absent_stays_and_null_goes() {
        let key = NewKey {
            name: "ci".into(),
            rpm: Some(60),
            tpm: Some(1000),
            ..NewKey::default()
        };
        let changed = key
            .clone()
            .changed(&changes(r#"{"rpm":null,"concurrent":2}"#));
        assert_eq!(changed.name, "ci");
        assert_eq!(
            (changed.rpm, changed.tpm, changed.concurrent),
            (None, Some(1000), Some(2))
        );
        assert_eq!(key.clone().changed(&changes("{}")), key);
        let timed = key.changed(&changes(r#"{"expires_at":"2026-01-02T03:04:05.678Z"}"#));
        assert_eq!(timed.expires_ms, Some(1_767_323_045_678));
        assert!(serde_json::from_str::<KeyChanges>(r#"{"user_id":"other"}"#).is_err());
    }

    #[test]
    fn the_scope_admin_is_the_right() {
        let admin = NewKey {
            admin: true,
            ..NewKey::default()
        };
        assert_eq!(admin.effective_scopes(), Scopes::ALL);
        let chat = admin.clone().changed(&changes(r#"{"scopes":["chat"]}"#));
        assert!(!chat.admin && !chat.effective_scopes().has(Scope::Admin));
        let only = chat.changed(&changes(r#"{"scopes":["admin"]}"#));
        assert!(only.admin && !only.effective_scopes().has(Scope::Chat));
        let plain = admin.changed(&changes(r#"{"scopes":null}"#));
        assert_eq!(plain.effective_scopes(), Scopes::CALLER);
    }

    #[test]
    fn what_no_key_can_be() {
        let budget = |amount: &str, currency: &str| {
            Some(KeyBudget {
                amount: amount.parse().unwrap(),
                currency: currency.into(),
                period: BudgetPeriod::Day,
            })
        };
        let new = NewKey::default;
        for (bad, param) in [
            (
                NewKey {
                    user_id: Some(String::new()),
                    ..new()
                },
                "user_id",
            ),
            (
                NewKey {
                    name: "a\nb".into(),
                    ..new()
                },
                "name",
            ),
            (
                NewKey {
                    models: Some(vec![String::new()]),
                    ..new()
                },
                "models",
            ),
            (
                NewKey {
                    rpm: Some(0),
                    ..new()
                },
                "rpm",
            ),
            (
                NewKey {
                    concurrent: Some(u64::MAX),
                    ..new()
                },
                "concurrent",
            ),
            (
                NewKey {
                    budget: budget("-1", "USD"),
                    ..new()
                },
                "budget",
            ),
            (
                NewKey {
                    budget: budget("1", "usd"),
                    ..new()
                },
                "budget",
            ),
            (
                NewKey {
                    budget: budget("10000000", "USD"),
                    ..new()
                },
                "budget",
            ),
            (
                NewKey {
                    on_disconnect: serde_json::from_str(r#"{"drain_until":{}}"#).unwrap(),
                    ..new()
                },
                "on_disconnect",
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().param(), Some(param), "{bad:?}");
        }
        let good = NewKey {
            budget: budget("0", "CNY"),
            tpm: Some(1),
            ..new()
        };
        good.check().unwrap();
    }
}
