//! A shared case: what is configured, how the providers behave, what is called, and what must come of it.

use std::path::{Path, PathBuf};

use lyss_mock_provider::Script;
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
}

/// One call and what comes back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `chat`, `stream`, `embed`, `tokens`, `models`, `model`, `create_session`, `session`, `sessions`, `messages`,
    /// `delete_session`, `request`.
    pub call: String,
    /// The key to call with: `alice`, `bob`, `admin`, `wrong`, `none`.
    #[serde(default = "alice")]
    pub key: String,
    /// The request body.
    #[serde(default)]
    pub body: Value,
    /// The body as text, where it is not JSON.
    pub raw_body: Option<String>,
    /// The id in the path: of a model, a session or a request (`$last` is the last call's request id).
    #[serde(default)]
    pub id: String,
    /// The query parameter `user_id`.
    pub user_id: Option<String>,
    /// The idempotency key.
    pub idempotency_key: Option<String>,
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

/// Every case, by id.
pub fn all() -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("fixtures/cases exists")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("readable");
            let case: Case = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(
                Some(case.id.as_str()),
                path.file_stem().and_then(|stem| stem.to_str()),
                "the id is the file's name"
            );
            case
        })
        .collect()
}
