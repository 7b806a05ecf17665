//! B1 and S2: killed at any moment, the gateway loses no bill and no turn that it has acknowledged.
//!
//! Every request has a model name of its own, so that what the client read, what the provider served and what the log
//! holds can be joined without trusting any of the three.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use lyss_mock_provider::{Entry, MockProvider, Options, Script};
use lyss_tests::{
    client::{CHAT, Client, chat, is_done},
    process::Setup,
    services,
    store::Store,
};
use serde_json::{Value, json};
use tokio::sync::watch;

const SEED: u64 = 20_261_122;
const WORKERS: usize = 8;

/// What the clients know.
#[derive(Default)]
struct Told {
    /// Tells this run from others on the same Redis.
    run: String,
    issued: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// The broken ones: the process died under them.
    broken: usize,
}

impl Told {
    fn user(&self, worker: usize) -> String {
        format!("{}-{worker}", self.run)
    }
}

/// One worker's conversation: its turns one after another, each of another kind.
async fn converse(
    worker: usize,
    gateway: watch::Receiver<Client>,
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
) {
    let user = told.lock().unwrap().user(worker);
    for turn in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let model = format!("m-{worker}-{turn}");
        let mut body = chat(
            &model,
            &format!("please repeat after me: {model} <{model}>"),
        );
        body["user_id"] = user.clone().into();
        body["stream"] = (turn % 2 == 1).into();
        if turn % 4 >= 2 {
            body["session_id"] = format!("session-{worker}").into();
        }
        told.lock().unwrap().issued.insert(model.clone());
        let client = gateway.borrow().clone();
        match client.send("POST", CHAT, Some(&body)).await {
            Ok(answer) if answer.status == 200 && (turn % 2 == 0 || is_done(&answer)) => {
                told.lock().unwrap().acknowledged.insert(model);
            }
            Ok(answer) => panic!(
                "{model}: {} {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            Err(_) => {
                told.lock().unwrap().broken += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Kills the gateway so many times under load, and gives what all sides know in the end.
async fn killed(
    setup: &Setup,
    mock: &MockProvider,
    kills: usize,
) -> (Told, Client, lyss_tests::process::Lyss) {
    mock.set_script(Script {
        delay_ms: 8,
        every_ms: 4,
        ..Script::default()
    });
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut lyss = setup.start().await;
    let (address, gateway) = watch::channel(lyss.client());
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::new(Mutex::new(Told {
        run: format!("run-{:x}", fastrand::u64(..)),
        ..Told::default()
    }));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            tokio::spawn(converse(
                worker,
                gateway.clone(),
                Arc::clone(&stop),
                Arc::clone(&told),
            ))
        })
        .collect();
    for _ in 0..kills {
        // However slow the machine is, something is acknowledged between two kills.
        let enough = told.lock().unwrap().acknowledged.len() + random.usize(5..15);
        while told.lock().unwrap().acknowledged.len() < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.u64(0..60_000))).await;
        assert_eq!(lyss.kill().signal(), Some(9));
        lyss = setup.start().await;
        address.send_replace(lyss.client());
    }
    stop.store(true, Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let told = std::mem::take(&mut *told.lock().unwrap());
    let client = lyss.client();
    (told, client, lyss)
}

/// The entry that the provider billed last, by model: a retried call has several.
fn served(mock: &MockProvider) -> BTreeMap<String, Entry> {
    mock.ledger()
        .into_iter()
        .filter(|entry| entry.path.ends_with("/chat/completions"))
        .map(|entry| (entry.model.clone(), entry))
        .collect()
}

async fn audit_bills(store: &Store, told: &Told, mock: &MockProvider, kills: usize) {
    let served = served(mock);
    let complete = |rows: &[Value]| {
        let models: BTreeSet<&str> = rows
            .iter()
            .filter_map(|row| row["model_name"].as_str())
            .collect();
        served.keys().all(|model| models.contains(model.as_str()))
    };
    let rows = store.rows_when(Duration::from_secs(10), complete).await;

    let mut by_model: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for row in &rows {
        by_model
            .entry(row["model_name"].as_str().unwrap())
            .or_default()
            .push(row);
    }
    for (model, rows) in &by_model {
        assert_eq!(rows.len(), 1, "seed {SEED}: {model} has two rows: {rows:?}");
        assert!(
            told.issued.contains(*model),
            "seed {SEED}: nobody asked for {model}"
        );
    }
    for model in served.keys() {
        assert!(
            by_model.contains_key(model.as_str()),
            "seed {SEED}: {model} was dispatched and has no row"
        );
    }
    for model in &told.acknowledged {
        let row = by_model
            .get(model.as_str())
            .unwrap_or_else(|| panic!("seed {SEED}: {model} was acknowledged and has no row"))[0];
        let entry = &served[model];
        assert_eq!(row["status"], "success", "seed {SEED}: {row}");
        assert_eq!(row["usage_source"], "reported", "seed {SEED}: {row}");
        assert_eq!(
            row["input_tokens"], entry.prompt_tokens,
            "seed {SEED}: {row}"
        );
        assert_eq!(
            row["output_tokens"], entry.planned_tokens,
            "seed {SEED}: {row}"
        );
    }
    let mut aborted = 0;
    for (model, rows) in &by_model {
        match rows[0]["status"].as_str().unwrap() {
            "aborted" => {
                aborted += 1;
                assert_eq!(rows[0]["usage_source"], "partial");
                assert!(!told.acknowledged.contains(*model), "seed {SEED}: {model}");
            }
            // Settled, and killed before the last byte had left.
            "success" => {}
            other => panic!("seed {SEED}: {model} is {other}: {:?}", rows[0]),
        }
    }
    // The faults really happened, and in the middle of things.
    assert!(told.broken >= kills, "only {} calls broke", told.broken);
    assert!(
        aborted >= kills,
        "only {aborted} calls were in flight when killed"
    );
    let acknowledged = told.acknowledged.len();
    assert!(
        acknowledged >= 5 * kills,
        "only {acknowledged} were acknowledged"
    );
}

/// A worker's conversation, page by page.
async fn stored_messages(client: &Client, worker: usize, user: &str) -> Vec<Value> {
    let mut messages = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!(
            "/v1/sessions/session-{worker}/messages?user_id={user}&limit=200&cursor={cursor}"
        );
        let answer = client.get(path.trim_end_matches("&cursor=")).await;
        let page = answer.json();
        if answer.status == 404 {
            // None of its turns has got through; what was acknowledged is compared below.
            return messages;
        }
        let data = page["data"].as_array();
        let data = data.unwrap_or_else(|| panic!("no messages of worker {worker}: {page}"));
        messages.extend(data.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return messages,
        }
    }
}

async fn audit_sessions(client: &Client, told: &Told, kills: usize) {
    let mut stored = BTreeSet::new();
    for worker in 0..WORKERS {
        let messages = stored_messages(client, worker, &told.user(worker)).await;
        let marker = |message: &Value| {
            let text = message["message"]["content"].as_str().unwrap();
            let (_, rest) = text.split_once('<').unwrap();
            rest.split_once('>').unwrap().0.to_owned()
        };
        for turn in messages.chunks(2) {
            let [asked, answered] = turn else {
                panic!("seed {SEED}: half a turn: {turn:?}");
            };
            assert_eq!(
                (&asked["message"]["role"], &answered["message"]["role"]),
                (&json!("user"), &json!("assistant"))
            );
            assert_eq!(
                marker(asked),
                marker(answered),
                "seed {SEED}: turns are mixed"
            );
            assert!(
                stored.insert(marker(asked)),
                "seed {SEED}: a turn is stored twice"
            );
        }
    }
    let in_session = |model: &&String| {
        let (_, turn) = model.rsplit_once('-').unwrap();
        turn.parse::<usize>().unwrap() % 4 >= 2
    };
    let acknowledged: BTreeSet<String> = told
        .acknowledged
        .iter()
        .filter(in_session)
        .cloned()
        .collect();
    assert!(
        acknowledged.len() >= kills,
        "only {} turns",
        acknowledged.len()
    );
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(
        lost.is_empty(),
        "seed {SEED}: acknowledged turns are lost: {lost:?}"
    );
}

fn provider(mock: &MockProvider) -> Value {
    json!({"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}})
}

/// So many kills, or as many as `LYSS_TEST_KILLS` says.
fn kills(usual: usize) -> usize {
    std::env::var("LYSS_TEST_KILLS").map_or(usual, |kills| kills.parse().expect("a number"))
}

/// Kills a gateway with this `data` section, and audits what is left.
async fn survives(data: Value, store: Option<Store>, kills: usize) {
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&json!({"data": data, "providers": provider(&mock)}));
    let (told, client, _lyss) = killed(&setup, &mock, kills).await;
    let store = store.unwrap_or_else(|| setup.sqlite());
    audit_bills(&store, &told, &mock, kills).await;
    audit_sessions(&client, &told, kills).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_sqlite() {
    survives(json!({}), None, kills(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_postgres() {
    let url = services::new_database(&services::postgres()).await;
    let data = json!({"database": {"driver": "postgres", "source": url}});
    survives(data, Some(Store::Postgres(url)), kills(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_sessions_in_redis() {
    let data = json!({"redis": {"addr": services::redis()}});
    survives(data, None, kills(8)).await;
}
