//! What becomes of a call whose caller has gone away before its answer was complete.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of a call whose caller has gone away. In JSON `"cancel"`, `"drain"`, or
/// `{"drain_until": {"seconds": 30, "tokens": 2000}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OnDisconnect {
    /// The call upstream ends at once; what was delivered is counted and charged.
    Cancel,
    /// The answer is read to its end, and charged as the provider reports it.
    Drain,
    /// The answer is read on until one of the bounds is reached.
    DrainUntil(DrainBounds),
}

/// How far the answer of a caller that has gone is read; at least one bound is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainBounds {
    /// For so many seconds after the caller left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// For about so many tokens of the answer after the caller left: each chunk is counted by itself, which comes to
    /// somewhat more than the whole. Says nothing about an answer that comes as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

impl OnDisconnect {
    /// The default of calls whose answer comes as a whole: cancelled, they have delivered nothing and are charged all
    /// the same.
    pub const WHOLE: Self = Self::DrainUntil(DrainBounds {
        seconds: Some(30),
        tokens: None,
    });
    /// The default of streams.
    pub const STREAM: Self = Self::Cancel;

    /// How long the call may go on without its caller; `None` for as long as it takes.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Cancel => Some(Duration::ZERO),
            Self::Drain => None,
            Self::DrainUntil(bounds) => bounds.seconds.map(Duration::from_secs),
        }
    }

    /// How many more tokens of a stream are read without its caller; `None` for all of them.
    pub fn tokens(self) -> Option<u64> {
        match self {
            Self::Cancel => Some(0),
            Self::Drain => None,
            Self::DrainUntil(bounds) => bounds.tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn has_the_shape_of_the_configuration() {
        let read = |json: &str| serde_json::from_str::<OnDisconnect>(json).ok();
        assert_eq!(read(r#""cancel""#), Some(OnDisconnect::Cancel));
        assert_eq!(read(r#""drain""#), Some(OnDisconnect::Drain));
        let until = read(r#"{"drain_until":{"seconds":30}}"#).unwrap();
        assert_eq!(until, OnDisconnect::WHOLE);
        assert_eq!(until.time(), Some(Duration::from_secs(30)));
        assert_eq!(until.tokens(), None);
        assert_eq!(read(r#"{"drain_until":{"minutes":1}}"#), None);
        assert_eq!(
            serde_json::to_string(&until).unwrap(),
            r#"{"drain_until":{"seconds":30}}"#
        );
    }
}
