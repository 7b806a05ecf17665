//! The budgets in force, and which of them bound a request.

use std::{collections::HashMap, sync::Arc};

use jiff::tz::TimeZone;

use super::{
    Budget, EACH, Scope, Spender,
    counter::{Counter, session_subject},
    period::Span,
};
use crate::price::Exchange;

type BySubject = HashMap<Arc<str>, Vec<Arc<Budget>>>;

/// A snapshot of all budgets but those of the keys themselves.
#[derive(Debug, Default)]
pub(crate) struct Book {
    keys: BySubject,
    users: BySubject,
    sessions: BySubject,
    total: Vec<Arc<Budget>>,
    zone: Option<TimeZone>,
    pub exchange: Arc<Exchange>,
}

/// A budget that bounds a request.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    pub budget: Arc<Budget>,
    pub counter: Arc<Counter>,
    pub key: Arc<str>,
}

impl Book {
    pub fn new(
        budgets: impl IntoIterator<Item = Arc<Budget>>,
        zone: TimeZone,
        exchange: Arc<Exchange>,
    ) -> Self {
        let mut book = Self {
            zone: Some(zone),
            exchange,
            ..Self::default()
        };
        for budget in budgets {
            let list = match budget.scope {
                Scope::Key => book.keys.entry(Arc::clone(&budget.subject)).or_default(),
                Scope::User => book.users.entry(Arc::clone(&budget.subject)).or_default(),
                Scope::Session => book
                    .sessions
                    .entry(Arc::clone(&budget.subject))
                    .or_default(),
                Scope::Total => &mut book.total,
            };
            list.push(budget);
        }
        book
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.users.is_empty()
            && self.sessions.is_empty()
            && self.total.is_empty()
    }

    /// Every budget that bounds what a spender spends at a time: of several on one counter only the least.
    pub fn bounds(&self, spender: &Spender, at_ms: i64) -> Vec<Bound> {
        let mut bounds = Vec::new();
        let mut add = |budget: &Arc<Budget>, subject: &Arc<str>| {
            self.add(&mut bounds, budget, subject, at_ms);
        };
        if let Some(key) = &spender.api_key_id {
            applying(&self.keys, key).for_each(|budget| add(budget, key));
            if let Some(own) = &spender.key_budget {
                let budget = Budget {
                    scope: Scope::Key,
                    subject: Arc::clone(key),
                    amount: own.amount,
                    currency: Arc::clone(&own.currency),
                    period: own.period,
                };
                add(&Arc::new(budget), key);
            }
        }
        applying(&self.users, &spender.user_id).for_each(|budget| add(budget, &spender.user_id));
        if let Some(session) = &spender.session_id
            && !self.sessions.is_empty()
        {
            let subject = session_subject(&spender.user_id, session).into();
            applying(&self.sessions, session).for_each(|budget| add(budget, &subject));
        }
        self.total
            .iter()
            .for_each(|budget| add(budget, &budget.subject));
        bounds
    }

    fn add(&self, bounds: &mut Vec<Bound>, budget: &Arc<Budget>, subject: &Arc<str>, at_ms: i64) {
        let bound = self.bound(budget, subject, at_ms);
        match bounds.iter_mut().find(|other| other.key == bound.key) {
            Some(other) if other.budget.amount <= budget.amount => {}
            Some(other) => *other = bound,
            None => bounds.push(bound),
        }
    }

    /// A budget with the counter of one subject at a time.
    pub fn bound(&self, budget: &Arc<Budget>, subject: &Arc<str>, at_ms: i64) -> Bound {
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        let counter = Counter {
            scope: budget.scope,
            subject: Arc::clone(subject),
            span: Span::containing(at_ms, budget.period, &zone),
            currency: Arc::clone(&budget.currency),
        };
        Bound {
            budget: Arc::clone(budget),
            key: counter.key().into(),
            counter: Arc::new(counter),
        }
    }
}

/// The budgets that name a subject, and those of each.
fn applying<'a>(budgets: &'a BySubject, subject: &str) -> impl Iterator<Item = &'a Arc<Budget>> {
    // Nobody is called `*`: who is has one budget, not two.
    let named = budgets.get(subject).filter(|_| subject != EACH);
    named.into_iter().chain(budgets.get(EACH)).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{admission::KeyBudget, config::BudgetPeriod, types::Pico};

    fn budget(scope: Scope, subject: &str, amount: i128, period: BudgetPeriod) -> Arc<Budget> {
        Arc::new(Budget {
            scope,
            subject: subject.into(),
            amount: Pico(amount),
            currency: "USD".into(),
            period,
        })
    }

    fn book(budgets: Vec<Arc<Budget>>) -> Book {
        Book::new(budgets, TimeZone::UTC, Arc::default())
    }

    fn amounts(book: &Book, spender: &Spender) -> Vec<i128> {
        let bounds = book.bounds(spender, 1_700_000_000_000);
        bounds.iter().map(|bound| bound.budget.amount.0).collect()
    }

    #[test]
    fn every_budget_of_key_user_session_and_total_applies() {
        let month = BudgetPeriod::Month;
        let book = book(vec![
            budget(Scope::Key, "k1", 1, month),
            budget(Scope::Key, "k2", 2, month),
            budget(Scope::User, "u1", 3, month),
            budget(Scope::User, EACH, 4, BudgetPeriod::Day),
            budget(Scope::Session, EACH, 5, BudgetPeriod::Total),
            budget(Scope::Total, "", 6, month),
        ]);
        let all = Spender {
            user_id: "u1".into(),
            api_key_id: Some("k1".into()),
            session_id: Some("s".into()),
            key_budget: Some(KeyBudget {
                amount: Pico(7),
                currency: "EUR".into(),
                period: month,
            }),
        };
        assert_eq!(amounts(&book, &all), [1, 7, 3, 4, 5, 6]);
        let other = Spender {
            user_id: "u2".into(),
            ..Spender::default()
        };
        assert_eq!(amounts(&book, &other), [4, 6]);
        assert!(!book.is_empty());
        assert!(Book::default().is_empty());
    }

    #[test]
    fn of_two_budgets_on_one_counter_the_least_holds() {
        let month = BudgetPeriod::Month;
        let spender = Spender {
            user_id: "u1".into(),
            ..Spender::default()
        };
        for amounts_given in [[10, 20], [20, 10]] {
            let book = book(vec![
                budget(Scope::User, "u1", amounts_given[0], month),
                budget(Scope::User, EACH, amounts_given[1], month),
            ]);
            assert_eq!(amounts(&book, &spender), [10]);
        }
    }

    #[test]
    fn each_one_has_a_counter_of_its_own() {
        let book = book(vec![budget(Scope::Session, "s", 1, BudgetPeriod::Day)]);
        let key = |user: &str| {
            let spender = Spender {
                user_id: user.into(),
                session_id: Some("s".into()),
                ..Spender::default()
            };
            book.bounds(&spender, 1_700_000_000_000)[0].key.clone()
        };
        assert_ne!(key("u1"), key("u2"), "sessions are the user's own");
        assert_eq!(key("u1"), key("u1"));
    }
}
