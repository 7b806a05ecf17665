//! `session`: what of a conversation is kept and sent.

use std::time::Duration;

use super::reader::{Choice, Reader, Section};

/// `session`.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Most tokens of stored context that are sent.
    pub max_tokens: u32,
    /// How long a session lives after its last turn.
    pub ttl: Duration,
    /// Stored tokens from which old turns are compressed.
    pub compression_threshold: u32,
    /// The model that writes summaries. Unset: the one that the turn asks for.
    pub summary_model: Option<String>,
    /// How long a turn waits for a summary before it goes on without.
    pub summary_timeout: Duration,
    /// How long a summary may take that no turn waits for.
    pub background_summary_timeout: Duration,
    /// Most sessions that are compressed at once in the background, by each instance.
    pub background_compressions: usize,
    /// Tokens of the model's window that are kept for the answer when a request sets no limit of its own.
    pub output_reserve: u32,
    /// Newest messages that are never compressed.
    pub keep_recent: u32,
    /// How the context is made to fit.
    pub strategy: CompressionStrategy,
    /// Whether a request without `session_id` begins a session.
    pub auto_create: bool,
    /// What becomes of a turn while another one of its session runs.
    pub concurrency: SessionConcurrency,
    /// How long a turn waits for those before it.
    pub queue_timeout: Duration,
    /// Most turns that wait for one session, on each instance and in all.
    pub queue_max: u32,
    /// Where sessions live. Unset: `redis` when Redis is configured, else `database`.
    pub store: Option<StoreKind>,
    /// Whether sessions in Redis are archived in the database, which restores what Redis loses.
    pub archive: bool,
}

/// `session.strategy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CompressionStrategy {
    /// Old turns are replaced by a summary.
    #[default]
    Summarize,
    /// Old turns are left out.
    Truncate,
}

/// `session.concurrency`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionConcurrency {
    /// It waits, first come, first served.
    #[default]
    Queue,
    /// It is refused with `session_busy`.
    Reject,
}

/// `session.store` and `idempotency.store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// The database of `data.database`.
    Database,
    /// The Redis of `data.redis`.
    Redis,
    /// The process; what is kept ends with it and is not shared.
    Memory,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            max_tokens: 4000,
            ttl: Duration::from_secs(3600),
            compression_threshold: 3000,
            summary_model: None,
            summary_timeout: Duration::from_secs(10),
            background_summary_timeout: Duration::from_secs(60),
            background_compressions: 8,
            output_reserve: 1024,
            keep_recent: 5,
            strategy: CompressionStrategy::default(),
            auto_create: false,
            concurrency: SessionConcurrency::default(),
            queue_timeout: Duration::from_secs(30),
            queue_max: 256,
            store: None,
            archive: true,
        }
    }
}

impl Choice for CompressionStrategy {
    const NAMES: &'static [(&'static str, Self)] =
        &[("summarize", Self::Summarize), ("truncate", Self::Truncate)];
}

impl Choice for SessionConcurrency {
    const NAMES: &'static [(&'static str, Self)] =
        &[("queue", Self::Queue), ("reject", Self::Reject)];
}

impl Choice for StoreKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("database", Self::Database),
        ("redis", Self::Redis),
        ("memory", Self::Memory),
    ];
}

impl Section for SessionConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.integer("max_tokens", 1..=100_000_000, &mut self.max_tokens);
        r.duration("ttl", &mut self.ttl);
        r.integer(
            "compression_threshold",
            1..=100_000_000,
            &mut self.compression_threshold,
        );
        r.text("summary_model", &mut self.summary_model);
        r.duration("summary_timeout", &mut self.summary_timeout);
        r.duration(
            "background_summary_timeout",
            &mut self.background_summary_timeout,
        );
        r.integer(
            "background_compressions",
            1..=1_000,
            &mut self.background_compressions,
        );
        r.integer("output_reserve", 1..=1_000_000, &mut self.output_reserve);
        r.integer("keep_recent", 1..=10_000, &mut self.keep_recent);
        r.choice("strategy", &mut self.strategy);
        r.boolean("auto_create", &mut self.auto_create);
        r.choice("concurrency", &mut self.concurrency);
        r.duration("queue_timeout", &mut self.queue_timeout);
        r.integer("queue_max", 1..=100_000, &mut self.queue_max);
        r.choice::<StoreKind>("store", &mut self.store);
        r.boolean("archive", &mut self.archive);
    }
}
