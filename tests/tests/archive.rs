//! Redis loses, the gateway is killed, the database is away: with both, a conversation goes on (decision 5, S4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use lyss_mock_provider::{MockProvider, Options};
use lyss_tests::{
    client::{Client, chat},
    process::{Lyss, Setup},
    services::{self, Server},
    store::Store,
};
use serde_json::{Value, json};

/// A gateway with a Redis of its own.
struct Rig {
    openai: MockProvider,
    redis: Server,
    store: Store,
    setup: Setup,
}

impl Rig {
    fn new(redis: Server, database: &str) -> Self {
        let openai = MockProvider::start(Options::default()).unwrap();
        let setup = Setup::new(&json!({
            "data": {
                "database": {"driver": "postgres", "source": database},
                "redis": {"addr": redis.address()},
            },
            "auth": {"default_user": "alice"},
            "providers": {"openai": {"api_key": "sk-openai", "base_url": openai.base_url_openai()}},
        }));
        Self {
            openai,
            redis,
            store: Store::Postgres(database.to_owned()),
            setup,
        }
    }

    async fn on_a_fresh_database() -> (Self, Lyss) {
        let database = services::new_database(&services::postgres()).await;
        let rig = Self::new(Server::redis(), &database);
        let lyss = rig.setup.start().await;
        (rig, lyss)
    }

    async fn flush(&self) {
        let client = redis::Client::open(self.redis.url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("FLUSHALL")
            .query_async(&mut connection)
            .await
            .unwrap();
    }

    /// Makes a turn; the provider must see every turn before it.
    async fn turn(&self, client: &Client, number: usize) {
        let mut body = chat("gpt-4o-mini", &format!("turn {number}"));
        body["session_id"] = "s".into();
        let answer = client.chat(&body).await;
        assert_eq!(answer.status, 200, "turn {number}: {}", answer.json());
        let requests = self.openai.requests();
        let asked = requests.iter().rfind(|request| !request.body.is_empty());
        let last: Value = serde_json::from_slice(&asked.unwrap().body).unwrap();
        let messages = last["messages"].as_array().unwrap().iter();
        let asked: Vec<_> = messages
            .filter(|message| message["role"] == "user")
            .map(|message| message["content"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (1..=number).map(|turn| format!("turn {turn}")).collect();
        assert_eq!(asked, expected);
    }

    /// Stops Redis and waits for its end: its port is needed again.
    fn stop_redis(&mut self) {
        self.redis.stop();
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(self.redis.address()).is_ok() {
            assert!(Instant::now() < end, "redis does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until so many turns are in the database.
    async fn archived(&self, turns: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        let query = "SELECT version::text FROM sessions WHERE id = 's'";
        while self.store.texts(query).await.unwrap_or_default() != [turns] {
            assert!(Instant::now() < end, "turn {turns} is not archived");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_after_redis_lost_everything() {
    let (rig, lyss) = Rig::on_a_fresh_database().await;
    let client = lyss.client();
    rig.turn(&client, 1).await;
    rig.turn(&client, 2).await;
    rig.flush().await;
    rig.turn(&client, 3).await;
    rig.flush().await;
    let page = client.get("/v1/sessions/s/messages").await.json();
    assert_eq!(page["data"].as_array().unwrap().len(), 6, "{page}");
    rig.turn(&client, 4).await;

    let gone = client.send("DELETE", "/v1/sessions/s", None).await.unwrap();
    assert_eq!(gone.status, 204);
    rig.flush().await;
    assert_eq!(client.get("/v1/sessions/s").await.status, 404);
    rig.turn(&client, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_of_a_killed_gateway_are_archived_when_the_database_is_back() {
    let mut postgres = Server::postgres();
    let database = services::new_database(&postgres.url).await;
    let rig = Rig::new(Server::redis(), &database);
    let mut lyss = rig.setup.start().await;
    rig.turn(&lyss.client(), 1).await;
    rig.archived("1").await;
    postgres.stop();
    // The database is not in the path of a turn, and Redis has lost nothing.
    rig.turn(&lyss.client(), 2).await;
    rig.turn(&lyss.client(), 3).await;
    lyss.kill();
    postgres.up();
    let lyss = rig.setup.start().await;
    rig.archived("3").await;
    rig.flush().await;
    rig.turn(&lyss.client(), 4).await;
}

/// Copies what a Redis has on disk.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// What Redis knew at an earlier time takes its place: a replica that was behind, a disk that was restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_redis_is_brought_up_to_date() {
    let (mut rig, lyss) = Rig::on_a_fresh_database().await;
    let client = lyss.client();
    rig.turn(&client, 1).await;
    rig.turn(&client, 2).await;
    rig.stop_redis();
    let (_, port) = rig
        .redis
        .url
        .trim_end_matches('/')
        .rsplit_once(':')
        .unwrap();
    let data: PathBuf = rig.redis.dir().join(port);
    let older = tempfile::tempdir().unwrap();
    copy(&data, older.path());
    rig.redis.up();
    answers_again(&client).await;
    rig.turn(&client, 3).await;
    rig.turn(&client, 4).await;
    rig.archived("4").await;

    rig.stop_redis();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&older.path().join(data.file_name().unwrap()), &data);
    rig.redis.up();
    answers_again(&client).await;
    rig.turn(&client, 5).await;
}

/// Waits until the gateway has its Redis back; looks at another session only.
async fn answers_again(client: &Client) {
    let end = Instant::now() + Duration::from_secs(10);
    while client.get("/v1/sessions/another").await.status != 404 {
        assert!(Instant::now() < end, "redis is not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
