//! A shared case: what is configured, how the providers behave, what is called, and what must come of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use lyss_core::admission::NewKey;
use lyss_mock_provider::{Outcome, Script};
use serde::Deserialize;
use serde_json::Value;

/// One file of `fixtures/cases`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name: the file's name without `.json`.
    pub id: String,
    /// What would be wrong if it failed.
    pub why: String,
    /// Laid over the world's configuration.
    #[serde(default)]
    pub config: Value,
    /// API keys beside those of `alice` and `bob`, by the names that the steps use.
    #[serde(default)]
    pub keys: BTreeMap<String, NewKey>,
    /// SQL that the database is given before the engine starts, as by another program.
    pub sql: Option<String>,
    /// What the first provider (`openai`) does, request by request; afterwards it is healthy.
    #[serde(default)]
    pub upstream: Vec<Script>,
    /// What the second one (`backup`, also OpenAI-shaped) does.
    #[serde(default)]
    pub backup: Vec<Script>,
    /// Calls, one after another.
    pub steps: Vec<Step>,
    /// The rows of the request log, oldest first; not checked if absent.
    pub rows: Option<Vec<Value>>,
    /// The bodies that the first provider received, in order; not checked if absent.
    pub received: Option<Vec<Value>>,
    /// The bodies that the second one received.
    pub backup_received: Option<Vec<Value>>,
    /// How the calls ended as the first provider saw them (`finished`, `client_closed`, …), in order; not checked if absent.
    pub outcomes: Option<Vec<Outcome>>,
}

/// One call and what comes back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `chat`, `stream`, `embed`, `tokens`, `models`, `model`, `create_session`, `session`, `sessions`, `messages`,
    /// `delete_session`, `requests`, `request`, `usage`, `admin`; `rest` reads a held stream to its end, `drop` lets go of it.
    pub call: String,
    /// SQL that the database is given before the call, as by another program.
    pub sql: Option<String>,
    /// How many rows the log must have before the call: they are written behind the answers.
    pub after_rows: Option<usize>,
    /// The key to call with: `alice`, `bob`, `admin`, `wrong`, `none`, or one of the case's own.
    #[serde(default = "alice")]
    pub key: String,
    /// The request body; of `requests` and `usage` the query.
    #[serde(default)]
    pub body: Value,
    /// The body as text, where it is not JSON.
    pub raw_body: Option<String>,
    /// The id in the path: of a model, a session or a request (`$last` is the last call's request id); of `admin` what
    /// is listed (`keys`, `budgets`, `prices`, `providers`, `routing_rules`); of `rest` and `drop` the name of the stream.
    #[serde(default)]
    pub id: String,
    /// The query parameter `user_id`.
    pub user_id: Option<String>,
    /// The idempotency key.
    pub idempotency_key: Option<String>,
    /// Of a stream: how many events are read. It is let go of then, in the middle, or held.
    pub read: Option<usize>,
    /// Of a stream that is not read to its end: the name under which it is held.
    pub hold: Option<String>,
    /// What comes back: see [`crate::door::Door`].
    pub expect: Value,
}

fn alice() -> String {
    "alice".into()
}

/// The folder of the cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases")
}

/// The ids of the folder's cases, by the names of the files alone.
pub fn ids() -> BTreeSet<String> {
    std::fs::read_dir(folder())
        .expect("fixtures/cases exists")
        .filter_map(|entry| {
            let name = entry.expect("readable").file_name();
            Some(name.to_str()?.strip_suffix(".json")?.to_owned())
        })
        .collect()
}

/// Every case, by id.
pub fn all() -> Vec<Case> {
    ids()
        .into_iter()
        .map(|id| {
            let path = folder().join(&id).with_extension("json");
            let text = std::fs::read_to_string(&path).expect("readable");
            let case: Case = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(case.id, id, "the id is the file's name");
            case
        })
        .collect()
}
