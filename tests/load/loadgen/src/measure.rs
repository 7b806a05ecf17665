//! What was seen in the window, and its report.
//!
//! Every latency is kept, so percentiles are exact; a window of seconds makes
//! some hundred thousand of them at most.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde::Serialize;

/// What the connections saw; only the time after [`Samples::begin`] counts.
#[derive(Debug, Default)]
pub struct Samples {
    counting: Cell<bool>,
    latencies: RefCell<Vec<Duration>>,
    first_events: RefCell<Vec<Duration>>,
    gaps: RefCell<Vec<Duration>>,
    events: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    last_error: RefCell<String>,
    open_streams: Cell<usize>,
}

impl Samples {
    /// Forgets the warm-up.
    pub fn begin(&self) {
        self.counting.set(true);
        self.errors.set(0);
    }

    /// One answer was read to its end.
    pub fn answer(&self, latency: Duration, size: usize) {
        if self.counting.get() {
            self.latencies.borrow_mut().push(latency);
            self.bytes.set(self.bytes.get() + size as u64);
        }
    }

    /// The first event of a stream arrived.
    pub fn stream_opened(&self, latency: Duration) {
        self.open_streams.set(self.open_streams.get() + 1);
        if self.counting.get() {
            self.first_events.borrow_mut().push(latency);
        }
    }

    /// A stream of which at least one event came is over.
    pub fn stream_closed(&self) {
        self.open_streams
            .set(self.open_streams.get().saturating_sub(1));
    }

    /// Time between two reads of a stream that ended events.
    pub fn gap(&self, gap: Duration) {
        if self.counting.get() {
            self.gaps.borrow_mut().push(gap);
        }
    }

    /// Events arrived.
    pub fn events(&self, count: u64) {
        if self.counting.get() {
            self.events.set(self.events.get() + count);
        }
    }

    /// A request failed. Errors of the warm-up are kept as text only.
    pub fn error(&self, message: String) {
        self.errors.set(self.errors.get() + 1);
        *self.last_error.borrow_mut() = message;
    }

    /// Streams that have delivered an event and are not over.
    pub fn open_streams(&self) -> usize {
        self.open_streams.get()
    }

    /// The latest error, or nothing.
    pub fn last_error(&self) -> String {
        self.last_error.borrow().clone()
    }
}

/// Microseconds at the usual percentiles.
#[derive(Debug, PartialEq, Serialize)]
pub struct Percentiles {
    count: usize,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Percentiles {
    /// Nearest-rank percentiles; zeros when there is no sample.
    fn of(samples: &RefCell<Vec<Duration>>) -> Self {
        let mut sorted: Vec<f64> = samples
            .borrow()
            .iter()
            .map(|latency| latency.as_secs_f64() * 1e6)
            .collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        // Per mille, so that the rank is exact integer arithmetic.
        let at = |per_mille: usize| {
            let rank = (count * per_mille).div_ceil(1_000).max(1);
            round(sorted.get(rank - 1).copied().unwrap_or(0.0))
        };
        Self {
            count,
            mean: round(sorted.iter().sum::<f64>() / count.max(1) as f64),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1_000),
        }
    }
}

/// To a tenth of a microsecond: more digits would be noise.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The result of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    connections: usize,
    elapsed_s: f64,
    /// Answers read to their end within the window.
    requests: usize,
    requests_per_s: f64,
    errors: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_error: String,
    bytes: u64,
    latency_us: Percentiles,
    events: u64,
    first_event_us: Percentiles,
    gap_us: Percentiles,
    open_streams: usize,
}

impl Report {
    /// Sums up what the window saw.
    pub fn new(samples: &Samples, elapsed: Duration, connections: usize) -> Self {
        let latency_us = Percentiles::of(&samples.latencies);
        Self {
            connections,
            elapsed_s: elapsed.as_secs_f64(),
            requests: latency_us.count,
            requests_per_s: round(latency_us.count as f64 / elapsed.as_secs_f64()),
            errors: samples.errors.get(),
            last_error: samples.last_error(),
            bytes: samples.bytes.get(),
            latency_us,
            events: samples.events.get(),
            first_event_us: Percentiles::of(&samples.first_events),
            gap_us: Percentiles::of(&samples.gaps),
            open_streams: samples.open_streams(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples = RefCell::new((1..=1_000).rev().map(Duration::from_micros).collect());
        let found = Percentiles::of(&samples);
        assert_eq!(found.count, 1_000);
        assert_eq!(
            (found.p50, found.p90, found.p99, found.p999, found.max),
            (500.0, 900.0, 990.0, 999.0, 1_000.0)
        );
        assert_eq!(found.mean, 500.5);
        assert_eq!(Percentiles::of(&RefCell::default()).max, 0.0);
    }

    #[test]
    fn the_warm_up_does_not_count() {
        let samples = Samples::default();
        samples.answer(Duration::from_secs(9), 1);
        samples.error("early".into());
        samples.stream_opened(Duration::from_secs(9));
        samples.begin();
        samples.answer(Duration::from_micros(5), 10);
        samples.events(3);
        let report = Report::new(&samples, Duration::from_secs(2), 1);
        assert_eq!((report.requests, report.errors, report.bytes), (1, 0, 10));
        assert_eq!((report.events, report.open_streams), (3, 1));
        assert_eq!(report.latency_us.max, 5.0);
        assert_eq!(report.requests_per_s, 0.5);
    }
}
