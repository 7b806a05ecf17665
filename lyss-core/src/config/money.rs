//! `limits`, `budgets`, `billing` and `cache`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::price::PriceConfig;
use super::reader::{Choice, DECIMAL, Reader, Section};
use super::value;
use crate::types::OnDisconnect;

/// `limits`: the default for every user, at most so many in any 60 seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitsConfig {
    /// Requests per minute.
    pub rpm: Option<u32>,
    /// Tokens per minute.
    pub tpm: Option<u64>,
    /// Requests at once.
    pub concurrent: Option<u32>,
}

/// An item of `budgets`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BudgetConfig {
    /// Whose spending it bounds.
    pub scope: BudgetScope,
    /// The amount, a decimal text.
    pub amount: String,
    /// Its currency; unset: `billing.currency`.
    pub currency: Option<String>,
    /// When it renews.
    pub period: BudgetPeriod,
}

/// Whose spending a budget bounds; the name `*` stands for each one by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BudgetScope {
    /// One user.
    User(String),
    /// One API key, by its id.
    Key(String),
    /// One session, by its id; each user's by itself.
    Session(String),
    /// The whole gateway.
    #[default]
    Total,
}

/// An item's `period`: calendar periods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    /// A day.
    Day,
    /// A month.
    #[default]
    Month,
    /// For ever.
    Total,
}

/// `billing`.
#[derive(Debug, Clone, PartialEq)]
pub struct BillingConfig {
    /// The currency of totals.
    pub currency: String,
    /// What one unit of another currency is worth in `currency`.
    pub exchange_rates: BTreeMap<String, String>,
    /// Prices by `model` or `provider/model`; several of one model differ in `valid_from`.
    pub prices: BTreeMap<String, Vec<PriceConfig>>,
    /// What becomes of a model without a price. Unset: allowed, unless a budget applies to the caller.
    pub unpriced: Option<Unpriced>,
    /// What a row must have survived before its answer is complete.
    pub durability: Durability,
    /// What becomes of a call whose caller has gone away. Unset: a stream is cancelled, any other call goes on for 30 s.
    pub on_disconnect: Option<OnDisconnect>,
    /// A budget lowers the output limit of a call no further than to this many tokens.
    pub min_output_tokens: u64,
    /// What a budget reserves for what cannot be known before.
    pub worst_case: WorstCaseConfig,
    /// The time zone whose days and months budgets renew in.
    pub timezone: String,
    /// What becomes of calls with a budget while the store of its counter is away.
    pub on_store_down: OnStoreDown,
}

/// `billing.on_store_down`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnStoreDown {
    /// They are refused.
    #[default]
    Closed,
    /// They go on, and count when the store is back.
    Open,
}

/// `billing.unpriced`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpriced {
    /// Calls are refused (402 `unpriced_model`).
    Reject,
    /// Calls are served and cost nothing; their rows say so.
    Allow,
}

/// `billing.durability`: what the row of a call has survived when its answer is complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process.
    #[default]
    Process,
    /// The loss of power.
    Disk,
    /// The loss of the machine: the row is in the database.
    Database,
}

/// `billing.worst_case`: what a budget reserves for what cannot be known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorstCaseConfig {
    /// Output tokens of a call without a limit, to a model whose own is not known.
    pub output_tokens: u64,
    /// Tokens of one image, sound or file.
    pub media_tokens: u64,
    /// Reasoning tokens beyond the output limit, where a provider does not count them against it.
    pub reasoning_tokens: u64,
}

impl Default for WorstCaseConfig {
    fn default() -> Self {
        Self {
            output_tokens: 8_192,
            media_tokens: 4_000,
            reasoning_tokens: 0,
        }
    }
}

/// `cache`.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// Whether equal requests are answered from the cache.
    pub enabled: bool,
    /// How long an answer may be reused.
    pub ttl: Duration,
    /// Most bytes of answers held.
    pub max_bytes: u64,
}

impl Default for BillingConfig {
    fn default() -> Self {
        Self {
            currency: "USD".to_owned(),
            exchange_rates: BTreeMap::new(),
            prices: BTreeMap::new(),
            unpriced: None,
            durability: Durability::default(),
            on_disconnect: None,
            min_output_tokens: 64,
            worst_case: WorstCaseConfig::default(),
            timezone: "UTC".to_owned(),
            on_store_down: OnStoreDown::default(),
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            ttl: Duration::from_secs(3600),
            max_bytes: 64 << 20,
        }
    }
}

impl BudgetPeriod {
    /// Its name in the configuration and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

impl Choice for BudgetPeriod {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("day", Self::Day),
        ("month", Self::Month),
        ("total", Self::Total),
    ];
}

impl Choice for OnStoreDown {
    const NAMES: &'static [(&'static str, Self)] =
        &[("closed", Self::Closed), ("open", Self::Open)];
}

impl Section for LimitsConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.integer("rpm", 1..=10_000_000, &mut self.rpm);
        r.integer("tpm", 1..=1_000_000_000_000, &mut self.tpm);
        r.integer("concurrent", 1..=1_000_000, &mut self.concurrent);
    }
}

impl Section for BudgetConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        let (mut user, mut key, mut session) = (None::<String>, None::<String>, None::<String>);
        let mut total = None::<bool>;
        r.text("user", &mut user);
        r.text("key", &mut key);
        r.text("session", &mut session);
        r.boolean("total", &mut total);
        let scopes = ["user", "key", "session", "total"];
        let written = scopes.iter().filter(|k| r.has(k)).count();
        if written != 1 || total == Some(false) {
            r.error_here(
                "whose budget is it? accepted: exactly one of user: NAME, key: ID, session: ID, total: true",
            );
        }
        self.scope = match (user, key, session) {
            (Some(user), ..) => BudgetScope::User(user),
            (None, Some(key), _) => BudgetScope::Key(key),
            (None, None, Some(session)) => BudgetScope::Session(session),
            (None, None, None) => BudgetScope::Total,
        };
        r.require("amount", DECIMAL);
        let accepts = "a decimal amount such as 10.00, at most 9000000";
        r.parsed("amount", accepts, value::parse_budget, &mut self.amount);
        r.currency("currency", &mut self.currency);
        r.choice("period", &mut self.period);
    }
}

impl Section for BillingConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.currency("currency", &mut self.currency);
        let accepts = "a decimal rate above 0, such as 0.14";
        let rate = |text: &str| {
            let rate = value::parse_decimal(text)?;
            let zero = rate.bytes().all(|byte| matches!(byte, b'0' | b'.'));
            (!zero).then_some(rate).ok_or_else(|| "is zero".to_owned())
        };
        r.entries(
            "exchange_rates",
            accepts,
            true,
            rate,
            &mut self.exchange_rates,
        );
        r.sections_or_lists("prices", "<model>", &mut self.prices);
        for (model, prices) in &self.prices {
            let mut times: Vec<_> = prices.iter().map(|price| price.valid_from_ms).collect();
            times.sort_unstable();
            if times.windows(2).any(|pair| pair.first() == pair.last()) {
                r.error_here(format!("two prices of {model} hold from the same time"));
            }
        }
        r.choice::<Unpriced>("unpriced", &mut self.unpriced);
        r.choice("durability", &mut self.durability);
        r.on_disconnect("on_disconnect", &mut self.on_disconnect);
        r.integer(
            "min_output_tokens",
            1..=10_000_000,
            &mut self.min_output_tokens,
        );
        r.section("worst_case", &mut self.worst_case);
        let accepts = "a time zone such as UTC or Europe/Berlin";
        r.parsed(
            "timezone",
            accepts,
            value::parse_timezone,
            &mut self.timezone,
        );
        r.choice("on_store_down", &mut self.on_store_down);
    }
}

impl Choice for Unpriced {
    const NAMES: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("allow", Self::Allow)];
}

impl Choice for Durability {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("process", Self::Process),
        ("disk", Self::Disk),
        ("database", Self::Database),
    ];
}

impl Section for WorstCaseConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        let most = 10_000_000;
        r.integer("output_tokens", 1..=most, &mut self.output_tokens);
        r.integer("media_tokens", 0..=most, &mut self.media_tokens);
        r.integer("reasoning_tokens", 0..=most, &mut self.reasoning_tokens);
    }
}

impl Section for CacheConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.boolean("enabled", &mut self.enabled);
        r.duration("ttl", &mut self.ttl);
        r.size("max_bytes", 1 << 10..=1 << 40, &mut self.max_bytes);
    }
}
