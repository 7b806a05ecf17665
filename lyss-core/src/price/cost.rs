//! What a request costs.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Rates, entry::WrittenTier};
use crate::{
    Error, ErrorKind,
    types::{Pico, Usage},
};

/// The tokens of one call in parts that do not overlap: their sum is what was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Input tokens that neither came from the provider's prompt cache nor went into it.
    pub input: u64,
    /// Input tokens read from the cache.
    pub cached_input: u64,
    /// Input tokens written to the cache.
    pub cache_write: u64,
    /// Output tokens but for the reasoning.
    pub output: u64,
    /// Output tokens spent on reasoning.
    pub reasoning: u64,
}

impl Buckets {
    /// Takes the sub-counts of a usage out of their totals; `None` where they are above them.
    pub fn of(usage: &Usage) -> Option<Self> {
        Some(Self {
            input: usage
                .input_tokens
                .checked_sub(usage.cached_tokens)?
                .checked_sub(usage.cache_write_tokens)?,
            cached_input: usage.cached_tokens,
            cache_write: usage.cache_write_tokens,
            output: usage.output_tokens.checked_sub(usage.reasoning_tokens)?,
            reasoning: usage.reasoning_tokens,
        })
    }
}

/// What requests cost whose input is above so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenTier", into = "WrittenTier")]
pub struct Tier {
    /// Input tokens, cached ones included, above which the tier's rates hold: for the whole request.
    pub above_input_tokens: u64,
    /// The rates.
    pub rates: Rates,
}

/// What the tokens of a model cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// Where it comes from and which content it has: `shipped:openai/gpt-4o@5d41c0de`. It is kept with every request
    /// that was billed by it.
    pub id: Arc<str>,
    /// The model name that goes upstream.
    pub model: Arc<str>,
    /// The configured id of the only provider it holds for.
    pub provider: Option<Arc<str>>,
    /// The currency (ISO 4217).
    pub currency: Arc<str>,
    /// From when on it holds, in milliseconds of Unix time; 0: always has.
    pub valid_from_ms: i64,
    /// What tokens cost, up to the first tier.
    pub rates: Rates,
    /// Other rates for longer inputs, by ascending `above_input_tokens`.
    pub tiers: Vec<Tier>,
    /// The longest answer the model gives, where known.
    pub max_output_tokens: Option<u64>,
}

/// Why there is no cost of a usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCost {
    /// A sub-count is above its total.
    Inconsistent,
    /// The amount does not fit.
    Overflow,
}

impl fmt::Display for NoCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inconsistent => "the parts of the token counts are above their totals",
            Self::Overflow => "the cost is larger than an amount can be",
        })
    }
}

impl std::error::Error for NoCost {}

impl From<NoCost> for Error {
    fn from(no_cost: NoCost) -> Self {
        Self::new(
            ErrorKind::Internal,
            "what the call costs cannot be computed",
        )
        .with_source(no_cost)
    }
}

impl Price {
    /// What a usage costs, exactly.
    ///
    /// # Errors
    /// [`NoCost`].
    pub fn cost(&self, usage: &Usage) -> Result<Pico, NoCost> {
        let buckets = Buckets::of(usage).ok_or(NoCost::Inconsistent)?;
        let rates = self.rates_for(usage.input_tokens);
        [
            rates.input.of(buckets.input),
            rates.cached_input().of(buckets.cached_input),
            rates.cache_write().of(buckets.cache_write),
            rates.output.of(buckets.output),
            rates.reasoning().of(buckets.reasoning),
        ]
        .into_iter()
        .try_fold(Pico::ZERO, |sum, part| sum.checked_add(part?))
        .ok_or(NoCost::Overflow)
    }

    /// The most that any usage costs which is within these token counts: what is reserved before a call. `None` where
    /// it does not fit.
    pub fn most(&self, input_tokens: u64, output_tokens: u64) -> Option<Pico> {
        self.reachable(input_tokens)
            .try_fold(Pico::ZERO, |most, rates| {
                let input = rates.dearest_input().of(input_tokens)?;
                let output = rates.dearest_output().of(output_tokens)?;
                input.checked_add(output).map(|sum| most.max(sum))
            })
    }

    /// The most output tokens for which [`most`](Self::most) is within an amount; `None` where the input alone is
    /// above it.
    pub fn output_tokens_for(&self, amount: Pico, input_tokens: u64) -> Option<u64> {
        self.reachable(input_tokens)
            .try_fold(u64::MAX, |least, rates| {
                let left = amount
                    .0
                    .checked_sub(rates.dearest_input().of(input_tokens)?.0)?;
                (left >= 0).then(|| least.min(rates.dearest_output().tokens_for(Pico(left))))
            })
    }

    /// The rates of a request with so many input tokens.
    fn rates_for(&self, input_tokens: u64) -> &Rates {
        self.tiers
            .iter()
            .rfind(|tier| input_tokens > tier.above_input_tokens)
            .map_or(&self.rates, |tier| &tier.rates)
    }

    /// The rates of all requests with at most so many input tokens: a tier may be cheaper than the one before.
    fn reachable(&self, input_tokens: u64) -> impl Iterator<Item = &Rates> {
        let tiers = self
            .tiers
            .iter()
            .take_while(move |tier| input_tokens > tier.above_input_tokens);
        std::iter::once(&self.rates).chain(tiers.map(|tier| &tier.rates))
    }
}

#[cfg(test)]
#[path = "tests/cost.rs"]
mod tests;
