//! Text → value for the kinds of scalar that the configuration knows, with the words for what is
//! wrong. Each parser returns the reason only; the reader adds the key, the place and what is
//! accepted.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::{
    budget::Budget,
    types::{NoAmount, Pico},
};

/// Longest duration accepted: a hundred years. Beyond it deadlines overflow the clock.
const DURATION_MAX_SECS: u64 = 36_500 * 86_400;

/// Parses `30s`, `500ms`, `1h30m`, `365d`, `12 months`. A month is a twelfth of 365 days, so that
/// `12 months` is `365d`.
///
/// # Errors
/// Why the text is not a positive duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, fraction, after) = number(rest).ok_or("is not a duration")?;
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic() && c != 'µ')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit_nanos: u128 = match unit {
            "" => {
                return Err(format!(
                    "has no unit; did you mean {text}s?",
                    text = text.trim()
                ));
            }
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
            "h" | "hour" | "hours" => 3_600_000_000_000,
            "d" | "day" | "days" => 86_400_000_000_000,
            "w" | "week" | "weeks" => 7 * 86_400_000_000_000,
            "month" | "months" => 365 * 86_400_000_000_000 / 12,
            "y" | "year" | "years" => 365 * 86_400_000_000_000,
            other => return Err(format!("has the unknown unit {other:?}")),
        };
        nanos = scaled(whole, fraction, unit_nanos)
            .and_then(|part| nanos.checked_add(part))
            .filter(|sum| *sum <= u128::from(DURATION_MAX_SECS) * 1_000_000_000)
            .ok_or("is longer than a hundred years")?;
        rest = next.trim_start();
    }
    if nanos == 0 {
        return Err("must be longer than zero".to_owned());
    }
    let secs = u64::try_from(nanos / 1_000_000_000).unwrap_or(DURATION_MAX_SECS);
    let subsec = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(secs, subsec))
}

/// Writes a duration in the shortest form that [`parse_duration`] reads back exactly (to the
/// microsecond, the finest unit of the configuration).
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units: [(u128, &str); 5] = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ];
    units
        .iter()
        .find(|(size, _)| micros >= *size && micros.is_multiple_of(*size))
        .map_or_else(
            || format!("{micros}us"),
            |(size, unit)| format!("{}{unit}", micros / size),
        )
}

/// Parses `32MiB`, `16KiB`, `1GB`, `512B` to bytes. `KB`, `MB`, `GB`, `TB` are powers of 1000,
/// `KiB`, `MiB`, `GiB`, `TiB` of 1024.
///
/// # Errors
/// Why the text is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let (whole, fraction, unit) = number(trimmed).ok_or("is not a size")?;
    let factor: u128 = match unit.trim() {
        "" => {
            // A large number is meant in bytes.
            let meant = match trimmed.parse::<u64>() {
                Ok(bytes) if bytes >= 1 << 16 => format_size(bytes),
                _ => format!("{trimmed}MiB"),
            };
            return Err(format!("has no unit; did you mean {meant}?"));
        }
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => return Err(format!("has the unknown unit {other:?}")),
    };
    scaled(whole, fraction, factor)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| "is too large".to_owned())
}

/// Writes a size in the shortest form that [`parse_size`] reads back exactly.
pub fn format_size(bytes: u64) -> String {
    let units: [(u64, &str); 7] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "KB"),
    ];
    units
        .iter()
        .find(|(size, _)| bytes >= *size && bytes.is_multiple_of(*size))
        .map_or_else(
            || format!("{bytes}B"),
            |(size, unit)| format!("{}{unit}", bytes / size),
        )
}

/// Splits a leading decimal number: (whole, the fraction's digits, the rest).
fn number(text: &str) -> Option<(u64, &str, &str)> {
    let end = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (whole, rest) = text.split_at(end(text));
    let whole: u64 = whole.parse().ok()?;
    match rest.strip_prefix('.') {
        Some(after) => {
            let (fraction, rest) = after.split_at(end(after));
            (1..=9)
                .contains(&fraction.len())
                .then_some((whole, fraction, rest))
        }
        None => Some((whole, "", rest)),
    }
}

/// `whole.fraction × unit`, rounded down.
fn scaled(whole: u64, fraction: &str, unit: u128) -> Option<u128> {
    let base = u128::from(whole).checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(base);
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let part = u128::from(fraction.parse::<u64>().ok()?).checked_mul(unit)?;
    base.checked_add(part / 10_u128.checked_pow(digits)?)
}

/// Checks an address to listen on or to connect to and gives it as `host:port`; `:9090` is every
/// IPv4 interface, `0.0.0.0:9090`.
///
/// # Errors
/// Why the text is not an address.
pub fn parse_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    port.parse::<u16>()
        .map_err(|_| format!("has the port {port:?}, which is not 0 to 65535"))?;
    if host.is_empty() {
        return Ok(format!("0.0.0.0:{port}"));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or(inner);
        return match inner.parse::<Ipv6Addr>() {
            Ok(address) => Ok(format!("[{address}]:{port}")),
            Err(_) => Err(format!("has {host}, which is not an IPv6 address")),
        };
    }
    if host.contains(':') {
        return Err("has an IPv6 address without brackets".to_owned());
    }
    if !is_host_name(host) {
        return Err(format!("has the host {host:?}, which is not a host name"));
    }
    Ok(format!("{host}:{port}"))
}

/// Tells whether an address made by [`parse_address`] is reachable from this machine only.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Tells whether a text can be a host name or an IPv4 address. Underscores are accepted: Docker
/// Compose makes such names.
pub(super) fn is_host_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// Checks an absolute URL with one of `schemes` and a host, and gives it without a trailing slash
/// (paths are appended to it).
///
/// # Errors
/// Why the text is not such a URL. The text itself is not repeated: it may carry a password.
pub fn parse_url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let text = text.trim();
    let uri: http::Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let scheme = uri.scheme_str().ok_or("has no scheme such as https://")?;
    if !schemes.contains(&scheme) {
        return Err(format!("has the scheme {scheme}"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("has no host".to_owned());
    }
    if text.contains('#') {
        return Err("has a fragment (#…)".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Checks an amount of money: digits, at most 15 before and 12 after the point (amounts are
/// computed in units of 1e-12). The text is kept, so that nothing is lost to binary fractions.
///
/// # Errors
/// Why the text is not an amount.
pub fn parse_decimal(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |s: &str, max: usize| (1..=max).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    if digits(whole, 15) && digits(fraction, 12) {
        Ok(text.to_owned())
    } else {
        Err("is not a decimal amount".to_owned())
    }
}

/// Checks the amount of a budget: a decimal that the stores of counters can hold exactly.
///
/// # Errors
/// When it is none, or above nine million.
pub fn parse_budget(text: &str) -> Result<String, String> {
    let text = parse_decimal(text)?;
    let amount: Pico = text.parse().map_err(|error: NoAmount| error.to_string())?;
    if amount <= Budget::MOST {
        Ok(text)
    } else {
        Err("is more than a budget can be".to_owned())
    }
}

/// Checks the name of a time zone of the IANA database.
///
/// # Errors
/// When there is none of that name.
pub fn parse_timezone(text: &str) -> Result<String, String> {
    let text = text.trim();
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not a time zone".to_owned()),
    }
}

/// Checks a currency code of ISO 4217 shape.
///
/// # Errors
/// When it is not three capital letters.
pub fn parse_currency(text: &str) -> Result<String, String> {
    if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err("is not a currency code".to_owned())
    }
}

#[cfg(test)]
#[path = "tests/value.rs"]
mod tests;
