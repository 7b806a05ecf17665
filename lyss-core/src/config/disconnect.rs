//! `billing.on_disconnect`: a word, or bounds.

use super::node::Value;
use super::reader::{Reader, Section};
use crate::types::disconnect::{DrainBounds, OnDisconnect};

const ACCEPTS: &str = "cancel, drain, or drain_until: {seconds: N, tokens: N}";

/// The mapping that may stand in place of a word.
#[derive(Default)]
struct Until {
    drain_until: Option<Bounds>,
}

#[derive(Default)]
struct Bounds(DrainBounds);

impl Section for Until {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.optional("drain_until", &mut self.drain_until);
        if self.drain_until.is_none() {
            r.error_here(format!("accepted: {ACCEPTS}"));
        }
    }
}

impl Section for Bounds {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.integer("seconds", 0..=86_400, &mut self.0.seconds);
        r.integer("tokens", 0..=10_000_000, &mut self.0.tokens);
        if !r.has("seconds") && !r.has("tokens") {
            r.error_here("until when? accepted: seconds, tokens, or both");
        }
    }
}

impl Reader<'_, '_> {
    /// What becomes of a call whose caller has gone away.
    pub(super) fn on_disconnect(&mut self, key: &'static str, slot: &mut Option<OnDisconnect>) {
        let mapping = self
            .written(key)
            .is_some_and(|node| matches!(node.value, Value::Map(_)));
        if mapping || self.describes() {
            let mut until = Until::default();
            self.section(key, &mut until);
            if let Some(Bounds(bounds)) = until.drain_until {
                *slot = Some(OnDisconnect::DrainUntil(bounds));
            }
            if mapping {
                return;
            }
        }
        let read = |text: &str| match text {
            "cancel" => Ok(Some(OnDisconnect::Cancel)),
            "drain" => Ok(Some(OnDisconnect::Drain)),
            _ => Err("is not known".to_owned()),
        };
        self.parsed(key, ACCEPTS, read, slot);
    }
}
