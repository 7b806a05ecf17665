//! `billing.prices`.

use super::reader::{Reader, Section};
use crate::{
    price::{RATE_ACCEPTED, Rate, Rates},
    types::log::unix_ms,
};

/// An entry of `billing.prices`: amounts per million tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceConfig {
    /// What tokens cost, up to the first tier.
    pub rates: Rates,
    /// Other rates for longer inputs.
    pub tiers: Vec<TierConfig>,
    /// The currency of this price; unset: `billing.currency`.
    pub currency: Option<String>,
    /// From when on it holds, in milliseconds of Unix time; unset: always has.
    pub valid_from_ms: Option<i64>,
    /// The longest answer the model gives; unset: unknown.
    pub max_output_tokens: Option<u64>,
}

/// An item of a price's `tiers`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TierConfig {
    /// Input tokens above which it holds, for the whole request.
    pub above_input_tokens: u64,
    /// What tokens cost.
    pub rates: Rates,
}

/// Most tokens that a bound can be.
const TOKENS: u64 = 1_000_000_000;

impl Section for PriceConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        read_rates(r, &mut self.rates);
        r.currency("currency", &mut self.currency);
        r.parsed(
            "valid_from",
            "a time as 2026-11-22T10:00:00Z, or a date as 2026-11-22",
            |text| unix_ms(text).ok_or_else(|| "is not a time".to_owned()),
            &mut self.valid_from_ms,
        );
        r.list("tiers", &mut self.tiers);
        if !self
            .tiers
            .is_sorted_by(|one, next| one.above_input_tokens < next.above_input_tokens)
        {
            r.error_here("the tiers must be by ascending above_input_tokens");
        }
        r.integer("max_output_tokens", 1..=TOKENS, &mut self.max_output_tokens);
    }
}

impl Section for TierConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.require("above_input_tokens", "a number of tokens");
        r.integer(
            "above_input_tokens",
            1..=TOKENS,
            &mut self.above_input_tokens,
        );
        read_rates(r, &mut self.rates);
    }
}

/// Input and output must be there: what is left out by mistake must not be free.
fn read_rates(r: &mut Reader<'_, '_>, rates: &mut Rates) {
    let read = |text: &str| {
        text.parse::<Rate>()
            .map_err(|_| "is not a price".to_owned())
    };
    r.require("input", RATE_ACCEPTED);
    r.parsed("input", RATE_ACCEPTED, read, &mut rates.input);
    r.parsed("cached_input", RATE_ACCEPTED, read, &mut rates.cached_input);
    r.parsed("cache_write", RATE_ACCEPTED, read, &mut rates.cache_write);
    r.require("output", RATE_ACCEPTED);
    r.parsed("output", RATE_ACCEPTED, read, &mut rates.output);
    r.parsed("reasoning", RATE_ACCEPTED, read, &mut rates.reasoning);
}
