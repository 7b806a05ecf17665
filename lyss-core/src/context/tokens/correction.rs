//! What providers report, against what was estimated: one running ratio for each upstream model.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use super::{Counter, TokenCount, Tokenizer};

/// The most models a ratio is kept of; the estimates of further ones are not corrected.
const MODELS_MOST: usize = 1_024;

/// Reports are believed within this factor of the estimate; others tell of something else than the vocabulary
/// (an image priced in its own way, a cache, a broken counter).
const BELIEVED: f32 = 4.0;

/// The bounds of a correction.
const LEAST: f32 = 0.5;
const MOST: f32 = 2.0;

/// What weighs as much as the estimate itself before anything is reported, in tokens.
const PRIOR: f32 = 256.0;

/// What is left of older reports with each new one: the last fifty count.
const KEPT: f32 = 0.98;

/// The ratios of one engine, by upstream model.
#[derive(Debug, Default)]
pub struct Corrections(ArcSwap<HashMap<Arc<str>, Arc<Ratio>>>);

impl Corrections {
    /// A counter for a model whose estimates are corrected by what was reported for that model.
    pub fn counter(&self, upstream_model: &str) -> Counter {
        Counter {
            ratio: self.0.load().get(upstream_model).cloned(),
            ..Counter::for_model(upstream_model)
        }
    }

    /// Learns from one answer: the prompt as counted here, and its tokens as the provider reported them. Does nothing for
    /// models whose tokens are counted exactly.
    pub fn learn(&self, upstream_model: &str, counted: &TokenCount, reported: u64) {
        if Counter::for_model(upstream_model).tokenizer() == Tokenizer::Estimate
            && let Some(ratio) = self.ratio(upstream_model)
        {
            ratio.learn(counted.uncorrected, reported);
        }
    }

    /// Whether to learn from a model's next report: from the first of each model, then from one of 64, so that a
    /// gateway need not count what it only passes on.
    pub fn wants(&self, upstream_model: &str) -> bool {
        self.ratio(upstream_model)
            .is_some_and(|ratio| ratio.is_due())
    }

    /// Reported by estimated tokens of a model, within its bounds; `None` if nothing was reported yet.
    pub fn ratio_of(&self, upstream_model: &str) -> Option<f32> {
        self.0.load().get(upstream_model).map(|ratio| ratio.value())
    }

    fn ratio(&self, upstream_model: &str) -> Option<Arc<Ratio>> {
        if let Some(ratio) = self.0.load().get(upstream_model) {
            return Some(Arc::clone(ratio));
        }
        self.0.rcu(|ratios| {
            let mut ratios = HashMap::clone(ratios);
            if ratios.len() < MODELS_MOST {
                ratios.entry(upstream_model.into()).or_default();
            }
            ratios
        });
        self.0.load().get(upstream_model).cloned()
    }
}

/// Reported and estimated tokens of one model, older ones weighing less. One word each, so that nobody waits.
#[derive(Debug)]
pub(super) struct Ratio {
    /// Two `f32`: what was reported, and what was estimated.
    sums: AtomicU64,
    /// How often somebody asked whether to learn.
    asked: AtomicU64,
}

impl Default for Ratio {
    fn default() -> Self {
        Self {
            sums: AtomicU64::new(pack(PRIOR, PRIOR)),
            asked: AtomicU64::new(0),
        }
    }
}

impl Ratio {
    fn learn(&self, estimated: u64, reported: u64) {
        let (new_reported, new_estimated) = (reported as f32, estimated as f32);
        if new_reported > new_estimated * BELIEVED || new_estimated > new_reported * BELIEVED {
            return;
        }
        let add = |sums| {
            let (reported, estimated) = unpack(sums);
            Some(pack(
                reported * KEPT + new_reported,
                estimated * KEPT + new_estimated,
            ))
        };
        // The closure always has a new value.
        let _ = self.sums.fetch_update(Relaxed, Relaxed, add);
    }

    fn is_due(&self) -> bool {
        let asked = self.asked.fetch_add(1, Relaxed);
        asked < 32 || asked.is_multiple_of(64)
    }

    fn value(&self) -> f32 {
        let (reported, estimated) = unpack(self.sums.load(Relaxed));
        match reported / estimated {
            ratio if ratio.is_finite() => ratio.clamp(LEAST, MOST),
            _ => 1.0,
        }
    }

    /// An estimate, corrected and rounded up.
    pub fn apply(&self, tokens: u64) -> u64 {
        (tokens as f64 * f64::from(self.value())).ceil() as u64
    }
}

fn pack(high: f32, low: f32) -> u64 {
    u64::from(high.to_bits()) << 32 | u64::from(low.to_bits())
}

fn unpack(word: u64) -> (f32, f32) {
    (
        f32::from_bits((word >> 32) as u32),
        f32::from_bits(word as u32),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counted(uncorrected: u64) -> TokenCount {
        TokenCount {
            uncorrected,
            ..TokenCount::default()
        }
    }

    #[test]
    fn an_estimate_approaches_what_is_reported() {
        let corrections = Corrections::default();
        let text = "一二三四五六七八九十".repeat(20);
        let before = corrections.counter("qwen-max").text(&text);
        for _ in 0..200 {
            corrections.learn("qwen-max", &counted(1_000), 1_300);
        }
        let after = corrections.counter("qwen-max").text(&text);
        assert_eq!(after, (f64::from(before) * 1.3).ceil() as u32);
        assert_eq!(corrections.counter("qwen-plus").text(&text), before);
        assert_eq!(corrections.ratio_of("qwen-plus"), None);
    }

    #[test]
    fn a_single_report_moves_little_and_an_absurd_one_nothing() {
        let corrections = Corrections::default();
        corrections.learn("m", &counted(10), 20);
        let ratio = corrections.ratio_of("m").unwrap();
        assert!((1.0..1.05).contains(&ratio), "{ratio}");
        for (own, reported) in [(10, 1_000), (1_000, 1), (0, 5), (5, 0), (1, u64::MAX)] {
            corrections.learn("m", &counted(own), reported);
        }
        assert_eq!(corrections.ratio_of("m"), Some(ratio));
        for _ in 0..500 {
            corrections.learn("m", &counted(100), 399);
        }
        assert_eq!(corrections.ratio_of("m"), Some(MOST));
    }

    #[cfg(feature = "tiktoken")]
    #[test]
    fn exact_counts_are_not_corrected() {
        let corrections = Corrections::default();
        for _ in 0..100 {
            corrections.learn("gpt-4o", &counted(100), 200);
        }
        assert_eq!(corrections.counter("gpt-4o").text("hello world"), 2);
    }

    #[test]
    fn the_number_of_models_is_bounded_and_threads_do_not_lose_each_other() {
        let corrections = Corrections::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let corrections = &corrections;
                scope.spawn(move || {
                    for index in 0..600 {
                        let model = format!("model-{}", index + 300 * thread);
                        corrections.learn(&model, &counted(1_000), 1_500);
                    }
                });
            }
        });
        let known = (0..2_000)
            .filter(|index| corrections.ratio_of(&format!("model-{index}")).is_some())
            .count();
        assert_eq!(known, MODELS_MOST);
    }

    #[test]
    fn learning_is_asked_for_less_and_less() {
        let corrections = Corrections::default();
        let wanted = (0..6_432).filter(|_| corrections.wants("m")).count();
        assert_eq!(wanted, 32 + 100);
    }
}
