//! What one token costs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;

use crate::types::Pico;

/// Decimals of a price per million tokens: as many as leave a whole number of 1e-12 per token.
const DECIMALS: usize = 6;

/// Digits before the point: a price of a thousand millions per million tokens is a mistake.
const DIGITS: usize = 9;

/// Tokens that a price is given for.
const MILLION: i128 = 1_000_000;

/// The price of one token, in 1e-12 of the currency. In text and JSON it is the price of a million tokens, such as
/// `0.15`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// Nothing.
    pub const FREE: Self = Self(0);

    /// A price in 1e-12 per token.
    pub const fn per_token(pico: u64) -> Self {
        Self(pico)
    }

    /// What so many tokens cost, or `None` where it does not fit.
    pub fn of(self, tokens: u64) -> Option<Pico> {
        i128::from(self.0).checked_mul(i128::from(tokens)).map(Pico)
    }

    /// How many tokens an amount pays for; as many as one likes where they cost nothing.
    pub(super) fn tokens_for(self, amount: Pico) -> u64 {
        match self.0 {
            0 => u64::MAX,
            rate => u64::try_from(amount.0.max(0) / i128::from(rate)).unwrap_or(u64::MAX),
        }
    }
}

/// A text that is no price per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRate;

/// What [`Rate`] reads, for messages.
pub const ACCEPTED: &str = "a price per million tokens such as 0.15, with at most 6 decimals";

impl fmt::Display for NoRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {ACCEPTED}")
    }
}

impl std::error::Error for NoRate {}

impl FromStr for Rate {
    type Err = NoRate;

    fn from_str(text: &str) -> Result<Self, NoRate> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        if whole.len() > DIGITS || decimals.len() > DECIMALS || text.starts_with('-') {
            return Err(NoRate);
        }
        let per_million: Pico = text.parse().map_err(|_| NoRate)?;
        // 1e-6 of a currency per million tokens is 1e-12 per token.
        u64::try_from(per_million.0 / MILLION)
            .map(Self)
            .map_err(|_| NoRate)
    }
}

/// The price of a million tokens, the shortest decimal that is exact.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Pico(i128::from(self.0) * MILLION), f)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a decimal string; a JSON number too, by its digits, so that no float comes in between.
impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        json.get()
            .trim_matches('"')
            .parse()
            .map_err(D::Error::custom)
    }
}

/// What the tokens of a request cost, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Input tokens.
    pub input: Rate,
    /// Input tokens read from the provider's prompt cache; unset: as input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Rate>,
    /// Input tokens written to the provider's prompt cache; unset: as input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Rate>,
    /// Output tokens.
    pub output: Rate,
    /// Output tokens spent on reasoning; unset: as output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Rate>,
}

impl Rates {
    /// Input and output, everything else as these.
    pub fn new(input: Rate, output: Rate) -> Self {
        Self {
            input,
            output,
            ..Self::default()
        }
    }

    /// Input tokens read from the cache.
    pub fn cached_input(&self) -> Rate {
        self.cached_input.unwrap_or(self.input)
    }

    /// Input tokens written to the cache.
    pub fn cache_write(&self) -> Rate {
        self.cache_write.unwrap_or(self.input)
    }

    /// Output tokens spent on reasoning.
    pub fn reasoning(&self) -> Rate {
        self.reasoning.unwrap_or(self.output)
    }

    /// The dearest that an input token can be.
    pub(super) fn dearest_input(&self) -> Rate {
        self.input.max(self.cached_input()).max(self.cache_write())
    }

    /// The dearest that an output token can be.
    pub(super) fn dearest_output(&self) -> Rate {
        self.output.max(self.reasoning())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_prices_per_million() {
        for (text, pico) in [
            ("2.5", 2_500_000),
            ("0.000001", 1),
            ("0", 0),
            ("999999999", 999_999_999_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Rate(pico)), "{text}");
        }
        for text in [
            "",
            "-1",
            "-0",
            "+1",
            "1e-6",
            ".5",
            "1.",
            "0.0000001",
            "1000000000",
            "1 ",
            "1,5",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(NoRate), "{text}");
        }
    }

    #[test]
    fn json_numbers_are_read_by_their_digits() {
        let rates: Rates = serde_json::from_str(r#"{"input":0.1,"output":"0.30"}"#).unwrap();
        assert_eq!(rates, Rates::new(Rate(100_000), Rate(300_000)));
        for wrong in ["1e-1", "true", "null", "[1]", r#""""#, "-1"] {
            let json = format!(r#"{{"input":{wrong},"output":1}}"#);
            assert!(serde_json::from_str::<Rates>(&json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(pico in 0_u64..1_000_000_000_000_000) {
            prop_assert_eq!(Rate(pico).to_string().parse(), Ok(Rate(pico)));
        }
    }
}
