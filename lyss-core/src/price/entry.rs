//! A price as it is written: in the admin API, the shipped table and the configuration.

use serde::{Deserialize, Serialize};

use super::{Price, Rate, Rates, Tier};
use crate::{Error, Result, types::log::unix_ms};

/// Most tiers of a price.
const TIERS: usize = 16;

/// Most bytes of a name.
const NAME: usize = 255;

/// A price as it is written; amounts are decimals per million tokens. A row of the table `prices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceEntry {
    /// The row's id; absent when it is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The model name that goes upstream. The name of a model is also the price of its dated snapshots
    /// (`gpt-4o-2024-08-06`) that have none of their own.
    pub model: String,
    /// The configured id of the only provider it holds for; absent: for every provider.
    #[serde(default)]
    pub provider: Option<String>,
    /// The currency (ISO 4217).
    pub currency: String,
    /// From when on it holds, a time or a date (RFC 3339); absent: always has.
    #[serde(default)]
    pub valid_from: Option<String>,
    /// Input tokens.
    pub input: Rate,
    /// Input tokens read from the provider's prompt cache; absent: as input.
    #[serde(default)]
    pub cached_input: Option<Rate>,
    /// Input tokens written to the provider's prompt cache; absent: as input.
    #[serde(default)]
    pub cache_write: Option<Rate>,
    /// Output tokens.
    pub output: Rate,
    /// Output tokens spent on reasoning; absent: as output.
    #[serde(default)]
    pub reasoning: Option<Rate>,
    /// Other rates for longer inputs, ascending.
    #[serde(default)]
    pub tiers: Vec<Tier>,
    /// The longest answer the model gives.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
}

/// A [`Tier`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTier {
    above_input_tokens: u64,
    input: Rate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cached_input: Option<Rate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write: Option<Rate>,
    output: Rate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<Rate>,
}

impl From<WrittenTier> for Tier {
    fn from(tier: WrittenTier) -> Self {
        Self {
            above_input_tokens: tier.above_input_tokens,
            rates: Rates {
                input: tier.input,
                cached_input: tier.cached_input,
                cache_write: tier.cache_write,
                output: tier.output,
                reasoning: tier.reasoning,
            },
        }
    }
}

impl From<Tier> for WrittenTier {
    fn from(tier: Tier) -> Self {
        Self {
            above_input_tokens: tier.above_input_tokens,
            input: tier.rates.input,
            cached_input: tier.rates.cached_input,
            cache_write: tier.rates.cache_write,
            output: tier.rates.output,
            reasoning: tier.rates.reasoning,
        }
    }
}

impl PriceEntry {
    /// The price. `source` and a checksum of its content make its id.
    ///
    /// # Errors
    /// `invalid_value` with the member's name.
    pub fn price(&self, source: &str) -> Result<Price> {
        let valid_from_ms = self.check()?;
        Ok(Price {
            id: format!("{source}@{:08x}", self.checksum()).into(),
            model: self.model.as_str().into(),
            provider: self.provider.as_deref().map(Into::into),
            currency: self.currency.as_str().into(),
            valid_from_ms,
            rates: Rates {
                input: self.input,
                cached_input: self.cached_input,
                cache_write: self.cache_write,
                output: self.output,
                reasoning: self.reasoning,
            },
            tiers: self.tiers.clone(),
            max_output_tokens: self.max_output_tokens,
        })
    }

    /// Checks every member; gives the time from which it holds.
    ///
    /// # Errors
    /// `invalid_value` with the member's name.
    pub(crate) fn check(&self) -> Result<i64> {
        let provider = self.provider.as_ref().map(|name| ("provider", name));
        for (member, name) in [("model", &self.model)].into_iter().chain(provider) {
            if name.is_empty() || name.len() > NAME || name.contains(char::is_control) {
                return Err(Error::invalid(
                    member,
                    format!("`{member}` must be 1 to {NAME} bytes without control characters"),
                ));
            }
        }
        if self.currency.len() != 3 || !self.currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(Error::invalid(
                "currency",
                "`currency` must be three capital letters, such as USD or CNY",
            ));
        }
        let ascending = self
            .tiers
            .iter()
            .try_fold(0, |below, tier| {
                (tier.above_input_tokens > below).then_some(tier.above_input_tokens)
            })
            .is_some();
        if self.tiers.len() > TIERS || !ascending {
            return Err(Error::invalid(
                "tiers",
                format!(
                    "`tiers` must be at most {TIERS}, by ascending `above_input_tokens`, from 1"
                ),
            ));
        }
        if self
            .max_output_tokens
            .is_some_and(|most| most == 0 || most > i64::MAX.cast_unsigned())
        {
            return Err(Error::invalid(
                "max_output_tokens",
                "`max_output_tokens` must be at least 1",
            ));
        }
        let Some(valid_from) = &self.valid_from else {
            return Ok(0);
        };
        unix_ms(valid_from).ok_or_else(|| {
            Error::invalid(
                "valid_from",
                "`valid_from` must be a time as 2026-11-22T10:00:00Z, or a date as 2026-11-22",
            )
        })
    }

    /// Differs where anything does that changes a cost.
    fn checksum(&self) -> u32 {
        let content = Self {
            id: None,
            ..self.clone()
        };
        crc32fast::hash(&serde_json::to_vec(&content).unwrap_or_default())
    }
}

/// The prices of the table `prices`, but for rows that cannot be one (edited by hand).
pub fn stored(entries: &[PriceEntry]) -> Vec<Price> {
    let price = |entry: &PriceEntry| {
        let id = entry.id.unwrap_or_default();
        entry
            .price(&format!("table:{id}"))
            .inspect_err(|error| tracing::warn!(id, %error, "a row of `prices` is left out"))
            .ok()
    };
    entries.iter().filter_map(price).collect()
}
