//! Charges computed anew.

use super::*;
use crate::{
    billing::{RerateQuery, Rerated},
    config::{Config, Env},
    database::testing,
    gateway::{CurrencyCost, UsageQuery},
    price::{Exchange, PriceEntry, Rate, UNPRICED},
    types::{
        Pico, Usage, UsageSource,
        log::{Attempt, Cost, Decision},
    },
};

fn config() -> Config {
    let text = "\
providers:
  openai: { api_key: k }
  second: { kind: openai, api_key: k }
  simulated: {}
billing:
  exchange_rates: { CNY: 0.5 }
  prices: { own: { input: 1, output: 2 } }
";
    Config::parse("g.yaml", text, &Env::default())
        .unwrap()
        .config
}

/// An attempt that used 100 tokens of input and 10 of output, and cost that.
fn attempt(provider: &str, model: &str, cost: Option<(i64, &str, &str)>) -> Attempt {
    Attempt {
        provider_id: provider.into(),
        model_name: model.into(),
        started_ms: 0,
        latency_ms: 1,
        outcome: "ok".into(),
        upstream_status: None,
        error: None,
        cost: cost.map(|(pico, currency, price_id)| Cost {
            usage: Usage {
                input_tokens: 100,
                output_tokens: 10,
                ..Usage::default()
            },
            usage_source: UsageSource::Reported,
            tokenizer: None,
            pico,
            currency: (!currency.is_empty()).then(|| currency.into()),
            price_id: price_id.into(),
        }),
    }
}

fn row(
    model: &str,
    charge: i64,
    cost: i64,
    currency: Option<&str>,
    price: Option<&str>,
    attempts: Vec<Attempt>,
) -> LogRow {
    LogRow {
        model_name: model.into(),
        user_charge_pico: charge,
        provider_cost_pico: cost,
        currency: currency.map(Into::into),
        price_id: price.map(Into::into),
        decision: Some(Decision {
            attempts,
            ..Decision::default()
        }),
        ..settled(&intent())
    }
}

fn by(currency: &str, user_charge: i128, provider_cost: i128) -> CurrencyCost {
    CurrencyCost {
        currency: currency.into(),
        user_charge: Pico(user_charge),
        provider_cost: Pico(provider_cost),
    }
}

async fn rerate(database: &Database, dry_run: bool) -> Rerated {
    let query = RerateQuery {
        from: "2000-01-01".into(),
        to: None,
        dry_run,
    };
    database.rerate(&query, &config()).await.unwrap()
}

/// Charges, costs and the number of requests without a price, all together, in USD.
async fn total(database: &Database) -> (i128, i128, u64) {
    let exchange = Exchange::new(&config().billing);
    let totals = database
        .usage(&UsageQuery::default(), None, &exchange)
        .await
        .unwrap();
    let total = &totals[0];
    let amount = |amount: Option<Pico>| amount.unwrap().0;
    (
        amount(total.cost.user_charge),
        amount(total.cost.provider_cost),
        total.unpriced_requests,
    )
}

fn price(model: &str, provider: Option<&str>, currency: &str, per_token: u64) -> PriceEntry {
    PriceEntry {
        model: model.into(),
        provider: provider.map(str::to_owned),
        currency: currency.into(),
        input: Rate::per_token(per_token),
        output: Rate::per_token(per_token),
        ..PriceEntry::default()
    }
}

async fn conforms(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    // By the configured price an attempt costs 100 × 1 + 10 × 2 = 120 millionths.
    const RIGHT: i64 = 120_000_000;
    for row in [
        row(
            "right",
            RIGHT,
            RIGHT,
            Some("USD"),
            Some("old"),
            vec![attempt("openai", "own", Some((RIGHT, "USD", "old")))],
        ),
        row(
            "cheap",
            7,
            9,
            Some("USD"),
            Some("old"),
            vec![
                attempt("second", "own", Some((2, "USD", "old"))),
                attempt("openai", "own", Some((7, "USD", "old"))),
            ],
        ),
        row(
            "refused",
            0,
            5,
            Some("USD"),
            None,
            vec![
                attempt("second", "own", Some((5, "USD", "old"))),
                attempt("openai", "own", None),
            ],
        ),
        row(
            "unheard",
            0,
            0,
            None,
            Some(UNPRICED),
            vec![attempt("openai", "unheard", Some((0, "", UNPRICED)))],
        ),
        row(
            "free",
            0,
            0,
            None,
            Some(UNPRICED),
            vec![attempt("simulated", "echo", Some((0, "", UNPRICED)))],
        ),
        row("nothing", 0, 0, None, None, Vec::new()),
    ] {
        ledger.record(&row).unwrap();
    }
    assert!(ledger.close(LONG).await);
    let before = total(&database).await;
    let right = i128::from(RIGHT);
    assert_eq!(before, (right + 7, right + 14, 2));

    // `cheap` is charged its delivered attempt and costs both, `refused` costs its failed one, `free` has a price now.
    let expected = Rerated {
        rows: 6,
        changed: 3,
        unpriced: 1,
        by_currency: vec![by("USD", right - 7, 3 * right - 14)],
    };
    assert_eq!(rerate(&database, true).await, expected);
    assert_eq!(total(&database).await, before, "only said");
    // Two at once write it once.
    tokio::join!(rerate(&database, false), rerate(&database, false));
    let after = (2 * right, 4 * right, 1);
    assert_eq!(total(&database).await, after);
    let again = rerate(&database, false).await;
    assert_eq!((again.changed, again.by_currency), (0, Vec::new()));
    assert_eq!(total(&database).await, after);

    // Another currency, at one of the two providers: 110 × 10 of CNY, half of that in USD.
    let stored = price("own", Some("openai"), "CNY", 10);
    database.put_price(&stored).await.unwrap();
    let moved = rerate(&database, false).await;
    assert_eq!(moved.changed, 2, "`right` and `cheap`");
    let converted = 2 * right; // what `second` did for `cheap`, in CNY
    assert_eq!(
        moved.by_currency,
        [
            by("CNY", 2 * 1100, 2 * 1100 + converted),
            by("USD", -2 * right, -3 * right),
        ]
    );
    assert_eq!(total(&database).await, (1100, 1100 + 2 * right, 1));
    assert_eq!(rerate(&database, false).await.changed, 0);

    // And back; and what was unheard of has a price.
    let stored = database.list_prices().await.unwrap();
    database.delete_price(stored[0].id.unwrap()).await.unwrap();
    database
        .put_price(&price("unheard", None, "USD", 1))
        .await
        .unwrap();
    let back = rerate(&database, false).await;
    assert_eq!((back.changed, back.unpriced), (3, 0));
    assert_eq!(
        total(&database).await,
        (2 * right + 110, 4 * right + 110, 0)
    );
    assert_eq!(rerate(&database, false).await.changed, 0);

    // The rows are as they were.
    let page = database.requests(&Default::default(), None).await.unwrap();
    let cheap = page.data.iter().find(|row| row.model_name == "cheap");
    let cheap = cheap.unwrap();
    assert_eq!((cheap.user_charge_pico, cheap.provider_cost_pico), (7, 9));

    for (from, member) in [("then", "from"), ("", "from")] {
        let query = RerateQuery {
            from: from.into(),
            ..RerateQuery::default()
        };
        let error = database.rerate(&query, &config()).await.unwrap_err();
        assert_eq!(error.param(), Some(member));
    }
}

#[tokio::test]
async fn rerates_on_postgres() {
    conforms(testing::postgres().await).await;
}

#[tokio::test]
async fn rerates_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    conforms(testing::sqlite(directory.path()).await).await;
}
