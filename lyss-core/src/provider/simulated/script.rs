//! What the simulated provider is told to do besides answering.

use serde::Deserialize;

use crate::error::{Error, Result};

/// The provider's `options`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Script {
    /// Pause before every answer.
    pub(super) latency_ms: u64,
    /// How fast tokens come; unset: at once.
    pub(super) tokens_per_second: Option<f64>,
    /// Whether messages may hold directives. Off by default: they come from callers.
    directives: bool,
    faults: Faults,
}

/// What goes wrong in one call.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Faults {
    /// Refuse with this status.
    pub(super) status: Option<u16>,
    /// End after so many chunks, without an end.
    pub(super) cut: Option<u64>,
    /// Be silent for so long behind the first chunk.
    pub(super) stall_ms: u64,
    /// Send something that is no JSON.
    pub(super) bad_json: bool,
    /// What is wrong with the reported usage.
    pub(super) usage: Option<UsageFault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UsageFault {
    None,
    Wrong,
}

impl Script {
    pub(super) fn read(options: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let wrong = |why: &str| {
            Error::invalid(
                "options",
                format!("`options` of the simulated provider: {why}"),
            )
        };
        let script: Self =
            serde_json::from_value(options.into()).map_err(|e| wrong(&e.to_string()))?;
        if script
            .tokens_per_second
            .is_some_and(|rate| !(0.001..=1e9).contains(&rate))
        {
            return Err(wrong("`tokens_per_second` must lie between 0.001 and 1e9"));
        }
        if script
            .faults
            .status
            .is_some_and(|status| !(400..600).contains(&status))
        {
            return Err(wrong("`faults.status` must be an error status, 400 to 599"));
        }
        Ok(script)
    }

    /// The faults of a call with this message, and the message without the directives it had.
    pub(super) fn of(&self, text: String) -> (Faults, String) {
        let mut faults = self.faults.clone();
        if !self.directives {
            return (faults, text);
        }
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some((before, (inside, after))) = rest
            .split_once("[[")
            .and_then(|(before, tail)| Some((before, tail.split_once("]]")?)))
        {
            plain.push_str(before);
            if !faults.obey(inside) {
                plain.push_str("[[");
                plain.push_str(inside);
                plain.push_str("]]");
            }
            rest = after;
        }
        plain.push_str(rest);
        (faults, plain.trim().to_owned())
    }
}

impl Faults {
    /// Takes a directive; says whether it is one.
    fn obey(&mut self, directive: &str) -> bool {
        let (name, value) = directive.split_once(':').unwrap_or((directive, ""));
        let number = value.trim().parse::<u64>().ok();
        match (name.trim(), value.trim(), number) {
            ("status", _, Some(status @ 400..600)) => self.status = Some(status as u16),
            ("cut", _, Some(chunks)) => self.cut = Some(chunks),
            ("stall", _, Some(ms)) => self.stall_ms = ms.min(3_600_000),
            ("badjson", "", _) => self.bad_json = true,
            ("usage", "none", _) => self.usage = Some(UsageFault::None),
            ("usage", "wrong", _) => self.usage = Some(UsageFault::Wrong),
            _ => return false,
        }
        true
    }
}
