//! `memory`: what is remembered of a user beyond a session.

use std::time::Duration;

use super::reader::{Choice, Reader, Section};
use super::secret::Secret;

/// `memory`. Of `mem0` and `builtin` the first is used.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// The mem0 service, when there is one.
    pub mem0: Option<Mem0Config>,
    /// The gateway's own memory.
    pub builtin: Option<BuiltinMemoryConfig>,
    /// Which calls have memories and are remembered.
    pub scope: MemoryScope,
    /// Most bytes of memories in a prompt.
    pub max_bytes: u64,
}

/// `memory.mem0`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mem0Config {
    /// Base URL of the service.
    pub base_url: Option<String>,
    /// Its key.
    pub api_key: Option<Secret>,
    /// Most memories that go into a prompt.
    pub top_k: u32,
    /// How long a recall may take before the request goes on without.
    pub timeout: Duration,
    /// Which of mem0's two APIs.
    pub flavor: Mem0Flavor,
}

/// `memory.builtin`.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltinMemoryConfig {
    /// The model that makes the embeddings, routed like any other. After loading it is set.
    pub embedding_model: Option<String>,
    /// Most memories that go into a prompt.
    pub top_k: u32,
    /// How long a recall may take before the request goes on without.
    pub timeout: Duration,
    /// Memories of a user that are kept and searched; the oldest go first.
    pub max_memories: u32,
    /// Memories whose cosine similarity is below are not used. What is a good value depends on the model.
    pub min_score: f64,
}

/// `memory.mem0.flavor`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mem0Flavor {
    /// The hosted service.
    #[default]
    Platform,
    /// The self-hosted open-source server.
    Oss,
}

/// `memory.scope`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryScope {
    /// Those of sessions.
    #[default]
    Sessions,
    /// All.
    All,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            mem0: None,
            builtin: None,
            scope: MemoryScope::default(),
            max_bytes: 8 << 10,
        }
    }
}

impl Default for Mem0Config {
    fn default() -> Self {
        Self {
            base_url: None,
            api_key: None,
            top_k: 5,
            timeout: Duration::from_millis(500),
            flavor: Mem0Flavor::default(),
        }
    }
}

impl Default for BuiltinMemoryConfig {
    fn default() -> Self {
        Self {
            embedding_model: None,
            top_k: 5,
            timeout: Duration::from_millis(500),
            max_memories: 2_000,
            min_score: 0.25,
        }
    }
}

impl Choice for Mem0Flavor {
    const NAMES: &'static [(&'static str, Self)] =
        &[("platform", Self::Platform), ("oss", Self::Oss)];
}

impl Choice for MemoryScope {
    const NAMES: &'static [(&'static str, Self)] =
        &[("sessions", Self::Sessions), ("all", Self::All)];
}

impl Section for MemoryConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.optional("mem0", &mut self.mem0);
        r.optional("builtin", &mut self.builtin);
        r.choice("scope", &mut self.scope);
        r.size("max_bytes", 512..=1 << 20, &mut self.max_bytes);
    }
}

impl Section for Mem0Config {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.url("base_url", &["http", "https"], &mut self.base_url);
        r.secret("api_key", &mut self.api_key);
        r.integer("top_k", 1..=100, &mut self.top_k);
        r.duration("timeout", &mut self.timeout);
        r.choice("flavor", &mut self.flavor);
    }
}

impl Section for BuiltinMemoryConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.text("embedding_model", &mut self.embedding_model);
        r.integer("top_k", 1..=100, &mut self.top_k);
        r.duration("timeout", &mut self.timeout);
        r.integer("max_memories", 1..=100_000, &mut self.max_memories);
        r.fraction("min_score", -1.0..=1.0, &mut self.min_score);
    }
}
