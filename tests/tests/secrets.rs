//! K1 to K5: every secret is a canary, everything is logged, and nothing that leaves the gateway holds one of them,
//! except the header in which the provider expects its key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, time::Duration};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use futures::StreamExt;
use lyss_mock_provider::{Flavor, MockMem0, MockProvider, Options, Rule, Script};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::{Setup, free_port},
    services::{self, Server},
    store::Store,
};
use serde_json::{Value, json};
use sqlx::Connection;

/// What must not be found, by the name of the secret.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    /// Makes one: random from the first character, so that a beginning gives it away too.
    fn plant(&mut self, name: &'static str) -> String {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let canary = format!("{}{}", random(), random());
        self.0.push((name, canary.clone()));
        canary
    }

    /// Makes one that is 32 bytes in base64.
    fn plant_bytes(&mut self, name: &'static str) -> String {
        let canary = BASE64_STANDARD.encode(
            [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()]
                .map(uuid::Uuid::into_bytes)
                .concat(),
        );
        self.0.push((name, canary.clone()));
        canary
    }

    /// The canaries that a text holds: plain, in base64 or hexadecimal, or the first 12 characters.
    fn found_in(&self, bytes: &[u8]) -> Vec<&'static str> {
        let text = String::from_utf8_lossy(bytes);
        self.0
            .iter()
            .filter(|(_, canary)| {
                // Without the last characters of base64: they depend on what follows.
                let base64 = BASE64_STANDARD_NO_PAD.encode(canary);
                let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
                text.contains(&canary[..12]) || text.contains(&base64[..40]) || text.contains(&hex)
            })
            .map(|(name, _)| *name)
            .collect()
    }
}

/// All bytes of all files below a directory.
fn bytes_below(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else if path.is_file() {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

/// Lets a server of our own ask for a password.
async fn protect(postgres: &Server, password: &str) {
    let mut connection = sqlx::PgConnection::connect(&postgres.url).await.unwrap();
    let hba = "host all all 127.0.0.1/32 scram-sha-256\n";
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "ALTER ROLE lyss PASSWORD '{password}'"
    )))
    .execute(&mut connection)
    .await
    .unwrap();
    std::fs::write(postgres.dir().join("data/pg_hba.conf"), hba).unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()")
        .execute(&mut connection)
        .await
        .unwrap();
    for _ in 0..100 {
        if sqlx::PgConnection::connect(&postgres.url).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("PostgreSQL does not ask for the password");
}

fn with_password(url: &str, password: &str) -> String {
    url.replacen("lyss@", &format!("lyss:{password}@"), 1)
}

/// Calls of all kinds, those that fail included; everything that came back.
async fn calls(client: &Client, wrong: &Client, admin: &Client, prompt: &str) -> Vec<u8> {
    let mut chats = Vec::new();
    for text in [
        "",
        "[[error@2]]",
        "[[cut:50]]",
        "[[badjson@1]]",
        "echo-401",
        "echo-400",
        "echo-500",
    ] {
        for model in ["gpt-4o-mini", "qwen-plus", "late/gpt-4o-mini"] {
            for stream in [false, true] {
                let mut body = chat(model, &format!("{prompt} {text}"));
                body["stream"] = stream.into();
                chats.push(body);
            }
        }
    }
    let mut turn = chat("gpt-4o-mini", prompt);
    turn["session_id"] = "s".into();
    chats.extend([turn.clone(), turn]);
    chats.push(json!({"model": "gpt-4o-mini", "messages": prompt}));
    let embeddings = json!({"model": "text-embedding-3-small", "input": prompt});
    let rule = json!({"model_name": "x", "provider_id": "openai"});
    let mut requests: Vec<(&Client, &str, &str, Option<&Value>)> = Vec::new();
    for body in &chats {
        requests.push((client, "POST", CHAT, Some(body)));
    }
    requests.extend([
        (wrong, "POST", CHAT, chats.first()),
        (client, "POST", "/v1/embeddings", Some(&embeddings)),
        (admin, "POST", "/v1/admin/routing-rules", Some(&rule)),
        (client, "POST", "/v1/admin/routing-rules", Some(&rule)),
    ]);
    for path in [
        "/v1/models",
        "/v1/sessions",
        "/v1/sessions/s/messages",
        "/v1/requests",
        "/v1/usage",
        "/v1/admin/providers",
        "/health",
        "/ready",
        "/v1/nothing",
    ] {
        requests.push((client, "GET", path, None));
    }
    requests.push((admin, "GET", "/v1/requests?limit=1000", None));
    requests.push((admin, "GET", "/v1/admin/providers", None));
    requests.push((admin, "GET", "/v1/admin/keys", None));
    requests.push((wrong, "GET", "/v1/sessions", None));
    let answers = requests
        .into_iter()
        .map(|(client, method, path, body)| async move {
            // A stream may be cut, as was asked for.
            let answer = client.send(method, path, body).await.ok()?;
            Some((
                format!("{} {:?}\n", answer.status, answer.headers),
                answer.body,
            ))
        });
    let answers: Vec<_> = futures::stream::iter(answers)
        .buffer_unordered(16)
        .collect()
        .await;
    let mut seen = Vec::new();
    for (head, body) in answers.into_iter().flatten() {
        seen.extend(head.bytes());
        seen.extend(&body);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_leaves_the_gateway() {
    let mut canaries = Canaries(Vec::new());
    let openai_key = canaries.plant("the key of openai");
    let aliyun_key = canaries.plant("the key of aliyun");
    let header = canaries.plant("a provider's header");
    let admin_key = canaries.plant("the admin key");
    let pepper = canaries.plant("the pepper");
    let database_password = canaries.plant("the database's password");
    let redis_password = canaries.plant("the password of Redis");
    let wrong_key = canaries.plant("a key of somewhere else");
    let late_key = canaries.plant("the key of a provider of the admin API");
    let late_header = canaries.plant("a header of a provider of the admin API");
    let memory_key = canaries.plant("the key of mem0");
    let encryption_key = canaries.plant_bytes("the encryption key");
    let old_encryption_key = canaries.plant_bytes("the encryption key before");

    let mock = MockProvider::start(Options::default()).unwrap();
    // Each knows its own only.
    for (key, message) in [
        (&openai_key, format!("what is {openai_key} with {header}?")),
        (&aliyun_key, format!("what is {aliyun_key}?")),
        (&late_key, format!("what is {late_key} with {late_header}?")),
    ] {
        for (text, status) in [("echo-401", 401), ("echo-400", 400), ("echo-500", 500)] {
            mock.rule(Rule {
                key: Some(key.clone()),
                contains: Some(text.into()),
                script: Script {
                    message: Some(message.clone()),
                    ..Script::status(status)
                },
                ..Rule::default()
            });
        }
    }
    let mem0 = MockMem0::start(Flavor::Platform, &memory_key, 0).unwrap();
    let (mut postgres, mut redis) =
        tokio::task::spawn_blocking(|| (Server::postgres(), Server::redis()))
            .await
            .unwrap();
    let url = services::new_database(&postgres.url).await;
    protect(&postgres, &database_password).await;
    let url = with_password(&url, &database_password);
    let mut connection = redis::Client::open(redis.url.as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", &redis_password])
        .query_async(&mut connection)
        .await
        .unwrap();

    let metrics = free_port();
    let setup = Setup::new(&json!({
        "data": {
            "database": {"driver": "postgres", "source": url},
            "redis": {"addr": redis.address(), "password": redis_password},
            "encryption_key": encryption_key,
            "old_encryption_keys": [old_encryption_key],
        },
        "auth": {"mode": "keys", "admin_key": admin_key, "pepper": pepper},
        "routing": {"max_retries": 1, "breaker": {"enabled": false}, "egress": {"allow": ["127.0.0.0/8"]}},
        "memory": {"mem0": {"base_url": mem0.url(), "api_key": memory_key}},
        "providers": {
            "openai": {"api_key": openai_key, "base_url": mock.base_url_openai(), "headers": {"x-team": header}},
            "aliyun": {"api_key": aliyun_key, "base_url": mock.base_url_dashscope()},
        },
        "monitoring": {"prometheus": {"enabled": true, "addr": format!("127.0.0.1:{metrics}")}},
    }))
    .env("LOG_LEVEL", "trace");
    let mut lyss = setup.start().await;
    let key = setup.create_key(&["--user", "alice"]);
    // The part before it is public.
    let secret = key.rsplit_once('_').unwrap().1.to_owned();
    canaries.0.push(("a caller's key", secret));

    let anyone = lyss.client();
    let client = anyone.with_key(&key);
    let (wrong, admin) = (anyone.with_key(&wrong_key), anyone.with_key(&admin_key));
    let late = json!({
        "kind": "openai",
        "api_key": late_key,
        "base_url": mock.base_url_openai(),
        "headers": {"x-team": late_header},
    });
    let set_up = admin
        .send("PUT", "/v1/admin/providers/late", Some(&late))
        .await;
    let set_up = set_up.unwrap();
    assert_eq!(set_up.status, 200, "{}", set_up.json());
    let prompt = uuid::Uuid::new_v4().simple().to_string();
    let mut received = calls(&client, &wrong, &admin, &prompt).await;
    let store = Store::Postgres(url.clone());
    let rows = store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 30)
        .await;
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let dump = store
        .texts("SELECT schema_to_xml('public', true, false, '')::text")
        .await
        .unwrap()
        .concat();
    assert!(
        dump.contains("request_logs") && dump.contains("alice"),
        "the dump is whole"
    );
    // What is written about servers that are away; and what lies in the spool meanwhile.
    postgres.stop();
    redis.stop();
    received.extend(calls(&client, &wrong, &admin, &prompt).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spool = bytes_below(&setup.dir.path().join("data"));
    let rows = String::from_utf8_lossy(&spool).contains("alice");
    assert!(rows, "rows are in the spool");
    let text = Client::new(([127, 0, 0, 1], metrics).into())
        .get("/metrics")
        .await;
    assert_eq!(text.status, 200);

    lyss.terminate();
    // Meanwhile, since each of them waits for the database in vain.
    let printed = std::thread::scope(|scope| {
        [&["check"][..], &["keys", "list"], &["usage"], &["migrate"]]
            .map(|args| scope.spawn(|| setup.run(args)))
            .map(|output| output.join().unwrap())
            .map(|output| [output.stdout, output.stderr].concat())
            .concat()
    });
    let ended = lyss.end(Duration::from_secs(5)).await;
    assert!(
        ended.is_some(),
        "it ends soon although the servers are away"
    );
    let log = lyss.log();
    assert!(log.contains("\"TRACE\""), "everything is logged");

    for (place, bytes) in [
        ("an answer", received.as_slice()),
        ("the log", log.as_bytes()),
        ("stdout", lyss.stdout().as_bytes()),
        ("the metrics", &text.body),
        ("the database", dump.as_bytes()),
        ("the data directory", &spool),
        ("Redis", &bytes_below(redis.dir())),
        ("the command line's output", &printed),
    ] {
        let found = canaries.found_in(bytes);
        assert!(
            found.is_empty(),
            "{place} holds {found:?}{}",
            excerpt(&canaries, bytes)
        );
    }
    for (place, bytes) in [("the log", log.as_bytes()), ("the metrics", &text.body)] {
        let shown = String::from_utf8_lossy(bytes).contains(&prompt);
        assert!(!shown, "{place} holds what was asked");
    }
    audit_provider(&mock, &canaries, &[&openai_key, &aliyun_key, &late_key]);
    let asked = mem0.requests();
    assert!(!asked.is_empty(), "the memory is asked");
    for request in asked {
        assert!(
            canaries
                .found_in(request.body.to_string().as_bytes())
                .is_empty()
        );
    }
}

/// The provider saw its keys in the header that is meant for them, and no secret elsewhere.
fn audit_provider(mock: &MockProvider, canaries: &Canaries, keys: &[&str]) {
    let requests = mock.requests();
    for key in keys {
        let value = format!("Bearer {key}");
        let sent = |request: &&lyss_mock_provider::RecordedRequest| {
            request.header("authorization") == Some(value.as_str())
        };
        assert!(requests.iter().filter(sent).count() > 10, "the key is used");
    }
    for request in requests {
        let headers: Vec<_> = request
            .headers
            .iter()
            .filter(|(name, _)| name != "authorization" && name != "x-team")
            .collect();
        let rest = format!("{} {headers:?}", request.uri);
        assert!(canaries.found_in(rest.as_bytes()).is_empty(), "{rest}");
        assert!(canaries.found_in(&request.body).is_empty());
    }
}

/// Where the first canary is, with what stands around it.
fn excerpt(canaries: &Canaries, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let line = lines.find(|line| !canaries.found_in(line.as_bytes()).is_empty());
    format!(
        ": {}",
        line.unwrap_or_default()
            .chars()
            .take(600)
            .collect::<String>()
    )
}

#[test]
fn errors_of_a_configuration_do_not_quote_secrets() {
    let mut canaries = Canaries(Vec::new());
    let setup = Setup::new(&json!({
        "data": {
            "database": {
                "driver": "postgres",
                "source": format!("host=localhost pasword={}", canaries.plant("the database's password")),
            },
            "redis": {"addr": "localhost:6379", "password": [canaries.plant("the password of Redis")]},
        },
        "auth": {"mode": "keys", "admin_key": {"is": canaries.plant("the admin key")}, "pepper": [canaries.plant("the pepper")]},
        "providers": {"openai": {"api_key": {"is": canaries.plant("the provider's key")}, "timeout": "soon"}},
    }));
    let output = setup.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said);
    for key in [
        "data.database.source",
        "data.redis.password",
        "openai.api_key",
    ] {
        assert!(text.contains(key), "{key} is not refused:\n{text}");
    }
    let found = canaries.found_in(&said);
    assert!(found.is_empty(), "it quotes {found:?}:\n{text}");
}
