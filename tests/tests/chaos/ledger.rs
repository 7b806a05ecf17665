//! B1, B3, B7, B12: a gateway is killed and its database stopped under mixed calls, then its log is compared with what
//! the callers saw and the providers billed.

use std::{
    os::unix::process::ExitStatusExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::Client,
    process::{Lyss, Setup},
    services::{Server, new_database},
    store::Store,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    audit::{Audit, INPUT_PRICE, OUTPUT_PRICE, Row},
    calls::{Call, Heard, MODEL, rules},
    seed, size,
};

const ADMIN_KEY: &str = "admin-key-of-the-chaos-suite";
const CALLERS: usize = 48;
/// No call takes so long, however it ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// What all callers share.
struct Load {
    seed: u64,
    total: usize,
    next: AtomicUsize,
    ended: AtomicUsize,
    /// What was heard of each call.
    heard: Mutex<Vec<Option<Heard>>>,
    gateway: watch::Receiver<Client>,
}

impl Load {
    /// Makes calls until none are left.
    async fn call(&self) {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.total {
                return;
            }
            let call = Call::new(self.seed, number);
            let heard = loop {
                let mut gateway = self.gateway.clone();
                let client = gateway.borrow_and_update().clone();
                match tokio::time::timeout(PATIENCE, call.make(&client)).await {
                    Ok(Ok(heard)) => break heard,
                    // Nothing has left: it is the same call still.
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                    // Of a gateway that was killed meanwhile the client may not have noticed.
                    Err(_) if gateway.has_changed().unwrap() => break Heard::Nothing,
                    Err(_) => break Heard::Silence,
                }
            };
            self.heard.lock().unwrap()[number] = Some(heard);
            self.ended.fetch_add(1, Relaxed);
        }
    }

    /// Waits until so many calls have ended.
    async fn reach(&self, count: usize) {
        while self.ended.load(Relaxed) < count.min(self.total) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn setup(first: &MockProvider, second: &MockProvider, database: &str, redis: &str) -> Setup {
    let provider = |mock: &MockProvider| {
        json!({
            "kind": "openai", "api_key": "sk-upstream", "base_url": mock.base_url_openai(), "timeout": "1s",
        })
    };
    let rules = [("one", 1), ("two", 2)].map(
        |(provider, priority)| json!({"model": MODEL, "provider": provider, "priority": priority}),
    );
    Setup::new(&json!({
        "auth": {"admin_key": ADMIN_KEY, "mode": "none"},
        "data": {
            "database": {"driver": "postgres", "source": database},
            "redis": {"addr": redis},
        },
        "billing": {"prices": {MODEL: {"input": INPUT_PRICE, "output": OUTPUT_PRICE}}},
        "budgets": [
            {"total": true, "amount": "1000000", "period": "total"},
            {"total": true, "amount": "1000000", "period": "month"},
        ],
        "routing": {"rules": rules, "default_provider": "one", "breaker": {"enabled": false}},
        "providers": {"one": provider(first), "two": provider(second)},
    }))
}

/// Kills the gateway and starts it again.
async fn replace(setup: &Setup, lyss: &mut Lyss, address: &watch::Sender<Client>) {
    assert_eq!(lyss.kill().signal(), Some(9));
    *lyss = setup.start().await;
    address.send_replace(lyss.client());
}

/// Kills and outages, spread over the calls; the last kill is after them.
async fn disturb(
    load: &Load,
    kills: usize,
    outages: usize,
    postgres: &mut Server,
    setup: &Setup,
    lyss: &mut Lyss,
    address: &watch::Sender<Client>,
) {
    let mut random = fastrand::Rng::with_seed(load.seed);
    let every = load.total / kills.max(1);
    let outage_at: Vec<usize> = (1..=outages)
        .map(|outage| outage * kills / (outages + 1))
        .collect();
    for kill in 0..kills {
        load.reach(kill * every + random.usize(0..every.max(1)))
            .await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
        if outage_at.contains(&kill) {
            // One of the kills is while the database is away.
            postgres.stop();
            tokio::time::sleep(Duration::from_secs(1)).await;
            replace(setup, lyss, address).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            postgres.up();
        } else {
            replace(setup, lyss, address).await;
        }
    }
}

/// The budgets as the admin API shows them: spent and reserved. Their store may be slow to answer on a busy machine.
async fn budgets(client: &Client) -> Vec<(Value, Value)> {
    let began = Instant::now();
    loop {
        let answer = client.get("/v1/admin/budgets").await;
        let shown = answer.json();
        if answer.status == 503 && began.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        assert_eq!(answer.status, 200, "{shown}");
        let each = shown["data"].as_array().unwrap().iter();
        return each
            .map(|budget| (budget["spent"].clone(), budget["reserved"].clone()))
            .collect();
    }
}

/// Waits until nothing is reserved; gives how long that took.
async fn nothing_reserved(client: &Client) -> Duration {
    let began = Instant::now();
    loop {
        let budgets = budgets(client).await;
        if budgets.iter().all(|(_, reserved)| reserved == "0") {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "open reservations: {budgets:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The rows, once there are no fewer than before a while ago.
async fn rows(store: &Store) -> Vec<Row> {
    const COUNT: &str = "SELECT count(*)::text FROM request_logs";
    let mut count = store.texts(COUNT).await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = store.texts(COUNT).await.unwrap();
        if now == count {
            break;
        }
        count = now;
    }
    let texts = store.texts(Row::QUERY).await.unwrap();
    texts.iter().map(|text| Row::parse(text)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_charged_once() {
    let total = size("LYSS_CHAOS_REQUESTS", 2_000);
    let kills = size("LYSS_CHAOS_KILLS", 8);
    let outages = size("LYSS_CHAOS_OUTAGES", 1);
    let seed = seed();
    let began = Instant::now();

    let recorded = Options {
        max_recorded: 2 * total + 1_000,
        ..Options::default()
    };
    let first = MockProvider::start(recorded.clone()).unwrap();
    let second = MockProvider::start(recorded).unwrap();
    rules(&first);
    let mut postgres = Server::postgres();
    let redis = Server::redis();
    let url = new_database(&postgres.url).await;
    let setup = setup(&first, &second, &url, &redis.address());
    let mut lyss = setup.start().await;
    let (address, gateway) = watch::channel(lyss.client());
    let load = Arc::new(Load {
        seed,
        total,
        next: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        heard: Mutex::new(vec![None; total]),
        gateway,
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let load = Arc::clone(&load);
            tokio::spawn(async move { load.call().await })
        })
        .collect();
    disturb(
        &load,
        kills,
        outages,
        &mut postgres,
        &setup,
        &mut lyss,
        &address,
    )
    .await;
    for caller in callers {
        caller.await.unwrap();
    }
    let called = began.elapsed();
    // What is still read to its end for callers who have left.
    tokio::time::sleep(Duration::from_secs(1)).await;
    nothing_reserved(&lyss.client().with_key(ADMIN_KEY)).await;
    replace(&setup, &mut lyss, &address).await;
    let client = lyss.client().with_key(ADMIN_KEY);
    let unreserved = nothing_reserved(&client).await;

    let store = Store::Postgres(url);
    let rows = rows(&store).await;
    let heard = std::mem::take(&mut *load.heard.lock().unwrap());
    let audit = Audit::new(&heard, &[&first, &second], &rows);
    println!(
        "{total} calls of {CALLERS} callers, {} kills, {outages} outages of the database, seed {seed}: \
         {:.0} s; nothing reserved {:.1} s after the last restart",
        kills + 1,
        called.as_secs_f64(),
        unreserved.as_secs_f64(),
    );
    println!("{audit}");
    let charged = audit.charged();
    for (spent, _) in budgets(&client).await {
        let spent: lyss_core::types::Pico = spent.as_str().unwrap().parse().unwrap();
        assert_eq!(
            spent.0, charged,
            "the budget's counter is not the log's sum"
        );
    }
    audit.assert_nothing_wrong();
    let differing = "SELECT l.request_id::text FROM request_logs l JOIN (SELECT request_id, sum(cost_pico) AS cost \
                     FROM request_attempts GROUP BY request_id) a USING (request_id) \
                     WHERE l.status = 'success' AND l.provider_cost_pico <> a.cost";
    let differing = store.texts(differing).await.unwrap();
    assert!(differing.is_empty(), "attempts cost other: {differing:?}");
}
