//! The prices of the table `prices`, in force.

use std::sync::{Weak, atomic::Ordering::Relaxed};

use super::{Engine, Inner};
use crate::{
    Result,
    database::{Database, follow_table},
    price::{Price, PriceEntry, stored},
    types::Model,
};

/// Takes the prices of the table into use, and every change of them.
pub(super) async fn follow(inner: Weak<Inner>, database: Database) {
    let read = {
        let database = database.clone();
        move || {
            let database = database.clone();
            async move { database.list_prices().await }
        }
    };
    let apply = |entries: Vec<PriceEntry>| {
        if let Some(inner) = inner.upgrade() {
            inner.use_stored_prices(&entries);
        }
    };
    follow_table(database, "prices", read, apply).await;
}

/// A model as it is listed, with what it costs now: the rates of short inputs.
pub(super) fn with_price(model: Model, price: Option<&Price>) -> Model {
    let Some(price) = price else {
        return model;
    };
    Model {
        input_price: Some(price.rates.input.to_string()),
        output_price: Some(price.rates.output.to_string()),
        currency: Some(price.currency.to_string()),
        ..model
    }
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Inner {
    fn use_stored_prices(&self, entries: &[PriceEntry]) {
        let prices = stored(entries);
        self.prices
            .rcu(|book| book.with_stored(prices.iter().cloned()));
        self.prices_loaded.store(true, Relaxed);
    }
}

impl Engine {
    pub(super) async fn list_prices(&self) -> Result<Vec<PriceEntry>> {
        self.0.database.list_prices().await
    }

    pub(super) async fn store_price(&self, price: &PriceEntry) -> Result<PriceEntry> {
        let stored = self.0.database.put_price(price).await?;
        self.use_stored_prices_now().await;
        Ok(stored)
    }

    pub(super) async fn remove_price(&self, id: i64) -> Result<()> {
        self.0.database.delete_price(id).await?;
        self.use_stored_prices_now().await;
        Ok(())
    }

    /// Puts a change into force here at once. It is stored already: if it cannot be read back now, the next look at the
    /// table will see it.
    async fn use_stored_prices_now(&self) {
        if let Ok(entries) = self.0.database.list_prices().await {
            self.0.use_stored_prices(&entries);
        }
    }
}
