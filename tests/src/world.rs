//! The world of a test: mock providers, a directory with a SQLite database and API keys, a configuration, and an engine.

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use lyss_core::{
    Engine, Gateway,
    admission::{KeyHasher, KeyStore, NewKey, load_or_create_pepper},
    config::Config,
    database::{Database, DatabaseSource},
    gateway::RequestQuery,
    types::{CallContext, Credential, LogRow},
};
use lyss_mock_provider::{MockProvider, Options};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::store::Store;

/// The admin key of every world.
pub const ADMIN_KEY: &str = "admin-key-of-the-test-world";

/// What an engine finds around it: two OpenAI-shaped mock providers and a DashScope one, a data directory, a
/// configuration, and API keys in the database. The engine over it runs in this process, or in another one.
pub struct Surroundings {
    pub openai: MockProvider,
    pub backup: MockProvider,
    pub aliyun: MockProvider,
    pub dir: tempfile::TempDir,
    pub config: Value,
    keys: BTreeMap<String, String>,
}

impl Surroundings {
    /// Prepares a world without its engine; `overlay` is laid over the configuration. Beside those of `alice` and `bob`
    /// there are the keys that `keys` describes, by name.
    pub async fn prepare(overlay: &Value, keys: &BTreeMap<String, NewKey>) -> Self {
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
        let mut surroundings = Self {
            openai,
            backup,
            aliyun,
            dir,
            config,
            keys: BTreeMap::new(),
        };
        surroundings.create_keys(keys).await;
        surroundings
    }

    /// Starts an engine in this process.
    pub async fn start_engine(&self) -> Engine {
        Engine::start(self.parsed())
            .await
            .expect("the engine starts")
    }

    /// The secret that a step's key name stands for.
    pub fn key(&self, name: &str) -> Option<String> {
        match name {
            "admin" => Some(ADMIN_KEY.to_owned()),
            "wrong" => {
                Some("lyss_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned())
            }
            "none" => None,
            name => Some(
                self.keys
                    .get(name)
                    .unwrap_or_else(|| panic!("no key `{name}`"))
                    .clone(),
            ),
        }
    }

    /// The database, past the gateway.
    pub fn store(&self) -> Store {
        match DatabaseSource::from_config(&self.parsed().data) {
            Ok(DatabaseSource::Sqlite(path)) => Store::Sqlite(path),
            other => panic!("not a SQLite file: {other:?}"),
        }
    }

    fn parsed(&self) -> Config {
        // JSON is YAML.
        let text = self.config.to_string();
        match Config::parse("case", &text, &Default::default()) {
            Ok(loaded) => loaded.config,
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                panic!("{}", errors.join("\n"))
            }
        }
    }

    /// Before the engine starts, so that it need not run in this process.
    async fn create_keys(&mut self, more: &BTreeMap<String, NewKey>) {
        let source = DatabaseSource::from_config(&self.parsed().data).expect("a database");
        let database = Database::open(source, 1).expect("a database");
        database.migrate().await.expect("the migrations run");
        let pepper = load_or_create_pepper(self.dir.path()).expect("a pepper");
        let store = KeyStore::new(database, KeyHasher::new(&pepper).expect("a hasher"));
        let of_user = |user: &str| NewKey {
            user_id: Some(user.into()),
            ..NewKey::default()
        };
        let mut keys = more.clone();
        keys.extend(["alice", "bob"].map(|user| (user.to_owned(), of_user(user))));
        for (name, new) in keys {
            let created = store.create(new).await.expect("a key is created");
            self.keys
                .insert(name, created.secret.expose_secret().to_owned());
        }
    }
}

/// Surroundings with an engine in this process.
pub struct World {
    pub engine: Engine,
    surroundings: Surroundings,
}

impl Deref for World {
    type Target = Surroundings;

    fn deref(&self) -> &Surroundings {
        &self.surroundings
    }
}

impl World {
    /// Starts a world; `overlay` is laid over its configuration.
    pub async fn start(overlay: &Value) -> Self {
        let surroundings = Surroundings::prepare(overlay, &BTreeMap::new()).await;
        Self {
            engine: surroundings.start_engine().await,
            surroundings,
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
