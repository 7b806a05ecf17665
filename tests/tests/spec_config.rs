//! The specification's example file, byte for byte, on real PostgreSQL and Redis: only what the environment may
//! override is overridden.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{Client, chat, is_done},
    process::{Setup, free_port},
    services,
    store::{Store, of_model},
};
use serde_json::{Value, json};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gateway-spec.yaml")
}

/// The host, port, user and name of `postgres://user@host:port/name`.
fn parts(url: &str) -> [String; 4] {
    let (user, rest) = url
        .trim_start_matches("postgres://")
        .split_once('@')
        .unwrap();
    let (address, name) = rest.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let user = user.split(':').next().unwrap();
    [host, port, user, name].map(str::to_owned)
}

fn setup(config: PathBuf) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    Setup::with_file(dir, config)
        .env("LYSS_DATA__DIR", data)
        .env("OPENAI_API_KEY", "sk-openai")
        .env("ALIYUN_API_KEY", "sk-aliyun")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves() {
    let openai = MockProvider::start(Options::default()).unwrap();
    let aliyun = MockProvider::start(Options::default()).unwrap();
    let url = services::new_database(&services::postgres()).await;
    let [host, port, user, name] = parts(&url);
    let metrics = free_port();
    let setup = setup(example())
        .env("DB_HOST", host)
        .env("DB_PORT", port)
        .env("DB_USER", user)
        .env("DB_PASSWORD", "lyss123")
        .env("DB_NAME", name)
        .env("REDIS_ADDR", services::redis())
        // Not a loopback address, so that keys are required, as with the file's own.
        .env("GATEWAY_HTTP_ADDR", "0.0.0.0:0")
        .env(
            "LYSS_MONITORING__PROMETHEUS__ADDR",
            format!("127.0.0.1:{metrics}"),
        )
        .env("LYSS_PROVIDERS__OPENAI__BASE_URL", openai.base_url_openai())
        .env(
            "LYSS_PROVIDERS__ALIYUN__BASE_URL",
            aliyun.base_url_dashscope(),
        );
    let mut lyss = setup.spawn();
    let anyone = lyss.ready().await;
    let said = lyss.logs("lyss keys create").await;
    assert!(
        said,
        "the start says how to make the first key:\n{}",
        lyss.log()
    );

    let refused = anyone.chat(&chat("gpt-4o-mini", "hello")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["error"]["code"], "missing_api_key");

    let user = format!("user-{}", uuid::Uuid::new_v4().simple());
    let key = setup.create_key(&["--user", &user]);
    let client = anyone.with_key(&key);
    openai_chat(&client, &openai).await;
    aliyun_chat(&client, &aliyun).await;
    session(&client, &user, &openai).await;
    rows(&Store::Postgres(url), &user).await;

    let health = client.get("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(
        health.json()["status"],
        json!({"database": true, "redis": true, "providers": true})
    );
    assert_eq!(client.get("/ready").await.json()["degraded"], json!([]));
    assert_eq!(
        client.get("/metrics").await.status,
        404,
        "not on the API's port"
    );
    let text = Client::new(([127, 0, 0, 1], metrics).into())
        .get("/metrics")
        .await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    for name in [
        "gateway_requests_total{",
        "gateway_request_duration_seconds",
        "gateway_tokens_used_total{",
    ] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
}

async fn openai_chat(client: &Client, openai: &MockProvider) {
    let answer = client.chat(&chat("gpt-4o-mini", "hello")).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(answer.header("x-lyss-provider"), Some("openai"));
    let seen = openai.requests();
    let seen = seen
        .iter()
        .find(|request| request.method == "POST")
        .unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer sk-openai"));
}

async fn aliyun_chat(client: &Client, aliyun: &MockProvider) {
    let mut body = chat("qwen-plus", "hello");
    body["stream"] = true.into();
    let answer = client.chat(&body).await;
    assert_eq!(answer.status, 200);
    assert!(
        is_done(&answer),
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.header("x-lyss-provider"), Some("aliyun"));
    let seen = aliyun.requests();
    let seen = seen
        .iter()
        .find(|request| request.method == "POST")
        .unwrap();
    assert!(
        seen.uri.starts_with("/api/v1/services/aigc/"),
        "the native protocol: {}",
        seen.uri
    );
    assert_eq!(seen.header("authorization"), Some("Bearer sk-aliyun"));
}

async fn session(client: &Client, user: &str, openai: &MockProvider) {
    for turn in 1..=2 {
        let mut body = chat("gpt-4o-mini", &format!("turn {turn}"));
        body["session_id"] = "s1".into();
        let answer = client.chat(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!(answer.header("x-lyss-session-id"), Some("s1"));
    }
    let last = openai.requests();
    let last: Value = serde_json::from_slice(&last.last().unwrap().body).unwrap();
    assert_eq!(last["messages"].as_array().unwrap().len(), 3, "{last}");

    let redis = redis::Client::open(format!("redis://{}/", services::redis())).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        // What a user is called may hold anything; a key holds its base64.
        .arg(format!("lyss:s:{{{}.*", URL_SAFE_NO_PAD.encode(user)))
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(!keys.is_empty(), "the session is in Redis");
    let ttl: i64 = redis::cmd("TTL")
        .arg(&keys[0])
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(
        (1..=3600).contains(&ttl),
        "`session.ttl` is in force: {ttl} s"
    );
}

/// The rows are in the partition of this month.
async fn rows(store: &Store, user: &str) {
    let rows = store
        .rows_when(std::time::Duration::from_secs(5), |rows| rows.len() >= 4)
        .await;
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(
        rows.iter()
            .all(|row| row["user_id"] == user && row["status"] == "success")
    );
    assert_eq!(of_model(&rows, "qwen-plus")[0]["provider_id"], "aliyun");
    let partitions = store
        .texts("SELECT DISTINCT tableoid::regclass::text FROM request_logs")
        .await
        .unwrap();
    let month = store
        .texts("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
        .await
        .unwrap();
    let [partition] = partitions.as_slice() else {
        panic!("{partitions:?}");
    };
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    assert_eq!(digits(partition), digits(&month[0]), "{partition}");
}

#[test]
fn check_accepts_it_and_explains_what_has_no_effect() {
    let output = setup(example()).run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let jaeger: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("jaeger"))
        .collect();
    assert!(
        jaeger.iter().any(|line| line.contains("OTLP")),
        "the Jaeger endpoint is explained:\n{said}"
    );
}

#[test]
fn check_names_every_error_of_a_bad_file_and_where_it_is() {
    let good = std::fs::read_to_string(example()).unwrap();
    let bad = good
        .replace("  max_retries: 3", "  max_retires: 3")
        .replace("  ttl: 3600s", "  ttl: soon")
        .replace("max_rps: 200", "max_rps: -1")
        .replace("addr: \"0.0.0.0:9000\"", "addr: \"0.0.0.0:ninety\"");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.yaml");
    std::fs::write(&path, &bad).unwrap();
    let output = setup(path.clone()).run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "errors go to stderr"
    );
    for (needle, key) in [
        ("max_retires", "routing.max_retires"),
        ("soon", "session.ttl"),
        ("-1", "providers.aliyun.max_rps"),
        ("\"0.0.0.0:ninety\"", "server.grpc.addr"),
    ] {
        let (index, line) = bad
            .lines()
            .enumerate()
            .find(|(_, line)| line.contains(needle))
            .unwrap();
        let column = line.find(needle).unwrap() + 1;
        let place = format!("{}:{}:{column}: {key}", path.display(), index + 1);
        assert!(said.contains(&place), "{place} is not in\n{said}");
    }
    assert!(
        said.contains("max_retries"),
        "it says what was meant:\n{said}"
    );
}
