//! Two gateways on one PostgreSQL and one Redis.

use lyss_mock_provider::{MockProvider, Options};
use serde_json::{Value, json};

use crate::{
    client::Client,
    process::{Lyss, Setup},
    services,
    store::Store,
    world::lay_over,
};

/// The admin key of both.
pub const ADMIN: &str = "the-admin-key-of-both";

/// Two processes and what they share.
pub struct Pair {
    pub first: (Setup, Lyss),
    pub second: (Setup, Lyss),
    pub openai: MockProvider,
    pub backup: MockProvider,
    pub store: Store,
}

impl Pair {
    /// Both are started at the same moment on an empty database; `overlay` is laid over their configuration.
    pub async fn start(overlay: &Value) -> Self {
        let start = || MockProvider::start(Options::default()).expect("a free port");
        let (openai, backup) = (start(), start());
        let url = services::new_database(&services::postgres()).await;
        let mut config = json!({
            "data": {
                "database": {"driver": "postgres", "source": url},
                "redis": {"addr": services::redis()},
            },
            "auth": {"mode": "keys", "admin_key": ADMIN, "pepper": "a pepper that both instances share"},
            "providers": {
                "openai": {"api_key": "sk-openai", "base_url": openai.base_url_openai()},
                "backup": {"kind": "openai", "api_key": "sk-backup", "base_url": backup.base_url_openai()},
            },
        });
        lay_over(&mut config, overlay);
        let (first, second) = (Setup::new(&config), Setup::new(&config));
        let (mut one, mut two) = (first.spawn(), second.spawn());
        tokio::join!(one.ready(), two.ready());
        Self {
            first: (first, one),
            second: (second, two),
            openai,
            backup,
            store: Store::Postgres(url),
        }
    }

    /// What both have warned of, for the message of a test that fails.
    pub fn warnings(&self) -> String {
        let logs = [self.first.1.log(), self.second.1.log()];
        let lines = logs.iter().flat_map(|log| log.lines());
        let warnings = lines.filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\""));
        warnings.collect::<Vec<_>>().join("\n")
    }

    /// A client of each, with the same key.
    pub fn clients(&self, key: &str) -> [Client; 2] {
        [&self.first.1, &self.second.1].map(|lyss| lyss.client().with_key(key))
    }
}

/// A name that no other test on the same Redis has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}
