//! Two gateways on one PostgreSQL and one Redis: what is told to one holds for both, and a conversation may change
//! between them at any turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{CHAT, Client, chat},
    process::{Lyss, Setup},
    services,
    store::Store,
};
use serde_json::{Value, json};

const ADMIN: &str = "the-admin-key-of-both";
/// How soon a change must be in force everywhere.
const SOON: Duration = Duration::from_secs(1);

struct Pair {
    first: (Setup, Lyss),
    second: (Setup, Lyss),
    openai: MockProvider,
    _backup: MockProvider,
    store: Store,
}

impl Pair {
    /// Both are started at the same moment on an empty database.
    async fn start() -> Self {
        let openai = MockProvider::start(Options::default()).unwrap();
        let backup = MockProvider::start(Options::default()).unwrap();
        let url = services::new_database(&services::postgres()).await;
        let setup = || {
            Setup::new(&json!({
                "data": {
                    "database": {"driver": "postgres", "source": url},
                    "redis": {"addr": services::redis()},
                },
                "auth": {"mode": "keys", "admin_key": ADMIN, "pepper": "a pepper that both instances share"},
                "providers": {
                    "openai": {"api_key": "sk-openai", "base_url": openai.base_url_openai()},
                    "backup": {"kind": "openai", "api_key": "sk-backup", "base_url": backup.base_url_openai()},
                },
            }))
        };
        let (first, second) = (setup(), setup());
        let (mut one, mut two) = (first.spawn(), second.spawn());
        tokio::join!(one.ready(), two.ready());
        Self {
            first: (first, one),
            second: (second, two),
            openai,
            _backup: backup,
            store: Store::Postgres(url),
        }
    }

    fn clients(&self, key: &str) -> [Client; 2] {
        [&self.first.1, &self.second.1].map(|lyss| lyss.client().with_key(key))
    }
}

/// Who answers for a model.
async fn provider(client: &Client, model: &str) -> String {
    let mut body = chat(model, "hello");
    body["user_id"] = "admin".into();
    let answer = client.chat(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.header("x-lyss-provider").unwrap().to_owned()
}

/// Waits until something holds, and fails if that takes longer than [`SOON`].
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_start_at_once_on_an_empty_database() {
    let pair = Pair::start().await;
    let migrations = pair
        .store
        .texts("SELECT version::text FROM _sqlx_migrations WHERE success ORDER BY version")
        .await
        .unwrap();
    assert!(migrations.len() >= 4, "{migrations:?}");
    for lyss in [&pair.first.1, &pair.second.1] {
        let health = lyss.client().get("/health").await.json();
        assert_eq!(health["healthy"], true, "{health}");
        let troubles: Vec<String> = lyss
            .log()
            .lines()
            .filter(|line| line.contains("\"ERROR\"") || line.contains("cannot be"))
            .map(str::to_owned)
            .collect();
        assert!(troubles.is_empty(), "{troubles:?}");
    }
    for client in pair.clients(ADMIN) {
        assert_eq!(provider(&client, "gpt-4o-mini").await, "openai");
    }
    let rows = pair
        .store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 2)
        .await;
    assert_eq!(rows.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_in_force_on_both_within_a_second() {
    let pair = Pair::start().await;
    let [one, two] = pair.clients(ADMIN);
    assert_eq!(
        provider(&two, "shared-model").await,
        "openai",
        "the default"
    );

    let rule = json!({"model_name": "shared-model", "provider_id": "backup"});
    let made = one
        .send("POST", "/v1/admin/routing-rules", Some(&rule))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!(
        provider(&one, "shared-model").await,
        "backup",
        "at once where it was made"
    );
    soon("the other one", async || {
        provider(&two, "shared-model").await == "backup"
    })
    .await;

    pair.store
        .execute(
            "UPDATE routing_rules SET provider_id = 'openai' WHERE model_name = 'shared-model'",
        )
        .await;
    soon("by hand, first", async || {
        provider(&one, "shared-model").await == "openai"
    })
    .await;
    soon("by hand, second", async || {
        provider(&two, "shared-model").await == "openai"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_known_and_forgotten_on_both_within_a_second() {
    let pair = Pair::start().await;
    let key = pair.first.0.create_key(&["--user", "alice"]);
    let clients = pair.clients(&key);
    for client in &clients {
        soon("a new key", async || {
            client.get("/v1/models").await.status == 200
        })
        .await;
    }
    let id = key.split('_').nth(1).unwrap();
    let revoked = pair.first.0.run(&["keys", "revoke", id]);
    assert!(revoked.status.success(), "{revoked:?}");
    for client in &clients {
        soon("a revoked key", async || {
            client.get("/v1/models").await.status == 401
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_at_either() {
    let pair = Pair::start().await;
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let clients = pair.clients(&key);
    for turn in 0..10 {
        let mut body = chat("gpt-4o-mini", &format!("turn {turn}"));
        body["session_id"] = "s".into();
        body["stream"] = (turn % 3 == 2).into();
        let answer = clients[turn % 2].chat(&body).await;
        assert_eq!(answer.status, 200, "turn {turn}: {}", answer.json());
        let requests = pair.openai.requests();
        let last: Value = serde_json::from_slice(&requests.last().unwrap().body).unwrap();
        let asked: Vec<&str> = last["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|message| message["role"] == "user")
            .map(|message| message["content"].as_str().unwrap())
            .collect();
        let expected: Vec<String> = (0..=turn).map(|turn| format!("turn {turn}")).collect();
        assert_eq!(
            asked, expected,
            "every turn before is seen, wherever it was made"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixteen_turns_at_once_none_is_lost_or_mixed() {
    let pair = Pair::start().await;
    pair.openai.set_script(Script {
        delay_ms: 50,
        ..Script::default()
    });
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let clients = pair.clients(&key);
    let turns = (0..16).map(|turn| {
        let client = &clients[turn % 2];
        async move {
            let mut body = chat("gpt-4o-mini", &format!("turn <{turn}>"));
            body["session_id"] = "s".into();
            body["stream"] = (turn % 4 >= 2).into();
            let answer = client.send("POST", CHAT, Some(&body)).await.unwrap();
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            match answer.status {
                200 if turn % 4 < 2 || text.ends_with("data: [DONE]\n\n") => Some(turn),
                // A stream has begun: its refusal is an event, and there is no [DONE].
                200 | 409 => {
                    assert!(text.contains("\"session_conflict\""), "turn {turn}: {text}");
                    None
                }
                status => panic!("turn {turn}: {status} {text}"),
            }
        }
    });
    let won: Vec<usize> = futures::future::join_all(turns)
        .await
        .into_iter()
        .flatten()
        .collect();
    assert!(!won.is_empty(), "somebody must win");
    assert!(won.len() < 16, "they were not simultaneous");

    for client in &clients {
        let messages = client.get("/v1/sessions/s/messages").await.json();
        let messages = messages["data"].as_array().unwrap().clone();
        assert_eq!(messages.len(), 2 * won.len(), "{messages:?}");
        let mut stored = Vec::new();
        for (index, turn) in messages.chunks(2).enumerate() {
            let [asked, answered] = turn else { panic!() };
            assert_eq!(asked["turn"], index + 1);
            assert_eq!(answered["turn"], index + 1);
            let number = |message: &Value| {
                let text = message["message"]["content"].as_str().unwrap();
                let (_, rest) = text.split_once('<').unwrap();
                rest.split_once('>').unwrap().0.parse::<usize>().unwrap()
            };
            assert_eq!(number(asked), number(answered), "a turn is whole");
            stored.push(number(asked));
        }
        stored.sort_unstable();
        assert_eq!(stored, won, "what was acknowledged, and nothing else");
    }
    // Whoever lost was served by the provider all the same: there is a row for each.
    let rows = pair
        .store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 16)
        .await;
    assert_eq!(rows.len(), 16);
    let conflicts = rows
        .iter()
        .filter(|row| row["error_code"] == "session_conflict" && row["output_tokens"] != 0)
        .count();
    assert_eq!(conflicts, 16 - won.len());
}

/// Redis is shared with other tests.
fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}
