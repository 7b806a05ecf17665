//! The `x-ratelimit-*` headers, by OpenAI's names.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use lyss_core::types::rate::{RateStatus, WindowStatus};

/// The headers of one limit.
struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

static REQUESTS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};
static TOKENS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

// OpenAI has no such limit, and so no names for it.
static LIMIT_CONCURRENT: HeaderName = HeaderName::from_static("x-ratelimit-limit-concurrent");
static REMAINING_CONCURRENT: HeaderName =
    HeaderName::from_static("x-ratelimit-remaining-concurrent");

/// Says what is left of a caller's limits.
pub(crate) fn describe(headers: &mut HeaderMap, status: &RateStatus) {
    for (names, window) in [(&REQUESTS, status.requests), (&TOKENS, status.tokens)] {
        let Some(window) = window else { continue };
        let WindowStatus {
            limit,
            remaining,
            reset,
        } = window;
        headers.insert(names.limit.clone(), limit.into());
        headers.insert(names.remaining.clone(), remaining.into());
        if let Ok(reset) = HeaderValue::from_str(&duration(reset)) {
            headers.insert(names.reset.clone(), reset);
        }
    }
    if let Some(limit) = status.concurrent {
        headers.insert(LIMIT_CONCURRENT.clone(), limit.into());
        headers.insert(REMAINING_CONCURRENT.clone(), 0.into());
    }
}

/// A duration as OpenAI writes it: `1s`, `6m0s`, `250ms`, `1m30.5s`.
fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    if (1..1000).contains(&ms) {
        return format!("{ms}ms");
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let mut text = match minutes {
        0 => String::new(),
        minutes => format!("{minutes}m"),
    };
    text += &(rest / 1000).to_string();
    if rest % 1000 > 0 {
        let decimals = format!(".{:03}", rest % 1000);
        text += decimals.trim_end_matches('0');
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (59_999, "59.999s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (90_050, "1m30.05s"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn only_limits_that_there_are() {
        let mut headers = HeaderMap::new();
        describe(&mut headers, &RateStatus::default());
        assert!(headers.is_empty());
        let window = WindowStatus {
            limit: 60,
            remaining: 59,
            reset: Duration::from_secs(60),
        };
        let status = RateStatus {
            requests: Some(window),
            tokens: None,
            concurrent: None,
        };
        describe(&mut headers, &status);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
        assert_eq!(headers["x-ratelimit-reset-requests"], "1m0s");
        let full = RateStatus {
            concurrent: Some(3),
            ..RateStatus::default()
        };
        let mut headers = HeaderMap::new();
        describe(&mut headers, &full);
        assert_eq!(headers["x-ratelimit-limit-concurrent"], "3");
        assert_eq!(headers["x-ratelimit-remaining-concurrent"], "0");
    }
}
