//! `max_rps` of rules and providers: at most N starts in any window of one second.
//!
//! With Redis the window is one for all instances (`shared.rs`); without it, and while it is away, each instance keeps
//! its own (`window.rs`). A target without `max_rps` costs nothing here.

#[cfg(feature = "redis")]
mod shared;
mod window;

#[cfg(feature = "redis")]
use std::time::Duration;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;

pub use window::RateWindow;

use crate::gateway::RoutingRule;

/// `max_rps` of one rule or one provider.
#[derive(Debug)]
pub struct RateLimit {
    /// What it is called where all instances count together.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    name: String,
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    limit: u32,
    own: RateWindow,
    /// Until when all instances together leave no place; not asked again before.
    full_until: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// The limit of a rule. Instances agree about what a rule is by what it says: rules of the configuration have no
    /// id.
    pub fn of_rule(rule: &RoutingRule, limit: u32) -> Self {
        let upstream = rule.upstream_model.as_deref().unwrap_or_default();
        let name = format!(
            "rule:{}.{}.{}.{}",
            rule.priority,
            encoded(&rule.model_name),
            encoded(&rule.provider_id),
            encoded(upstream),
        );
        Self::new(name, limit)
    }

    /// The limit of a provider, over all its keys.
    pub fn of_provider(id: &str, limit: u32) -> Self {
        Self::new(format!("provider:{}", encoded(id)), limit)
    }

    fn new(name: String, limit: u32) -> Self {
        Self {
            name,
            limit,
            own: RateWindow::new(limit),
            full_until: Mutex::new(None),
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_until.lock().is_some_and(|until| now < until)
    }

    #[cfg(feature = "redis")]
    fn full_for(&self, now: Instant, pause: Duration) {
        *self.full_until.lock() = Some(now + pause);
    }
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Takes places in windows: those that all instances share, if there is a Redis, else those of this instance.
#[derive(Debug, Default)]
pub struct RateLimits {
    #[cfg(feature = "redis")]
    shared: Option<shared::SharedWindows>,
    alone: AtomicU64,
}

impl RateLimits {
    /// Counts together with the other instances on this Redis.
    #[cfg(feature = "redis")]
    pub fn shared(redis: crate::redis::RedisHandle) -> Self {
        Self {
            shared: Some(shared::SharedWindows::new(redis)),
            ..Self::default()
        }
    }

    /// Takes a place in each of the windows, or in none; whether it did. Waits for Redis at most 50 ms, and counts alone
    /// while it does not answer.
    pub async fn take(&self, limits: &[&RateLimit]) -> bool {
        let now = Instant::now();
        if limits.iter().any(|limit| limit.is_full(now)) {
            return false;
        }
        // The own window first: it refuses for nothing, and knows what was started here when Redis goes away.
        for (taken, limit) in limits.iter().enumerate() {
            if !limit.own.try_take(now) {
                give_back(limits.get(..taken).unwrap_or_default(), now);
                return false;
            }
        }
        #[cfg(feature = "redis")]
        if let Some(shared) = self.shared.as_ref().filter(|_| !limits.is_empty()) {
            match shared.take(limits).await {
                shared::Told::Taken => {}
                shared::Told::Full(full, pause) => {
                    full.full_for(now, pause);
                    give_back(limits, now);
                    return false;
                }
                shared::Told::Nothing => {
                    self.alone.fetch_add(1, Relaxed);
                }
            }
        }
        true
    }

    /// How many calls were counted by this instance alone because Redis did not answer in time.
    pub fn alone(&self) -> u64 {
        self.alone.load(Relaxed)
    }
}

fn give_back(limits: &[&RateLimit], at: Instant) {
    for limit in limits {
        limit.own.give_back(at);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn both_or_none() {
        let limits = RateLimits::default();
        let (rule, provider) = (
            RateLimit::of_provider("rule", 3),
            RateLimit::of_provider("provider", 2),
        );
        assert!(limits.take(&[]).await);
        assert!(limits.take(&[&rule, &provider]).await);
        assert!(limits.take(&[&rule, &provider]).await);
        for _ in 0..5 {
            assert!(
                !limits.take(&[&rule, &provider]).await,
                "the provider is full"
            );
        }
        assert!(
            limits.take(&[&rule]).await,
            "refusals took nothing of the rule"
        );
        assert!(!limits.take(&[&rule]).await);
    }

    #[test]
    fn rules_are_told_apart_by_what_they_say() {
        let rule = |model: &str, provider: &str| RoutingRule {
            id: None,
            model_name: model.into(),
            provider_id: provider.into(),
            priority: 1,
            weight: 1,
            max_rps: Some(1),
            is_enabled: true,
            upstream_model: None,
        };
        let name = |rule: &RoutingRule| RateLimit::of_rule(rule, 1).name;
        let plain = rule("a", "b.c");
        assert_eq!(
            name(&plain),
            name(&RoutingRule {
                id: Some(7),
                max_rps: None,
                ..plain.clone()
            })
        );
        assert_ne!(name(&plain), name(&rule("a.b", "c")));
        assert_ne!(
            name(&plain),
            name(&RoutingRule {
                priority: 2,
                ..plain.clone()
            })
        );
        let renamed = RoutingRule {
            upstream_model: Some("d".into()),
            ..plain.clone()
        };
        assert_ne!(name(&plain), name(&renamed));
    }
}
