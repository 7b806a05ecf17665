//! The record of one request: a row of `request_logs`, with the routing decision.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::context::tokens::Tokenizer;

use super::{
    call::RequestId,
    money::Pico,
    session::ContextUse,
    usage::{Usage, UsageSource},
};

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

impl Purpose {
    /// The word in the `purpose` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embedding => "embedding",
            Self::Summary => "summary",
        }
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Arc<str>>,
    /// The API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// Part of the prompt written to the provider's cache.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// Part of the answer spent on reasoning.
    pub reasoning_tokens: u64,
    /// Where the token numbers come from.
    pub usage_source: UsageSource,
    /// From arrival to end, in milliseconds.
    pub latency_ms: u64,
    /// From arrival to the first chunk of a stream, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<u64>,
    /// How it ended.
    pub status: Status,
    /// The error's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The error's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// What it was for.
    pub purpose: Purpose,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The client's own request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<String>,
    /// What is charged for the delivered attempt, in 1e-12 of `currency`.
    pub user_charge_pico: i64,
    /// What all attempts cost, in 1e-12 of `currency`.
    pub provider_cost_pico: i64,
    /// `user_charge_pico` as a decimal: set on rows that are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_charge: Option<Pico>,
    /// `provider_cost_pico` as a decimal: set on rows that are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_cost: Option<Pico>,
    /// The currency of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Arc<str>>,
    /// The price they were computed from; `unpriced` where the model had none, and both are 0 for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_id: Option<Arc<str>>,
    /// How the provider was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
            cache_write_tokens: 0,
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
            user_charge: None,
            provider_cost: None,
            currency: None,
            price_id: None,
            decision: None,
        }
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, with exactly three fractional digits. Written by hand, because
/// every request has two such times and the general formatter takes a microsecond for one.
///
/// # Source
/// The calendar is Howard Hinnant's `civil_from_days` (chrono-compatible low-level date algorithms).
pub fn rfc3339(unix_ms: i64) -> String {
    let (days, ms) = (
        unix_ms.div_euclid(86_400_000),
        unix_ms.rem_euclid(86_400_000),
    );
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let mut out = String::with_capacity(24);
    let mut put = |number: i64, width: u32, after: char| {
        for place in (0..width).rev() {
            let digit = number / 10_i64.pow(place) % 10;
            out.push(char::from(b'0' + u8::try_from(digit).unwrap_or(0)));
        }
        out.push(after);
    };
    put(year, 4, '-');
    put(month, 2, '-');
    put(day, 2, 'T');
    put(ms / 3_600_000, 2, ':');
    put(ms / 60_000 % 60, 2, ':');
    put(ms / 1_000 % 60, 2, '.');
    put(ms % 1_000, 3, 'Z');
    out
}

/// Reads a time as `2026-11-22T10:00:00Z`, or a date as `2026-11-22`, which means its midnight in UTC: in milliseconds of
/// Unix time, not before its start.
pub(crate) fn unix_ms(text: &str) -> Option<i64> {
    // Only the short form is a date: as a `Date`, jiff also takes a time without a zone, and drops the time.
    let time = if text.len() == 10 {
        text.parse::<jiff::civil::Date>()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|midnight| midnight.timestamp())
    } else {
        text.parse::<jiff::Timestamp>()
    };
    time.ok().map(|time| time.as_millisecond().max(0))
}

/// How a provider was chosen for a request: the `RoutingDecision` of the specification, with every candidate and
/// attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The provider that answered, or was tried last.
    pub provider_id: Arc<str>,
    /// The model name that went upstream.
    pub model_name: Arc<str>,
    /// Where it was sent, without credentials; shown to admins only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The weight of the chosen target.
    pub weight: u32,
    /// How long the last attempt took, in milliseconds.
    pub latency_ms: u64,
    /// When it was chosen, RFC 3339.
    pub selected_at: String,
    /// Where the route came from: `rule`, `provider_prefix`, `provider_models`, `preset`, `default_provider`; or
    /// `idempotency_key`, where an answer was given again and nothing was dispatched.
    pub source: Cow<'static, str>,
    /// The request whose answer was given again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// How the session's conversation was made to fit, where it was not sent whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextDecision>,
    /// Every target of the model, and why it was or was not taken.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// Every attempt, in order.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What the memory gave, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryNote>,
    /// What budgets were asked for, where one applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Reserved>,
}

/// What was reserved in the caller's budgets before the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reserved {
    /// The amount, in `currency`.
    pub amount: Pico,
    /// Its currency.
    pub currency: Arc<str>,
    /// The output limit that the budgets left, where that is less than what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
}

/// What became of the search for memories.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryNote {
    /// `found`, `empty`, or why there was none: `timeout`, `error`, `paused` (it failed several times just before).
    pub outcome: Cow<'static, str>,
    /// Memories that went into the prompt.
    pub memories: u32,
    /// Memories that were not the user's, and were dropped.
    #[serde(default)]
    pub foreign: u32,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
}

/// How a stored conversation was made to fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextDecision {
    /// What was sent of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<ContextUse>,
    /// Its tokens that were sent, the summary included.
    pub sent_tokens: u64,
    /// Most that could be sent: `session.max_tokens`, or what the model's window left.
    pub room: u64,
    /// Stored messages that were not sent one by one.
    pub left_out: u64,
    /// Whether the user's memories had to be left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_memories: bool,
    /// How the compression ended that this turn waited for: `summarized`, `truncated`, `waited` (for another one), or
    /// why not: `failed`, `timeout`, `empty`, `too_long`, `lost`, `busy`, `resting` (it failed a moment ago).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Cow<'static, str>>,
    /// The request that made the summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_request_id: Option<String>,
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
    /// `picked`, or why not: `not_needed`, `unhealthy`, `rate_limited`, `paused`, `busy`, `unsupported`, `tried`, `weight_zero`,
    /// `context_too_small`, `unpriced` (and a price is needed), `auth_failed`, `account_refused`.
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
    /// What it cost, where something is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What one attempt used and cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Where their numbers come from.
    pub usage_source: UsageSource,
    /// What they were counted with, where they were not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
    /// The cost, in 1e-12 of `currency`.
    pub pico: i64,
    /// Its currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Arc<str>>,
    /// The price it was computed from, or `unpriced`.
    pub price_id: Arc<str>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_are_written_as_the_library_writes_them(ms in 0_i64..253_402_300_800_000) {
            let time = jiff::Timestamp::from_millisecond(ms).unwrap();
            prop_assert_eq!(rfc3339(ms), time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
        }
    }
}
