//! `routing`: which provider serves which model, and what happens when one does not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::egress::EgressConfig;
use super::reader::{Reader, Section};

/// `routing`.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingConfig {
    /// The provider of models that no rule, provider or preset knows.
    pub default_provider: Option<String>,
    /// Most attempts after the first, over all layers and targets.
    pub max_retries: u32,
    /// How long a call that is not streamed may take; a provider's own `timeout` wins.
    pub timeout: Duration,
    /// Strategy among targets of the same priority.
    pub load_balancer: String,
    /// Seeds of the rule table, which wins once it has a row for the model.
    pub rules: Vec<RuleConfig>,
    /// Other models to try when a model cannot be served.
    pub fallbacks: BTreeMap<String, Vec<String>>,
    /// Failures after which another attempt is made.
    pub retry_on: Vec<RetryOn>,
    /// How long connecting to a provider may take.
    pub connect_timeout: Duration,
    /// How long the first chunk of a stream may take.
    pub first_chunk_timeout: Duration,
    /// How long a stream may be silent between chunks.
    pub stream_idle_timeout: Duration,
    /// How long a whole stream may take; unset: without limit.
    pub stream_total_timeout: Option<Duration>,
    /// Active checks of providers.
    pub health_check: HealthCheckConfig,
    /// Circuit breaker of each target.
    pub breaker: Option<BreakerConfig>,
    /// Bound on retries as a share of the traffic.
    pub retry_budget: Option<RetryBudgetConfig>,
    /// Whether a session stays on the target that served it, for the provider's prompt cache.
    pub session_affinity: bool,
    /// Where providers that come through the admin API may lead.
    pub egress: EgressConfig,
}

/// An item of `routing.rules`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleConfig {
    /// The model name that callers ask for.
    pub model: String,
    /// The id of the provider that serves it.
    pub provider: String,
    /// Tier: 1 is tried first.
    pub priority: u32,
    /// Share within the tier; 0 gets no traffic.
    pub weight: u32,
    /// Most requests per second through this rule.
    pub max_rps: Option<u32>,
    /// Whether the rule is used.
    pub enabled: bool,
    /// The name sent to the provider; unset: the model's own name.
    pub upstream_model: Option<String>,
}

/// An item of `routing.retry_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// The connection could not be made.
    Connect,
    /// No first chunk in time.
    FirstChunkTimeout,
    /// Any status from 500 to 599.
    ServerErrors,
    /// This status.
    Status(u16),
}

/// `routing.health_check`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckConfig {
    /// Whether providers are checked.
    pub enabled: bool,
    /// Time from one check to the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Failures in a row after which a provider is unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is healthy again.
    pub healthy_after: u32,
}

/// `routing.breaker`.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerConfig {
    /// Whether breakers are used.
    pub enabled: bool,
    /// Share of failures in the window at which it opens.
    pub failure_ratio: f64,
    /// Fewest calls in the window before it may open.
    pub min_requests: u32,
    /// The window.
    pub window: Duration,
    /// How long it stays open before a probe.
    pub open_for: Duration,
}

/// `routing.retry_budget`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudgetConfig {
    /// Retries allowed for each call.
    pub ratio: f64,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
}

impl RetryOn {
    /// Tells whether this item covers a status.
    pub fn covers(self, status: u16) -> bool {
        match self {
            Self::Status(own) => own == status,
            Self::ServerErrors => (500..600).contains(&status),
            Self::Connect | Self::FirstChunkTimeout => false,
        }
    }

    /// Reads `connect`, `first_chunk_timeout`, `5xx` or a status that it can make sense to retry.
    /// Other 4xx would fail again and are refused.
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "connect" => Ok(Self::Connect),
            "first_chunk_timeout" => Ok(Self::FirstChunkTimeout),
            "5xx" => Ok(Self::ServerErrors),
            _ => match text.parse() {
                Ok(status @ (408 | 429 | 500..=599)) => Ok(Self::Status(status)),
                Ok(400..=499) => Err("would fail again on a retry".to_owned()),
                _ => Err("is not known".to_owned()),
            },
        }
    }
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            default_provider: None,
            max_retries: 3,
            timeout: Duration::from_secs(120),
            load_balancer: "weighted_round_robin".to_owned(),
            rules: Vec::new(),
            fallbacks: BTreeMap::new(),
            retry_on: vec![
                RetryOn::Connect,
                RetryOn::FirstChunkTimeout,
                RetryOn::Status(408),
                RetryOn::Status(429),
                RetryOn::ServerErrors,
            ],
            connect_timeout: Duration::from_secs(1),
            first_chunk_timeout: Duration::from_secs(60),
            stream_idle_timeout: Duration::from_secs(60),
            stream_total_timeout: None,
            health_check: HealthCheckConfig::default(),
            breaker: None,
            retry_budget: None,
            session_affinity: false,
            egress: EgressConfig::default(),
        }
    }
}

impl Default for RuleConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            provider: String::new(),
            priority: 1,
            weight: 100,
            max_rps: None,
            enabled: true,
            upstream_model: None,
        }
    }
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            unhealthy_after: 3,
            healthy_after: 1,
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_ratio: 0.5,
            min_requests: 10,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(10),
        }
    }
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10,
        }
    }
}

impl Section for RoutingConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.text("default_provider", &mut self.default_provider);
        r.integer("max_retries", 0..=10, &mut self.max_retries);
        r.duration("timeout", &mut self.timeout);
        r.text("load_balancer", &mut self.load_balancer);
        r.list("rules", &mut self.rules);
        r.name_lists(
            "fallbacks",
            "a mapping from a model to a list of other models",
            &mut self.fallbacks,
        );
        r.items(
            "retry_on",
            "connect, first_chunk_timeout, 5xx, 408, 429 or a status from 500 to 599",
            RetryOn::parse,
            &mut self.retry_on,
        );
        r.duration("connect_timeout", &mut self.connect_timeout);
        r.duration("first_chunk_timeout", &mut self.first_chunk_timeout);
        r.duration("stream_idle_timeout", &mut self.stream_idle_timeout);
        r.duration("stream_total_timeout", &mut self.stream_total_timeout);
        r.section("health_check", &mut self.health_check);
        r.optional("breaker", &mut self.breaker);
        r.optional("retry_budget", &mut self.retry_budget);
        r.boolean("session_affinity", &mut self.session_affinity);
        r.section("egress", &mut self.egress);
    }
}

impl Section for RuleConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.require("model", "the model name that callers ask for");
        r.require("provider", "the id of a provider");
        r.text("model", &mut self.model);
        r.text("provider", &mut self.provider);
        r.integer("priority", 1..=1_000, &mut self.priority);
        r.integer("weight", 0..=10_000, &mut self.weight);
        r.integer("max_rps", 1..=1_000_000, &mut self.max_rps);
        r.boolean("enabled", &mut self.enabled);
        r.text("upstream_model", &mut self.upstream_model);
    }
}

impl Section for HealthCheckConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.boolean("enabled", &mut self.enabled);
        r.duration("interval", &mut self.interval);
        r.duration("timeout", &mut self.timeout);
        r.integer("unhealthy_after", 1..=100, &mut self.unhealthy_after);
        r.integer("healthy_after", 1..=100, &mut self.healthy_after);
    }
}

impl Section for BreakerConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.boolean("enabled", &mut self.enabled);
        r.fraction("failure_ratio", 0.01..=1.0, &mut self.failure_ratio);
        r.integer("min_requests", 1..=100_000, &mut self.min_requests);
        r.duration("window", &mut self.window);
        r.duration("open_for", &mut self.open_for);
    }
}

impl Section for RetryBudgetConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.fraction("ratio", 0.0..=10.0, &mut self.ratio);
        r.integer("min_per_second", 0..=100_000, &mut self.min_per_second);
    }
}
