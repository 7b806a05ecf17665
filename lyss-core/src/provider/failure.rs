//! What providers of all protocols say alike when they refuse: pauses, and texts that must not leak a secret.

use std::time::Duration;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

/// The longest text of a provider that is passed on, in characters.
const MAX_MESSAGE: usize = 1000;

/// The longest pause that is believed.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// The pause that a provider asks for: `retry-after-ms`, else `retry-after` in seconds or as a date.
///
/// # Source
/// RFC 9110, section 10.2.3; `retry-after-ms` is what OpenAI's SDKs read first.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |number: f64| {
        (number >= 0.0 && number <= MAX_PAUSE.as_secs_f64())
            .then(|| Duration::from_secs_f64(number))
    };
    if let Some(ms) = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok())
        && let Some(pause) = seconds(ms / 1000.0)
    {
        return Some(pause);
    }
    let value = text("retry-after")?;
    if let Ok(number) = value.parse::<f64>() {
        return seconds(number);
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let ms = date.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    // A date that has passed means that the pause is over.
    let pause = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    (pause <= MAX_PAUSE).then_some(pause)
}

/// A provider's text made fit to be shown: our secrets blotted out, control characters dropped, length bounded.
pub(crate) fn scrub<'a>(text: &str, secrets: impl IntoIterator<Item = &'a SecretString>) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        let secret = secret.expose_secret();
        // A very short one is no secret, and would blot out half of the text.
        if secret.len() >= 6 && text.contains(secret) {
            text = text.replace(secret, "[redacted]");
        }
    }
    let mut shown: String = text
        .chars()
        .map(|character| {
            if character == '\n' || character == '\t' {
                ' '
            } else {
                character
            }
        })
        .filter(|character| !character.is_control())
        .take(MAX_MESSAGE + 1)
        .collect();
    if let Some((end, _)) = shown.char_indices().nth(MAX_MESSAGE) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pause(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        retry_after(&map)
    }

    #[test]
    fn reads_the_three_forms_of_a_pause() {
        assert_eq!(pause(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            pause(&[("retry-after", "1.5")]),
            Some(Duration::from_millis(1500))
        );
        let both = [("retry-after", "7"), ("retry-after-ms", "250.0")];
        assert_eq!(pause(&both), Some(Duration::from_millis(250)));
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(pause(&[("retry-after", past)]), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(90);
        let soon = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&soon)
            .unwrap();
        let read = pause(&[("retry-after", &soon)]).unwrap();
        assert!((85..=91).contains(&read.as_secs()), "{soon} {read:?}");
        for wrong in ["-1", "soon", "1e300", "NaN", ""] {
            assert_eq!(pause(&[("retry-after", wrong)]), None, "{wrong}");
        }
        assert_eq!(pause(&[]), None);
    }

    #[test]
    fn a_text_is_shown_without_secrets_and_bounded() {
        let key = SecretString::from("sk-secret-1");
        let shown = scrub("bad key sk-secret-1\nsk-secret-1\u{7}!", [&key]);
        assert_eq!(shown, "bad key [redacted] [redacted]!");
        let long = scrub(&"é".repeat(5000), []);
        assert_eq!(
            (long.chars().count(), long.ends_with('…')),
            (MAX_MESSAGE + 1, true)
        );
    }
}
