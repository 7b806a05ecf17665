//! The promises of a store of counters, on every store; and the budgets over it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(all(feature = "postgres", feature = "sqlite", feature = "redis"))]

mod loss;
mod outage;
mod promises;
mod races;
mod stores;

use std::sync::Arc;

use super::*;
use crate::database::{Database, Pool, testing};

/// A configuration with these budgets.
fn config(budgets: &str) -> Config {
    let text = format!(
        "data: {{ dir: /tmp }}\nproviders: {{ simulated: {{}} }}\nbilling: {{ exchange_rates: {{ CNY: 0.5 }} }}\nbudgets: [{budgets}]"
    );
    Config::parse("gateway.yaml", &text, &config::Env::default())
        .unwrap()
        .config
}

fn spender(user: &str) -> Spender {
    Spender {
        user_id: user.into(),
        ..Spender::default()
    }
}

fn usd(text: &str) -> Pico {
    text.parse().unwrap()
}

/// An instance over a store, with the task that settles.
fn instance(store: &Arc<dyn BudgetStore>, budgets: &str) -> Arc<Budgets> {
    let instance = Arc::new(Budgets::new(Arc::clone(store), BudgetMetrics::default()));
    instance.configure(&config(budgets)).unwrap();
    tokio::spawn(instance.settling());
    instance
}

async fn reserve(budgets: &Budgets, user: &str, asked: &str, least: &str) -> Result<Reservation> {
    let id = RequestId::new();
    let applying = budgets.applying(&spender(user), id.unix_ms());
    budgets
        .reserve(id, applying, "USD", usd(asked), usd(least))
        .await
}

/// How the only counter of a user stands.
async fn balance(budgets: &Budgets, user: &str) -> (Pico, Pico) {
    let applying = budgets.applying(&spender(user), RequestId::new().unix_ms());
    let key = Arc::clone(&applying.bounds[0].key);
    let balances = budgets.store.balances(&[key]).await.unwrap();
    let balance = balances[0].unwrap_or_default();
    (pico(balance.spent), pico(balance.reserved))
}
