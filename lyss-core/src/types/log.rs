//! The record of one request: a row of `request_logs`, with the routing decision.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{call::RequestId, usage::UsageSource};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The caller got the whole answer.
    Success,
    /// It failed, here or at the provider.
    Error,
    /// The caller went away.
    Cancelled,
    /// It was refused before anything was dispatched.
    Rejected,
    /// The process died while it ran.
    Aborted,
}

impl Status {
    /// The word in the `status` column and label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
            Self::Aborted => "aborted",
        }
    }
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A chat completion of a caller.
    Chat,
    /// An embeddings call of a caller.
    Embedding,
    /// A summary the gateway made for a session.
    Summary,
}

/// One row of `request_logs`. The members are named as the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// The gateway's id (UUIDv7).
    pub request_id: String,
    /// When the request came, RFC 3339 with milliseconds, computed from the id.
    pub created_at: String,
    /// The user, empty if none.
    pub user_id: Arc<str>,
    /// The session.
    pub session_id: Option<Arc<str>>,
    /// The API key.
    pub api_key_id: Option<Arc<str>>,
    /// The model asked for.
    pub model_name: String,
    /// The provider of the last attempt, empty if none.
    pub provider_id: Arc<str>,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Part of the prompt read from the provider's cache.
    pub cached_tokens: u64,
    /// Part of the answer spent on reasoning.
    pub reasoning_tokens: u64,
    /// Where the token numbers come from.
    pub usage_source: UsageSource,
    /// From arrival to end, in milliseconds.
    pub latency_ms: u64,
    /// From arrival to the first chunk of a stream, in milliseconds.
    pub ttft_ms: Option<u64>,
    /// How it ended.
    pub status: Status,
    /// The error's code.
    pub error_code: Option<String>,
    /// The error's message.
    pub error_message: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// What it was for.
    pub purpose: Purpose,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The client's own request id.
    pub client_request_id: Option<String>,
    /// What is charged for the delivered attempt, in 1e-12 of `currency`.
    pub user_charge_pico: i64,
    /// What all attempts cost, in 1e-12 of `currency`.
    pub provider_cost_pico: i64,
    /// The currency of both.
    pub currency: Option<String>,
    /// The price they were computed from.
    pub price_id: Option<String>,
    /// How the provider was chosen.
    pub decision: Option<Decision>,
}

impl LogRow {
    /// The row of a request that has just arrived.
    pub fn new(id: RequestId, purpose: Purpose, model: &str, stream: bool) -> Self {
        Self {
            request_id: id.to_string(),
            created_at: rfc3339(id.unix_ms()),
            user_id: "".into(),
            session_id: None,
            api_key_id: None,
            model_name: model.to_owned(),
            provider_id: "".into(),
            input_tokens: 0,
            output_tokens: 0,
            cached_tokens: 0,
            reasoning_tokens: 0,
            usage_source: UsageSource::Counted,
            latency_ms: 0,
            ttft_ms: None,
            status: Status::Aborted,
            error_code: None,
            error_message: None,
            attempts: 0,
            purpose,
            stream,
            client_request_id: None,
            user_charge_pico: 0,
            provider_cost_pico: 0,
            currency: None,
            price_id: None,
            decision: None,
        }
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, with exactly three fractional digits.
pub fn rfc3339(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".into())
}

/// How a provider was chosen for a request: the `RoutingDecision` of the specification, with every candidate and
/// attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The provider that answered, or was tried last.
    pub provider_id: Arc<str>,
    /// The model name that went upstream.
    pub model_name: Arc<str>,
    /// Where it was sent, without credentials.
    pub endpoint: String,
    /// The weight of the chosen target.
    pub weight: u32,
    /// How long the last attempt took, in milliseconds.
    pub latency_ms: u64,
    /// When it was chosen, RFC 3339.
    pub selected_at: String,
    /// Where the route came from: `rule`, `provider_prefix`, `provider_models`, `preset`, `default_provider`.
    pub source: Cow<'static, str>,
    /// Every target of the model, and why it was or was not taken.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// Every attempt, in order.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// One target that could have served a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The provider.
    pub provider_id: Arc<str>,
    /// The model name that would go upstream.
    pub model_name: Arc<str>,
    /// Its tier; 1 is tried first.
    pub priority: u32,
    /// Its weight within the tier.
    pub weight: u32,
    /// `picked`, or why not: `not_needed`, `unhealthy`, `rate_limited`, `paused`, `busy`, `unsupported`, `tried`, `weight_zero`.
    pub reason: Cow<'static, str>,
}

/// One attempt on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The provider.
    pub provider_id: Arc<str>,
    /// The model name that went upstream.
    pub model_name: Arc<str>,
    /// From the request's arrival to the attempt's start, in milliseconds.
    pub started_ms: u64,
    /// How long it took: to the answer, or to the first chunk of a stream, in milliseconds.
    pub latency_ms: u64,
    /// `ok`, or the error's code.
    pub outcome: Cow<'static, str>,
    /// The provider's HTTP status, where it failed with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// The error's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
