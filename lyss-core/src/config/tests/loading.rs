//! Files as such, and what an embedding program may add.

use super::{good, lines};
use crate::config::{Config, Env, Extensions};

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("g.yaml");
    let report = lines(&Config::load(&path, &Env::default()).unwrap_err());
    assert!(
        report.contains("g.yaml: cannot be read: No such file"),
        "{report}"
    );
    std::fs::write(&path, b"server:\n  \xc3\xa9\xff: 1\n").unwrap();
    let report = lines(&Config::load(&path, &Env::default()).unwrap_err());
    assert!(
        report.ends_with("g.yaml:2:4: is not UTF-8 text"),
        "{report}"
    );
    std::fs::write(&path, vec![b'#'; 9 << 20]).unwrap();
    let report = lines(&Config::load(&path, &Env::default()).unwrap_err());
    assert!(report.ends_with("is larger than 8 MiB"), "{report}");
}

#[test]
fn registered_names_are_accepted() {
    let text = "routing: { load_balancer: mine }\nproviders: { a: { kind: own } }\n";
    assert_eq!(
        Config::parse("g", text, &Env::default()).unwrap_err().len(),
        2
    );
    let extensions = Extensions {
        kinds: vec!["own".to_owned()],
        load_balancers: vec!["mine".to_owned()],
    };
    let config = Config::parse_with("g", text, &Env::default(), &extensions)
        .unwrap()
        .config;
    assert_eq!(config.providers["a"].kind.as_deref(), Some("own"));
}

#[test]
fn kinds_are_resolved() {
    let config = good(
        "providers: { a: { kind: ollama }, ollama: {}, groq: { kind: openai }, b: { preset: xai }, dashscope: {}, c: { kind: openai } }",
        &Env::default(),
    )
    .config;
    let resolved: Vec<(&str, &str, &str)> = config
        .providers
        .iter()
        .map(|(id, p)| {
            (
                id.as_str(),
                p.kind.as_deref().unwrap(),
                p.preset.as_deref().unwrap_or("-"),
            )
        })
        .collect();
    assert_eq!(
        resolved,
        [
            ("a", "openai", "ollama"),
            ("b", "openai", "xai"),
            ("c", "openai", "-"),
            ("dashscope", "dashscope", "-"),
            ("groq", "openai", "groq"),
            ("ollama", "openai", "ollama"),
        ]
    );
}

#[test]
fn keys_in_use_before_their_time_are_named() {
    let text = "\
server: { grpc: { addr: ':9000' } }
routing: { fallbacks: { a: [b] }, breaker: {}, retry_budget: {} }
session: { max_tokens: 5000, compression_threshold: 4000, summary_model: m, keep_recent: 2, strategy: truncate }
cache: { enabled: true }
monitoring: { jaeger: { endpoint: 'http://j:1' }, otlp: { endpoint: 'http://o:2' } }
";
    let later = good(text, &Env::default()).config.not_yet_in_force();
    let all: Vec<&str> = crate::config::NOT_YET_IN_FORCE
        .iter()
        .map(|(key, _)| *key)
        .collect();
    assert_eq!(later, all);
}

#[test]
fn keys_are_listed_with_what_they_accept() {
    let keys = Config::keys();
    let of = |key: &str| {
        keys.iter()
            .find(|(k, _)| k == key)
            .map(|(_, accepts)| accepts.as_str())
    };
    assert_eq!(of("session.store"), Some("database, redis, memory"));
    assert_eq!(
        of("routing.rules[].weight"),
        Some("a whole number from 0 to 10000")
    );
    assert_eq!(of("data.redis.db"), Some("a whole number from 0 to 65535"));
    assert_eq!(
        of("billing.prices.<model>.input"),
        Some("a price per million tokens such as 0.15, with at most 6 decimals")
    );
}

#[test]
fn disconnects_by_word_or_by_bounds() {
    use crate::types::disconnect::{DrainBounds, OnDisconnect};

    let read = |value: &str| {
        let text = format!("billing: {{ on_disconnect: {value} }}\n");
        good(&text, &Env::default()).config.billing.on_disconnect
    };
    assert_eq!(read("cancel"), Some(OnDisconnect::Cancel));
    assert_eq!(read("drain"), Some(OnDisconnect::Drain));
    let bounds = DrainBounds {
        seconds: Some(5),
        tokens: Some(100),
    };
    assert_eq!(
        read("{ drain_until: { seconds: 5, tokens: 100 } }"),
        Some(OnDisconnect::DrainUntil(bounds))
    );
    for wrong in ["maybe", "{ drain_until: {} }", "{}"] {
        let text = format!("billing: {{ on_disconnect: {wrong} }}\n");
        let report = lines(&Config::parse("g", &text, &Env::default()).unwrap_err());
        assert!(report.contains("accepted: "), "{wrong}: {report}");
    }
}
