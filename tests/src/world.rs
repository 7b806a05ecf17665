//! The world of a test: two OpenAI-shaped mock providers and a DashScope one, an engine over SQLite in a directory of
//! its own, and API keys for two users.

use std::time::Duration;

use lyss_core::{
    Engine, Gateway,
    admission::{KeyHasher, KeyStore, NewKey, load_or_create_pepper},
    config::Config,
    gateway::RequestQuery,
    types::{CallContext, Credential, LogRow},
};
use lyss_mock_provider::{MockProvider, Options};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// The admin key of every world.
pub const ADMIN_KEY: &str = "admin-key-of-the-test-world";

/// A running engine and what it talks to.
pub struct World {
    pub engine: Engine,
    pub openai: MockProvider,
    pub backup: MockProvider,
    pub aliyun: MockProvider,
    pub dir: tempfile::TempDir,
    pub config: Value,
    alice: String,
    bob: String,
}

impl World {
    /// Starts a world; `overlay` is laid over its configuration.
    pub async fn start(overlay: &Value) -> Self {
        let start = || MockProvider::start(Options::default()).expect("a free port");
        let (openai, backup, aliyun) = (start(), start(), start());
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = json!({
            "server": {"http": {"addr": "127.0.0.1:0"}},
            "data": {"dir": dir.path()},
            "auth": {"mode": "keys", "admin_key": ADMIN_KEY},
            "routing": {
                "default_provider": "openai",
                "health_check": {"enabled": false},
                "rules": [
                    {"model": "both", "provider": "openai", "priority": 1},
                    {"model": "both", "provider": "backup", "priority": 2},
                ],
            },
            "providers": {
                "openai": {"api_key": "sk-openai-secret", "base_url": openai.base_url_openai()},
                "backup": {"kind": "openai", "api_key": "sk-backup-secret", "base_url": backup.base_url_openai()},
                "aliyun": {"api_key": "sk-aliyun-secret", "base_url": aliyun.base_url_dashscope()},
                "simulated": {},
            },
        });
        lay_over(&mut config, overlay);
        // JSON is YAML.
        let text = config.to_string();
        let loaded = Config::parse("case", &text, &Default::default()).unwrap_or_else(|errors| {
            panic!(
                "{}",
                errors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n")
            )
        });
        let engine = Engine::start(loaded.config)
            .await
            .expect("the engine starts");
        let pepper = load_or_create_pepper(dir.path()).expect("a pepper");
        let store = KeyStore::new(
            engine.database().clone(),
            KeyHasher::new(&pepper).expect("a hasher"),
        );
        let mut keys = Vec::new();
        for user in ["alice", "bob"] {
            let new = NewKey {
                user_id: Some(user.into()),
                ..NewKey::default()
            };
            keys.push(create(&store, &new).await);
        }
        let mut keys = keys.into_iter();
        let (alice, bob) = (
            keys.next().expect("two keys"),
            keys.next().expect("two keys"),
        );
        Self {
            engine,
            openai,
            backup,
            aliyun,
            dir,
            config,
            alice,
            bob,
        }
    }

    /// The secret that a step's key name stands for.
    pub fn key(&self, name: &str) -> Option<String> {
        match name {
            "alice" => Some(self.alice.clone()),
            "bob" => Some(self.bob.clone()),
            "admin" => Some(ADMIN_KEY.to_owned()),
            "wrong" => {
                Some("lyss_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned())
            }
            "none" => None,
            other => panic!("no key `{other}`"),
        }
    }

    /// The rows of the log, oldest first, once there are `count` of them.
    pub async fn rows(&self, count: usize) -> Vec<LogRow> {
        let mut rows = Vec::new();
        for _ in 0..100 {
            let context = CallContext::new(Credential::Process);
            let query = RequestQuery {
                limit: Some(1000),
                ..RequestQuery::default()
            };
            rows = self
                .engine
                .requests(context, query)
                .await
                .map(|page| page.data)
                .unwrap_or_default();
            if rows.len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        rows.reverse();
        rows
    }
}

async fn create(store: &KeyStore, new: &NewKey) -> String {
    // The database may still be migrating.
    for _ in 0..100 {
        if let Ok(key) = store.create(new.clone()).await {
            return key.secret.expose_secret().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no key could be created");
}

/// Lays one JSON value over another: objects are merged, everything else replaced; `null` removes.
pub fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(key);
                } else {
                    lay_over(under.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (under, over) => *under = over.clone(),
    }
}
