//! What totals cost.

use super::*;
use crate::{
    config::BillingConfig,
    database::testing,
    gateway::{CostTotal, CurrencyCost, UsageQuery, UsageTotal},
    price::Exchange,
    types::Pico,
};

/// Nearly all that a row can hold.
const LARGE: i64 = i64::MAX - 7;

fn exchange() -> Exchange {
    Exchange::new(&BillingConfig {
        exchange_rates: [("CNY".to_owned(), "0.14".to_owned())].into(),
        ..BillingConfig::default()
    })
}

fn cost(currency: &str, user_charge: i128, provider_cost: i128) -> CurrencyCost {
    CurrencyCost {
        currency: currency.into(),
        user_charge: Pico(user_charge),
        provider_cost: Pico(provider_cost),
    }
}

async fn by_model(database: &Database) -> Vec<UsageTotal> {
    let query = UsageQuery {
        by: vec!["model".into()],
        ..UsageQuery::default()
    };
    database.usage(&query, None, &exchange()).await.unwrap()
}

async fn conforms(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    let large = i128::from(LARGE);
    for (model, currency, user_charge_pico, provider_cost_pico, price_id) in [
        ("a", Some("USD"), LARGE, LARGE, "p1"),
        ("a", Some("USD"), LARGE, LARGE, "p1"),
        ("a", Some("CNY"), 1, 101, "p2"),
        ("a", None, 0, 0, "unpriced"),
        ("b", Some("JPY"), 5, 6, "p3"),
        ("c", None, 0, 0, "unpriced"),
    ] {
        let row = LogRow {
            model_name: model.into(),
            currency: currency.map(Into::into),
            user_charge_pico,
            provider_cost_pico,
            price_id: Some(price_id.into()),
            ..settled(&intent())
        };
        ledger.record(&row).unwrap();
    }
    assert!(ledger.close(LONG).await);

    let totals = by_model(&database).await;
    let [a, b, c] = totals.as_slice() else {
        panic!("{totals:?}")
    };
    assert_eq!(
        (a.requests, a.input_tokens, a.unpriced_requests),
        (4, 28, 1)
    );
    assert_eq!(
        a.cost,
        CostTotal {
            currency: "USD".into(),
            // 0.14 and 14.14 of CNY, rounded up.
            user_charge: Some(Pico(2 * large + 1)),
            provider_cost: Some(Pico(2 * large + 15)),
            by_currency: vec![cost("CNY", 1, 101), cost("USD", 2 * large, 2 * large)],
        }
    );
    // No rate: what it is in USD is not known, what it is in its own currency is.
    assert_eq!((b.cost.user_charge, b.cost.provider_cost), (None, None));
    assert_eq!(b.cost.by_currency, [cost("JPY", 5, 6)]);
    assert_eq!((c.requests, c.unpriced_requests), (1, 1));
    assert_eq!(c.cost.user_charge, Some(Pico::ZERO));
    assert!(c.cost.by_currency.is_empty());

    let nothing = UsageQuery {
        from: Some("2100-01-01".into()),
        ..UsageQuery::default()
    };
    let nothing = database.usage(&nothing, None, &exchange()).await.unwrap();
    assert_eq!(nothing.len(), 1);
    assert_eq!(
        (nothing[0].requests, nothing[0].cost.user_charge),
        (0, Some(Pico::ZERO))
    );
}

#[tokio::test]
async fn costs_on_postgres() {
    conforms(testing::postgres().await).await;
}

#[tokio::test]
async fn costs_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    conforms(testing::sqlite(directory.path()).await).await;
}
