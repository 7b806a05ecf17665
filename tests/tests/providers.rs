//! Providers through the admin API: in force everywhere, their keys shown to nobody, and never a way into the network
//! that the gateway stands in (X1 to X3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use lyss_mock_provider::{MockProvider, Options, Rule, Script};
use lyss_tests::{
    client::{Answer, Client, chat},
    process::Setup,
    services,
    store::Store,
};
use serde_json::{Value, json};

const ADMIN: &str = "an-admin-key-of-the-tests";
const PATH: &str = "/v1/admin/providers";
/// How soon a change must be in force everywhere.
const SOON: Duration = Duration::from_secs(1);

fn config(database: Option<&str>, mock: &MockProvider, allow: &[&str]) -> Value {
    let mut config = json!({
        "auth": {"mode": "keys", "admin_key": ADMIN, "pepper": "a-pepper-of-the-tests-0123456789"},
        "routing": {"egress": {"allow": allow}, "max_retries": 0},
        "providers": {"openai": {"api_key": "sk-of-the-file", "base_url": mock.base_url_openai()}},
    });
    if let Some(url) = database {
        config["data"] = json!({
            "database": {"driver": "postgres", "source": url},
            "encryption_key": BASE64_STANDARD.encode((0..32).collect::<Vec<u8>>()),
        });
    }
    config
}

async fn put(client: &Client, id: &str, members: &Value) -> Answer {
    let path = format!("{PATH}/{id}");
    client.send("PUT", &path, Some(members)).await.unwrap()
}

async fn ask(client: &Client, model: &str) -> Answer {
    let mut body = chat(model, "hello");
    body["user_id"] = "admin".into();
    client.chat(&body).await
}

/// Which provider answers for a model; what no other serves is the file's.
async fn served(client: &Client, model: &str, by: &str) -> bool {
    let answer = ask(client, model).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.header("x-lyss-provider") == Some(by)
}

async fn soon(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: not after 5 s"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        began.elapsed() <= SOON,
        "{what}: after {:?}",
        began.elapsed()
    );
}

/// The keys that the mock was called with, the last one last.
fn keys_sent(mock: &MockProvider) -> Vec<String> {
    let requests = mock.requests();
    let key = |request: &lyss_mock_provider::RecordedRequest| {
        Some(
            request
                .header("authorization")?
                .strip_prefix("Bearer ")?
                .to_owned(),
        )
    };
    requests
        .iter()
        .filter(|request| request.method == "POST")
        .filter_map(key)
        .collect()
}

fn said(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_set_up_changed_and_deleted_on_two_instances() {
    let (file, added) = (
        MockProvider::start(Options::default()).unwrap(),
        MockProvider::start(Options::default()).unwrap(),
    );
    let url = services::new_database(&services::postgres()).await;
    let config = config(Some(&url), &file, &["127.0.0.0/8"]);
    let setups = [Setup::new(&config), Setup::new(&config)];
    let (first, second) = (setups[0].start().await, setups[1].start().await);
    let [here, there] = [&first, &second].map(|lyss| lyss.client().with_key(ADMIN));

    let key = format!("sk-canary-{}-7f3a", uuid::Uuid::new_v4().simple());
    let team = format!("team-{}", uuid::Uuid::new_v4().simple());
    let members = json!({
        "id": "added", "kind": "openai", "base_url": added.base_url_openai(), "api_key": key,
        "headers": {"x-team": team}, "models": {"m-new": "gpt-4o-mini"},
    });
    assert!(served(&here, "m-new", "openai").await);
    let made = here.send("POST", PATH, Some(&members)).await.unwrap();
    assert_eq!(made.status, 201, "{}", said(&made));
    assert!(
        served(&here, "m-new", "added").await,
        "at once where it was made"
    );
    soon("it serves on the other instance", async || {
        served(&there, "m-new", "added").await
    })
    .await;
    assert_eq!(keys_sent(&added).last(), Some(&key));
    let again = here.send("POST", PATH, Some(&members)).await.unwrap();
    assert_eq!(again.status, 400, "{}", said(&again));

    // Nobody sees the key again: not the admin, not a user, not who reads the database.
    let one = there.get(&format!("{PATH}/added")).await.json();
    assert_eq!(one["api_keys"], json!(["…7f3a"]), "{one}");
    assert_eq!(one["headers"], json!(["x-team"]));
    assert_eq!(
        (&one["source"], &one["weight"]),
        (&json!("database"), &Value::Null)
    );
    let all = here.get(PATH).await;
    let dump = Store::Postgres(url)
        .texts("SELECT schema_to_xml('public', true, false, '')::text")
        .await
        .unwrap()
        .concat();
    assert!(dump.contains("lyss.sealed.1."), "the dump has the row");
    for text in [said(&made), said(&all), dump, first.log(), second.log()] {
        assert!(!text.contains(&key) && !text.contains(&team), "{text}");
    }
    let user = setups[0].create_key(&["--user", "alice"]);
    let user = first.client().with_key(&user);
    soon("the user's key is known", async || {
        user.get("/v1/models").await.status == 200
    })
    .await;
    assert_eq!(user.get(PATH).await.status, 403);

    // The key stays where it is not named, but goes nowhere else.
    let changed = json!({
        "kind": "openai", "base_url": added.base_url_openai(), "models": {"m-two": "gpt-4o-mini"}, "weight": 7,
    });
    assert_eq!(put(&there, "added", &changed).await.status, 200);
    assert!(served(&there, "m-two", "added").await);
    assert_eq!(keys_sent(&added).last(), Some(&key));
    assert_eq!(
        there.get(&format!("{PATH}/added")).await.json()["weight"],
        7
    );
    let mut stolen = changed.clone();
    stolen["base_url"] = file.base_url_openai().into();
    let refused = put(&there, "added", &stolen).await;
    assert_eq!(refused.status, 400, "{}", said(&refused));
    assert!(said(&refused).contains("again"), "{}", said(&refused));
    assert!(!keys_sent(&file).contains(&key));

    // Switched off, and deleted.
    let mut off = changed;
    off["enabled"] = false.into();
    assert_eq!(put(&here, "added", &off).await.status, 200);
    soon("it is off on the other instance", async || {
        served(&there, "m-two", "openai").await
    })
    .await;
    assert_eq!(
        here.get(&format!("{PATH}/added")).await.json()["enabled"],
        false
    );
    let path = format!("{PATH}/added");
    let gone = here.send("DELETE", &path, None).await.unwrap();
    assert_eq!(gone.status, 204);
    assert_eq!(here.send("DELETE", &path, None).await.unwrap().status, 404);
    assert_eq!(here.get(&path).await.status, 404);

    // A row stands in for the configuration's provider of the same id, without its key, until it is deleted.
    let instead = json!({"base_url": added.base_url_openai(), "api_key": "sk-of-the-table"});
    assert_eq!(put(&here, "openai", &instead).await.status, 200);
    assert!(served(&here, "gpt-4o-mini", "openai").await);
    assert_eq!(keys_sent(&added).last().unwrap(), "sk-of-the-table");
    here.send("DELETE", &format!("{PATH}/openai"), None)
        .await
        .unwrap();
    let before = keys_sent(&file).len();
    soon("the configuration's is back", async || {
        served(&there, "gpt-4o-mini", "openai").await && keys_sent(&file).len() > before
    })
    .await;
    assert!(keys_sent(&file).iter().all(|key| key == "sk-of-the-file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_within_the_network_is_reached_unless_it_is_listed() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let inside = MockProvider::start(Options::default()).unwrap();
    let setup = Setup::new(&config(None, &mock, &[]));
    let lyss = setup.start().await;
    let admin = lyss.client().with_key(ADMIN);
    let port = inside.base_url_openai();
    let port = port
        .split(':')
        .nth(2)
        .unwrap()
        .trim_end_matches("/v1")
        .to_owned();
    let members = |url: &str| json!({"kind": "openai", "base_url": url, "api_key": "sk-1", "models": {"m": "m"}});

    for url in [
        "http://api.example.com/v1",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1:8443",
        "https://[::1]/v1",
        "https://[::ffff:169.254.169.254]/v1",
        "https://10.0.0.1",
        "https://user:password@api.example.com",
        "https://api.example.com/v1?key=x",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379",
    ] {
        let answer = put(&admin, "inside", &members(url)).await;
        assert_eq!(answer.status, 400, "{url}: {}", said(&answer));
        assert_eq!(
            answer.json()["error"]["param"],
            "base_url",
            "{url}: {}",
            said(&answer)
        );
    }
    // A preset that leads to this machine, and a proxy that leads anywhere.
    let preset = put(
        &admin,
        "mine",
        &json!({"preset": "ollama", "models": {"m": "m"}}),
    )
    .await;
    assert_eq!(preset.status, 400, "{}", said(&preset));
    let mut proxied = members("https://api.example.com");
    proxied["proxy"] = format!("http://127.0.0.1:{port}").into();
    assert_eq!(put(&admin, "inside", &proxied).await.status, 400);
    let secret = put(
        &admin,
        "inside",
        &json!({"kind": "openai", "api_key": ["sk-canary"]}),
    )
    .await;
    assert!(
        secret.status == 400 && !said(&secret).contains("sk-canary"),
        "{}",
        said(&secret)
    );

    // Names and odd spellings are seen through when they are connected to.
    for host in ["localhost", "0177.0.0.1", "0x7f.1", "2130706433", "127.1"] {
        let url = format!("https://{host}:{port}/v1");
        let answer = put(&admin, "inside", &members(&url)).await;
        assert_eq!(answer.status, 200, "{url}: {}", said(&answer));
        let answer = ask(&admin, "m").await;
        assert!(
            matches!(answer.status, 502 | 503),
            "{url}: {}",
            said(&answer)
        );
    }
    assert_eq!(inside.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed_and_variables_not_expanded() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let elsewhere = MockProvider::start(Options::default()).unwrap();
    mock.rule(Rule {
        script: Script {
            headers: [("location".into(), elsewhere.base_url_openai())].into(),
            ..Script::status(302)
        },
        ..Rule::default()
    });
    let setup = Setup::new(&config(None, &mock, &["localhost", "127.0.0.1"]))
        .env("CANARY", "the-value-of-a-variable");
    let lyss = setup.start().await;
    let admin = lyss.client().with_key(ADMIN);
    let members = json!({
        "kind": "openai", "base_url": mock.base_url_openai(), "api_key": "${CANARY}", "models": {"m": "m"},
    });
    assert_eq!(put(&admin, "redirects", &members).await.status, 200);
    assert_eq!(ask(&admin, "m").await.status, 502);
    assert_eq!(keys_sent(&mock), ["${CANARY}"]);
    assert_eq!(elsewhere.requests().len(), 0);
}
