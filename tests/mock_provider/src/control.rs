//! What a test tells the provider to do: over HTTP (`POST /__control`) or from Rust.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::script::Script;

/// A script for requests that match; rules are tried in order, the first match answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Only requests whose path starts with this.
    pub path: Option<String>,
    /// Only requests for this model.
    pub model: Option<String>,
    /// Only requests with this API key.
    pub key: Option<String>,
    /// Only requests whose last user text contains this.
    pub contains: Option<String>,
    /// How many requests it answers; without a number, all until reset.
    pub times: Option<u64>,
    /// The answer.
    pub script: Script,
}

/// A control message. Its parts are applied in the order of the fields here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Forget rules, base script, required keys set by control, and `down`.
    pub reset: bool,
    /// Forget ledger entries and recorded requests.
    pub clear: bool,
    /// Accept connections and answer with RST.
    pub down: Option<bool>,
    /// API keys that are accepted; an empty list accepts any.
    pub keys: Option<Vec<String>>,
    /// The next requests of any path fail with `status` (500 by default).
    pub fail_next: Option<u64>,
    /// Status for `fail_next`.
    pub status: Option<u16>,
    /// Every request without a rule starts from this script.
    pub base: Option<Script>,
    /// Rules to add at the end.
    pub rules: Vec<Rule>,
    /// A script for exactly one request, whichever is next.
    pub push: Option<Script>,
}

#[derive(Debug, Default)]
struct State {
    base: Script,
    rules: VecDeque<Rule>,
    keys: Vec<String>,
    down: bool,
}

/// The state that control messages change.
#[derive(Debug)]
pub(crate) struct Controls {
    state: Mutex<State>,
    initial_keys: Vec<String>,
    initial_base: Script,
}

/// What rules look at.
#[derive(Debug, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) path: &'a str,
    pub(crate) model: &'a str,
    pub(crate) key: &'a str,
    pub(crate) text: &'a str,
}

impl Controls {
    pub(crate) fn new(keys: Vec<String>, base: Script) -> Self {
        let state = State {
            base: base.clone(),
            keys: keys.clone(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            initial_keys: keys,
            initial_base: base,
        }
    }

    pub(crate) fn apply(&self, control: Control) {
        let mut state = self.state.lock();
        if control.reset {
            *state = State {
                base: self.initial_base.clone(),
                keys: self.initial_keys.clone(),
                ..State::default()
            };
        }
        if let Some(down) = control.down {
            state.down = down;
        }
        if let Some(keys) = control.keys {
            state.keys = keys;
        }
        if let Some(times) = control.fail_next.filter(|times| *times > 0) {
            let script = Script::status(control.status.unwrap_or(500));
            state.rules.push_back(Rule {
                times: Some(times),
                script,
                ..Rule::default()
            });
        }
        if let Some(base) = control.base {
            state.base = base;
        }
        state.rules.extend(control.rules);
        if let Some(script) = control.push {
            state.rules.push_back(Rule {
                times: Some(1),
                script,
                ..Rule::default()
            });
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.state.lock().down
    }

    pub(crate) fn accepts_key(&self, key: &str) -> bool {
        let state = self.state.lock();
        state.keys.is_empty() || state.keys.iter().any(|accepted| accepted == key)
    }

    /// The script for a request; a rule with a number of times is used up by this.
    pub(crate) fn script_for(&self, subject: &Subject<'_>) -> Script {
        let mut state = self.state.lock();
        let Some(at) = state.rules.iter().position(|rule| rule.matches(subject)) else {
            return state.base.clone();
        };
        let Some(rule) = state.rules.get_mut(at) else {
            return Script::default();
        };
        let script = rule.script.clone();
        if let Some(times) = rule.times.as_mut() {
            *times = times.saturating_sub(1);
            if *times == 0 {
                state.rules.remove(at);
            }
        }
        script
    }
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.path
            .as_deref()
            .is_none_or(|path| subject.path.starts_with(path))
            && self
                .model
                .as_deref()
                .is_none_or(|model| subject.model == model)
            && self.key.as_deref().is_none_or(|key| subject.key == key)
            && self
                .contains
                .as_deref()
                .is_none_or(|text| subject.text.contains(text))
    }
}
