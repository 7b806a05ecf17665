//! What every store keeps.

use super::{stores::Pair, *};
use crate::{
    ErrorKind,
    budget::store::{Settlement, Source},
    types::log::rfc3339,
};

/// A row of the log.
pub(super) async fn log(
    database: &Database,
    id: RequestId,
    user: &str,
    charge: Pico,
    currency: &str,
) {
    let created = rfc3339(id.unix_ms());
    let charge = i64::try_from(charge.0).unwrap();
    macro_rules! insert {
        ($id:literal, $time:literal) => {
            concat!(
                "INSERT INTO request_logs (request_id, created_at, user_id, session_id, api_key_id, model_name,
                 provider_id, input_tokens, output_tokens, cached_tokens, reasoning_tokens, usage_source, latency_ms,
                 status, attempts, purpose, stream, user_charge_pico, provider_cost_pico, currency) VALUES (",
                $id, ",", $time, ", $3, 's', 'k', 'm', 'p', 1, 1, 0, 0, 'reported', 1, 'success', 1, 'chat', false,
                $4, $4, $5)"
            )
        };
    }
    match &database.pool {
        Pool::Postgres(pool) => sqlx::query(insert!("$1::text::uuid", "$2::text::timestamptz"))
            .bind(id.to_string())
            .bind(created)
            .bind(user)
            .bind(charge)
            .bind(currency)
            .execute(pool)
            .await
            .map(drop),
        Pool::Sqlite(pool) => sqlx::query(insert!("$1", "$2"))
            .bind(id.to_string())
            .bind(created)
            .bind(user)
            .bind(charge)
            .bind(currency)
            .execute(pool)
            .await
            .map(drop),
    }
    .unwrap();
}

#[track_caller]
fn refused(outcome: Result<Reservation>) -> Error {
    let error = outcome.expect_err("it is not covered");
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded, "{error}");
    error
}

async fn settled(budgets: &Budgets) {
    assert!(budgets.settled(Duration::from_secs(5)).await);
}

pub(super) async fn the_life_of_a_reservation(pair: Pair) {
    let budgets = instance(&pair.one, "{ user: u, amount: 1, period: month }");
    let first = reserve(&budgets, "u", "0.6", "0.6").await.unwrap();
    assert_eq!(first.granted(), usd("0.6"));
    let error = refused(reserve(&budgets, "u", "0.6", "0.6").await);
    assert!(
        error.message().contains("1 USD a month for user `u`"),
        "{error}"
    );
    assert!(
        error
            .message()
            .contains("at least 0.6 USD, and 0.4 USD are left; it renews at 2"),
        "{error}"
    );
    assert_eq!(balance(&budgets, "u").await, (usd("0"), usd("0.6")));
    first.settle(usd("0.1"));
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("0.1"), usd("0")));
    let second = reserve(&budgets, "u", "0.9", "0.9").await.unwrap();
    second.settle(Pico::ZERO);
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("0.1"), usd("0")));
    // Others, and what costs nothing, need no budget.
    assert!(reserve(&budgets, "v", "5", "5").await.is_ok());
    assert!(reserve(&budgets, "u", "0", "0").await.is_ok());
}

pub(super) async fn all_counters_or_none(pair: Pair) {
    let budgets = instance(
        &pair.one,
        "{ user: '*', amount: 1, period: day }, { total: true, amount: 1.5, period: month }",
    );
    let _u = reserve(&budgets, "u", "1", "1").await.unwrap();
    let error = refused(reserve(&budgets, "v", "1", "1").await);
    assert!(error.message().contains("whole gateway"), "{error}");
    assert_eq!(
        balance(&budgets, "v").await,
        (usd("0"), usd("0")),
        "nothing of the user's is taken"
    );
    let _v = reserve(&budgets, "v", "0.5", "0.5").await.unwrap();
}

pub(super) async fn what_is_left_is_granted(pair: Pair) {
    let budgets = instance(&pair.one, "{ user: u, amount: 1, period: total }");
    let _first = reserve(&budgets, "u", "0.7", "0.7").await.unwrap();
    let second = reserve(&budgets, "u", "0.7", "0.1").await.unwrap();
    assert_eq!(second.granted(), usd("0.3"));
    let error = refused(reserve(&budgets, "u", "0.7", "0.1").await);
    assert!(error.message().contains("it does not renew"), "{error}");
}

pub(super) async fn an_excess_blocks_the_next(pair: Pair) {
    let budgets = instance(&pair.one, "{ user: u, amount: 1, period: day }");
    let first = reserve(&budgets, "u", "0.5", "0.5").await.unwrap();
    first.settle(usd("3"));
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("3"), usd("0")));
    let error = refused(reserve(&budgets, "u", "0.000000000001", "0.000000000001").await);
    assert!(error.message().contains(" 0 USD are left"), "{error}");
}

pub(super) async fn settling_twice_changes_nothing(pair: Pair) {
    let budgets = instance(&pair.one, "{ user: u, amount: 10, period: day }");
    let other = reserve(&budgets, "u", "2", "2").await.unwrap();
    let (id, applying) = {
        let id = RequestId::new();
        (id, budgets.applying(&spender("u"), id.unix_ms()))
    };
    let key = Arc::clone(&applying.bounds[0].key);
    let asked =
        |applying: &Applying| budgets.reserve(id, applying.clone(), "USD", usd("1"), usd("1"));
    let first = asked(&applying).await.unwrap();
    let again = asked(&applying).await.unwrap();
    assert_eq!(
        balance(&budgets, "u").await.1,
        usd("3"),
        "one id reserves once"
    );
    let settlement = Settlement {
        id,
        charges: [(key, nano(usd("0.25")))].into(),
        source: Source::Holder,
    };
    let (one, two) = (pair.one.clone(), pair.two.clone());
    for store in [&one, &two, &one] {
        store
            .settle(&[settlement.clone(), settlement.clone()], &Arc::default())
            .await
            .unwrap();
    }
    first.settle(usd("0.5"));
    again.settle(usd("0.75"));
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("0.25"), usd("2")));
    drop(other);
}

pub(super) async fn a_new_counter_begins_with_the_log(pair: Pair) {
    let day = 86_400_000;
    let now = RequestId::new();
    log(&pair.database, now, "u", usd("0.75"), "USD").await;
    log(&pair.database, RequestId::new(), "u", usd("0.1"), "CNY").await;
    log(&pair.database, RequestId::new(), "other", usd("0.1"), "USD").await;
    let mut early = *now.as_bytes();
    early[..6].copy_from_slice(&(now.unix_ms() - 40 * day).to_be_bytes()[2..]);
    log(
        &pair.database,
        RequestId::from_bytes(early),
        "u",
        usd("100"),
        "USD",
    )
    .await;
    let budgets = instance(&pair.one, "{ user: u, amount: 1, period: month }");
    refused(reserve(&budgets, "u", "0.21", "0.21").await);
    let _most = reserve(&budgets, "u", "0.2", "0.2").await.unwrap();
    for (scope, spent) in [
        ("key: k", "100.9"),
        ("session: s", "100.8"),
        ("total: true", "100.9"),
        ("user: u", "100.8"),
    ] {
        let budgets = instance(
            &pair.two,
            &format!("{{ {scope}, amount: 101, period: total }}"),
        );
        let id = RequestId::new();
        let spender = Spender {
            user_id: "u".into(),
            api_key_id: Some("k".into()),
            session_id: Some("s".into()),
            key_budget: None,
        };
        let applying = budgets.applying(&spender, id.unix_ms());
        let key = Arc::clone(&applying.bounds[0].key);
        let _held = budgets
            .reserve(id, applying, "USD", usd("0.1"), usd("0.1"))
            .await
            .unwrap();
        let balance = pair.two.balances(&[key]).await.unwrap()[0].unwrap();
        assert_eq!(pico(balance.spent), usd(spent), "{scope}");
    }
}

pub(super) async fn other_currencies_are_converted(pair: Pair) {
    let budgets = instance(
        &pair.one,
        "{ user: u, amount: 1, period: day }, { total: true, amount: 10, currency: CNY, period: day }",
    );
    let reserve = |currency: &'static str, asked: &'static str, least: &'static str| {
        let id = RequestId::new();
        let applying = budgets.applying(&spender("u"), id.unix_ms());
        budgets.reserve(id, applying, currency, usd(asked), usd(least))
    };
    let first = reserve("CNY", "1.5", "1.5").await.unwrap();
    assert_eq!(balance(&budgets, "u").await.1, usd("0.75"));
    let second = reserve("CNY", "1.5", "0.1").await.unwrap();
    assert_eq!(
        second.granted(),
        usd("0.5"),
        "what is left, in the currency asked in"
    );
    refused(reserve("USD", "0.1", "0.1").await);
    let error = reserve("EUR", "0.1", "0.1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnpricedModel);
    first.settle(usd("1"));
    second.settle(usd("0"));
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("0.5"), usd("0")));
}

pub(super) async fn what_is_open_is_listed(pair: Pair) {
    let budgets = instance(
        &pair.one,
        "{ user: '*', amount: 9, period: day }, { total: true, amount: 9, period: day }",
    );
    let before = RequestId::new().unix_ms();
    let first = reserve(&budgets, "u", "1", "1").await.unwrap();
    let second = reserve(&budgets, "v", "2", "2").await.unwrap();
    let soon = RequestId::new().unix_ms() + 1000;
    let none = pair.two.open_before(before, None).await.unwrap();
    assert!(none.open.is_empty() && none.next.is_none());
    let mut amounts: Vec<_> = pair
        .two
        .open_before(soon, None)
        .await
        .unwrap()
        .open
        .iter()
        .map(|open| {
            open.amounts
                .iter()
                .map(|(_, amount)| *amount)
                .collect::<Vec<_>>()
        })
        .collect();
    amounts.sort();
    assert_eq!(amounts, [[nano(usd("1")); 2], [nano(usd("2")); 2]]);
    first.settle(Pico::ZERO);
    settled(&budgets).await;
    let open = async || pair.two.open_before(soon, None).await.unwrap().open.len();
    assert_eq!(open().await, 1);
    drop(second);
    assert_eq!(open().await, 1, "what is dropped stays reserved");
}

pub(super) async fn what_died_is_settled_by_its_row(pair: Pair) {
    let budgets = instance(
        &pair.one,
        "{ user: u, amount: 9, period: total }, { total: true, amount: 9, currency: CNY, period: total }",
    );
    // Requests of some time ago: one whose row has come, one whose row has not, one that is still running here.
    let long_ago = |seconds: i64| {
        let mut bytes = *RequestId::new().as_bytes();
        let time = RequestId::from_bytes(bytes).unix_ms() - seconds * 1000;
        bytes[..6].copy_from_slice(&time.to_be_bytes()[2..]);
        RequestId::from_bytes(bytes)
    };
    let (ended, lost, running) = (long_ago(60), long_ago(50), long_ago(40));
    for id in [ended, lost] {
        let applying = budgets.applying(&spender("u"), id.unix_ms());
        drop(
            budgets
                .reserve(id, applying, "USD", usd("1"), usd("1"))
                .await
                .unwrap(),
        );
    }
    let applying = budgets.applying(&spender("u"), running.unix_ms());
    let held = budgets
        .reserve(running, applying, "USD", usd("1"), usd("1"))
        .await
        .unwrap();
    log(&pair.database, ended, "u", usd("0.25"), "USD").await;
    log(&pair.database, running, "u", usd("0.5"), "USD").await;
    assert_eq!(budgets.sweep(&pair.database).await.unwrap(), 1);
    assert_eq!(budgets.sweep(&pair.database).await.unwrap(), 0);
    assert_eq!(balance(&budgets, "u").await, (usd("0.25"), usd("2")));
    held.settle(usd("0.5"));
    settled(&budgets).await;
    assert_eq!(balance(&budgets, "u").await, (usd("0.75"), usd("1")));
    log(&pair.database, lost, "u", Pico::ZERO, "USD").await;
    assert_eq!(budgets.sweep(&pair.database).await.unwrap(), 1);
    assert_eq!(balance(&budgets, "u").await, (usd("0.75"), usd("0")));
}

/// A caller may go away while the store is asked: nobody knows then whether it has granted.
pub(super) async fn what_is_given_up_is_settled_by_its_row(pair: Pair) {
    let budgets = instance(&pair.one, "{ user: u, amount: 9, period: total }");
    // The counter is there before.
    reserve(&budgets, "u", "1", "1")
        .await
        .unwrap()
        .settle(Pico::ZERO);
    for patience in 0..30 {
        let id = RequestId::new();
        let applying = budgets.applying(&spender("u"), id.unix_ms());
        let reserving = budgets.reserve(id, applying, "USD", usd("0.1"), usd("0.1"));
        let patience = Duration::from_micros(patience * 100);
        drop(tokio::time::timeout(patience, reserving).await);
        log(&pair.database, id, "u", Pico::ZERO, "USD").await;
    }
    settled(&budgets).await;
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while balance(&budgets, "u").await.1 > Pico::ZERO {
        assert!(
            std::time::Instant::now() < end,
            "what was given up stays reserved"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        budgets.sweep(&pair.database).await.unwrap();
    }
}

pub(super) async fn what_leaves_the_log_stays_counted(pair: Pair) {
    let day = 86_400_000;
    let now = RequestId::new();
    for (days, charge) in [(500, "1"), (450, "2"), (0, "4")] {
        let mut bytes = *RequestId::new().as_bytes();
        bytes[..6].copy_from_slice(&(now.unix_ms() - days * day).to_be_bytes()[2..]);
        log(
            &pair.database,
            RequestId::from_bytes(bytes),
            "u",
            usd(charge),
            "USD",
        )
        .await;
    }
    log(&pair.database, now, "other", usd("8"), "CNY").await;
    for _ in 0..2 {
        let year = Duration::from_secs(365 * 86_400);
        pair.database
            .drop_expired_logs(now.unix_ms(), year)
            .await
            .unwrap();
    }
    for (scope, spent) in [("user: u", "7"), ("key: k", "11"), ("total: true", "11")] {
        let budgets = instance(
            &pair.one,
            &format!("{{ {scope}, amount: 100, period: total }}"),
        );
        let spender = Spender {
            user_id: "u".into(),
            api_key_id: Some("k".into()),
            ..Spender::default()
        };
        let id = RequestId::new();
        let applying = budgets.applying(&spender, id.unix_ms());
        let key = Arc::clone(&applying.bounds[0].key);
        let _held = budgets
            .reserve(id, applying, "USD", usd("0.1"), usd("0.1"))
            .await
            .unwrap();
        let balance = pair.one.balances(&[key]).await.unwrap()[0].unwrap();
        // A roll-up may be rounded up by 1e-9.
        let over = pico(balance.spent).0 - usd(spent).0;
        assert!(
            (0..=2000).contains(&over),
            "{scope}: {}",
            pico(balance.spent)
        );
    }
}
