//! `examples/gateway.yaml` and the specification's file, as they are on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lines;
use crate::config::reader::{Findings, Reader};
use crate::config::{
    AuthMode, BuiltinMemoryConfig, Config, Driver, Env, IdempotencyConfig, LogFormat, Mem0Config,
    StoreKind, node,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Makes `#key: value` lines live; `# prose` stays a comment.
fn uncommented(text: &str) -> String {
    text.lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            let (space, rest) = line.split_at(indent);
            match rest.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '-') => {
                    format!("{space}{key}\n")
                }
                _ => format!("{line}\n"),
            }
        })
        .collect()
}

/// The variables that have no default in the example.
fn all_variables() -> Env {
    Env::from_iter([
        ("OPENAI_API_KEY", "sk-1"),
        (
            "LYSS_ENCRYPTION_KEY",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
        (
            "LYSS_OLD_ENCRYPTION_KEY",
            "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ),
    ])
}

#[test]
fn example_loads_as_it_is_and_with_everything_switched_on() {
    let path = repository("examples/gateway.yaml");
    let loaded = Config::load(&path, &Env::default()).unwrap_or_else(|e| panic!("{}", lines(&e)));
    assert_eq!(loaded.config.not_yet_in_force(), Vec::<String>::new());
    assert!(loaded.config.listens_on_loopback_only());

    let text = uncommented(&std::fs::read_to_string(&path).unwrap());
    let all =
        Config::parse("all", &text, &all_variables()).unwrap_or_else(|e| panic!("{}", lines(&e)));
    assert_eq!(all.config.budgets.len(), 4);
    assert!(
        !all.config
            .not_yet_in_force()
            .contains(&"budgets".to_owned())
    );
}

#[test]
fn example_mentions_every_key() {
    let text = std::fs::read_to_string(repository("examples/gateway.yaml")).unwrap();
    let root = node::parse("all", &uncommented(&text)).root.unwrap();
    let mut findings = Findings::new("all");
    let _: Config = Reader::read_root(&root, &mut findings);
    let known: BTreeSet<String> = Config::keys().into_iter().map(|(key, _)| key).collect();
    assert!(known.contains("providers.<id>.weight") && known.contains("routing.rules[].model"));
    let missing: Vec<&String> = known.difference(&findings.present).collect();
    assert_eq!(
        missing,
        Vec::<&String>::new(),
        "keys that the example does not mention"
    );
}

#[test]
fn commented_values_that_claim_to_be_defaults_are() {
    // With everything switched on, these must equal what they are when left out.
    let text = uncommented(&std::fs::read_to_string(repository("examples/gateway.yaml")).unwrap());
    let all = Config::parse("all", &text, &all_variables())
        .unwrap()
        .config;
    let default = Config::default();
    assert_eq!(all.server.http, default.server.http);
    assert_eq!(all.server.grpc, default.server.grpc);
    assert_eq!(all.server.max_in_flight, default.server.max_in_flight);
    assert_eq!(
        all.server.stream_buffer_max,
        default.server.stream_buffer_max
    );
    assert_eq!(all.server.max_body, default.server.max_body);
    assert_eq!(all.data.spool_max_bytes, default.data.spool_max_bytes);
    assert_eq!(all.data.outbox_max_bytes, default.data.outbox_max_bytes);
    assert_eq!(
        all.data.database.log_retention,
        default.data.database.log_retention
    );
    assert_eq!(
        all.data.database.max_connections,
        default.data.database.max_connections
    );
    assert_eq!(all.routing.retry_on, default.routing.retry_on);
    assert_eq!(all.routing.timeout, default.routing.timeout);
    assert_eq!(all.routing.connect_timeout, default.routing.connect_timeout);
    assert_eq!(
        all.routing.first_chunk_timeout,
        default.routing.first_chunk_timeout
    );
    assert_eq!(
        all.routing.stream_idle_timeout,
        default.routing.stream_idle_timeout
    );
    assert_eq!(all.routing.health_check, default.routing.health_check);
    assert_eq!(
        all.routing.breaker,
        Some(crate::config::BreakerConfig::default())
    );
    assert_eq!(
        all.routing.retry_budget,
        Some(crate::config::RetryBudgetConfig::default())
    );
    let idempotency = IdempotencyConfig {
        store: Some(StoreKind::Database),
        ..IdempotencyConfig::default()
    };
    assert_eq!(all.idempotency, idempotency);
    let session = crate::config::SessionConfig {
        summary_model: all.session.summary_model.clone(),
        store: all.session.store,
        ..default.session
    };
    assert_eq!(all.session, session);
    let builtin = BuiltinMemoryConfig {
        embedding_model: Some("text-embedding-3-small".into()),
        ..BuiltinMemoryConfig::default()
    };
    assert_eq!(all.memory.builtin, Some(builtin));
    let mem0 = all.memory.mem0.unwrap();
    let platform = Mem0Config {
        base_url: Some("https://api.mem0.ai".into()),
        api_key: mem0.api_key.clone(),
        ..Mem0Config::default()
    };
    assert_eq!(mem0, platform);
    assert_eq!(all.memory.scope, default.memory.scope);
    assert_eq!(all.memory.max_bytes, default.memory.max_bytes);
    assert_eq!(all.cache, default.cache);
    assert_eq!(all.monitoring.log, default.monitoring.log);
    assert_eq!(all.monitoring.prometheus, default.monitoring.prometheus);
}

#[test]
fn specification_file_loads_unmodified() {
    let path = repository("tests/fixtures/gateway-spec.yaml");
    let loaded = Config::load(&path, &Env::default()).unwrap_or_else(|e| panic!("{}", lines(&e)));
    let config = &loaded.config;
    assert_eq!(config.server.http.addr, "0.0.0.0:8000");
    assert_eq!(config.monitoring.prometheus.addr, "0.0.0.0:9090");
    assert_eq!(config.auth.mode, None);
    assert_eq!(config.auth_mode(), AuthMode::Keys);
    assert_eq!(config.data.database.driver, Driver::Postgres);
    let source = config.data.database.postgres_source().unwrap();
    assert_eq!((source.host.as_str(), source.port), ("localhost", 5432));
    assert_eq!(
        (source.user.as_str(), source.dbname.as_str()),
        ("lyss", "lyss_gateway")
    );
    let redis = config.data.redis.as_ref().unwrap();
    assert!(redis.password.is_empty());
    assert_eq!(redis.read_timeout, Duration::from_secs(3));
    assert_eq!(config.session.ttl, Duration::from_secs(3600));
    assert_eq!(config.session.store, None::<StoreKind>);
    assert_eq!(config.monitoring.log.format, LogFormat::Json);
    assert_eq!(
        config.providers["aliyun"].kind.as_deref(),
        Some("dashscope")
    );
    assert_eq!(config.providers["aliyun"].max_rps, Some(200));
    assert_eq!(
        config.providers["openai"].disabled.as_deref(),
        Some("the environment variable OPENAI_API_KEY is not set")
    );
    let later = config.not_yet_in_force();
    assert_eq!(later, ["server.grpc", "monitoring.jaeger"]);
    let warnings = lines(&loaded.warnings).replace(&path.display().to_string(), "g.yaml");
    assert_eq!(
        warnings,
        "g.yaml:13:13: data.database.source: has the password of the published example; use one of your own\n\
         g.yaml:23:21: routing.default_provider: the provider openai is disabled: the environment variable \
         OPENAI_API_KEY is not set\n\
         g.yaml:36:14: providers.openai.api_key: the environment variable OPENAI_API_KEY is not set; \
         the key is left out, and the provider disabled if it has no other\n\
         g.yaml:42:14: providers.aliyun.api_key: the environment variable ALIYUN_API_KEY is not set; \
         the key is left out, and the provider disabled if it has no other"
    );
}

#[test]
fn specification_file_with_its_keys_set() {
    let env = Env::from_iter([("OPENAI_API_KEY", "sk-a"), ("ALIYUN_API_KEY", "sk-b")]);
    let path = repository("tests/fixtures/gateway-spec.yaml");
    let config = Config::load(&path, &env).unwrap().config;
    assert!(config.providers.values().all(|p| p.disabled.is_none()));
    assert_eq!(
        config.providers["openai"].keys().next().unwrap().expose(),
        "sk-a"
    );
    assert!(!format!("{config:?}").contains("sk-a"), "Debug shows a key");
    assert!(
        !format!("{config:?}").contains("lyss123"),
        "Debug shows a password"
    );
}
