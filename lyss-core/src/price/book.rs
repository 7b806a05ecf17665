//! Which price holds for a call.

use std::{collections::HashMap, sync::Arc};

use super::{Catalog, Price};

/// All prices in force: a snapshot, looked up without locks. The table `prices` is asked first, then the configuration,
/// then the shipped list of the provider; in each a price for that provider alone before one for every provider.
#[derive(Debug, Clone, Default)]
pub struct PriceBook {
    stored: Arc<Prices>,
    configured: Arc<Prices>,
}

/// Prices of one source, by model.
type Prices = HashMap<Arc<str>, Vec<Arc<Price>>>;

impl PriceBook {
    /// The book with other prices of the table.
    pub fn with_stored(&self, prices: impl IntoIterator<Item = Price>) -> Self {
        Self {
            stored: by_model(prices),
            configured: Arc::clone(&self.configured),
        }
    }

    /// The book with other prices of the configuration.
    pub fn with_configured(&self, prices: impl IntoIterator<Item = Price>) -> Self {
        Self {
            stored: Arc::clone(&self.stored),
            configured: by_model(prices),
        }
    }

    /// The price of a model at a provider for a request of a time (milliseconds of Unix time); `None` if it has none.
    ///
    /// Where nothing is priced by the whole name, a dated snapshot costs what the model does: `gpt-4o-2024-08-06` as
    /// `gpt-4o`.
    pub fn find(
        &self,
        provider_id: &str,
        catalog: Option<Catalog>,
        upstream_model: &str,
        at_ms: i64,
    ) -> Option<Arc<Price>> {
        let by_name = |model: &str| {
            in_force(&self.stored, provider_id, model, at_ms)
                .or_else(|| in_force(&self.configured, provider_id, model, at_ms))
                .or_else(|| catalog?.price(model))
        };
        by_name(upstream_model).or_else(|| by_name(undated(upstream_model)?))
    }
}

fn by_model(prices: impl IntoIterator<Item = Price>) -> Arc<Prices> {
    let mut by_model = Prices::new();
    for price in prices {
        let model = Arc::clone(&price.model);
        by_model.entry(model).or_default().push(Arc::new(price));
    }
    Arc::new(by_model)
}

/// The latest price that holds already: of the provider alone, else of every provider.
fn in_force(prices: &Prices, provider_id: &str, model: &str, at_ms: i64) -> Option<Arc<Price>> {
    let prices = prices.get(model)?;
    let latest = |provider: Option<&str>| {
        prices
            .iter()
            .filter(|price| price.provider.as_deref() == provider && price.valid_from_ms <= at_ms)
            .max_by_key(|price| price.valid_from_ms)
    };
    latest(Some(provider_id)).or_else(|| latest(None)).cloned()
}

/// A model's name without the date that ends it: `-2024-08-06`, `-20240806`.
fn undated(model: &str) -> Option<&str> {
    let date = |digits: &str| {
        let number = |range| {
            digits
                .get(range)
                .and_then(|part: &str| part.parse::<u32>().ok())
        };
        digits.len() == 8
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && number(0..4).is_some_and(|year| (2000..2100).contains(&year))
            && number(4..6).is_some_and(|month| (1..=12).contains(&month))
            && number(6..8).is_some_and(|day| (1..=31).contains(&day))
    };
    let ending = |length: usize| {
        let (name, ending) = model.split_at_checked(model.len().checked_sub(length)?)?;
        let ending = ending.strip_prefix('-')?;
        let parts: Vec<usize> = ending.split('-').map(str::len).collect();
        let shape = parts == [8] || parts == [4, 2, 2];
        (shape && date(&ending.replace('-', "")) && !name.is_empty()).then_some(name)
    };
    ending(11).or_else(|| ending(9))
}

#[cfg(test)]
#[path = "tests/book.rs"]
mod tests;
