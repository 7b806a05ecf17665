//! What the head of an answer says.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use crate::types::{
    CallContext, ContextUse, ReplyInfo, RequestId,
    rate::{RateStatus, WindowStatus},
    report::CallReport,
};

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// Whether a header says `true`.
pub(super) fn flag(headers: &HeaderMap, name: &str) -> Option<bool> {
    text(headers, name)?.parse().ok()
}

/// The service's id of the request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<RequestId> {
    RequestId::parse(text(headers, "x-request-id")?)
}

/// Leaves what an answer of any kind says in the call's report.
pub(super) fn report(headers: &HeaderMap, report: &CallReport) {
    if let Some(id) = request_id(headers) {
        report.set_request_id(id);
    }
    let window = |kind: &str| {
        let header = |part: &str| format!("x-ratelimit-{part}-{kind}");
        Some(WindowStatus {
            limit: number(headers, &header("limit"))?,
            remaining: number(headers, &header("remaining"))?,
            reset: duration(text(headers, &header("reset"))?)?,
        })
    };
    let status = RateStatus {
        requests: window("requests"),
        tokens: window("tokens"),
        concurrent: number(headers, "x-ratelimit-limit-concurrent"),
    };
    if status != RateStatus::default() {
        report.set_rate(status);
    }
}

/// What the service says about an answer. `session` is the one that the request names.
pub(super) fn info(headers: &HeaderMap, context: &CallContext, session: Option<&str>) -> ReplyInfo {
    let name = |header: &str| -> Arc<str> { text(headers, header).unwrap_or_default().into() };
    let replay_of = text(headers, "x-lyss-replay-of").and_then(RequestId::parse);
    ReplyInfo {
        request_id: request_id(headers).unwrap_or(context.request_id),
        provider: name("x-lyss-provider"),
        upstream_model: name("x-lyss-model"),
        // A header holds only ASCII.
        session_id: text(headers, "x-lyss-session-id")
            .or(session.filter(|id| *id != "new"))
            .map(Into::into),
        context: text(headers, "x-lyss-context").and_then(|word| {
            [ContextUse::Compressed, ContextUse::Truncated]
                .into_iter()
                .find(|context| context.as_str() == word)
        }),
        attempts: number(headers, "x-lyss-attempts")
            .and_then(|attempts| attempts.try_into().ok())
            .unwrap_or(0),
        memory_unavailable: text(headers, "x-lyss-memory") == Some("unavailable"),
        max_tokens_clamped: number(headers, "x-lyss-max-tokens-clamped"),
        upstream_request_id: None,
        replay_of,
    }
}

/// A duration as OpenAI writes it: `1s`, `6m0s`, `250ms`, `1m30.5s`.
fn duration(text: &str) -> Option<Duration> {
    let seconds = |text: &str| {
        let seconds: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    };
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    let text = text.strip_suffix('s')?;
    match text.split_once('m') {
        None => seconds(text),
        Some((minutes, rest)) => {
            let minutes: u64 = minutes.parse().ok()?;
            seconds(rest)?.checked_add(Duration::from_secs(minutes.checked_mul(60)?))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Credential;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, ms) in [
            ("0s", 0),
            ("1ms", 1),
            ("1.5s", 1500),
            ("59.999s", 59_999),
            ("1m0s", 60_000),
            ("1m30.05s", 90_050),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "",
            "1",
            "-1s",
            "xs",
            "1m",
            "NaNs",
            "99999999999999999999m1s",
            "1e300s",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn everything_that_is_said_is_kept() {
        let id = RequestId::new();
        let original = RequestId::new();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-request-id", id.to_string()),
            ("x-lyss-provider", "openai".into()),
            ("x-lyss-model", "gpt-4o".into()),
            ("x-lyss-session-id", "s1".into()),
            ("x-lyss-context", "truncated".into()),
            ("x-lyss-attempts", "2".into()),
            ("x-lyss-memory", "unavailable".into()),
            ("x-lyss-max-tokens-clamped", "7".into()),
            ("x-lyss-replay-of", original.to_string()),
            ("x-ratelimit-limit-tokens", "100".into()),
            ("x-ratelimit-remaining-tokens", "90".into()),
            ("x-ratelimit-reset-tokens", "1m0s".into()),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let context = CallContext::new(Credential::Anonymous);
        let info = info(&headers, &context, Some("new"));
        assert_eq!((info.request_id, info.replay_of), (id, Some(original)));
        assert_eq!(
            (&*info.provider, &*info.upstream_model),
            ("openai", "gpt-4o")
        );
        assert_eq!(info.session_id.as_deref(), Some("s1"));
        assert_eq!(info.context, Some(ContextUse::Truncated));
        assert_eq!((info.attempts, info.max_tokens_clamped), (2, Some(7)));
        assert!(info.memory_unavailable);
        report(&headers, &context.report);
        assert_eq!(context.report.request_id(), Some(id));
        let tokens = context.report.rate().unwrap().tokens.unwrap();
        assert_eq!((tokens.limit, tokens.remaining), (100, 90));
        assert_eq!(tokens.reset, Duration::from_secs(60));
    }
}
