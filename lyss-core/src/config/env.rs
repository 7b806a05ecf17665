//! The one list of environment variables, and how they change a configuration.
//!
//! Order, later wins: defaults, the file, the short variables of [`VARIABLES`], then
//! `LYSS_SECTION__KEY`. Values from the environment are taken as they are: a `${…}` in them is
//! text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;
use super::node::{self, Entry, Mark, Node, Value};

/// The variables with names of their own, and what each sets. Besides these: the variables of
/// [`PROVIDER_KEYS`](super::PROVIDER_KEYS) on the embedded default, and `LYSS_SECTION__KEY` for
/// every key (`LYSS_ROUTING__MAX_RETRIES=5`).
pub const VARIABLES: &[(&str, &str)] = &[
    ("GATEWAY_HTTP_ADDR", "server.http.addr"),
    ("GATEWAY_GRPC_ADDR", "server.grpc.addr"),
    ("DB_HOST", "data.database.source: host"),
    ("DB_PORT", "data.database.source: port"),
    ("DB_USER", "data.database.source: user"),
    ("DB_PASSWORD", "data.database.source: password"),
    ("DB_NAME", "data.database.source: dbname"),
    ("REDIS_ADDR", "data.redis.addr"),
    ("REDIS_PASSWORD", "data.redis.password"),
    ("LOG_LEVEL", "monitoring.log.level"),
    ("LOG_FORMAT", "monitoring.log.format"),
];

const PREFIX: &str = "LYSS_";

/// A snapshot of environment variables. Its `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Takes the process environment, and beneath it the `.env` file of `directory` if there is
    /// one. Variables that are not UTF-8 are left out.
    ///
    /// # Errors
    /// When the `.env` file cannot be read or has a line that is not `NAME=value`.
    pub fn from_process(directory: &Path) -> Result<Self, Vec<Diagnostic>> {
        let mut env = Self::dotenv(&directory.join(".env"))?;
        env.0
            .extend(std::env::vars_os().filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            }));
        Ok(env)
    }

    /// Reads a `.env` file; one that does not exist is empty.
    ///
    /// # Errors
    /// When it cannot be read or has a line that is not `NAME=value`.
    pub fn dotenv(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let file = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(vec![Diagnostic::of_file(
                    file,
                    format!("cannot be read: {error}"),
                )]);
            }
        };
        let mut variables = BTreeMap::new();
        let mut problems = Vec::new();
        for item in dotenvy::from_read_iter(text.as_bytes()) {
            match item {
                Ok((name, value)) => {
                    variables.insert(name, value);
                }
                Err(error) => {
                    problems.push(dotenv_problem(&file, &text, &error));
                    break; // the reader may not advance past an error
                }
            }
        }
        if problems.is_empty() {
            Ok(Self(variables))
        } else {
            Err(problems)
        }
    }

    /// Gives a variable, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Gives a variable, if it is set and not empty: an empty `DB_HOST=` in a Compose file means
    /// "not set".
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The platform's directory for the data of this user's programs: `$XDG_DATA_HOME/lyss` or
    /// `~/.local/share/lyss`, on macOS `~/Library/Application Support/lyss`. Without a home
    /// directory (containers) it is `lyss-data` in the working directory.
    pub fn data_dir(&self) -> PathBuf {
        let home = self.non_empty("HOME").map(PathBuf::from);
        if cfg!(target_os = "macos") {
            if let Some(home) = home {
                return home.join("Library/Application Support/lyss");
            }
        } else {
            // The XDG specification wants relative paths ignored.
            let xdg = self.non_empty("XDG_DATA_HOME").map(PathBuf::from);
            if let Some(xdg) = xdg.filter(|path| path.is_absolute()) {
                return xdg.join("lyss");
            }
            if let Some(home) = home {
                return home.join(".local/share/lyss");
            }
        }
        PathBuf::from("lyss-data")
    }

    /// Puts the variables into the tree of the file. `DB_*` are applied later, to the parsed DSN.
    pub(super) fn overlay(&self, root: &mut Node) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        for (name, key) in VARIABLES {
            if key.contains(':') {
                continue;
            }
            if let Some(value) = self.non_empty(name) {
                if *name == "REDIS_PASSWORD"
                    && self.non_empty("REDIS_ADDR").is_none()
                    && !has_redis(root)
                {
                    continue; // a password alone does not mean that there is a Redis
                }
                let path: Vec<&str> = key.split('.').collect();
                put(root, &path, Node::text(value, Mark::of_variable(name)));
            }
        }
        for (name, value) in &self.0 {
            let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else {
                continue;
            };
            let lower = rest.to_lowercase();
            let path: Vec<&str> = lower.split("__").collect();
            if path.iter().any(|segment| segment.is_empty()) {
                problems.push(Diagnostic {
                    key: lower.replace("__", "."),
                    ..Diagnostic::of_file(
                        "environment",
                        format!("{name}: has an empty name between underscores; accepted: LYSS_SECTION__KEY"),
                    )
                });
                continue;
            }
            match value_node(name, value) {
                Ok(node) => put(root, &path, node),
                Err(message) => problems.push(Diagnostic {
                    key: path.join("."),
                    ..Diagnostic::of_file("environment", format!("{name}: {message}"))
                }),
            }
        }
        problems
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

fn dotenv_problem(file: &str, text: &str, error: &dotenvy::Error) -> Diagnostic {
    // The line is not repeated: what cannot be parsed may well be a key.
    let line = match error {
        dotenvy::Error::LineParse(bad, _) => bad
            .lines()
            .next()
            .and_then(|first| text.lines().position(|line| line.trim() == first.trim())),
        _ => None,
    };
    Diagnostic {
        line: line.map_or(0, |index| index + 1),
        column: usize::from(line.is_some()),
        ..Diagnostic::of_file(
            file,
            "is not NAME=value; values with spaces or # need quotes",
        )
    }
}

fn has_redis(root: &Node) -> bool {
    let Value::Map(entries) = &root.value else {
        return false;
    };
    entries
        .iter()
        .filter(|entry| entry.key == "data")
        .any(|entry| {
            matches!(&entry.node.value, Value::Map(data) if data
            .iter()
            .any(|entry| entry.key == "redis" && !matches!(entry.node.value, Value::Null)))
        })
}

/// A list or mapping in YAML's flow form, a quoted text, or a plain value.
fn value_node(name: &str, text: &str) -> Result<Node, String> {
    let trimmed = text.trim();
    let flow = trimmed.starts_with('[') || trimmed.starts_with('{');
    let quoted = trimmed.len() >= 2
        && ['"', '\'']
            .iter()
            .any(|q| trimmed.starts_with(*q) && trimmed.ends_with(*q));
    if !flow && !quoted {
        return Ok(Node::text(text, Mark::of_variable(name)));
    }
    let parsed = node::parse(name, trimmed);
    match parsed.root {
        Some(mut node) if parsed.problems.is_empty() => {
            remark(&mut node, &Mark::of_variable(name));
            Ok(node)
        }
        _ => {
            Err("is not a valid YAML value; a text that begins with [ or { needs quotes".to_owned())
        }
    }
}

fn remark(node: &mut Node, mark: &Mark) {
    node.mark = mark.clone();
    match &mut node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| remark(item, mark)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.mark = mark.clone();
            remark(&mut entry.node, mark);
        }),
    }
}

/// Puts a value at a path, making sections on the way. Where the file has something that is not a
/// section, the file stays as it is and its own error is reported.
fn put(node: &mut Node, path: &[&str], value: Node) {
    let [key, rest @ ..] = path else {
        *node = value;
        return;
    };
    if matches!(node.value, Value::Null) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    // Variable names have neither hyphens nor case: `LYSS_PROVIDERS__MY_VLLM__…` is `my-vllm`.
    let same = |entry: &Entry| {
        entry.key == *key || entry.key.to_lowercase().replace(['-', '.'], "_") == *key
    };
    let index = match entries.iter().position(same) {
        Some(index) => index,
        None => {
            entries.push(Entry {
                key: (*key).to_owned(),
                mark: value.mark.clone(),
                node: Node {
                    mark: value.mark.clone(),
                    value: Value::Null,
                },
            });
            entries.len() - 1
        }
    };
    if let Some(entry) = entries.get_mut(index) {
        put(&mut entry.node, rest, value);
    }
}
