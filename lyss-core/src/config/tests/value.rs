#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn durations() {
    for (text, millis) in [
        ("30s", 30_000),
        ("500ms", 500),
        ("3600s", 3_600_000),
        ("12h", 43_200_000),
        ("1h30m", 5_400_000),
        ("1.5s", 1_500),
        ("2 minutes", 120_000),
        ("365d", 31_536_000_000),
        ("12 months", 31_536_000_000),
        ("1 year", 31_536_000_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for (text, why) in [
        ("30", "has no unit; did you mean 30s?"),
        ("", "is empty"),
        ("abc", "is not a duration"),
        ("-1s", "is not a duration"),
        ("1.s", "is not a duration"),
        ("0s", "must be longer than zero"),
        ("5 parsecs", "has the unknown unit \"parsecs\""),
        ("101 years", "is longer than a hundred years"),
        ("99999999999999999999s", "is not a duration"),
        ("18446744073709551615y", "is longer than a hundred years"),
    ] {
        assert_eq!(parse_duration(text), Err(why.to_owned()), "{text}");
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("32MiB", 32 << 20),
        ("16KiB", 16 << 10),
        ("1GB", 1_000_000_000),
        ("1.5 MiB", 3 << 19),
        ("0B", 0),
        ("7B", 7),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for (text, why) in [
        ("32", "has no unit; did you mean 32MiB?"),
        ("41943040", "has no unit; did you mean 40MiB?"),
        ("32M", "has the unknown unit \"M\""),
        ("x", "is not a size"),
        ("18446744073709551615GiB", "is too large"),
    ] {
        assert_eq!(parse_size(text), Err(why.to_owned()), "{text}");
    }
}

#[test]
fn addresses() {
    for (text, address, loopback) in [
        (":9090", "0.0.0.0:9090", false),
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.9.9.9:0", "127.9.9.9:0", true),
        ("localhost:80", "localhost:80", true),
        ("[::1]:80", "[::1]:80", true),
        ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", true),
        ("[::]:80", "[::]:80", false),
        ("my_host.example:65535", "my_host.example:65535", false),
        ("localhost.example.com:1", "localhost.example.com:1", false),
    ] {
        assert_eq!(parse_address(text), Ok(address.to_owned()), "{text}");
        assert_eq!(is_loopback(address), loopback, "{text}");
    }
    for text in [
        "8000",
        "a:b",
        "a:65536",
        "::1:80",
        "[::1]",
        "[x]:1",
        "a b:1",
        "a/b:1",
        "http://a:1",
    ] {
        assert!(parse_address(text).is_err(), "{text}");
    }
}

#[test]
fn urls() {
    let web = ["https", "http"];
    assert_eq!(
        parse_url("https://a.b/v1/", &web),
        Ok("https://a.b/v1".to_owned())
    );
    assert_eq!(
        parse_url("http://[::1]:1", &web),
        Ok("http://[::1]:1".to_owned())
    );
    for text in [
        "a.b/v1",
        "ftp://a",
        "https://",
        "https:///x",
        "https://a b",
        "https://a#b",
        "",
    ] {
        assert!(parse_url(text, &web).is_err(), "{text}");
    }
}

#[test]
fn amounts() {
    for text in ["0", "10.00", "0.000000000001", "999999999999999"] {
        assert_eq!(parse_decimal(text), Ok(text.to_owned()));
    }
    for text in [
        "",
        ".5",
        "5.",
        "-1",
        "+1",
        "1e3",
        "1,5",
        "0.0000000000001",
        "1000000000000000",
        "١",
    ] {
        assert!(parse_decimal(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn durations_round_trip(micros in 1_u64..3_000_000_000_000_000) {
        let duration = Duration::from_micros(micros);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn round_durations_stay_short(count in 1_u64..1000, unit in prop::sample::select(vec![1_u64, 60, 3600, 86_400])) {
        let duration = Duration::from_secs(count * unit);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        prop_assert!(format_duration(duration).len() <= 5);
    }

    #[test]
    fn sizes_round_trip(bytes: u64) {
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }

    #[test]
    fn nothing_panics(text: String) {
        let _ = parse_duration(&text);
        let _ = parse_size(&text);
        let _ = parse_address(&text);
        let _ = parse_url(&text, &["https"]);
        let _ = parse_decimal(&text);
        let _ = is_loopback(&text);
    }
}
