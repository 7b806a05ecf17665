//! `billing.prices` and `billing.exchange_rates`.

use super::{bad, good};
use crate::{
    config::{Env, PriceConfig},
    price::{Rate, configured},
};

#[test]
fn a_model_has_a_price_or_a_list_of_them() {
    let text = "\
billing:
  currency: CNY
  prices:
    one: { input: 0.15, output: '0.60', cached_input: 0 }
    a/many:
      - { input: 1, output: 2, currency: USD, max_output_tokens: 8192 }
      - input: 1
        output: 2
        valid_from: 2026-11-22
        tiers:
          - { above_input_tokens: 1000, input: 3, output: 4 }
          - { above_input_tokens: 2000, input: 5, output: 6, cache_write: 7, reasoning: 8 }
";
    let billing = good(text, &Env::default()).config.billing;
    let [one] = billing.prices["one"].as_slice() else {
        panic!("one price")
    };
    assert_eq!(one.rates.input, Rate::per_token(150_000));
    assert_eq!(one.rates.cached_input, Some(Rate::FREE));
    let [first, second]: &[PriceConfig; 2] =
        billing.prices["a/many"].as_slice().try_into().unwrap();
    assert_eq!(first.max_output_tokens, Some(8192));
    assert_eq!(second.valid_from_ms, Some(1_795_305_600_000));
    assert_eq!(
        second.tiers[1].rates.reasoning,
        Some(Rate::per_token(8_000_000))
    );

    let prices = configured(&billing).unwrap();
    let mut names: Vec<_> = prices
        .iter()
        .map(|price| (price.provider.as_deref(), &*price.model, &*price.currency))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            (None, "a/many", "CNY"),
            (None, "a/many", "USD"),
            (None, "one", "CNY"),
            (Some("a"), "many", "CNY"),
            (Some("a"), "many", "USD"),
        ]
    );
}

#[test]
fn wrong_prices_are_reported_where_they_are() {
    let text = "\
billing:
  exchange_rates: { CNY: 0.00 }
  prices:
    a: { input: 1 }
    b: [ { input: 1, output: -2 }, { input: 0.0000001, output: 1, valid_from: 2026-01-01 } ]
    c: { input: 1, output: 1, tiers: [ { above_input_tokens: 5, input: 1, output: 1 }, { above_input_tokens: 5, input: 1, output: 1 } ] }
    d: [ { input: 1, output: 1 }, { input: 2, output: 2 } ]
    e: { input: 1, output: 1, cached: 1 }
    f: 7
    g: { input: 1, output: 1, valid_from: later }
";
    let price = "a price per million tokens such as 0.15, with at most 6 decimals";
    assert_eq!(
        bad(text, &Env::default()),
        [
            "g.yaml:1:1: billing: two prices of d hold from the same time",
            "g.yaml:2:26: billing.exchange_rates.CNY: \"0.00\" is zero; accepted: a decimal rate above 0, such as 0.14",
            &format!("g.yaml:4:5: billing.prices.a.output: is missing; accepted: {price}"),
            &format!("g.yaml:5:30: billing.prices.b[0].output: \"-2\" is not a price; accepted: {price}"),
            &format!("g.yaml:5:45: billing.prices.b[1].input: \"0.0000001\" is not a price; accepted: {price}"),
            "g.yaml:6:5: billing.prices.c: the tiers must be by ascending above_input_tokens",
            "g.yaml:8:31: billing.prices.e.cached: unknown key; accepted here: input, cached_input, cache_write, output, reasoning, currency, valid_from, tiers, max_output_tokens",
            "g.yaml:9:8: billing.prices.f: is a single value; accepted: a mapping",
            "g.yaml:10:43: billing.prices.g.valid_from: \"later\" is not a time; accepted: a time as 2026-11-22T10:00:00Z, or a date as 2026-11-22",
        ]
        .join("\n")
    );
}
