//! What must hold between keys. What one key must be by itself is said where it is read.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::nearest;
use super::load::Extensions;
use super::memory::Mem0Flavor;
use super::node::Node;
use super::provider::KNOWN_PRESETS;
use super::reader::Findings;
use super::session::StoreKind;
use super::value;
use super::{AuthMode, BudgetConfig, Config, ProviderConfig};
use crate::admission::PEPPER_LENGTH;

/// The load balancers of this crate.
const KNOWN_BALANCERS: &[&str] = &["weighted_round_robin"];
/// Shorter keys can be guessed by trying.
const ADMIN_KEY_CHARS_MIN: usize = 16;

/// A tree to point into, and where to report.
struct Checker<'a> {
    root: &'a Node,
    findings: &'a mut Findings,
}

impl Checker<'_> {
    fn error(&mut self, path: &[&str], message: impl Into<String>) {
        let mark = self.root.locate(path);
        self.findings.error(mark, dotted(path), message);
    }

    fn warn(&mut self, path: &[&str], message: impl Into<String>) {
        let mark = self.root.locate(path);
        self.findings.warn(mark, dotted(path), message);
    }
}

/// `["routing", "rules", "2", "provider"]` → `routing.rules[2].provider`.
fn dotted(path: &[&str]) -> String {
    let mut out = String::new();
    for (depth, segment) in path.iter().enumerate() {
        let index = depth > 0 && segment.bytes().all(|b| b.is_ascii_digit());
        if index && matches!(path.get(depth - 1), Some(&("rules" | "budgets" | "allow"))) {
            out.push_str(&format!("[{segment}]"));
        } else {
            if depth > 0 {
                out.push('.');
            }
            out.push_str(segment);
        }
    }
    out
}

/// Reports everything that does not fit together.
pub(super) fn check(
    config: &Config,
    root: &Node,
    extensions: &Extensions,
    findings: &mut Findings,
) {
    let mut at = Checker { root, findings };
    addresses(config, &mut at);
    auth(config, &mut at);
    jwt(config, &mut at);
    stores(config, &mut at);
    memory(config, &mut at);
    providers(config, &mut at);
    routing(config, extensions, &mut at);
    money(config, &mut at);
}

/// Checks that the preset of a provider exists and fits its kind.
pub(super) fn check_preset(
    id: &str,
    provider: &ProviderConfig,
    root: &Node,
    findings: &mut Findings,
) {
    let Some(preset) = provider.preset.as_deref() else {
        return;
    };
    let mut at = Checker { root, findings };
    let path = ["providers", id, "preset"];
    if provider.kind.as_deref() != Some("openai") {
        at.error(
            &path,
            "presets are of the kind openai; remove this line or the kind",
        );
    } else if !KNOWN_PRESETS.contains(&preset) {
        let hint = nearest(preset, KNOWN_PRESETS.iter().copied())
            .map(|near| format!("did you mean {near}? "))
            .unwrap_or_default();
        let known = KNOWN_PRESETS.join(", ");
        at.error(
            &path,
            format!("{preset:?} is not a preset; {hint}accepted: {known}"),
        );
    }
}

fn addresses(config: &Config, at: &mut Checker<'_>) {
    let mut listeners: Vec<(&[&str], &str)> = vec![
        (&["server", "http", "addr"], &config.server.http.addr),
        (&["server", "grpc", "addr"], &config.server.grpc.addr),
    ];
    if config.monitoring.prometheus.enabled {
        let addr = &config.monitoring.prometheus.addr;
        listeners.push((&["monitoring", "prometheus", "addr"], addr));
    }
    let mut taken: BTreeMap<&str, &[&str]> = BTreeMap::new();
    for (path, addr) in listeners {
        if addr.ends_with(":0") {
            continue; // each gets a port of its own
        }
        if let Some(other) = taken.insert(addr, path) {
            at.error(
                path,
                format!(
                    "{addr} is also {}; each listener needs its own",
                    dotted(other)
                ),
            );
        }
    }
}

fn auth(config: &Config, at: &mut Checker<'_>) {
    if config.auth.mode == Some(AuthMode::None)
        && !config.listens_on_loopback_only()
        && !config.auth.allow_anonymous
    {
        at.error(
            &["auth", "mode"],
            "none lets everybody who reaches a listener spend your money; accepted: keys, or an address \
             on 127.0.0.1, or allow_anonymous: true if this is meant",
        );
    }
    if let Some(key) = &config.auth.admin_key
        && key.expose().chars().count() < ADMIN_KEY_CHARS_MIN
    {
        let message =
            format!("is shorter than {ADMIN_KEY_CHARS_MIN} characters and can be guessed");
        at.warn(&["auth", "admin_key"], message);
    }
    if let Some(pepper) = &config.auth.pepper
        && pepper.expose().len() < PEPPER_LENGTH
    {
        let message = format!(
            "is shorter than {PEPPER_LENGTH} bytes and can be guessed; accepted: e.g. what \
             `openssl rand -hex 32` prints"
        );
        at.error(&["auth", "pepper"], message);
    }
}

fn jwt(config: &Config, at: &mut Checker<'_>) {
    let url = config
        .auth
        .jwt
        .as_ref()
        .and_then(|jwt| jwt.jwks_url.as_deref());
    if url.is_some_and(|url| url.starts_with("http:")) {
        let message = "is read without TLS: whoever is on the way can put keys of their own in";
        at.warn(&["auth", "jwt", "jwks_url"], message);
    }
}

fn stores(config: &Config, at: &mut Checker<'_>) {
    if config.session.store == Some(StoreKind::Redis) && config.data.redis.is_none() {
        let message = "redis needs data.redis; accepted: database, memory, or a data.redis section";
        at.error(&["session", "store"], message);
    }
    if config.idempotency.store == Some(StoreKind::Redis) && config.data.redis.is_none() {
        let message = "redis needs data.redis; accepted: database, memory, or a data.redis section";
        at.error(&["idempotency", "store"], message);
    }
    if config.idempotency.ttl < config.idempotency.lease {
        let message =
            "is shorter than idempotency.lease, so a key would be forgotten while its request runs";
        at.error(&["idempotency", "ttl"], message);
    }
    if config.session.compression_threshold > config.session.max_tokens {
        let message = format!(
            "{} is above session.max_tokens ({}), so nothing would ever be compressed",
            config.session.compression_threshold, config.session.max_tokens
        );
        at.error(&["session", "compression_threshold"], message);
    }
    if let Some(redis) = &config.data.redis
        && !redis.cluster.is_empty()
        && redis.db != 0
    {
        at.error(
            &["data", "redis", "db"],
            "a Redis cluster has only database 0",
        );
    }
}

fn memory(config: &Config, at: &mut Checker<'_>) {
    if let Some(mem0) = &config.memory.mem0 {
        if mem0.flavor == Mem0Flavor::Oss && mem0.base_url.is_none() {
            let message = "is missing; a self-hosted mem0 (flavor: oss) has no default address";
            at.error(&["memory", "mem0", "base_url"], message);
        }
        let keyless = mem0.api_key.as_ref().is_none_or(|key| key.is_empty());
        if mem0.flavor == Mem0Flavor::Platform && keyless {
            let message = "is missing; the hosted mem0 refuses every call without";
            at.warn(&["memory", "mem0", "api_key"], message);
        }
    }
    if let Some(builtin) = &config.memory.builtin {
        if builtin.embedding_model.is_none() {
            let message = "is missing; accepted: a model that makes embeddings, such as text-embedding-3-small";
            at.error(&["memory", "builtin", "embedding_model"], message);
        }
        if config.memory.mem0.is_some() {
            let message = "is not used: there is memory.mem0; keep one of the two";
            at.warn(&["memory", "builtin"], message);
        }
    }
}

fn providers(config: &Config, at: &mut Checker<'_>) {
    for (id, provider) in &config.providers {
        let path = ["providers", id.as_str()];
        let named = !id.is_empty()
            && id.len() <= 64
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !named {
            // `provider/model` is a model name, so an id has no slash.
            at.error(&path, "an id is 1 to 64 letters, digits, '-', '_' or '.'");
        }
        for name in provider.headers.keys() {
            let path = ["providers", id, "headers", name];
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                at.error(&path, "is not a header name");
            } else if matches!(
                name.to_ascii_lowercase().as_str(),
                "host" | "content-length" | "transfer-encoding" | "connection"
            ) {
                at.error(
                    &path,
                    "is set by the gateway itself and cannot be configured",
                );
            }
        }
    }
}

fn routing(config: &Config, extensions: &Extensions, at: &mut Checker<'_>) {
    let routing = &config.routing;
    let extra = extensions.load_balancers.iter().map(String::as_str);
    let balancers: Vec<&str> = KNOWN_BALANCERS.iter().copied().chain(extra).collect();
    if !balancers.contains(&routing.load_balancer.as_str()) {
        let name = &routing.load_balancer;
        let hint = nearest(name, balancers.iter().copied())
            .map(|near| format!("did you mean {near}? "))
            .unwrap_or_default();
        let message = format!(
            "{name:?} is not a load balancer of this version; {hint}accepted: {}",
            balancers.join(", ")
        );
        at.error(&["routing", "load_balancer"], message);
    }
    for (i, allowed) in routing.egress.allow.iter().enumerate() {
        if allowed.is_closed() {
            let message = "allows nothing: link-local and metadata addresses are never connected to; remove it";
            at.warn(&["routing", "egress", "allow", &i.to_string()], message);
        }
    }
    if let Some(id) = &routing.default_provider {
        provider_exists(config, id, &["routing", "default_provider"], at);
    }
    for (i, rule) in routing.rules.iter().enumerate() {
        // A rule without provider has its own error already.
        if !rule.provider.is_empty() {
            let i = i.to_string();
            provider_exists(
                config,
                &rule.provider,
                &["routing", "rules", &i, "provider"],
                at,
            );
        }
    }
    if let Some(model) = fallback_cycle(&routing.fallbacks) {
        let message = format!("the fallbacks of {model} lead back to it");
        at.error(&["routing", "fallbacks", model], message);
    }
}

fn provider_exists(config: &Config, id: &str, path: &[&str], at: &mut Checker<'_>) {
    match config.providers.get(id) {
        Some(provider) => {
            if let Some(reason) = &provider.disabled {
                at.warn(path, format!("the provider {id} is disabled: {reason}"));
            }
        }
        None => {
            let ids = || config.providers.keys().map(String::as_str);
            let hint = match nearest(id, ids()) {
                Some(near) => format!("did you mean {near}?"),
                None if config.providers.is_empty() => "no provider is configured".to_owned(),
                None => format!("configured: {}", ids().collect::<Vec<_>>().join(", ")),
            };
            at.error(path, format!("{id:?} is not a provider; {hint}"));
        }
    }
}

/// Finds a model whose fallbacks lead back to it. Not recursive: the chain may be long.
fn fallback_cycle(fallbacks: &BTreeMap<String, Vec<String>>) -> Option<&str> {
    fallbacks.keys().map(String::as_str).find(|start| {
        let mut seen = BTreeSet::new();
        let mut todo = vec![*start];
        while let Some(model) = todo.pop() {
            for next in fallbacks.get(model).into_iter().flatten() {
                if next == start {
                    return true;
                }
                if seen.insert(next.as_str()) {
                    todo.push(next);
                }
            }
        }
        false
    })
}

fn money(config: &Config, at: &mut Checker<'_>) {
    for currency in config.billing.exchange_rates.keys() {
        if value::parse_currency(currency).is_err() {
            let path = ["billing", "exchange_rates", currency];
            at.error(&path, "is not a currency code of three capital letters");
        }
    }
    budgets(config, at);
}

/// Warns of budgets that are probably not meant so: the program works with them.
fn budgets(config: &Config, at: &mut Checker<'_>) {
    let billing = &config.billing;
    let currency_of = |budget: &BudgetConfig| {
        let own = budget.currency.as_ref();
        own.unwrap_or(&billing.currency).clone()
    };
    for (index, budget) in config.budgets.iter().enumerate() {
        let number = index.to_string();
        let currency = currency_of(budget);
        if currency != billing.currency && !billing.exchange_rates.contains_key(&currency) {
            let message = format!(
                "has no rate in billing.exchange_rates: calls of models whose price is not in {currency} are refused"
            );
            at.warn(&["budgets", &number, "currency"], message);
        }
        let same = |other: &BudgetConfig| {
            (&other.scope, other.period) == (&budget.scope, budget.period)
                && currency_of(other) == currency
        };
        if let Some(first) = config.budgets.iter().take(index).position(same) {
            let message = format!(
                "is for the same as budgets[{first}]: both count the same spending, and the lower amount is what holds"
            );
            at.warn(&["budgets", &number], message);
        }
    }
}
