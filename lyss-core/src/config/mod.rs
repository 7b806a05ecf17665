//! The configuration: plain typed structs, and how they come from YAML and the environment.
//!
//! Field names are the keys of the file, so `config.server.http.addr` is `server.http.addr`.
//! Every section reads itself from a tree that knows its positions (see `reader`), which is why
//! `lyss check` can report all errors of a file at once, each with line and column. After loading,
//! values are normalised and cross-checked: whoever reads the structs need not check again.
//!
//! ```
//! use lyss_core::config::{Config, Env};
//!
//! let text = "server:\n  http: { addr: ':8000', timout: 30s }\n";
//! let errors = Config::parse("gateway.yaml", text, &Env::default()).unwrap_err();
//! assert_eq!(
//!     errors[0].to_string(),
//!     "gateway.yaml:2:26: server.http.timout: unknown key; did you mean timeout?"
//! );
//! ```

mod auth;
mod check;
mod data;
mod diagnostic;
mod disconnect;
mod dsn;
mod egress;
mod env;
mod idempotency;
mod interpolate;
mod jwt;
mod load;
mod memory;
mod money;
mod monitoring;
mod node;
mod price;
mod provider;
mod provider_json;
mod reader;
mod routing;
mod secret;
mod server;
mod session;
mod value;
mod watch;

use std::collections::BTreeMap;

pub use auth::{AuthConfig, AuthMode};
pub use data::{DataConfig, DatabaseConfig, Driver, RedisConfig, SqliteSource};
pub use diagnostic::Diagnostic;
pub use dsn::{DsnError, PostgresSource, SslMode};
pub use egress::{Destination, EgressConfig};
pub use env::{Env, VARIABLES};
pub use idempotency::IdempotencyConfig;
pub use jwt::JwtConfig;
pub use load::{Extensions, Loaded};
pub use memory::{BuiltinMemoryConfig, Mem0Config, Mem0Flavor, MemoryConfig, MemoryScope};
pub use money::{
    BillingConfig, BudgetConfig, BudgetPeriod, BudgetScope, CacheConfig, Durability, LimitsConfig,
    OnStoreDown, Unpriced, WorstCaseConfig,
};
pub use monitoring::{LogConfig, LogFormat, MonitoringConfig, PrometheusConfig, TraceConfig};
pub use price::{PriceConfig, TierConfig};
pub use provider::{KNOWN_KINDS, KNOWN_PRESETS, PROVIDER_KEYS, ProviderConfig};
pub use routing::{
    BreakerConfig, HealthCheckConfig, RetryBudgetConfig, RetryOn, RoutingConfig, RuleConfig,
};
pub use secret::Secret;
pub use server::{GrpcConfig, HttpConfig, ServerConfig, TlsConfig};
pub use session::{CompressionStrategy, SessionConcurrency, SessionConfig, StoreKind};
pub use value::{
    format_duration, format_size, is_loopback, parse_address, parse_duration, parse_size,
};
pub use watch::Watch;

use reader::{Findings, Reader, Section};

/// The whole configuration. Its `Default` is every key's default, with no provider.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Where the gateway listens and what it lets in.
    pub server: ServerConfig,
    /// Database, Redis, data directory.
    pub data: DataConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Which provider serves which model.
    pub routing: RoutingConfig,
    /// What of a conversation is kept and sent.
    pub session: SessionConfig,
    /// Requests that are sent again.
    pub idempotency: IdempotencyConfig,
    /// Long-term memory.
    pub memory: MemoryConfig,
    /// The upstream accounts by id.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Limits of every user.
    pub limits: LimitsConfig,
    /// Bounds on spending.
    pub budgets: Vec<BudgetConfig>,
    /// Currency and prices.
    pub billing: BillingConfig,
    /// The response cache.
    pub cache: CacheConfig,
    /// Metrics, traces, logs.
    pub monitoring: MonitoringConfig,
    /// Whether this is the embedded default, made without a file.
    pub embedded: bool,
}

impl Section for Config {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.section("server", &mut self.server);
        r.section("data", &mut self.data);
        r.section("auth", &mut self.auth);
        r.section("routing", &mut self.routing);
        r.section("session", &mut self.session);
        r.section("idempotency", &mut self.idempotency);
        r.section("memory", &mut self.memory);
        r.sections("providers", "<id>", &mut self.providers);
        r.section("limits", &mut self.limits);
        r.list("budgets", &mut self.budgets);
        r.section("billing", &mut self.billing);
        r.section("cache", &mut self.cache);
        r.section("monitoring", &mut self.monitoring);
    }
}

/// Keys that are read and checked but do nothing in this version, and when they are in use.
type LaterKey = (&'static str, fn(&Config) -> bool);
const NOT_YET_IN_FORCE: &[LaterKey] = &[
    ("server.grpc", |c| {
        c.server.grpc != GrpcConfig::default() && !c.embedded
    }),
    ("routing.fallbacks", |c| !c.routing.fallbacks.is_empty()),
    ("routing.breaker", |c| c.routing.breaker.is_some()),
    ("routing.retry_budget", |c| c.routing.retry_budget.is_some()),
    ("cache.enabled", |c| c.cache.enabled),
    ("monitoring.jaeger", |c| c.monitoring.jaeger.is_some()),
    ("monitoring.otlp", |c| c.monitoring.otlp.is_some()),
];

impl Config {
    /// Tells whether callers need a key: as configured, else only when others can reach a
    /// listener.
    pub fn auth_mode(&self) -> AuthMode {
        self.auth.mode.unwrap_or_else(|| {
            if self.listens_on_loopback_only() {
                AuthMode::None
            } else {
                AuthMode::Keys
            }
        })
    }

    /// Tells whether the API listeners can be reached from this machine only.
    pub fn listens_on_loopback_only(&self) -> bool {
        is_loopback(&self.server.http.addr) && is_loopback(&self.server.grpc.addr)
    }

    /// Lists the configured keys that this version accepts and does not act on yet, so that
    /// start-up can say so: nobody must believe in a budget that does not hold.
    pub fn not_yet_in_force(&self) -> Vec<String> {
        NOT_YET_IN_FORCE
            .iter()
            .filter(|(_, in_use)| in_use(self))
            .map(|(key, _)| (*key).to_owned())
            .collect()
    }

    /// Lists every key of the file with what it accepts: (`routing.rules[].weight`, "a whole
    /// number …"). The reference page and the test of `examples/gateway.yaml` are made from it.
    pub fn keys() -> Vec<(String, String)> {
        let mut findings = Findings {
            describe: true,
            ..Findings::new("")
        };
        let _: Config = Reader::read_root(&node::Node::empty_map(), &mut findings);
        findings.declared.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
