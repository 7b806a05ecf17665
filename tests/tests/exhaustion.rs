//! What the machine runs out of, or what stops answering without going away: refused where it must be, noticed, and
//! over when it is over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{CHAT, Client, chat, is_done},
    process::{Lyss, Setup},
    services::{self, Server},
    store::Store,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

fn provider(mock: &MockProvider) -> Value {
    json!({"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}})
}

/// The processor time that a process has used.
fn processor(lyss: &Lyss) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lyss.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10) // 100 ticks a second on every Linux
}

async fn answers_within(limit: Duration, what: &str, call: impl Future<Output = u16>) -> u16 {
    let began = Instant::now();
    let status = tokio::time::timeout(Duration::from_secs(20), call)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"));
    assert!(began.elapsed() < limit, "{what} took {:?}", began.elapsed());
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_accepting_pauses() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&json!({
        "server": {"http": {"header_timeout": "60s"}},
        "providers": provider(&mock),
    }));
    let lyss = setup.start().await;
    let known = lyss.client();
    assert_eq!(known.chat(&chat("m", "hello")).await.status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", lyss.pid()))
        .unwrap()
        .count();
    let limit = (open + 12).to_string();
    let limited = Command::new("prlimit")
        .args([
            "--pid",
            &lyss.pid().to_string(),
            &format!("--nofile={limit}:"),
        ])
        .status()
        .expect("prlimit runs");
    assert!(limited.success());

    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(TcpStream::connect(lyss.address()).await.unwrap());
    }
    assert!(lyss.logs("cannot accept connections").await);
    let before = processor(&lyss);
    for _ in 0..10 {
        // Who has a connection is served on.
        let call = async { known.chat(&chat("m", "hello")).await.status };
        assert_eq!(
            answers_within(Duration::from_secs(2), "a known caller", call).await,
            200
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let used = processor(&lyss) - before;
    assert!(
        used < Duration::from_millis(700),
        "it spins: {used:?} in a second"
    );
    let complaints = lyss.log().matches("cannot accept connections").count();
    assert!(complaints <= 12, "{complaints} lines about it");

    drop(idle);
    let stranger = Client::new(lyss.address());
    let call = async { stranger.chat(&chat("m", "hello")).await.status };
    assert_eq!(
        answers_within(Duration::from_secs(5), "a new caller", call).await,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_leave_descriptors_for_providers() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&json!({
        "server": {"http": {"header_timeout": "60s"}},
        "providers": provider(&mock),
    }))
    .under(&["prlimit", "--nofile=128:256"]);
    let lyss = setup.start().await;
    assert!(lyss.logs("is enough for 80").await, "the limit was raised");
    mock.set_script(Script {
        delay_ms: 300,
        ..Script::default()
    });
    let known: Vec<Client> = (0..30).map(|_| lyss.client()).collect();
    for client in &known {
        assert_eq!(client.get("/health").await.status, 200);
    }
    let mut idle = Vec::new();
    for _ in 0..150 {
        // Those beyond the cap wait to be accepted: some systems let no more than 128.
        idle.push(TcpStream::connect(lyss.address()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let calls = known.iter().map(|client| async {
        let answer = client.chat(&chat("m", "hello")).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    });
    futures::future::join_all(calls).await;
    assert!(!lyss.log().contains("cannot accept connections"));
    drop(idle);
    let stranger = Client::new(lyss.address());
    let call = async { stranger.get("/health").await.status };
    let status = answers_within(Duration::from_secs(2), "a new caller", call).await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_waits_for_a_database_that_is_frozen() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let postgres = Server::postgres();
    let url = services::new_database(&postgres.url).await;
    let setup = Setup::new(&json!({
        "data": {"database": {"driver": "postgres", "source": url}},
        "auth": {"mode": "keys"},
        "session": {"store": "memory"},
        "providers": provider(&mock),
    }));
    let lyss = setup.start().await;
    let anyone = lyss.client();
    let client = anyone.with_key(&setup.create_key(&["--user", "alice"]));
    assert_eq!(client.chat(&chat("m", "hello")).await.status, 200);

    postgres.freeze();
    let second = Duration::from_secs(1);
    let end = Instant::now() + Duration::from_secs(3);
    let mut made = 1;
    while Instant::now() < end {
        for stream in [false, true] {
            let mut body = chat("m", "hello");
            body["stream"] = stream.into();
            body["session_id"] = "s1".into();
            let call = async { client.chat(&body).await.status };
            assert_eq!(answers_within(second, "a call", call).await, 200);
            made += 1;
        }
        for path in ["/health", "/ready", "/v1/models"] {
            let call = async { client.get(path).await.status };
            assert_eq!(answers_within(second, path, call).await, 200);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let noticed = Instant::now() + Duration::from_secs(5);
    while client.get("/health").await.json()["status"]["database"] != false {
        assert!(Instant::now() < noticed, "it is not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        client.get("/ready").await.json()["degraded"],
        json!(["database"])
    );
    // What needs it says so, and does not wait long.
    let call = async { client.get("/v1/requests").await.status };
    let status = answers_within(Duration::from_secs(8), "the log", call).await;
    assert!(status == 503 || status == 500, "{status}");
    let unknown = anyone.with_key("lyss_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let call = async { unknown.chat(&chat("m", "hello")).await.status };
    let status = answers_within(Duration::from_secs(3), "an unknown key", call).await;
    assert!(status == 401 || status == 503, "{status}");

    postgres.thaw();
    let store = Store::Postgres(url);
    let all = |rows: &[Value]| rows.len() >= made;
    let rows = store.rows_when(Duration::from_secs(20), all).await;
    assert_eq!(rows.len(), made, "a row for each, none twice");
}

/// The spool on a small file system of its own, in a mount namespace that ends with the process.
fn on_a_small_disk(setup: Setup, spool: &std::path::Path) -> Setup {
    std::fs::create_dir_all(spool).unwrap();
    let mount = r#"mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@""#;
    let spool = spool.to_str().unwrap();
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    let mut words = vec!["unshare", "--mount"];
    if !root {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["sh", "-c", mount, spool]);
    setup.under(&words)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_calls_and_lets_running_ones_finish() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let spool = place.path().join("spool");
    let setup = Setup::new(&json!({
        "data": {"spool_dir": spool},
        "providers": provider(&mock),
    }));
    let setup = on_a_small_disk(setup, &spool);
    let lyss = setup.start().await;
    let client = lyss.client();
    assert_eq!(client.chat(&chat("before", "hello")).await.status, 200);

    mock.set_script(Script {
        chunks: Some(20),
        size: Some(8),
        every_ms: 150,
        ..Script::default()
    });
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut body = chat("running", "hello");
        body["stream"] = true.into();
        let mut stream = client.open("POST", CHAT, Some(&body)).await.unwrap();
        assert!(stream.events(1).await.unwrap());
        running.push(stream);
    }
    mock.set_script(Script::default());

    // Through the process's own view of the file system.
    let inside = PathBuf::from(format!("/proc/{}/root", lyss.pid()))
        .join(spool.strip_prefix("/").unwrap())
        .join("filler");
    fill(&inside);

    let began = Instant::now();
    let mut served = 0;
    let refused = loop {
        let answer = client.chat(&chat("new", "hello")).await;
        if answer.status != 200 {
            break answer;
        }
        // What was set aside is used up first.
        served += 1;
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{served} were served"
        );
        fill(&inside);
    };
    assert_eq!(refused.status, 503, "{}", refused.json());
    assert_eq!(refused.json()["error"]["code"], "billing_spool_full");
    assert!(refused.header("retry-after").is_some());
    let sent = mock
        .ledger()
        .iter()
        .filter(|entry| entry.model == "new")
        .count();
    assert_eq!(sent, served, "what is refused is not sent");
    assert_eq!(client.get("/health").await.status, 200);

    for stream in running {
        let answer = stream.whole().await.unwrap();
        assert!(is_done(&answer), "a running call finishes");
    }

    std::fs::remove_file(&inside).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while client.chat(&chat("after", "hello")).await.status != 200 {
        assert!(Instant::now() < end, "not over with the disk free again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let successes = |rows: &[Value], model: &str| {
        rows.iter()
            .filter(|row| row["model_name"] == model && row["status"] == "success")
            .count()
    };
    let rows = setup
        .sqlite()
        .rows_when(Duration::from_secs(10), |rows| {
            successes(rows, "running") == 4 && successes(rows, "after") == 1
        })
        .await;
    for (model, calls) in [("before", 1), ("running", 4), ("new", served), ("after", 1)] {
        assert_eq!(successes(&rows, model), calls, "{model}");
    }
}

/// Writes until no byte more goes in.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
}
