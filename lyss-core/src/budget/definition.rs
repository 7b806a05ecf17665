//! What a budget is, and who spends.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{admission::KeyBudget, config::BudgetPeriod, types::Pico};

/// The subject that stands for each one by itself.
pub const EACH: &str = "*";

/// Whose spending a budget bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// An API key's.
    Key,
    /// A user's.
    User,
    /// A session's.
    Session,
    /// Everybody's together.
    Total,
}

impl Scope {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Session => "session",
            Self::Total => "total",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Key, Self::User, Self::Session, Self::Total]
            .into_iter()
            .find(|scope| scope.as_str() == word)
    }
}

/// A bound on spending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whose spending.
    pub scope: Scope,
    /// The user, the key's id or the session's id; [`EACH`] for each one by itself; empty for the total.
    pub subject: Arc<str>,
    /// How much a period.
    pub amount: Pico,
    /// Of which currency.
    pub currency: Arc<str>,
    /// When it renews.
    pub period: BudgetPeriod,
}

impl Budget {
    /// The largest amount that the stores of counters hold exactly.
    pub const MOST: Pico = Pico(9_000_000_000_000_000_000);
}

/// `10 USD a month for user alice`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)?;
        f.write_str(match self.period {
            BudgetPeriod::Day => " a day",
            BudgetPeriod::Month => " a month",
            BudgetPeriod::Total => " in total",
        })?;
        match (self.scope, &*self.subject) {
            (Scope::Total, _) => f.write_str(" for the whole gateway"),
            (scope, EACH) => write!(f, " for each {}", scope.as_str()),
            (scope, subject) => {
                let shown: String = subject.chars().take(100).collect();
                write!(f, " for {} `{shown}`", scope.as_str())
            }
        }
    }
}

/// Whose spending a request is.
#[derive(Debug, Clone, Default)]
pub struct Spender {
    /// The user.
    pub user_id: Arc<str>,
    /// The API key, if one was sent.
    pub api_key_id: Option<Arc<str>>,
    /// The session, if the request has one.
    pub session_id: Option<Arc<str>>,
    /// The key's own budget.
    pub key_budget: Option<KeyBudget>,
}
