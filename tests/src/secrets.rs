//! Every gateway of every test is a test of K1: what its configuration keeps secret must not be in what it logs, prints or
//! answers. ([`process::Setup`](crate::process::Setup) plants, the ends of processes and answers are searched.)

use std::sync::Mutex;

use serde_json::Value;

/// Members of the configuration whose values are secret.
const SECRET: [&str; 8] = [
    "api_key",
    "api_keys",
    "admin_key",
    "pepper",
    "password",
    "encryption_key",
    "old_encryption_keys",
    "headers",
];
/// A shorter text is found everywhere.
const SHORTEST: usize = 8;

static PLANTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes note of the secrets of a configuration.
pub fn plant_all(config: &Value) {
    match config {
        Value::Object(members) => {
            for (name, value) in members {
                match SECRET.contains(&name.as_str()) {
                    true => texts(value),
                    false => plant_all(value),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(plant_all),
        _ => {}
    }
}

fn texts(value: &Value) {
    match value {
        Value::String(text) => plant(text),
        Value::Array(items) => items.iter().for_each(texts),
        Value::Object(members) => members.values().for_each(texts),
        _ => {}
    }
}

/// Takes note of a secret.
pub fn plant(secret: &str) {
    if secret.len() >= SHORTEST {
        PLANTED.lock().expect("no panic").push(secret.to_owned());
    }
}

/// Fails if a text has a secret that was planted.
///
/// # Panics
/// If it has one.
pub fn none_in(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let planted = PLANTED.lock().expect("no panic").clone();
    for secret in planted {
        if let Some(at) = text.find(&secret) {
            let line = text.get(..at).unwrap_or_default().lines().count();
            panic!(
                "{place} has a secret in line {line}: it begins with {:.4}",
                secret
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    #[should_panic(expected = "the log has a secret in line 2")]
    fn what_was_planted_is_found() {
        plant_all(&json!({"providers": {"openai": {"api_keys": ["sk-planted-for-this"]}}}));
        none_in("the log", b"nothing here");
        none_in("the log", b"nothing here\nbut sk-planted-for-this");
    }
}
