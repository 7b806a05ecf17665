//! A table of wrong files and the exact reports.

use super::{bad, good, lines};
use crate::config::{Config, Env};

#[track_caller]
fn reports(text: &str, expected: &[&str]) {
    assert_eq!(
        bad(text, &Env::default()),
        expected.join("\n"),
        "for:\n{text}"
    );
}

#[test]
fn every_error_at_once_in_the_order_of_the_file() {
    reports(
        "\
server:
  http:
    addr: 8000
    timout: 30s
  max_body: 32
routing:
  default_provider: opnai
  max_retries: lots
  rules:
    - model: gpt-4o
      weight: -1
providers:
  openai: { api_key: sk-1, timeout: 30 }
  mine: { base_url: 'ftp://x' }
",
        &[
            "g.yaml:3:11: server.http.addr: \"8000\" has no port; accepted: an address such as 127.0.0.1:8000, [::1]:8000 or :8000",
            "g.yaml:4:5: server.http.timout: unknown key; did you mean timeout?",
            "g.yaml:5:13: server.max_body: \"32\" has no unit; did you mean 32MiB?; accepted: a size from 1KiB to 1GiB, such as 16KiB, 32MiB or 1GB",
            "g.yaml:7:21: routing.default_provider: \"opnai\" is not a provider; did you mean openai?",
            "g.yaml:8:16: routing.max_retries: \"lots\" is not a whole number; accepted: a whole number from 0 to 10",
            "g.yaml:10:7: routing.rules[0].provider: is missing; accepted: the id of a provider",
            "g.yaml:11:15: routing.rules[0].weight: \"-1\" is not a whole number; accepted: a whole number from 0 to 10000",
            "g.yaml:13:37: providers.openai.timeout: \"30\" has no unit; did you mean 30s?; accepted: a duration such as 500ms, 30s, 12h, 365d or \"12 months\"",
            "g.yaml:14:3: providers.mine.kind: is missing, and the id \"mine\" does not tell it; accepted: openai, dashscope, simulated, ollama",
            "g.yaml:14:21: providers.mine.base_url: \"ftp://x\" has the scheme ftp; accepted: a URL beginning with https:// or http://",
        ],
    );
}

#[test]
fn shapes() {
    reports(
        "- a\n",
        &["g.yaml:1:1: is a list; a configuration is a mapping"],
    );
    reports(
        "server: 1\n",
        &["g.yaml:1:9: server: is a single value; accepted: a mapping"],
    );
    reports(
        "server:\n  cors: '*'\n  max_body: [1]\n",
        &[
            "g.yaml:2:9: server.cors: is a single value; accepted: a list, each item * or an origin such as https://app.example.com",
            "g.yaml:3:13: server.max_body: is a list, not a single value; accepted: a size from 1KiB to 1GiB, such as 16KiB, 32MiB or 1GB",
        ],
    );
    reports(
        "session:\n  ttl:\n",
        &[
            "g.yaml:2:6: session.ttl: has no value (remove the line to use the default); accepted: a duration such as 500ms, 30s, 12h, 365d or \"12 months\"",
        ],
    );
    // A section whose lines are all commented out is as if absent.
    assert_eq!(
        good("data:\n  redis:\nserver:\n", &Env::default())
            .config
            .data
            .redis,
        None
    );
    assert_eq!(
        good("", &Env::default()).config.server,
        Config::default().server
    );
}

#[test]
fn yaml_itself() {
    reports(
        "server:\n  dashboard: true\n  dashboard: false\nrouting: { max_retries: 1, max_retries: 2, ttl: 1 }\n",
        &[
            "g.yaml:3:3: server.dashboard: this key is written twice; keep one of them",
            "g.yaml:4:28: routing.max_retries: this key is written twice; keep one of them",
            "g.yaml:4:44: routing.ttl: unknown key; accepted here: default_provider, max_retries, timeout, load_balancer, rules, fallbacks, retry_on, connect_timeout, first_chunk_timeout, stream_idle_timeout, stream_total_timeout, health_check, breaker, retry_budget, session_affinity, egress",
        ],
    );
    reports(
        "a: 1\n---\nb: 2\n",
        &[
            "g.yaml:1:1: a: unknown key; accepted here: server, data, auth, routing, session, idempotency, memory, providers, limits, budgets, billing, cache, monitoring",
            "g.yaml:2:1: a configuration is one YAML document; this is a second",
        ],
    );
    let report = bad("server:\n  http: { addr: ':8000'\n", &Env::default());
    assert_eq!(
        report,
        "g.yaml:2:9: server.http: not valid YAML: unclosed bracket '{'"
    );
    let report = bad("session: { ttl: ${TTL} }\n", &Env::default());
    assert!(
        report.ends_with("; between { } or [ ] a ${VAR} needs quotes"),
        "{report}"
    );
    let report = bad("server:\n\thttp: 1\n", &Env::default());
    assert!(
        report.starts_with("g.yaml:2:2: server: not valid YAML: tabs"),
        "{report}"
    );
    reports(
        "server: !vault x\n",
        &[
            "g.yaml:1:16: server: the tag !vault means nothing here; remove it",
            "g.yaml:1:16: server: is a single value; accepted: a mapping",
        ],
    );
    reports("? [a]\n: 1\n", &["g.yaml:1:3: a key must be a single name"]);
}

#[test]
fn anchors_work_and_bombs_do_not() {
    let config = good(
        "providers:\n  openai: &p { timeout: 7s }\n  deepseek: *p\n",
        &Env::default(),
    )
    .config;
    assert_eq!(
        config.providers["deepseek"].timeout,
        config.providers["openai"].timeout
    );
    assert_eq!(
        config.providers["deepseek"].preset.as_deref(),
        Some("deepseek")
    );

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let report = bad(&bomb, &Env::default());
    assert!(
        report.contains("more than 200000 values, aliases expanded"),
        "{report}"
    );
    let report = bad("a: &a [*a]\n", &Env::default());
    assert_eq!(
        report,
        "g.yaml:1:8: a[0]: this alias stands inside the value it names"
    );
    let report = bad(&"[".repeat(100_000), &Env::default());
    assert!(report.contains("not valid YAML"), "{report}");
    let report = bad("server:\n  <<: { dashboard: true }\n", &Env::default());
    assert_eq!(
        report,
        "g.yaml:2:3: server.<<: unknown key; YAML merge keys are not read here"
    );
}

#[test]
fn enums_ranges_and_formats() {
    reports(
        "\
data:
  database: { driver: postgresql, source: 'host=x' }
session: { strategy: summarise, keep_recent: 0 }
auth: { mode: key }
monitoring: { log: { level: loud } }
routing:
  retry_on: [connect, 404, 600]
  load_balancer: weighted_round_robbin
cache: { max_bytes: 1KB, ttl: 0s }
billing: { currency: usd, exchange_rates: { cny: 0.14, EUR: -1 } }
",
        &[
            "g.yaml:2:23: data.database.driver: \"postgresql\" is not known, did you mean postgres?; accepted: postgres, sqlite",
            "g.yaml:2:43: data.database.source: is PostgreSQL's, but data.database.driver is sqlite; write driver: postgres",
            "g.yaml:3:22: session.strategy: \"summarise\" is not known, did you mean summarize?; accepted: summarize, truncate",
            "g.yaml:3:46: session.keep_recent: \"0\" is out of range; accepted: a whole number from 1 to 10000",
            "g.yaml:4:15: auth.mode: \"key\" is not known, did you mean keys?; accepted: none, keys",
            "g.yaml:5:29: monitoring.log.level: \"loud\" is not a log level; accepted: trace, debug, info, warn, error, off, or directives such as info,hyper=warn",
            "g.yaml:7:23: routing.retry_on[1]: \"404\" would fail again on a retry; accepted: connect, first_chunk_timeout, 5xx, 408, 429 or a status from 500 to 599",
            "g.yaml:7:28: routing.retry_on[2]: \"600\" is not known; accepted: connect, first_chunk_timeout, 5xx, 408, 429 or a status from 500 to 599",
            "g.yaml:8:18: routing.load_balancer: \"weighted_round_robbin\" is not a load balancer of this version; did you mean weighted_round_robin? accepted: weighted_round_robin",
            "g.yaml:9:21: cache.max_bytes: \"1KB\" is out of range; accepted: a size from 1KiB to 1TiB, such as 16KiB, 32MiB or 1GB",
            "g.yaml:9:31: cache.ttl: \"0s\" must be longer than zero; accepted: a duration such as 500ms, 30s, 12h, 365d or \"12 months\"",
            "g.yaml:10:22: billing.currency: \"usd\" is not a currency code; accepted: a currency code of three capital letters, such as USD or CNY",
            "g.yaml:10:50: billing.exchange_rates.cny: is not a currency code of three capital letters",
            "g.yaml:10:61: billing.exchange_rates.EUR: \"-1\" is not a decimal amount; accepted: a decimal rate above 0, such as 0.14",
        ],
    );
}

#[test]
fn provider_kinds_and_presets() {
    reports(
        "\
providers:
  anthropic: { api_key: k }
  a: { kind: gemini }
  b: { kind: deepseek }
  c: { kind: opnai }
  d: { preset: deepsek }
  e: { kind: dashscope, preset: groq }
  f/g: { kind: openai }
  h: { kind: openai, api_key: '', headers: { 'bad header': x, Host: y, X: \"a\\nb\" } }
",
        &[
            "g.yaml:2:3: providers.anthropic.kind: anthropic is not in this version; accepted: openai, dashscope, simulated, ollama",
            "g.yaml:3:14: providers.a.kind: gemini is not in this version; accepted: openai, dashscope, simulated, ollama",
            "g.yaml:4:14: providers.b.kind: \"deepseek\" is not a provider kind; write preset: deepseek instead",
            "g.yaml:5:14: providers.c.kind: \"opnai\" is not a provider kind; did you mean openai? accepted: openai, dashscope, simulated, ollama",
            "g.yaml:6:16: providers.d.preset: \"deepsek\" is not a preset; did you mean deepseek? accepted: deepseek, ollama, vllm, openrouter, moonshot, zhipu, siliconflow, groq, together, mistral, xai, dashscope_compatible",
            "g.yaml:7:33: providers.e.preset: presets are of the kind openai; remove this line or the kind",
            "g.yaml:8:3: providers.f/g: an id is 1 to 64 letters, digits, '-', '_' or '.'",
            "g.yaml:9:31: providers.h.api_key: is empty; accepted: a key, or no such line if the provider needs none",
            "g.yaml:9:60: providers.h.headers.bad header: is not a header name",
            "g.yaml:9:69: providers.h.headers.Host: is set by the gateway itself and cannot be configured",
            "g.yaml:9:75: providers.h.headers.X: the value has characters that no header may carry; accepted: a header's value of visible characters",
        ],
    );
}

#[test]
fn idempotency_keys_need_their_store_and_outlive_their_requests() {
    reports(
        "idempotency: { store: redis, ttl: 1s }\n",
        &[
            "g.yaml:1:23: idempotency.store: redis needs data.redis; accepted: database, memory, or a data.redis section",
            "g.yaml:1:35: idempotency.ttl: is shorter than idempotency.lease, so a key would be forgotten while its request runs",
        ],
    );
}

#[test]
fn what_does_not_fit_together() {
    reports(
        "\
server: { http: { addr: ':8000' }, grpc: { addr: '0.0.0.0:8000' } }
auth: { mode: none }
session: { store: redis, compression_threshold: 5000 }
routing: { fallbacks: { a: [b], b: [c, d], d: [a] } }
memory: { mem0: { flavor: oss }, builtin: {} }
budgets: [ { user: u, total: true, amount: '1' }, { total: true, amount: 1e3 } ]
",
        &[
            "g.yaml:1:50: server.grpc.addr: 0.0.0.0:8000 is also server.http.addr; each listener needs its own",
            "g.yaml:2:15: auth.mode: none lets everybody who reaches a listener spend your money; accepted: keys, or an address on 127.0.0.1, or allow_anonymous: true if this is meant",
            "g.yaml:3:19: session.store: redis needs data.redis; accepted: database, memory, or a data.redis section",
            "g.yaml:3:49: session.compression_threshold: 5000 is above session.max_tokens (4000), so nothing would ever be compressed",
            "g.yaml:4:25: routing.fallbacks.a: the fallbacks of a lead back to it",
            "g.yaml:5:11: memory.mem0.base_url: is missing; a self-hosted mem0 (flavor: oss) has no default address",
            "g.yaml:5:34: memory.builtin.embedding_model: is missing; accepted: a model that makes embeddings, such as text-embedding-3-small",
            "g.yaml:6:12: budgets[0]: whose budget is it? accepted: exactly one of user: NAME, key: ID, session: ID, total: true",
            "g.yaml:6:74: budgets[1].amount: \"1e3\" is not a decimal amount; accepted: a decimal amount such as 10.00, at most 9000000",
        ],
    );
    let open = "server: { http: { addr: ':8000' } }\nauth: { mode: none, allow_anonymous: true }\n";
    good(open, &Env::default());
}

#[test]
fn secrets_must_be_secret_and_are_never_shown() {
    reports(
        "auth: { admin_key: '', pepper: changeme }\n",
        &[
            "g.yaml:1:20: auth.admin_key: the value is empty, so that anybody could guess it; accepted: a secret text that nobody can guess, e.g. from `openssl rand -hex 32`",
            "g.yaml:1:32: auth.pepper: the value is a value that everybody knows; accepted: a secret text that nobody can guess, e.g. from `openssl rand -hex 32`",
        ],
    );
    reports(
        "auth: { pepper: '15 bytes, no 16' }\n",
        &[
            "g.yaml:1:17: auth.pepper: is shorter than 16 bytes and can be guessed; accepted: e.g. what `openssl rand -hex 32` prints",
        ],
    );
    let report = bad(
        "data: { database: { driver: postgres, source: 'host=x password=hunter2 hunter3=1' } }\n\
         providers: { openai: { api_key: 'hunter 2', proxy: 'gopher://u:hunter2@x' } }\n",
        &Env::default(),
    );
    assert_eq!(report.lines().count(), 3, "{report}");
    assert!(!report.contains("hunter"), "{report}");
    let closed = "routing: { egress: { allow: [10.0.0.0/8, 169.254.169.254, 'fe80::/64', 100.64.0.0/10] } }\n";
    let allows_nothing =
        "allows nothing: link-local and metadata addresses are never connected to; remove it";
    assert_eq!(
        lines(&good(closed, &Env::default()).warnings),
        format!(
            "gateway.yaml:1:42: routing.egress.allow[1]: {allows_nothing}\n\
             gateway.yaml:1:59: routing.egress.allow[2]: {allows_nothing}"
        )
    );
    let budgets = "budgets:\n\
                   \x20 - { user: a, amount: '1', period: day }\n\
                   \x20 - { user: a, amount: '2', period: day, currency: USD }\n\
                   \x20 - { user: a, amount: '2', period: day, currency: CNY }\n";
    assert_eq!(
        lines(&good(budgets, &Env::default()).warnings),
        "gateway.yaml:3:5: budgets[1]: is for the same as budgets[0]: both count the same spending, and the lower amount \
         is what holds\n\
         gateway.yaml:4:52: budgets[2].currency: has no rate in billing.exchange_rates: calls of models whose price is not \
         in CNY are refused"
    );
    let short = good("auth: { admin_key: abcdefgh }\n", &Env::default());
    assert_eq!(
        lines(&short.warnings),
        "gateway.yaml:1:20: auth.admin_key: is shorter than 16 characters and can be guessed"
    );
}

proptest::proptest! {
    /// Whatever the text, the answer is a configuration or errors that point into the text.
    #[test]
    fn any_text_is_answered(text in "[a-z:{}\\[\\]&*!#|>'\" \\n\\t$0-9.-]{0,200}") {
        if let Err(errors) = Config::parse("g", &text, &Env::default()) {
            proptest::prop_assert!(!errors.is_empty());
            for error in errors {
                proptest::prop_assert!(error.line <= text.lines().count() + 1, "{error}");
            }
        }
    }

    /// One mangled byte in a real file never panics.
    #[test]
    fn mangled_real_file(at in 0_usize..1100, byte in 0x20_u8..0x7f) {
        let mut text = include_bytes!("../../../../tests/fixtures/gateway-spec.yaml").to_vec();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(text) = String::from_utf8(text) {
            let _ = Config::parse("g", &text, &Env::default());
        }
    }
}

#[test]
fn encryption_keys_are_32_bytes_and_never_shown() {
    reports(
        "data:\n  encryption_key: c2hvcnQ=\n  old_encryption_keys: [not-base64]\n",
        &[
            "g.yaml:2:19: data.encryption_key: the value has 5 bytes, not 32; accepted: 32 bytes in base64, e.g. from `openssl rand -base64 32`",
            "g.yaml:3:25: data.old_encryption_keys[0]: the value is not base64; accepted: 32 bytes in base64, e.g. from `openssl rand -base64 32`",
        ],
    );
    let report = bad("data: { encryption_key: '' }\n", &Env::default());
    assert!(report.contains("the value has 0 bytes"), "{report}");
}
