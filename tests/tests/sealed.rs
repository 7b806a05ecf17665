//! K5: whoever steals the disks of the database, of Redis and of the gateway reads nothing of what was said, where
//! `data.encryption_key` is set; and with a wrong key, or another pepper, the gateway does not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::Setup,
    services::{self, Server},
    store::Store,
};
use serde_json::{Value, json};

fn key(n: u8) -> String {
    BASE64_STANDARD.encode((0..32).map(|i| i ^ n).collect::<Vec<u8>>())
}

/// Whether a text lies in a file below a directory.
fn holds(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        // A file may be gone by now.
        match path.is_dir() {
            true => holds(&path, text),
            false => std::fs::read(&path)
                .is_ok_and(|bytes| memchr::memmem::find(&bytes, text.as_bytes()).is_some()),
        }
    })
}

fn config(mock: &MockProvider, sealed: &Value) -> Value {
    let mut config = json!({
        "auth": {"default_user": "alice"},
        "providers": {"openai": {"api_key": "sk-openai", "base_url": mock.base_url_openai()}},
        "memory": {"builtin": {"embedding_model": "text-embedding-3-small"}},
    });
    config["data"] = sealed.clone();
    config
}

/// Everything that makes the gateway store content: turns with a system prompt, metadata, a kept answer.
async fn converse(client: &Client, secret: &str) {
    let session = json!({"id": "s", "metadata": {"note": secret}});
    let made = client.send("POST", "/v1/sessions", Some(&session)).await;
    assert_eq!(made.unwrap().status, 200);
    for number in 1..=2 {
        let answer = client.chat(&turn(number, secret)).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
    }
    let named = client.with_idempotency_key("once");
    let once = chat("gpt-4o-mini", &format!("[[echo]] {secret}"));
    let first = named.send("POST", CHAT, Some(&once)).await.unwrap();
    let again = named.send("POST", CHAT, Some(&once)).await.unwrap();
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
}

fn turn(number: usize, secret: &str) -> Value {
    let mut body = chat("gpt-4o-mini", &format!("turn {number} {secret}"));
    body["session_id"] = "s".into();
    if number == 1 {
        let system = json!({"role": "system", "content": format!("the system says {secret}")});
        body["messages"].as_array_mut().unwrap().insert(0, system);
    }
    body
}

/// How many turns of the conversation the provider was sent with the last request, and whether as they were said.
fn turns_seen(mock: &MockProvider, secret: &str) -> usize {
    let requests = mock.requests();
    let is_chat = |body: &[u8]| memchr::memmem::find(body, b"\"messages\"").is_some();
    let last = requests.iter().rfind(|request| is_chat(&request.body));
    let body: Value = serde_json::from_slice(&last.unwrap().body).unwrap();
    let messages = body["messages"].as_array().unwrap();
    assert!(!body.to_string().contains("lyss.sealed"), "{body}");
    let said = |message: &&Value| {
        let text = message["content"].as_str().unwrap_or_default();
        message["role"] == "user" && text.starts_with("turn ") && text.ends_with(secret)
    };
    messages.iter().filter(said).count()
}

async fn memories_arrive(store: &Store) {
    for _ in 0..500 {
        let count = store
            .texts("SELECT CAST(count(*) AS TEXT) FROM memories")
            .await;
        if count.is_ok_and(|count| count[0].parse::<u32>().unwrap() >= 2) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing is remembered");
}

/// Where the secret is found: the database's files, Redis's, the gateway's.
async fn found_in_servers(encryption: Option<&str>) -> [bool; 3] {
    let secret = format!("canary{}", uuid::Uuid::new_v4().simple());
    let mock = MockProvider::start(Options::default()).unwrap();
    let servers = tokio::task::spawn_blocking(|| (Server::postgres(), Server::redis()));
    let (mut postgres, redis) = servers.await.unwrap();
    let url = services::new_database(&postgres.url).await;
    let mut data = json!({
        "database": {"driver": "postgres", "source": url},
        "redis": {"addr": redis.address()},
    });
    if let Some(key) = encryption {
        data["encryption_key"] = key.into();
    }
    let setup = Setup::new(&config(&mock, &data));
    let mut lyss = setup.start().await;
    converse(&lyss.client(), &secret).await;
    let store = Store::Postgres(url);
    memories_arrive(&store).await;

    // Redis loses everything: the conversation comes back from the archive, and can be read.
    let mut connection = redis::Client::open(redis.url.as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut connection)
        .await
        .unwrap();
    let answer = lyss.client().chat(&turn(3, &secret)).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(turns_seen(&mock, &secret), 3);
    let listed = lyss.client().get("/v1/sessions").await.json();
    assert_eq!(listed["data"][0]["metadata"]["note"], secret, "{listed}");

    let () = redis::cmd("CONFIG")
        .arg(&["SET", "rdbcompression", "no"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let () = redis::cmd("SAVE")
        .query_async(&mut connection)
        .await
        .unwrap();
    store.execute("CHECKPOINT").await;
    let in_postgres = holds(&postgres.dir().join("data"), &secret);
    let in_redis = holds(redis.dir(), &secret);

    // With the database away, what is to be archived and remembered waits in the gateway's own files.
    postgres.stop();
    let answer = lyss.client().chat(&turn(4, &secret)).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    tokio::time::sleep(Duration::from_millis(300)).await;
    lyss.kill();
    let in_files = holds(&setup.dir.path().join("data"), &secret);
    [in_postgres, in_redis, in_files]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stolen_disks_of_servers_hold_no_conversation() {
    // The search finds what is not sealed: it would find what leaks.
    assert_eq!(found_in_servers(None).await, [true; 3]);
    assert_eq!(found_in_servers(Some(&key(1))).await, [false; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_sqlite_file_holds_no_conversation_and_keys_rotate() {
    let secret = format!("canary{}", uuid::Uuid::new_v4().simple());
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&config(&mock, &json!({"encryption_key": key(1)})));
    let with = |data: Value| {
        let mut config = config(&mock, &data);
        config["server"] = json!({"http": {"addr": "127.0.0.1:0"}});
        config["monitoring"] = json!({"prometheus": {"enabled": false}});
        config["data"]["dir"] = setup.dir.path().join("data").to_str().unwrap().into();
        std::fs::write(&setup.config, config.to_string()).unwrap();
    };
    with(json!({"encryption_key": key(1)}));
    let mut lyss = setup.start().await;
    converse(&lyss.client(), &secret).await;
    memories_arrive(&setup.sqlite()).await;
    lyss.terminate();
    assert!(lyss.end(Duration::from_secs(10)).await.is_some());
    assert!(!holds(&setup.dir.path().join("data"), &secret));

    // A wrong key, and none: refused before anything is served, with the name of the setting.
    for wrong in [json!({"encryption_key": key(2)}), json!({})] {
        with(wrong);
        let mut refused = setup.spawn();
        let ended = refused.end(Duration::from_secs(10)).await;
        assert!(ended.is_some_and(|status| !status.success()));
        let log = refused.log() + &refused.stdout();
        assert!(
            log.contains("data.encryption_key") && log.contains("sealed with the key"),
            "{log}"
        );
        assert!(!log.contains(&key(2)));
    }

    // Rotated: what the old key has sealed is read, and the new one seals.
    with(json!({"encryption_key": key(2), "old_encryption_keys": [key(1)]}));
    let mut lyss = setup.start().await;
    let answer = lyss.client().chat(&turn(3, &secret)).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(turns_seen(&mock, &secret), 3);
    lyss.terminate();
    assert!(lyss.end(Duration::from_secs(10)).await.is_some());
    let keys = "SELECT id FROM encryption_keys WHERE id <> 'pepper'";
    assert_eq!(setup.sqlite().texts(keys).await.unwrap().len(), 2);
    assert!(!holds(&setup.dir.path().join("data"), &secret));
}

/// A pepper that is lost: one message at start, in place of a 401 for every call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_does_not_start_with_another_pepper_than_its_keys() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&json!({
        "auth": {"mode": "keys"},
        "providers": {"openai": {"api_key": "sk-mock", "base_url": mock.base_url_openai()}},
    }));
    let key = setup.create_key(&["--user", "alice"]);
    let mut lyss = setup.start().await;
    let answer = lyss
        .client()
        .with_key(&key)
        .chat(&chat("gpt-4o", "hello"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    lyss.terminate();
    assert!(lyss.end(Duration::from_secs(10)).await.is_some());

    std::fs::remove_file(setup.dir.path().join("data/pepper")).unwrap();
    let mut refused = setup.spawn();
    let ended = refused.end(Duration::from_secs(10)).await;
    assert!(ended.is_some_and(|status| !status.success()));
    let log = refused.log() + &refused.stdout();
    for named in ["`auth.pepper`", "the file `pepper`"] {
        assert!(log.contains(named), "{log}");
    }
    let made = setup.run(&["keys", "create", "--user", "bob"]);
    assert!(
        !made.status.success(),
        "a key that would be refused is not made"
    );

    // The way out: no key is lost that was not lost already.
    let id = key.split('_').nth(1).unwrap();
    assert!(setup.run(&["keys", "revoke", id]).status.success());
    let key = setup.create_key(&["--user", "alice"]);
    let lyss = setup.start().await;
    let answer = lyss
        .client()
        .with_key(&key)
        .chat(&chat("gpt-4o", "hello"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.json());
}
