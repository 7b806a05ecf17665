//! Amounts of money: whole numbers of 1e-12 of a currency, never a float.
//!
//! A price with up to six decimals per million tokens is then a whole number per token, so that every product and every
//! sum is exact.

use std::{fmt, iter::Sum, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Decimal places of an amount.
const PLACES: usize = 12;

/// An amount of money in 1e-12 of its currency. In text and JSON it is a decimal such as `0.0125`: a string, since
/// JSON numbers lose digits in many readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pico(pub i128);

impl Pico {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One unit of the currency.
    pub const ONE: Self = Self(1_000_000_000_000);

    /// The sum, or `None` where it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The amount as a column of a row holds it; `None` above some nine million units.
    pub fn to_row(self) -> Option<i64> {
        i64::try_from(self.0).ok()
    }

    /// The amount in another currency of which one unit of this one is worth `rate`, rounded up: who reserves by it
    /// reserves enough. `None` where it does not fit.
    pub fn converted(self, rate: Self) -> Option<Self> {
        let product = self.0.checked_mul(rate.0)?;
        let whole = product.div_euclid(Self::ONE.0);
        let up = i128::from(product.rem_euclid(Self::ONE.0) > 0);
        whole.checked_add(up).map(Self)
    }
}

impl Sum for Pico {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, |sum, amount| {
            Self(sum.0.saturating_add(amount.0))
        })
    }
}

/// A text that is no amount: accepted are digits with at most twelve decimals, with a sign or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAmount;

impl fmt::Display for NoAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an amount: write a decimal such as 10 or 0.0125, with at most 12 decimals")
    }
}

impl std::error::Error for NoAmount {}

impl FromStr for Pico {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let point_without_digits = digits.contains('.') && decimals.is_empty();
        if whole.is_empty()
            || point_without_digits
            || decimals.len() > PLACES
            || !all_digits(whole)
            || !all_digits(decimals)
        {
            return Err(NoAmount);
        }
        let number = |part: &str| -> Result<i128, NoAmount> {
            match part {
                "" => Ok(0),
                digits => digits.parse().map_err(|_| NoAmount),
            }
        };
        let scale = (decimals.len()..PLACES).fold(1, |scale: i128, _| scale * 10);
        let amount = number(whole)?
            .checked_mul(Self::ONE.0)
            .and_then(|whole| whole.checked_add(number(decimals).ok()? * scale))
            .ok_or(NoAmount)?;
        Ok(Self(if negative { -amount } else { amount }))
    }
}

/// The shortest decimal that is exact: `10`, `0.0125`, `-3.000000000001`.
impl fmt::Display for Pico {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::ONE.0.unsigned_abs();
        let (whole, rest) = (self.0.unsigned_abs() / unit, self.0.unsigned_abs() % unit);
        let mut text = format!("{}{whole}", if self.0 < 0 { "-" } else { "" });
        if rest > 0 {
            let decimals = format!("{rest:012}");
            text.push('.');
            text.push_str(decimals.trim_end_matches('0'));
        }
        f.pad(&text)
    }
}

impl Serialize for Pico {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pico {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_decimals_and_nothing_else() {
        for (text, pico) in [
            ("10", 10_000_000_000_000),
            ("0.0125", 12_500_000_000),
            ("0.000000000001", 1),
            ("-1.5", -1_500_000_000_000),
            ("007", 7_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Pico(pico)), "{text}");
        }
        let too_large = "9".repeat(40);
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "1e3",
            "+1",
            "--1",
            " 1",
            "1,5",
            "0.0000000000001",
            "NaN",
            "١",
            too_large.as_str(),
        ] {
            assert_eq!(text.parse::<Pico>(), Err(NoAmount), "{text}");
        }
    }

    #[test]
    fn conversion_rounds_up() {
        let rate: Pico = "0.14".parse().unwrap();
        assert_eq!(Pico(100).converted(rate), Some(Pico(14)));
        assert_eq!(Pico(101).converted(rate), Some(Pico(15)));
        assert_eq!(Pico::ZERO.converted(rate), Some(Pico::ZERO));
        assert_eq!(Pico(i128::MAX).converted(rate), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(amount in any::<i64>()) {
            let amount = Pico(amount.into());
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            let json = serde_json::to_string(&amount).unwrap();
            prop_assert_eq!(serde_json::from_str::<Pico>(&json).unwrap(), amount);
        }
    }
}
