//! Budgets through the whole gateway: what is spent never goes above them, whoever calls, dies or leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{Answer, CHAT, Client, chat},
    process::Setup,
    services,
    store::Store,
};
use serde_json::{Value, json};
use tokio::sync::Barrier;

/// A thousand tokens cost 0.01 by this.
fn prices() -> Value {
    json!({"m": {"input": "10", "output": "10"}})
}

fn overlay(mock: &MockProvider, budgets: &Value) -> Value {
    json!({
        "auth": {"default_user": "somebody"},
        "billing": {"prices": prices()},
        "budgets": budgets,
        "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
    })
}

fn code(answer: &Answer) -> (u16, String) {
    let code = answer.json()["error"]["code"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    (answer.status, code)
}

/// What all rows of the log charge, in pico.
async fn charged(store: &Store) -> i64 {
    let query = "SELECT CAST(coalesce(sum(user_charge_pico), 0) AS TEXT) FROM request_logs";
    let sum = store.texts(query).await.unwrap();
    sum[0].parse().unwrap()
}

async fn send(client: &Client, body: &Value) -> Answer {
    client.send("POST", CHAT, Some(body)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_lowers_the_limit_and_then_refuses() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let budgets = json!([{"user": "*", "amount": "0.025", "period": "day"}]);
    let setup = Setup::new(&overlay(&mock, &budgets));
    let lyss = setup.start().await;
    let client = lyss.client();
    let asked = |user: &str, limit: Option<u64>| {
        let mut body = chat("m", "[[usage:100/900]]");
        body["user_id"] = user.into();
        if let Some(limit) = limit {
            body["max_tokens"] = limit.into();
        }
        body
    };
    // Within the budget nothing is changed but for a limit where there was none.
    let answer = send(&client, &asked("a", Some(1_000))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-lyss-max-tokens-clamped"), None);
    let sent = |index: usize| -> Value {
        let requests = mock.requests();
        let mut chats = requests.iter().filter(|request| request.method == "POST");
        serde_json::from_slice(&chats.nth(index).unwrap().body).unwrap()
    };
    assert_eq!(sent(0)["max_tokens"], 1_000);

    // 0.015 are left: fifteen hundred tokens, prompt included.
    let answer = send(&client, &asked("a", Some(5_000))).await;
    assert_eq!(answer.status, 200);
    let clamped: u64 = answer
        .header("x-lyss-max-tokens-clamped")
        .unwrap()
        .parse()
        .unwrap();
    assert!((1_300..1_500).contains(&clamped), "{clamped}");
    assert_eq!(sent(1)["max_tokens"], clamped);
    assert_eq!(sent(1).get("max_completion_tokens"), None);

    // 0.005 are left, and no limit is given: one is set.
    let answer = send(&client, &asked("a", None)).await;
    assert_eq!(answer.status, 200);
    let clamped: u64 = answer
        .header("x-lyss-max-tokens-clamped")
        .unwrap()
        .parse()
        .unwrap();
    assert!((300..500).contains(&clamped), "{clamped}");
    assert_eq!(sent(2)["max_completion_tokens"], clamped);

    // The report was above the limit, as no honest provider's is: it is charged, and nothing more is served.
    let answer = send(&client, &asked("a", Some(10))).await;
    assert_eq!(code(&answer), (402, "budget_exceeded".into()));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let message = answer.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.contains("0.025 USD a day for each user"),
        "{message}"
    );
    assert!(message.contains("renews at 20"), "{message}");
    // Others have their own.
    assert_eq!(send(&client, &asked("b", Some(1_000))).await.status, 200);

    let store = setup.sqlite();
    let all = |rows: &[Value]| rows.len() == 5;
    let rows = store.rows_when(Duration::from_secs(5), all).await;
    let statuses: Vec<&str> = rows
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        ["success", "success", "success", "rejected", "success"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_price_is_refused_where_a_budget_applies() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let budgets = json!([{"user": "bounded", "amount": "1"}]);
    let setup = Setup::new(&overlay(&mock, &budgets));
    let lyss = setup.start().await;
    let client = lyss.client();
    let mut body = chat("nobody-knows", "hello");
    assert_eq!(send(&client, &body).await.status, 200);
    body["user_id"] = "bounded".into();
    let answer = send(&client, &body).await;
    assert_eq!(code(&answer), (402, "unpriced_model".into()));
    let chats = mock.ledger();
    let chats = chats.iter().filter(|entry| entry.path.contains("chat"));
    assert_eq!(chats.count(), 1, "nothing was dispatched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_used_comes_back() {
    let mock = MockProvider::start(Options::default()).unwrap();
    // Enough for one call of ten thousand tokens, not for two.
    let budgets = json!([{"total": true, "amount": "0.15", "period": "total"}]);
    let setup = Setup::new(&overlay(&mock, &budgets));
    let mut lyss = setup.start().await;
    let body = |text: &str| {
        let mut body = chat("m", text);
        body["max_tokens"] = 10_000.into();
        body
    };
    let served = |answer: &Answer| {
        (
            answer.status,
            answer
                .header("x-lyss-max-tokens-clamped")
                .map(str::to_owned),
        )
    };
    let whole = |answer: &Answer| assert_eq!(served(answer), (200, None));
    // After an answer, an error, and a stream whose caller left.
    whole(&send(&lyss.client(), &body("[[usage:10/10]]")).await);
    let failed = send(&lyss.client(), &body("[[status:400]]")).await;
    assert_eq!(failed.status, 400);
    whole(&send(&lyss.client(), &body("[[usage:10/10]]")).await);
    let mut streamed = body("[[chunks:500 size:6 every:10]]");
    streamed["stream"] = true.into();
    let client = lyss.client();
    let mut reading = client.open("POST", CHAT, Some(&streamed)).await.unwrap();
    assert!(reading.events(3).await.unwrap());
    drop(reading);
    tokio::time::sleep(Duration::from_millis(300)).await;
    whole(&send(&lyss.client(), &body("[[usage:10/10]]")).await);

    // And after a process that died: soon.
    mock.set_script(Script {
        delay_ms: 60_000,
        ..Script::default()
    });
    let client = lyss.client();
    let hanging = tokio::spawn(async move {
        let mut body = chat("m", "never");
        body["max_tokens"] = 10_000.into();
        let _ = client.send("POST", CHAT, Some(&body)).await;
    });
    let dispatched = |mock: &MockProvider| {
        let requests = mock.requests();
        requests
            .iter()
            .any(|request| request.body.windows(7).any(|text| text == b"\"never\""))
    };
    while !dispatched(&mock) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lyss.kill();
    hanging.abort();
    mock.set_script(Script::default());
    let lyss = setup.start().await;
    let client = lyss.client();
    let began = std::time::Instant::now();
    loop {
        let answer = send(&client, &body("[[usage:10/10]]")).await;
        if served(&answer) == (200, None) {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            served(&answer)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A thousand callers over two gateways: the budget is used up, and not one cent more.
async fn a_thousand_callers(data: Value, store: Store) {
    const CALLERS: usize = 1_000;
    const BUDGET: i64 = 2_000_000_000_000;
    let mock = MockProvider::start(Options::default()).unwrap();
    let mut overlay = overlay(&mock, &json!([{"total": true, "amount": "2.00"}]));
    overlay["data"] = data;
    // No limit is lowered: the mock would not keep to it.
    overlay["billing"]["min_output_tokens"] = 1_000.into();
    let setups = [Setup::new(&overlay), Setup::new(&overlay)];
    let mut gateways = Vec::new();
    for setup in &setups {
        gateways.push(setup.start().await);
    }
    let barrier = Arc::new(Barrier::new(CALLERS));
    let calls: Vec<_> = (0..CALLERS)
        .map(|number| {
            let client = gateways[number % 2].client();
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                // The report is within what was reserved, as it is of a provider that keeps to the limit.
                let mut body = chat("m", "[[usage:10/990]]");
                body["max_tokens"] = 990.into();
                body["stream"] = (number % 3 == 0).into();
                barrier.wait().await;
                // Reservations are above what is spent: who is refused now may be served when some have ended.
                for _ in 0..6 {
                    let answer = send(&client, &body).await;
                    match answer.status {
                        200 => return true,
                        402 | 503 => {
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..400))).await
                        }
                        _ => panic!("{} {}", answer.status, answer.json()),
                    }
                }
                false
            })
        })
        .collect();
    let mut served = 0;
    for call in calls {
        served += i64::from(call.await.unwrap());
    }
    let done = |rows: &[Value]| {
        rows.iter().filter(|row| row["status"] == "success").count() as i64 >= served
    };
    store.rows_when(Duration::from_secs(20), done).await;
    let spent = charged(&store).await;
    println!("{served} of {CALLERS} served; spent {spent} of {BUDGET} pico");
    assert_eq!(spent, served * 10_000_000_000);
    assert!(spent <= BUDGET, "overspent: {spent}");
    assert!(spent >= BUDGET / 100 * 95, "left too much: {spent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_on_postgres() {
    let url = services::new_database(&services::postgres()).await;
    let data = json!({"database": {"driver": "postgres", "source": url}});
    a_thousand_callers(data, Store::Postgres(url)).await;
}
