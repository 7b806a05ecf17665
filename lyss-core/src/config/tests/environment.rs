//! Overrides from the environment, `.env`, and the embedded default.

use std::path::PathBuf;

use super::{bad, good, lines};
use crate::config::{AuthMode, Config, Driver, Env, LogFormat, SqliteSource, VARIABLES};

fn env(variables: &[(&str, &str)]) -> Env {
    Env::from_iter(variables.iter().copied())
}

const POSTGRES: &str =
    "data: { database: { driver: postgres, source: 'host=a user=u dbname=d sslmode=disable' } }\n";

#[test]
fn short_variables_override_the_file() {
    let config = good(
        POSTGRES,
        &env(&[
            ("GATEWAY_HTTP_ADDR", ":8001"),
            ("GATEWAY_GRPC_ADDR", "127.0.0.1:9001"),
            ("DB_HOST", "db.internal"),
            ("DB_PORT", "6432"),
            ("DB_USER", "gate way"),
            ("DB_PASSWORD", r"it's ${HOME} \ secret"),
            ("DB_NAME", "prod"),
            ("REDIS_ADDR", "cache:6379"),
            ("REDIS_PASSWORD", "r"),
            ("LOG_LEVEL", "DEBUG"),
            ("LOG_FORMAT", "text"),
        ]),
    )
    .config;
    assert_eq!(config.server.http.addr, "0.0.0.0:8001");
    assert_eq!(config.server.grpc.addr, "127.0.0.1:9001");
    let source = config.data.database.postgres_source().unwrap();
    assert_eq!((source.host.as_str(), source.port), ("db.internal", 6432));
    assert_eq!(
        (source.user.as_str(), source.dbname.as_str()),
        ("gate way", "prod")
    );
    assert_eq!(source.password.unwrap().expose(), r"it's ${HOME} \ secret");
    assert_eq!(source.sslmode.as_str(), "disable");
    let redis = config.data.redis.unwrap();
    assert_eq!(
        (redis.addr.as_str(), redis.password.expose()),
        ("cache:6379", "r")
    );
    assert_eq!(config.monitoring.log.level, "debug");
    assert_eq!(config.monitoring.log.format, LogFormat::Text);
}

#[test]
fn every_short_variable_does_something() {
    for (name, _) in VARIABLES {
        let value = match *name {
            "DB_PORT" => "1",
            "LOG_LEVEL" => "trace",
            "LOG_FORMAT" => "text",
            name if name.ends_with("ADDR") => "127.0.0.1:1",
            _ => "x",
        };
        let file = "data: { redis: {}, database: { driver: postgres, source: 'host=a' } }";
        let with = good(file, &env(&[(name, value)])).config;
        assert_ne!(with, good(file, &Env::default()).config, "{name}");
    }
}

#[test]
fn db_host_without_a_database_section_means_postgres() {
    let config = good(
        "",
        &env(&[("DB_HOST", "db"), ("DB_USER", "u"), ("DB_NAME", "n")]),
    )
    .config;
    assert_eq!(config.data.database.driver, Driver::Postgres);
    let source = config.data.database.postgres_source().unwrap();
    assert_eq!((source.host.as_str(), source.dbname.as_str()), ("db", "n"));

    let sqlite = good(
        "data: { database: { driver: sqlite } }",
        &env(&[("DB_HOST", "db")]),
    );
    assert_eq!(sqlite.config.data.database.driver, Driver::Sqlite);
    assert!(lines(&sqlite.warnings).contains("DB_HOST is set and not used"));
    let error = bad(POSTGRES, &env(&[("DB_PORT", "x")]));
    assert_eq!(
        error,
        "environment: DB_PORT: is not a port; accepted: 1 to 65535"
    );
    // A Redis password alone does not make a Redis.
    assert_eq!(
        good("", &env(&[("REDIS_PASSWORD", "x")])).config.data.redis,
        None
    );
}

#[test]
fn any_key_from_the_environment() {
    let config = good(
        "providers:\n  my-vllm: { kind: openai }\nrouting: { max_retries: 1 }\n",
        &env(&[
            ("LYSS_ROUTING__MAX_RETRIES", "5"),
            (
                "LYSS_SERVER__CORS",
                "[https://a.example, https://b.example]",
            ),
            ("LYSS_SERVER__HTTP__TIMEOUT", "5s"),
            ("LYSS_PROVIDERS__MY_VLLM__API_KEY", "k:ey#1${HOME}"),
            ("LYSS_PROVIDERS__DEEPSEEK__API_KEY", "\"quoted\""),
            ("LYSS_ADMIN_KEY", "not an override: one underscore"),
        ]),
    )
    .config;
    assert_eq!(config.routing.max_retries, 5);
    assert_eq!(
        config.server.cors,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.server.http.timeout.as_secs(), 5);
    let key = config.providers["my-vllm"].api_key.as_ref().unwrap();
    assert_eq!(key.expose(), "k:ey#1${HOME}");
    let key = config.providers["deepseek"].api_key.as_ref().unwrap();
    assert_eq!(key.expose(), "quoted");
    assert_eq!(config.auth.admin_key, None);
}

#[test]
fn errors_from_the_environment_name_the_variable() {
    let report = bad(
        "server: { dashboard: maybe }\n",
        &env(&[
            ("LYSS_ROUTING__MAX_RETRIES", "many"),
            ("LYSS_ROUTING__MAX_RETRYS", "1"),
            ("LYSS_SERVER__CORS", "[a"),
            ("LYSS_SERVER____HOSTS", "a"),
            ("GATEWAY_HTTP_ADDR", "nowhere"),
        ]),
    );
    assert_eq!(
        report,
        "g.yaml:1:22: server.dashboard: \"maybe\" is not a boolean; accepted: true or false\n\
         environment: server.cors: LYSS_SERVER__CORS: is not a valid YAML value; a text that begins with [ or { needs quotes\n\
         environment: server..hosts: LYSS_SERVER____HOSTS: has an empty name between underscores; accepted: LYSS_SECTION__KEY\n\
         environment: server.http.addr: GATEWAY_HTTP_ADDR: \"nowhere\" has no port; accepted: an address such as 127.0.0.1:8000, [::1]:8000 or :8000\n\
         environment: routing.max_retries: LYSS_ROUTING__MAX_RETRIES: \"many\" is not a whole number; accepted: a whole number from 0 to 10\n\
         environment: routing.max_retrys: LYSS_ROUTING__MAX_RETRYS: unknown key; did you mean max_retries?"
    );
}

#[test]
fn variables_in_the_file() {
    let text = "\
routing: { max_retries: \"${RETRIES:-2}\", default_provider: \"${WHO}\" }
session:
  summary_model: 'a-${B}-c'
  ttl: ${TTL}
providers:
  openai: { api_key: \"${A_KEY}\" }
  deepseek: { api_keys: [\"${NO_KEY}\", \"${A_KEY}\"] }
  groq: { api_key: \"${NO_KEY}\", api_keys: [\"${EMPTY}\"] }
  xai: { headers: { X-Note: \"$${NOT} ${not-a-name}\" }, options: { n: 1, deep: { t: [true, '1', \"${B}\"] } } }
";
    let variables = env(&[
        ("WHO", "openai"),
        ("B", "x: [1, 2]\ny: ${WHO}"),
        ("TTL", "9s"),
        ("A_KEY", "sk-a"),
        ("EMPTY", ""),
    ]);
    let loaded = good(text, &variables);
    let config = &loaded.config;
    assert_eq!(config.routing.max_retries, 2);
    assert_eq!(config.session.ttl.as_secs(), 9);
    // Neither YAML nor `${…}` inside a value is read a second time.
    let model = config.session.summary_model.as_deref().unwrap();
    assert_eq!(model, "a-x: [1, 2]\ny: ${WHO}-c");
    assert_eq!(config.providers["openai"].disabled, None);
    assert_eq!(config.providers["deepseek"].disabled, None);
    assert_eq!(config.providers["deepseek"].keys().count(), 1);
    let reason = config.providers["groq"].disabled.as_deref();
    assert_eq!(reason, Some("the environment variable EMPTY is empty"));
    let note = config.providers["xai"].headers["X-Note"].expose();
    assert_eq!(note, "${NOT} ${not-a-name}");
    let options = serde_json::Value::Object(config.providers["xai"].options.clone());
    let expected = serde_json::json!({"n": 1, "deep": {"t": [true, "1", "x: [1, 2]\ny: ${WHO}"]}});
    assert_eq!(options, expected);
    assert_eq!(loaded.warnings.len(), 3, "{}", lines(&loaded.warnings));
}

#[test]
fn unset_variables_are_errors_elsewhere() {
    let report = bad(
        "session: { ttl: \"${TTL}\" }\nproviders: { openai: { base_url: '${URL}', options: { a: \"${OPT}\" } } }\n",
        &Env::default(),
    );
    assert_eq!(
        report,
        "g.yaml:1:17: session.ttl: the environment variable TTL is not set; set it, or write ${TTL:-default}\n\
         g.yaml:2:34: providers.openai.base_url: the environment variable URL is not set; set it, or write ${URL:-default}\n\
         g.yaml:2:58: providers.openai.options.a: the environment variable OPT is not set; set it, or write ${OPT:-default}"
    );
}

#[test]
fn embedded_default_without_anything() {
    let loaded = Config::embedded_default(&env(&[("HOME", "/home/u")])).unwrap();
    let config = &loaded.config;
    assert!(config.embedded);
    assert_eq!(config.server.http.addr, "127.0.0.1:8000");
    assert_eq!(config.server.grpc.addr, "127.0.0.1:9000");
    assert_eq!(config.monitoring.prometheus.addr, "127.0.0.1:9090");
    assert_eq!(config.auth_mode(), AuthMode::None);
    assert_eq!(config.auth.default_user.as_deref(), Some("local"));
    assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["simulated"]);
    assert_eq!(
        config.routing.default_provider.as_deref(),
        Some("simulated")
    );
    assert_eq!(config.not_yet_in_force(), Vec::<String>::new());
    assert!(loaded.warnings.is_empty());
    if cfg!(target_os = "linux") {
        let dir = PathBuf::from("/home/u/.local/share/lyss");
        assert_eq!(config.data.path(), dir);
        assert_eq!(config.data.spool_path(), dir.join("spool"));
        assert_eq!(
            config.data.sqlite_source(),
            SqliteSource::File(dir.join("lyss.db"))
        );
        let xdg = env(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")]);
        assert_eq!(xdg.data_dir(), PathBuf::from("/data/lyss"));
    }
}

#[test]
fn embedded_default_finds_providers_by_their_keys() {
    let loaded = Config::embedded_default(&env(&[
        ("DASHSCOPE_API_KEY", "d"),
        ("DEEPSEEK_API_KEY", "e"),
        ("ANTHROPIC_API_KEY", "a"),
        ("GROQ_API_KEY", ""),
        ("LYSS_SERVER__MAX_BODY", "1MiB"),
    ]))
    .unwrap();
    let config = &loaded.config;
    assert_eq!(
        config.providers.keys().collect::<Vec<_>>(),
        ["aliyun", "deepseek", "simulated"]
    );
    assert_eq!(
        config.providers["aliyun"].kind.as_deref(),
        Some("dashscope")
    );
    assert_eq!(config.providers["deepseek"].kind.as_deref(), Some("openai"));
    assert_eq!(config.routing.default_provider.as_deref(), Some("aliyun"));
    assert_eq!(config.server.max_body, 1 << 20);
    assert_eq!(
        lines(&loaded.warnings),
        "environment: ANTHROPIC_API_KEY: this version has no anthropic provider; the key is not used"
    );
    let exposed = env(&[("GATEWAY_HTTP_ADDR", ":8000")]);
    let config = Config::embedded_default(&exposed).unwrap().config;
    assert_eq!(config.auth_mode(), AuthMode::Keys);
    assert!(Config::embedded_default(&env(&[("GATEWAY_HTTP_ADDR", "x")])).is_err());
}

#[test]
fn dotenv_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".env");
    assert_eq!(Env::dotenv(&path).unwrap(), Env::default());
    std::fs::write(
        &path,
        "# keys\nOPENAI_API_KEY='sk ${x}'\nexport B=\"two\nlines\"\nPATH=from-file\n",
    )
    .unwrap();
    let env = Env::dotenv(&path).unwrap();
    assert_eq!(env.get("OPENAI_API_KEY"), Some("sk ${x}"));
    assert_eq!(env.get("B"), Some("two\nlines"));
    assert!(!format!("{env:?}").contains("sk"), "Debug shows a value");
    // The real environment wins.
    let merged = Env::from_process(directory.path()).unwrap();
    assert_eq!(merged.get("PATH"), std::env::var("PATH").ok().as_deref());
    assert_eq!(merged.get("OPENAI_API_KEY"), Some("sk ${x}"));

    std::fs::write(&path, "A=1\nsk-secret in a line by itself\n").unwrap();
    let errors = lines(&Env::dotenv(&path).unwrap_err());
    assert!(
        errors.ends_with(".env:2:1: is not NAME=value; values with spaces or # need quotes"),
        "{errors}"
    );
}
