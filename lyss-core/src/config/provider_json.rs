//! A provider that comes as JSON, through the admin API: the same members under the same rules as in a file.

use super::load::Extensions;
use super::node::{Entry, Mark, Node, Scalar, Value};
use super::reader::{Findings, Reader};
use super::{Config, Diagnostic, ProviderConfig, check, load};

impl ProviderConfig {
    /// Reads an entry of `providers`. Nothing is taken from the environment: `${VAR}` is text here, or whoever may set
    /// a provider up could have any variable sent to it.
    ///
    /// # Errors
    /// Everything that is wrong; keys are those of the entry.
    pub fn from_json(
        id: &str,
        members: &serde_json::Map<String, serde_json::Value>,
        extensions: &Extensions,
    ) -> Result<Self, Vec<Diagnostic>> {
        let root = map([("providers", map([(id, node_of_map(members))]))]);
        let mut findings = Findings::new("");
        let mut config: Config = Reader::read_root(&root, &mut findings);
        load::resolve_kinds(&mut config, &root, extensions, &mut findings);
        check::check(&config, &root, extensions, &mut findings);
        let prefix = format!("providers.{id}");
        for error in &mut findings.errors {
            if let Some(key) = error.key.strip_prefix(&prefix) {
                error.key = key.trim_start_matches('.').to_owned();
            }
        }
        match config.providers.remove(id) {
            Some(provider) if findings.errors.is_empty() => Ok(provider),
            _ => Err(findings.errors),
        }
    }
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Node)>) -> Node {
    let entry = |(key, node): (&str, Node)| Entry {
        key: key.to_owned(),
        mark: Mark::default(),
        node,
    };
    Node {
        mark: Mark::default(),
        value: Value::Map(entries.into_iter().map(entry).collect()),
    }
}

fn node_of_map(members: &serde_json::Map<String, serde_json::Value>) -> Node {
    map(members
        .iter()
        .map(|(key, value)| (key.as_str(), node_of(value))))
}

/// Nesting is bounded by the parser of the JSON.
fn node_of(value: &serde_json::Value) -> Node {
    let scalar = |text: String, plain: bool| {
        Value::Scalar(Scalar {
            text,
            plain,
            variable: None,
            unset: None,
        })
    };
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => scalar(value.to_string(), true),
        serde_json::Value::Number(value) => scalar(value.to_string(), true),
        serde_json::Value::String(text) => scalar(text.clone(), false),
        serde_json::Value::Array(items) => Value::List(items.iter().map(node_of).collect()),
        serde_json::Value::Object(members) => return node_of_map(members),
    };
    Node {
        mark: Mark::default(),
        value,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn read(id: &str, members: serde_json::Value) -> Result<ProviderConfig, Vec<String>> {
        let members = members.as_object().unwrap();
        ProviderConfig::from_json(id, members, &Extensions::default()).map_err(|errors| {
            let shown = |error: Diagnostic| format!("{}: {}", error.key, error.message);
            errors.into_iter().map(shown).collect()
        })
    }

    #[test]
    fn members_are_those_of_a_file() {
        let provider = read(
            "deepseek",
            json!({
                "api_key": "sk-1", "timeout": "7s", "max_rps": 5, "weight": 20,
                "models": {"a": "b"}, "headers": {"x-team": "t"}, "options": {"n": 1, "s": "1"},
            }),
        )
        .unwrap();
        assert_eq!(provider.kind.as_deref(), Some("openai"));
        assert_eq!(provider.preset.as_deref(), Some("deepseek"));
        assert_eq!((provider.max_rps, provider.weight), (Some(5), 20));
        assert_eq!(provider.options["n"], 1);
        assert_eq!(provider.options["s"], "1");
        assert_eq!(provider.keys().next().unwrap().expose(), "sk-1");
    }

    #[test]
    fn what_is_wrong_is_said_by_member_and_without_secrets() {
        let errors = read(
            "mine",
            json!({"api_key": "a b", "wieght": 1, "max_rps": "many"}),
        );
        let errors = errors.unwrap_err().join("\n");
        for said in [
            "kind: is missing",
            "wieght: unknown key; did you mean weight?",
            "max_rps: ",
        ] {
            assert!(errors.contains(said), "{errors}");
        }
        assert!(!errors.contains("a b"), "{errors}");
        assert!(read("a/b", json!({"kind": "openai"})).is_err());
        assert!(read("a", json!({"kind": "openai", "headers": {"host": "x"}})).is_err());
    }

    #[test]
    fn nothing_comes_from_the_environment() {
        let members =
            json!({"kind": "openai", "api_key": "${PATH}", "headers": {"x": "${HOME:-y}"}});
        let provider = read("mine", members).unwrap();
        assert_eq!(provider.keys().next().unwrap().expose(), "${PATH}");
        assert_eq!(provider.headers["x"].expose(), "${HOME:-y}");
        assert_eq!(provider.disabled, None);
    }
}
