//! Budgets as the admin API writes and shows them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Budget, EACH, Scope, book::Bound, counter::pico, store::Balance};
use crate::{
    config::BudgetPeriod,
    error::{Error, Result},
    types::{Pico, log::rfc3339},
};

/// Longest name of a subject, in bytes.
const NAME_MOST: usize = 256;

/// A budget to be made or changed: for exactly one of `user`, `key`, `session`, `total`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetDefinition {
    /// The id; absent when it is made.
    #[serde(default)]
    pub id: Option<i64>,
    /// A user; `*` for each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// An API key's id; `*` for each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A session's id, each user's by itself; `*` for each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether it is for everybody together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub total: bool,
    /// How much a period: a decimal.
    pub amount: Pico,
    /// Of which currency; absent for `billing.currency`.
    #[serde(default)]
    pub currency: Option<String>,
    /// When it renews.
    pub period: BudgetPeriod,
}

/// A budget, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetState {
    /// What it is.
    #[serde(flatten)]
    pub definition: Arc<BudgetDefinition>,
    /// `api` for the table's, which can be changed, `config` for the configuration's.
    pub source: String,
    /// What is spent in its period. Absent, as the next two, where it is for each one by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<Pico>,
    /// What running calls may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Pico>,
    /// What is left; negative where calls cost more than was reserved for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Pico>,
    /// When its period ends, RFC 3339; `null` if it does not.
    pub renews_at: Option<String>,
}

impl BudgetDefinition {
    /// The budget it defines.
    ///
    /// # Errors
    /// `invalid_value` with the member's name.
    pub(crate) fn budget(&self, default_currency: &str) -> Result<Budget> {
        let named = [
            (Scope::User, &self.user),
            (Scope::Key, &self.key),
            (Scope::Session, &self.session),
        ];
        let mut scopes = named
            .into_iter()
            .filter_map(|(scope, name)| Some((scope, name.as_deref()?)))
            .chain(self.total.then_some((Scope::Total, "")));
        let (Some((scope, subject)), None) = (scopes.next(), scopes.next()) else {
            return Err(Error::invalid(
                "user",
                "a budget is for exactly one of `user`, `key`, `session` and `total: true`",
            ));
        };
        let is_name = !subject.is_empty()
            && subject.len() <= NAME_MOST
            && !subject.contains(char::is_control);
        if scope != Scope::Total && !is_name {
            return Err(Error::invalid(
                scope.as_str(),
                format!(
                    "`{}` has 1 to {NAME_MOST} bytes and no control characters",
                    scope.as_str()
                ),
            ));
        }
        if self.amount < Pico::ZERO || self.amount > Budget::MOST || self.amount.0 % 1000 != 0 {
            return Err(Error::invalid(
                "amount",
                "`amount` is a decimal from 0 to 9000000 with at most 9 decimals",
            ));
        }
        let currency = self.currency.as_deref().unwrap_or(default_currency);
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::invalid(
                "currency",
                "`currency` is three capital letters, such as USD",
            ));
        }
        Ok(Budget {
            scope,
            subject: subject.into(),
            amount: self.amount,
            currency: currency.into(),
            period: self.period,
        })
    }

    /// The definition of a budget.
    pub(crate) fn of(id: Option<i64>, budget: &Budget) -> Self {
        let name = |scope| (budget.scope == scope).then(|| budget.subject.to_string());
        Self {
            id,
            user: name(Scope::User),
            key: name(Scope::Key),
            session: name(Scope::Session),
            total: budget.scope == Scope::Total,
            amount: budget.amount,
            currency: Some(budget.currency.to_string()),
            period: budget.period,
        }
    }
}

/// A budget with its balance.
pub(super) fn state(id: Option<i64>, bound: &Bound, balance: Option<Balance>) -> BudgetState {
    let budget = &bound.budget;
    let left = |balance: Balance| {
        let used = balance.spent.saturating_add(balance.reserved);
        Pico(budget.amount.0 - pico(used).0)
    };
    BudgetState {
        definition: Arc::new(BudgetDefinition::of(id, budget)),
        source: if id.is_some() { "api" } else { "config" }.to_owned(),
        spent: balance.map(|balance| pico(balance.spent)),
        reserved: balance.map(|balance| pico(balance.reserved)),
        left: balance.map(left),
        renews_at: bound.counter.span.end_ms.map(rfc3339),
    }
}

/// Whether a budget has one counter, and no more.
pub(super) fn is_single(budget: &Budget) -> bool {
    // Sessions of one id are several: each user has its own.
    budget.scope != Scope::Session && &*budget.subject != EACH
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: &str) -> Result<Budget> {
        serde_json::from_str::<BudgetDefinition>(json)
            .unwrap()
            .budget("USD")
    }

    #[test]
    fn is_for_exactly_one() {
        let budget = read(r#"{"user":"u","amount":"1.5","period":"day"}"#).unwrap();
        assert_eq!((budget.scope, &*budget.subject), (Scope::User, "u"));
        assert_eq!(&*budget.currency, "USD");
        let total = read(r#"{"total":true,"amount":"1","currency":"CNY","period":"total"}"#);
        assert_eq!(total.unwrap().scope, Scope::Total);
        for (json, param) in [
            (r#"{"amount":"1","period":"day"}"#, "user"),
            (
                r#"{"user":"u","total":true,"amount":"1","period":"day"}"#,
                "user",
            ),
            (r#"{"user":"","amount":"1","period":"day"}"#, "user"),
            (r#"{"key":"a\nb","amount":"1","period":"day"}"#, "key"),
            (r#"{"user":"u","amount":"-1","period":"day"}"#, "amount"),
            (
                r#"{"user":"u","amount":"9000001","period":"day"}"#,
                "amount",
            ),
            (
                r#"{"user":"u","amount":"0.0000000001","period":"day"}"#,
                "amount",
            ),
            (
                r#"{"user":"u","amount":"1","currency":"usd","period":"day"}"#,
                "currency",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert_eq!(error.param(), Some(param), "{json}");
        }
    }

    #[test]
    fn what_is_shown_can_be_sent_back() {
        let budget = read(r#"{"session":"*","amount":"1.5","period":"month"}"#).unwrap();
        let shown = serde_json::to_string(&BudgetDefinition::of(Some(3), &budget)).unwrap();
        let again: BudgetDefinition = serde_json::from_str(&shown).unwrap();
        assert_eq!(again.id, Some(3));
        assert_eq!(again.budget("EUR").unwrap(), budget);
    }
}
