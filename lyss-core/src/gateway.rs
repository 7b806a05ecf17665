//! The one trait that every frontend depends on.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    admission::{ApiKey, IssuedKey, KeyChanges, NewKey},
    budget::{BudgetDefinition, BudgetState},
    context::tokens::Tokenizer,
    error::{Error, Result},
    price::PriceEntry,
    types::{
        CallContext, ChatRequest, ChatResponse, ChatStream, EmbeddingRequest, EmbeddingResponse,
        LogRow, Model, Pico, Session,
        log::unix_ms,
        session::{MessagePage, SessionPage},
    },
};

/// The gateway: the same calls in Rust, Python, Node and over HTTP.
///
/// Every call takes a [`CallContext`] first; who may do what is decided behind this trait, never in a frontend.
/// Dropping a call's future, or its stream, cancels it; what it used is still recorded, once. A call with an idempotency
/// key goes on for a while instead (`idempotency.drain`), and its answer is kept for the caller to come back.
#[async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// Checks the caller's credential, before a body is read for somebody who may not call. What it finds is kept in the
    /// context; the other calls check for themselves if it was not called.
    ///
    /// # Errors
    /// `missing_api_key`, `invalid_api_key`, `expired_api_key`, `auth_store_unavailable`.
    async fn authenticate(&self, context: &mut CallContext) -> Result<()> {
        let _ = context;
        Ok(())
    }

    /// Makes up the session of a chat call that asks for a fresh one, so that its id can be told before the answer is
    /// there. The calls do it for themselves if it was not done.
    fn name_session(&self, request: &mut ChatRequest) {
        let _ = request;
    }

    /// A complete chat answer.
    ///
    /// # Cancellation
    /// A dropped call goes on for 30 s, or as `billing.on_disconnect` says, so that what the provider charges is known.
    async fn chat(&self, context: CallContext, request: ChatRequest) -> Result<ChatResponse>;

    /// A streamed chat answer; returns with the first chunk. Until then it may fail as `chat` does.
    async fn chat_stream(&self, context: CallContext, request: ChatRequest) -> Result<ChatStream>;

    /// Embeddings.
    async fn embed(
        &self,
        context: CallContext,
        request: EmbeddingRequest,
    ) -> Result<EmbeddingResponse>;

    /// Counts the tokens of a chat request's prompt for the model it would be sent to first. A session that it names is not
    /// looked into: what counts is the body.
    ///
    /// # Errors
    /// `model_not_found`, `model_not_allowed`, and those of reading the messages.
    async fn count_tokens(
        &self,
        context: CallContext,
        request: ChatRequest,
    ) -> Result<PromptTokens>;

    /// The models that the caller may use, by name.
    async fn models(&self, context: CallContext) -> Result<Vec<Model>>;

    /// One model.
    async fn model(&self, context: CallContext, id: &str) -> Result<Model>;

    /// Creates a session (`id`: `None` or `"new"` for a fresh id), or returns the caller's session of that id.
    async fn create_session(&self, context: CallContext, new: NewSession) -> Result<Session>;

    /// One session of the caller.
    async fn session(&self, context: CallContext, id: &str) -> Result<Session>;

    /// The caller's sessions.
    async fn sessions(&self, context: CallContext, page: PageQuery) -> Result<SessionPage>;

    /// Messages of a session, after a position, oldest first.
    async fn session_messages(
        &self,
        context: CallContext,
        id: &str,
        after: u64,
        limit: usize,
    ) -> Result<MessagePage>;

    /// Deletes a session. Deleting a missing one is no error.
    async fn delete_session(&self, context: CallContext, id: &str) -> Result<()>;

    /// One request of the log, with its decision. Callers see their own, admins all.
    async fn request(&self, context: CallContext, id: &str) -> Result<LogRow>;

    /// The request log, newest first.
    async fn requests(&self, context: CallContext, query: RequestQuery) -> Result<RequestPage>;

    /// Totals of requests and tokens.
    async fn usage(&self, context: CallContext, query: UsageQuery) -> Result<Vec<UsageTotal>>;

    /// All routing rules of the database (admin).
    async fn routing_rules(&self, context: CallContext) -> Result<Vec<RoutingRule>>;

    /// Adds a routing rule, or changes the one with the same id (admin). Returns it as stored.
    async fn put_routing_rule(
        &self,
        context: CallContext,
        rule: RoutingRule,
    ) -> Result<RoutingRule>;

    /// Deletes a routing rule (admin).
    async fn delete_routing_rule(&self, context: CallContext, id: i64) -> Result<()>;

    /// All prices of the database (admin).
    async fn prices(&self, context: CallContext) -> Result<Vec<PriceEntry>>;

    /// Adds a price, or changes the one with the same id (admin). Returns it as stored.
    async fn put_price(&self, context: CallContext, price: PriceEntry) -> Result<PriceEntry>;

    /// Deletes a price (admin).
    async fn delete_price(&self, context: CallContext, id: i64) -> Result<()>;

    /// All budgets, those of the database first, and how they stand (admin).
    async fn budgets(&self, context: CallContext) -> Result<Vec<BudgetState>>;

    /// Adds a budget, or changes the one with the same id (admin). Returns it as stored.
    async fn put_budget(
        &self,
        context: CallContext,
        budget: BudgetDefinition,
    ) -> Result<BudgetState>;

    /// Deletes a budget (admin). What was spent stays counted.
    async fn delete_budget(&self, context: CallContext, id: i64) -> Result<()>;

    /// All API keys, oldest first (admin).
    async fn keys(&self, context: CallContext) -> Result<Vec<ApiKey>>;

    /// One API key (admin).
    async fn key(&self, context: CallContext, id: &str) -> Result<ApiKey>;

    /// Makes an API key (admin). Its secret is in the answer and nowhere else.
    async fn create_key(&self, context: CallContext, new: NewKey) -> Result<IssuedKey>;

    /// Changes what an API key may use and spend (admin). A key cannot change itself.
    async fn change_key(
        &self,
        context: CallContext,
        id: &str,
        changes: KeyChanges,
    ) -> Result<ApiKey>;

    /// Gives an API key a new secret; the old one goes on working for `grace` (admin).
    async fn rotate_key(
        &self,
        context: CallContext,
        id: &str,
        grace: Duration,
    ) -> Result<IssuedKey>;

    /// Revokes an API key for good (admin).
    async fn revoke_key(&self, context: CallContext, id: &str) -> Result<()>;

    /// All providers, without their keys (admin).
    async fn admin_providers(&self, context: CallContext) -> Result<Vec<ProviderInfo>>;

    /// Sets a provider up in the database, or with `create: false` changes the one of this id as well (admin). Members
    /// are those of `providers.<id>` in the configuration, and `enabled`; secrets that are left out stay. Returns it as
    /// stored.
    async fn put_provider(
        &self,
        context: CallContext,
        id: &str,
        members: Members,
        create: bool,
    ) -> Result<ProviderInfo>;

    /// Deletes a provider of the database (admin).
    async fn delete_provider(&self, context: CallContext, id: &str) -> Result<()>;

    /// What the gateway depends on, and whether it answers.
    async fn health(&self) -> Health;

    /// Whether the gateway takes calls, and what is away.
    async fn ready(&self) -> Ready;

    /// Counts a request that was refused before it could be handed over (unreadable body, unknown path).
    fn count_refused(&self, error: &Error) {
        let _ = error;
    }
}

/// The tokens of a prompt, and of what it is made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokens {
    /// The model asked for.
    pub model: String,
    /// The model name that would go upstream.
    pub upstream_model: String,
    /// What the tokens are counted with.
    pub tokenizer: Tokenizer,
    /// The whole prompt: the sum of all that follows.
    pub input_tokens: u64,
    /// Each message, in order.
    pub messages: Vec<u32>,
    /// The definitions of the tools.
    pub tools: u32,
    /// The schema of `response_format`.
    pub response_format: u32,
    /// What primes the reply.
    pub reply: u32,
}

/// A session to create.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// The id; absent or `"new"` for a fresh one.
    #[serde(default, alias = "session_id")]
    pub id: Option<String>,
    /// The owner, where no key says so.
    #[serde(default)]
    pub user_id: Option<String>,
    /// The caller's own JSON object, at most 16 KiB.
    #[serde(default)]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Which part of a listing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PageQuery {
    /// A `next_cursor` of an earlier page.
    pub cursor: Option<String>,
    /// Entries a page, 1 to 1,000; 50 if absent.
    pub limit: Option<usize>,
}

/// Which requests of the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RequestQuery {
    /// Only those of this user (admins; others see their own).
    pub user_id: Option<String>,
    /// Only those of this session.
    pub session_id: Option<String>,
    /// Only those with this status.
    pub status: Option<String>,
    /// Only those of this model.
    pub model: Option<String>,
    /// From this time on (RFC 3339 or a date).
    pub from: Option<String>,
    /// Before this time (RFC 3339 or a date).
    pub to: Option<String>,
    /// A `next_cursor` of an earlier page.
    pub cursor: Option<String>,
    /// Entries a page, 1 to 1,000; 50 if absent.
    pub limit: Option<usize>,
}

/// One page of the request log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestPage {
    /// The rows, newest first.
    pub data: Vec<LogRow>,
    /// Where the next page starts; `None` on the last.
    pub next_cursor: Option<String>,
}

/// Which totals.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UsageQuery {
    /// From this time on (RFC 3339 or a date).
    pub from: Option<String>,
    /// Before this time (RFC 3339 or a date).
    pub to: Option<String>,
    /// What to group by: `day`, `model`, `user`, `key`, `provider`.
    pub by: Vec<String>,
    /// Only those of this user (admins; others see their own).
    pub user_id: Option<String>,
}

impl UsageQuery {
    /// Checks that the time asked for does not end before it begins.
    ///
    /// # Errors
    /// `invalid_value` (param `from`) if it does. What is no time at all is said where it is read.
    pub fn check(&self) -> Result<()> {
        let time = |text: &Option<String>| text.as_deref().and_then(unix_ms);
        match (time(&self.from), time(&self.to)) {
            (Some(from), Some(to)) if from > to => {
                Err(Error::invalid("from", "`from` is after `to`"))
            }
            _ => Ok(()),
        }
    }
}

/// Totals of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageTotal {
    /// The values of the `by` members, by their names.
    #[serde(flatten)]
    pub group: std::collections::BTreeMap<String, String>,
    /// Requests.
    pub requests: u64,
    /// Those that did not end as `success`.
    pub failed_requests: u64,
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Answer tokens.
    pub output_tokens: u64,
    /// Prompt tokens read from the providers' caches.
    pub cached_tokens: u64,
    /// Answer tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Requests whose model had no price.
    #[serde(default)]
    pub unpriced_requests: u64,
    /// What they cost, corrections included.
    #[serde(default)]
    pub cost: CostTotal,
}

/// What the requests of one group cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CostTotal {
    /// The currency of totals, `billing.currency`.
    pub currency: String,
    /// What was charged for delivered answers; absent where a currency has no exchange rate.
    pub user_charge: Option<Pico>,
    /// What all attempts cost, likewise.
    pub provider_cost: Option<Pico>,
    /// The same in the currencies it was charged in, by their codes.
    pub by_currency: Vec<CurrencyCost>,
}

/// What was charged in one currency.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CurrencyCost {
    /// The currency.
    pub currency: String,
    /// What was charged for delivered answers.
    pub user_charge: Pico,
    /// What all attempts cost.
    pub provider_cost: Pico,
}

/// A row of `routing_rules`: one target of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingRule {
    /// The row's id; absent when it is added.
    #[serde(default)]
    pub id: Option<i64>,
    /// The model that callers ask for.
    pub model_name: String,
    /// The provider that serves it.
    pub provider_id: String,
    /// The tier; 1 is tried first.
    #[serde(default = "one")]
    pub priority: u32,
    /// The share within the tier; 0 takes no traffic.
    #[serde(default = "hundred")]
    pub weight: u32,
    /// Requests a second that this rule may take; `None` for no limit.
    #[serde(default)]
    pub max_rps: Option<u32>,
    /// Whether the rule is in force.
    #[serde(default = "yes")]
    pub is_enabled: bool,
    /// The model name that goes upstream; absent for the same.
    #[serde(default)]
    pub upstream_model: Option<String>,
}

/// The members of a JSON object.
pub type Members = serde_json::Map<String, serde_json::Value>;

/// A provider as the admin API shows it: no key is ever shown, only the last four characters of long ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderInfo {
    /// Its id.
    pub id: String,
    /// Where it was set up.
    pub source: ProviderSource,
    /// Whether it is in use.
    pub enabled: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// The ends of its keys.
    pub api_keys: Vec<String>,
    /// The names of headers added to every call.
    pub headers: Vec<String>,
    /// When it was set up, in milliseconds since the Unix epoch; absent for those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    /// When it was last changed, in milliseconds since the Unix epoch; absent for those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_ms: Option<i64>,
    /// The other members of the entry.
    #[serde(flatten)]
    pub settings: Members,
}

/// Where a provider was set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderSource {
    /// In the configuration.
    Config,
    /// Through the admin API.
    Database,
}

fn one() -> u32 {
    1
}

fn hundred() -> u32 {
    100
}

fn yes() -> bool {
    true
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What the gateway depends on.
    pub status: HealthStatus,
    /// Whether all of it answers.
    pub healthy: bool,
    /// Now, in Unix seconds.
    pub timestamp: i64,
}

/// What the gateway depends on, and whether it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// The database.
    pub database: bool,
    /// Redis; true where none is configured.
    pub redis: bool,
    /// At least one provider.
    pub providers: bool,
}

/// The answer of `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether the gateway takes calls.
    pub ready: bool,
    /// What is away without stopping it, or why it is not ready.
    pub degraded: Vec<String>,
}
