//! The reader's typed values: one method a type, with the words for what it accepts.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::Reader;
use crate::config::diagnostic::nearest;
use crate::config::secret::Secret;
use crate::config::value;

/// A closed set of names for a value.
pub(in crate::config) trait Choice: Copy + 'static {
    /// Each accepted name with its value, in the order to be shown.
    const NAMES: &'static [(&'static str, Self)];
}

/// A field for a whole number, optional or not.
pub(in crate::config) trait Whole: Sized {
    /// Converts, if the number fits.
    fn from_whole(number: u64) -> Option<Self>;
}

impl Whole for u32 {
    fn from_whole(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
}

impl Whole for u64 {
    fn from_whole(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl Whole for usize {
    fn from_whole(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
}

impl<T: Whole> Whole for Option<T> {
    fn from_whole(number: u64) -> Option<Self> {
        T::from_whole(number).map(Some)
    }
}

pub(in crate::config) const ADDRESS: &str =
    "an address such as 127.0.0.1:8000, [::1]:8000 or :8000";
pub(in crate::config) const DECIMAL: &str = "a decimal amount such as 10.00";

/// Says that a name is not one of the set, and which one may have been meant.
pub(in crate::config) fn not_known(near: Option<&str>) -> String {
    match near {
        Some(near) => format!("is not known, did you mean {near}?"),
        None => "is not known".to_owned(),
    }
}

pub(in crate::config) fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

impl Reader<'_, '_> {
    /// A name, id or other text that is not empty.
    pub(in crate::config) fn text(&mut self, key: &'static str, slot: &mut impl From<String>) {
        self.parsed(
            key,
            "a text",
            |text| {
                if text.trim().is_empty() {
                    Err("is empty".to_owned())
                } else {
                    Ok(text.to_owned())
                }
            },
            slot,
        );
    }

    /// A path of the file system.
    pub(in crate::config) fn path(&mut self, key: &'static str, slot: &mut impl From<PathBuf>) {
        self.parsed(
            key,
            "a path",
            |text| {
                if text.is_empty() {
                    Err("is empty".to_owned())
                } else {
                    Ok(PathBuf::from(text))
                }
            },
            slot,
        );
    }

    /// A secret; an empty text is accepted and means "none".
    pub(in crate::config) fn secret(&mut self, key: &'static str, slot: &mut impl From<Secret>) {
        self.parsed(key, "a secret text", |text| Ok(Secret::new(text)), slot);
    }

    /// A secret that must not be empty, nor one that everybody knows.
    pub(in crate::config) fn strong_secret(
        &mut self,
        key: &'static str,
        slot: &mut impl From<Secret>,
    ) {
        let read = |text: &str| {
            let lower = text.trim().to_lowercase();
            if lower.is_empty() {
                return Err("is empty, so that anybody could guess it".to_owned());
            }
            // Values that examples and other gateways ship; scanners try them first.
            const WELL_KNOWN: [&str; 10] = [
                "admin",
                "changeme",
                "change-me",
                "default",
                "password",
                "secret",
                "sk-1234",
                "test",
                "lyss",
                "lyss123",
            ];
            if WELL_KNOWN.contains(&lower.as_str()) {
                return Err("is a value that everybody knows".to_owned());
            }
            Ok(Secret::new(text))
        };
        let accepts = "a secret text that nobody can guess, e.g. from `openssl rand -hex 32`";
        self.hidden(key, accepts, read, slot);
    }

    /// `true` or `false`.
    pub(in crate::config) fn boolean(&mut self, key: &'static str, slot: &mut impl From<bool>) {
        let read = |text: &str| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err("is not a boolean".to_owned()),
        };
        self.parsed(key, "true or false", read, slot);
    }

    /// A whole number within `range`.
    pub(in crate::config) fn integer<T: Whole>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        slot: &mut T,
    ) {
        let accepts = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |text: &str| {
            let digits = text.replace('_', "");
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err("is not a whole number".to_owned());
            }
            digits
                .parse()
                .ok()
                .filter(|number| range.contains(number))
                .and_then(T::from_whole)
                .ok_or_else(|| "is out of range".to_owned())
        };
        self.parsed(key, accepts, read, slot);
    }

    /// A fraction within `range`.
    pub(in crate::config) fn fraction(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        slot: &mut impl From<f64>,
    ) {
        let accepts = format!("a number from {} to {}", range.start(), range.end());
        let read = |text: &str| {
            let number: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
            if range.contains(&number) {
                Ok(number)
            } else {
                Err("is out of range".to_owned())
            }
        };
        self.parsed(key, accepts, read, slot);
    }

    /// A duration longer than zero, with its unit.
    pub(in crate::config) fn duration(
        &mut self,
        key: &'static str,
        slot: &mut impl From<Duration>,
    ) {
        let accepts = "a duration such as 500ms, 30s, 12h, 365d or \"12 months\"";
        self.parsed(key, accepts, value::parse_duration, slot);
    }

    /// A size in bytes within `range`, with its unit.
    pub(in crate::config) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        slot: &mut impl From<u64>,
    ) {
        let accepts = format!(
            "a size from {} to {}, such as 16KiB, 32MiB or 1GB",
            value::format_size(*range.start()),
            value::format_size(*range.end())
        );
        let read = |text: &str| {
            let bytes = value::parse_size(text)?;
            if range.contains(&bytes) {
                Ok(bytes)
            } else {
                Err("is out of range".to_owned())
            }
        };
        self.parsed(key, accepts, read, slot);
    }

    /// An address `host:port`, `[::1]:port` or `:port`.
    pub(in crate::config) fn address(&mut self, key: &'static str, slot: &mut impl From<String>) {
        self.parsed(key, ADDRESS, value::parse_address, slot);
    }

    /// An absolute URL with one of the schemes.
    pub(in crate::config) fn url(
        &mut self,
        key: &'static str,
        schemes: &[&str],
        slot: &mut impl From<String>,
    ) {
        let accepts = format!("a URL beginning with {}://", schemes.join(":// or "));
        self.parsed(key, accepts, |text| value::parse_url(text, schemes), slot);
    }

    /// A URL that may carry a user and password, and is therefore secret.
    pub(in crate::config) fn secret_url(
        &mut self,
        key: &'static str,
        schemes: &[&str],
        slot: &mut impl From<Secret>,
    ) {
        let accepts = format!("a URL beginning with {}://", schemes.join(":// or "));
        let read = |text: &str| value::parse_url(text, schemes).map(Secret::from);
        self.hidden(key, accepts, read, slot);
    }

    /// A currency code.
    pub(in crate::config) fn currency(&mut self, key: &'static str, slot: &mut impl From<String>) {
        let accepts = "a currency code of three capital letters, such as USD or CNY";
        self.parsed(key, accepts, value::parse_currency, slot);
    }

    /// One name of a closed set.
    pub(in crate::config) fn choice<C: Choice>(
        &mut self,
        key: &'static str,
        slot: &mut impl From<C>,
    ) {
        let names = || C::NAMES.iter().map(|(name, _)| *name);
        let accepts = names().collect::<Vec<_>>().join(", ");
        let read = |text: &str| {
            C::NAMES
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| not_known(nearest(text, names())))
        };
        self.parsed(key, accepts, read, slot);
    }
}
