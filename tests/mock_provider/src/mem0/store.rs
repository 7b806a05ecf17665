//! What is remembered. Instead of a model: each text of a user is a memory, and it is found by words in common.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use serde_json::{Value, json};

#[derive(Default)]
struct Inner {
    memories: Vec<Memory>,
    planted: Vec<Value>,
    added: Vec<Value>,
    next: u64,
}

#[derive(Clone)]
struct Memory {
    id: String,
    user_id: String,
    run_id: Option<String>,
    text: String,
    metadata: Value,
}

#[derive(Default)]
pub(super) struct Store(Mutex<Inner>);

/// Entity ids by which memories are chosen; those given must all be right.
#[derive(Default)]
pub(super) struct Filter {
    pub user_id: Option<String>,
    pub run_id: Option<String>,
}

impl Filter {
    /// Reads `{"user_id": …}` and `{"AND": [{"user_id": …}, …]}`; nothing if there is another, or no, entity id.
    pub fn read(filters: &Value) -> Option<Self> {
        let mut found = Self::default();
        let parts = match filters.get("AND") {
            Some(parts) => parts.as_array()?.clone(),
            None => vec![filters.clone()],
        };
        for (name, value) in parts.iter().filter_map(Value::as_object).flatten() {
            let value = value.as_str()?.to_owned();
            match name.as_str() {
                "user_id" => found.user_id = Some(value),
                "run_id" => found.run_id = Some(value),
                _ => return None,
            }
        }
        found.is_some().then_some(found)
    }

    pub fn is_some(&self) -> bool {
        self.user_id.is_some() || self.run_id.is_some()
    }

    fn takes(&self, memory: &Memory) -> bool {
        self.user_id.as_ref().is_none_or(|id| *id == memory.user_id)
            && (self.run_id.is_none() || self.run_id == memory.run_id)
    }
}

impl Store {
    pub fn plant(&self, item: Value) {
        self.0.lock().planted.push(item);
    }

    pub fn added(&self) -> Vec<Value> {
        self.0.lock().added.clone()
    }

    pub fn texts(&self, user_id: &str) -> Vec<String> {
        let inner = self.0.lock();
        let own = inner.memories.iter().filter(|m| m.user_id == user_id);
        own.map(|memory| memory.text.clone()).collect()
    }

    pub fn add(&self, user_id: &str, run_id: Option<&str>, text: &str, metadata: &Value) -> Value {
        let mut inner = self.0.lock();
        inner.next += 1;
        let id = format!("mem-{}", inner.next);
        inner.memories.push(Memory {
            id: id.clone(),
            user_id: user_id.to_owned(),
            run_id: run_id.map(str::to_owned),
            text: text.to_owned(),
            metadata: metadata.clone(),
        });
        json!({"id": id, "memory": text, "event": "ADD"})
    }

    /// Takes in an addition that was accepted.
    pub fn take(&self, body: &Value) -> Vec<Value> {
        self.0.lock().added.push(body.clone());
        let id = |name: &str| body[name].as_str();
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        messages
            .iter()
            .filter(|message| message["role"] == "user")
            .filter_map(|message| message["content"].as_str())
            .map(|text| {
                let user = id("user_id").unwrap_or_default();
                self.add(user, id("run_id"), text, &body["metadata"])
            })
            .collect()
    }

    pub fn search(&self, query: &str, filter: &Filter, top_k: u64) -> Vec<Value> {
        let inner = self.0.lock();
        let asked = words(query);
        let mut found: Vec<(usize, &Memory)> = inner
            .memories
            .iter()
            .filter(|memory| filter.takes(memory))
            .map(|memory| (words(&memory.text).intersection(&asked).count(), memory))
            .filter(|(common, _)| *common > 0)
            .collect();
        found.sort_by_key(|(common, _)| std::cmp::Reverse(*common));
        let found = found.into_iter().map(|(common, memory)| {
            let mut item = item(memory);
            item["score"] = (common as f64 / asked.len() as f64).into();
            item
        });
        let top_k = usize::try_from(top_k).unwrap_or(usize::MAX);
        inner
            .planted
            .iter()
            .cloned()
            .chain(found.take(top_k))
            .collect()
    }

    pub fn list(&self, filter: &Filter) -> Vec<Value> {
        let inner = self.0.lock();
        let own = inner.memories.iter().filter(|memory| filter.takes(memory));
        own.map(item).collect()
    }

    pub fn delete(&self, filter: &Filter) {
        self.0
            .lock()
            .memories
            .retain(|memory| !filter.takes(memory));
    }
}

fn item(memory: &Memory) -> Value {
    json!({
        "id": memory.id,
        "memory": memory.text,
        "user_id": memory.user_id,
        "run_id": memory.run_id,
        "metadata": memory.metadata,
        "created_at": "2026-11-01T10:00:00Z",
        "updated_at": "2026-11-01T10:00:00Z",
    })
}

/// The words of a text that say something.
fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() > 3)
        .map(str::to_lowercase)
        .collect()
}

/// What is wrong with the messages of an addition.
pub(super) fn wrong_messages(body: &Value) -> Option<&'static str> {
    let Some(messages) = body["messages"].as_array() else {
        return Some("messages is required");
    };
    if messages.is_empty() {
        return Some("messages is empty");
    }
    for message in messages {
        let role = message["role"].as_str();
        if !matches!(role, Some("user" | "assistant" | "system")) {
            return Some("a message has no role that is known");
        }
        if !message["content"].is_string() {
            return Some("a message has no text");
        }
    }
    None
}
