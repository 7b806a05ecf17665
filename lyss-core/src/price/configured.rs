//! The prices of the configuration.

use super::{Price, PriceEntry, Tier};
use crate::{
    Result,
    config::{BillingConfig, PriceConfig},
    types::log::rfc3339,
};

/// `billing.prices` as prices.
///
/// # Errors
/// `invalid_value` for a name that no model can have.
pub fn configured(billing: &BillingConfig) -> Result<Vec<Price>> {
    let mut prices = Vec::new();
    for (key, entries) in &billing.prices {
        for config in entries {
            let price = entry(key, config, &billing.currency).price(&format!("config:{key}"))?;
            // `a/b` is model `b` of provider `a`; some services also have models of such names.
            if let Some((provider, model)) = key.split_once('/') {
                prices.push(Price {
                    provider: Some(provider.into()),
                    model: model.into(),
                    ..price.clone()
                });
            }
            prices.push(price);
        }
    }
    Ok(prices)
}

fn entry(model: &str, config: &PriceConfig, currency: &str) -> PriceEntry {
    let rates = config.rates;
    let tiers = config.tiers.iter().map(|tier| Tier {
        above_input_tokens: tier.above_input_tokens,
        rates: tier.rates,
    });
    PriceEntry {
        id: None,
        model: model.to_owned(),
        provider: None,
        currency: config.currency.as_deref().unwrap_or(currency).to_owned(),
        valid_from: config.valid_from_ms.map(rfc3339),
        input: rates.input,
        cached_input: rates.cached_input,
        cache_write: rates.cache_write,
        output: rates.output,
        reasoning: rates.reasoning,
        tiers: tiers.collect(),
        max_output_tokens: config.max_output_tokens,
    }
}
