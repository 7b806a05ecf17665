//! From one currency to another, by `billing.exchange_rates`.

use std::collections::HashMap;

use crate::{
    config::BillingConfig,
    types::{NoAmount, Pico},
};

/// What a unit of each currency is worth in the base currency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates(HashMap<String, i128>);

impl Rates {
    /// The rates of a configuration; `billing.currency` is the base.
    ///
    /// # Errors
    /// For a rate that is no amount, or 0.
    pub fn of(billing: &BillingConfig) -> Result<Self, NoAmount> {
        let base = (billing.currency.clone(), Pico::ONE.0);
        let others = billing.exchange_rates.iter().map(|(currency, rate)| {
            let rate: Pico = rate.parse()?;
            (rate.0 > 0)
                .then(|| (currency.clone(), rate.0))
                .ok_or(NoAmount)
        });
        let mut rates = others.collect::<Result<HashMap<_, _>, _>>()?;
        rates.extend([base]);
        Ok(Self(rates))
    }

    fn pair(&self, from: &str, to: &str) -> Option<(i128, i128)> {
        if from == to {
            return Some((1, 1));
        }
        Some((*self.0.get(from)?, *self.0.get(to)?))
    }

    /// An amount of `from` in `to`, rounded up: who reserves it reserves enough. `None` without a rate, or where it
    /// does not fit.
    pub fn up(&self, amount: Pico, from: &str, to: &str) -> Option<Pico> {
        let (numerator, denominator) = self.pair(from, to)?;
        let product = amount.0.checked_mul(numerator)?;
        let up = i128::from(product.rem_euclid(denominator) > 0);
        product.div_euclid(denominator).checked_add(up).map(Pico)
    }

    /// The most of `from` that, converted by [`up`](Self::up), is not more than `amount` of `to`.
    pub fn most(&self, amount: Pico, from: &str, to: &str) -> Option<Pico> {
        let (numerator, denominator) = self.pair(from, to)?;
        let product = amount.0.checked_mul(denominator)?;
        Some(Pico(product.div_euclid(numerator)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn rates() -> Rates {
        let billing = BillingConfig {
            exchange_rates: [("CNY", "0.14"), ("JPY", "0.0064")]
                .map(|(currency, rate)| (currency.to_owned(), rate.to_owned()))
                .into(),
            ..BillingConfig::default()
        };
        Rates::of(&billing).unwrap()
    }

    #[test]
    fn converts_between_any_two_that_have_a_rate() {
        let rates = rates();
        let up = |amount: &str, from: &str, to: &str| {
            rates
                .up(amount.parse().unwrap(), from, to)
                .map(|amount| amount.to_string())
        };
        assert_eq!(up("100", "CNY", "USD").as_deref(), Some("14"));
        assert_eq!(up("14", "USD", "CNY").as_deref(), Some("100"));
        assert_eq!(up("32", "CNY", "JPY").as_deref(), Some("700"));
        assert_eq!(up("1", "EUR", "USD"), None);
        assert_eq!(
            up("1", "EUR", "EUR").as_deref(),
            Some("1"),
            "the same needs no rate"
        );
        assert_eq!(rates.up(Pico(i128::MAX), "CNY", "USD"), None);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let billing = BillingConfig {
            exchange_rates: [("CNY".to_owned(), "0".to_owned())].into(),
            ..BillingConfig::default()
        };
        assert!(Rates::of(&billing).is_err());
    }

    proptest! {
        #[test]
        fn what_an_amount_affords_costs_no_more_and_a_little_more_does(amount in 0_i64..i64::MAX) {
            let (rates, amount) = (rates(), Pico(amount.into()));
            for (from, to) in [("CNY", "USD"), ("USD", "CNY"), ("CNY", "JPY"), ("USD", "USD")] {
                let most = rates.most(amount, from, to).unwrap();
                prop_assert!(rates.up(most, from, to).unwrap() <= amount);
                prop_assert!(rates.up(Pico(most.0 + 1), from, to).unwrap() > amount);
            }
        }
    }
}
