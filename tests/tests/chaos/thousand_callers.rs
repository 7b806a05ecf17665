//! B8, B15: a thousand callers over two gateways and one Redis spend a budget of 10.00 and not a cent more, also when a
//! gateway is killed, or Redis loses everything, in their midst.

use std::{sync::Arc, time::Duration};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::Setup,
    services::{Server, new_database, postgres},
    store::Store,
};
use serde_json::json;
use tokio::sync::{Barrier, watch};

const CALLERS: usize = 1_000;
/// In pico.
const BUDGET: i64 = 10_000_000_000_000;
/// What an answer costs: two thousand tokens, of which a million cost 10.
const EACH: i64 = 20_000_000_000;

/// What happens in the midst of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// One of the two gateways is killed, and started again.
    Kill,
    /// Redis is emptied.
    Flush,
    /// Redis is killed, and comes back without its data.
    Redis,
}

/// One caller: asks until it is served, or was refused often.
async fn ask(gateway: watch::Receiver<Client>, number: usize) -> usize {
    let mut body = chat("m", "[[delay:20 usage:10/1990]]");
    // The report is within what was reserved, as it is of a provider that keeps to the limit.
    body["max_tokens"] = 1_990.into();
    body["stream"] = number.is_multiple_of(3).into();
    // Reservations are above what is spent: who is refused now may be served when some have ended.
    for _ in 0..12 {
        let client = gateway.borrow().clone();
        match client.send("POST", CHAT, Some(&body)).await {
            Ok(answer) if answer.status == 200 => return 1,
            // 502: a thousand connections at once are more than the provider's queue of them.
            Ok(answer) => assert!(
                matches!(answer.status, 402 | 502 | 503),
                "{} {}",
                answer.status,
                answer.json()
            ),
            // Killed.
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..500))).await;
    }
    0
}

async fn spend(fault: Fault) {
    let mock = MockProvider::start(Options::default()).unwrap();
    let mut redis = Server::redis();
    let url = new_database(&postgres()).await;
    let overlay = json!({
        "auth": {"default_user": "somebody"},
        "data": {
            "database": {"driver": "postgres", "source": url},
            "redis": {"addr": redis.address()},
        },
        // No limit is lowered: the mock would not keep to it.
        "billing": {"prices": {"m": {"input": "10", "output": "10"}}, "min_output_tokens": 1_990},
        "budgets": [{"total": true, "amount": "10.00"}],
        "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
    });
    let setups = [Setup::new(&overlay), Setup::new(&overlay)];
    let mut one = setups[0].start().await;
    let two = setups[1].start().await;
    let (address, first) = watch::channel(one.client());
    let (_unchanged, second) = watch::channel(two.client());
    let barrier = Arc::new(Barrier::new(CALLERS));
    let calls: Vec<_> = (0..CALLERS)
        .map(|number| {
            let gateway = match number % 2 {
                0 => first.clone(),
                _ => second.clone(),
            };
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                ask(gateway, number).await
            })
        })
        .collect();
    let chats = |mock: &MockProvider| {
        let entries = mock.ledger();
        entries
            .iter()
            .filter(|entry| entry.path.ends_with("/chat/completions"))
            .count()
    };
    if fault != Fault::Nothing {
        while chats(&mock) < 150 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    match fault {
        Fault::Nothing => {}
        Fault::Kill => {
            one.kill();
            one = setups[0].start().await;
            address.send_replace(one.client());
        }
        Fault::Flush => {
            let client = redis::Client::open(redis.url.clone()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let flushed: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut connection).await;
            flushed.unwrap();
        }
        Fault::Redis => {
            redis.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            redis.up();
        }
    }
    let mut served = 0;
    for call in calls {
        served += call.await.unwrap();
    }
    let store = Store::Postgres(url);
    let query = "SELECT coalesce(sum(user_charge_pico), 0)::text FROM request_logs";
    let count = "SELECT count(*)::text FROM request_logs WHERE status = 'success'";
    for _ in 0..200 {
        let count = store.texts(count).await.unwrap();
        if count[0].parse::<usize>().unwrap() >= served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Those of a killed gateway come when it has started again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent: i64 = store.texts(query).await.unwrap()[0].parse().unwrap();
    let hundredths = |pico: i64| pico as f64 / 1e12;
    println!(
        "{CALLERS} callers, {fault:?}: {served} served by {} calls of the provider; spent {:.6} of {:.2}",
        chats(&mock),
        hundredths(spent),
        hundredths(BUDGET)
    );
    assert!(spent <= BUDGET, "overspent: {spent}");
    assert!(spent >= BUDGET / 100 * 95, "left too much: {spent}");
    if fault != Fault::Kill {
        assert_eq!(spent, served as i64 * EACH);
    }
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_on_redis() {
    spend(Fault::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_and_a_gateway_that_is_killed() {
    spend(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_and_a_redis_that_is_emptied() {
    spend(Fault::Flush).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_and_a_redis_that_is_killed() {
    spend(Fault::Redis).await;
}
