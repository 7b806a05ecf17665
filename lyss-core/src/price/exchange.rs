//! Amounts in other currencies.

use std::collections::BTreeMap;

use crate::{config::BillingConfig, types::Pico};

/// What currencies are worth: `billing.currency` and `billing.exchange_rates`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The worth of one unit, in the currency of totals.
    worth: BTreeMap<String, Pico>,
    currency: String,
}

impl Exchange {
    /// The rates of a configuration.
    pub fn new(billing: &BillingConfig) -> Self {
        let rates = billing.exchange_rates.iter();
        let mut worth: BTreeMap<String, Pico> = rates
            .filter_map(|(currency, rate)| Some((currency.clone(), rate.parse().ok()?)))
            .filter(|(_, rate): &(_, Pico)| rate.0 > 0)
            .collect();
        worth.insert(billing.currency.clone(), Pico::ONE);
        Self {
            worth,
            currency: billing.currency.clone(),
        }
    }

    /// The currency of totals.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// An amount in another currency, rounded up: who reserves by it reserves enough. `None` where a currency has no
    /// rate, or the amount does not fit. Nothing is nothing in every currency.
    pub fn convert(&self, amount: Pico, from: &str, to: &str) -> Option<Pico> {
        if from == to || amount == Pico::ZERO {
            return Some(amount);
        }
        let (from, to) = (self.worth.get(from)?.0, self.worth.get(to)?.0);
        let product = amount.0.checked_mul(from)?;
        let up = i128::from(product.checked_rem_euclid(to)? > 0);
        product.checked_div_euclid(to)?.checked_add(up).map(Pico)
    }

    /// The most of `from` that, converted, is not more than `amount` of `to`.
    pub fn most(&self, amount: Pico, from: &str, to: &str) -> Option<Pico> {
        if from == to {
            return Some(amount);
        }
        let (from, to) = (self.worth.get(from)?.0, self.worth.get(to)?.0);
        let product = amount.0.checked_mul(to)?;
        product.checked_div_euclid(from).map(Pico)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_converted_through_the_currency_of_totals() {
        let exchange = Exchange::new(&BillingConfig {
            currency: "USD".into(),
            exchange_rates: [("CNY", "0.14"), ("EUR", "1.12"), ("XXX", "0")]
                .map(|(currency, rate)| (currency.into(), rate.into()))
                .into(),
            ..BillingConfig::default()
        });
        let amount = |text: &str| text.parse::<Pico>().unwrap();
        for (given, from, to, wanted) in [
            ("100", "CNY", "USD", Some("14")),
            ("14", "USD", "CNY", Some("100")),
            ("8", "EUR", "CNY", Some("64")),
            ("1", "CNY", "EUR", Some("0.125")),
            ("0.000000000001", "CNY", "USD", Some("0.000000000001")),
            ("-0.000000000001", "CNY", "USD", Some("0")),
            ("-100", "CNY", "USD", Some("-14")),
            ("7", "JPY", "JPY", Some("7")),
            ("7", "JPY", "USD", None),
            ("7", "USD", "JPY", None),
            ("7", "USD", "XXX", None),
            ("0", "JPY", "USD", Some("0")),
        ] {
            let converted = exchange.convert(amount(given), from, to);
            assert_eq!(converted, wanted.map(amount), "{given} {from} in {to}");
        }
        assert_eq!(exchange.convert(Pico(i128::MAX), "EUR", "USD"), None);
    }

    proptest! {
        #[test]
        fn what_an_amount_affords_costs_no_more_and_a_little_more_does(amount in 0_i64..i64::MAX) {
            let exchange = Exchange::new(&BillingConfig {
                exchange_rates: [("CNY", "0.14"), ("JPY", "0.0064")]
                    .map(|(currency, rate)| (currency.into(), rate.into()))
                    .into(),
                ..BillingConfig::default()
            });
            let amount = Pico(amount.into());
            for (from, to) in [("CNY", "USD"), ("USD", "CNY"), ("CNY", "JPY"), ("USD", "USD")] {
                let most = exchange.most(amount, from, to).unwrap();
                prop_assert!(exchange.convert(most, from, to).unwrap() <= amount);
                prop_assert!(exchange.convert(Pico(most.0 + 1), from, to).unwrap() > amount);
            }
        }
    }
}
