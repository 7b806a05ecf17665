//! How many tokens a request may take, at a glance: what its limit is charged with until its end tells.

use crate::types::{
    RawObject,
    chat::{choices, output_limit},
};

/// Bytes of text that one token has, about.
const BYTES: u64 = 4;
/// The output of a request that sets no limit, about.
const OUTPUT: u64 = 500;
/// What an image, sound or file within the body takes, about.
const MEDIA: u64 = 1000;
/// From so many bytes on a string of the body may be an image, sound or file.
const MEDIA_LEAST: usize = 4096;
/// How much of such a string is looked at.
const LOOK: usize = 512;

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// The prompt, about, and the output limit that the request sets.
    pub asked: u64,
    /// What is added for an output without a limit.
    pub unlimited: u64,
}

/// The estimate of a chat or embeddings request. What a session adds to it is not known yet.
pub(crate) fn estimate(body: &RawObject, answers: bool) -> Estimate {
    let input = input(body.received());
    let choices = choices(body);
    match (answers, output_limit(body)) {
        (false, _) => Estimate {
            asked: input,
            unlimited: 0,
        },
        (true, Some(limit)) => Estimate {
            asked: input.saturating_add(limit.saturating_mul(choices)),
            unlimited: 0,
        },
        (true, None) => Estimate {
            asked: input,
            unlimited: OUTPUT.saturating_mul(choices),
        },
    }
}

fn input(body: &[u8]) -> u64 {
    let (mut bytes, mut media) = (body.len(), 0_u64);
    if body.len() >= MEDIA_LEAST {
        let mut end = 0;
        for quote in memchr::memchr_iter(b'"', body) {
            if let Some(between) = body.get(end..quote)
                && is_media(between)
            {
                bytes -= between.len();
                media += 1;
            }
            end = quote + 1;
        }
    }
    (bytes as u64)
        .div_ceil(BYTES)
        .saturating_add(media * MEDIA)
        .max(1)
}

/// Whether a string is no text: long, of ASCII, and without a space.
fn is_media(text: &[u8]) -> bool {
    let is_code = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
    text.len() >= MEDIA_LEAST
        && text
            .get(..LOOK)
            .is_some_and(|start| start.iter().all(is_code))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(json: &str) -> Estimate {
        estimate(&RawObject::parse(json.to_owned().into()).unwrap(), true)
    }

    #[test]
    fn what_the_request_says() {
        let short = r#"{"model":"m","messages":[]}"#;
        assert_eq!(
            of(short),
            Estimate {
                asked: 7,
                unlimited: OUTPUT
            }
        );
        let limited = of(r#"{"max_tokens":50,"n":3}"#);
        assert_eq!(
            limited,
            Estimate {
                asked: 6 + 150,
                unlimited: 0
            }
        );
        let newer = of(r#"{"max_tokens":50,"max_completion_tokens":7}"#);
        assert_eq!(newer.asked, 11 + 7);
        let odd = of(r#"{"max_tokens":"many","n":0}"#);
        assert_eq!(
            odd,
            Estimate {
                asked: 7,
                unlimited: OUTPUT
            }
        );
        assert_eq!(
            of(r#"{"max_tokens":18446744073709551615,"n":9}"#).asked,
            u64::MAX
        );
        let body = RawObject::parse(r#"{"input":"x","max_tokens":9}"#.into()).unwrap();
        assert_eq!(
            estimate(&body, false),
            Estimate {
                asked: 7,
                unlimited: 0
            }
        );
    }

    #[test]
    fn an_image_is_not_a_million_tokens() {
        let image = "iVBORw0KGgo+/".repeat(100_000);
        let message =
            format!(r#"{{"m":[{{"url":"data:image/png;base64,{image}"}},{{"data":"{image}"}}]}}"#);
        assert!(
            (2000..2100).contains(&of(&message).asked),
            "{:?}",
            of(&message)
        );
        let words = "of words ".repeat(10_000);
        assert_eq!(of(&format!(r#"{{"m":"{words}"}}"#)).asked, 22_502);
        let chinese = "\u{4f60}".repeat(10_000);
        assert_eq!(of(&format!(r#"{{"m":"{chinese}"}}"#)).asked, 7502);
    }
}
