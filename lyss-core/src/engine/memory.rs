//! From the configuration to the memory in use.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{Inner, upkeep};
use crate::{
    config::{Config, MemoryScope},
    error::{Error, ErrorKind, Result},
    memory::{BuiltinMemory, Embedder, Handover, Mem0, Memories, Memory, MemorySettings, TOPIC},
    pipeline,
    provider::transport::{HyperTransport, TransportConfig},
    spool::Outbox,
    types::EmbeddingRequest,
};

/// Memories of one call, and the deadline, for a memory that has no configuration of its own.
const TOP_K: u32 = 5;
const TIMEOUT: Duration = Duration::from_millis(500);

/// A memory that is not in force yet.
pub(super) struct Opened {
    memories: Arc<Memories>,
    outbox: Arc<Outbox>,
    /// Whether nothing is handed on yet.
    fresh: bool,
}

/// Makes the memory of a configuration; `None` if there is none.
///
/// # Errors
/// `invalid_value` for what cannot be put into force, `internal` if the outbox cannot be made.
pub(super) fn open(inner: &Arc<Inner>, config: &Config) -> Result<Option<Opened>> {
    let found = match &inner.own_memory {
        Some(memory) => Some((Arc::clone(memory), TOP_K, TIMEOUT)),
        None => configured(inner, config)?,
    };
    let Some((memory, top_k, timeout)) = found else {
        return Ok(None);
    };
    let (outbox, fresh) = inner.topics.open(TOPIC)?;
    let settings = MemorySettings {
        top_k: usize::try_from(top_k).unwrap_or(usize::MAX),
        timeout,
        max_bytes: usize::try_from(config.memory.max_bytes).unwrap_or(usize::MAX),
        stateless: config.memory.scope == MemoryScope::All,
    };
    Ok(Some(Opened {
        memories: Arc::new(Memories::new(
            memory,
            settings,
            Arc::clone(&outbox),
            inner.keys_at_rest.memories(),
        )),
        outbox,
        fresh,
    }))
}

/// Takes a memory into use, or none; with the first one begins the loop that hands turns on.
pub(super) fn put_into_force(inner: &Arc<Inner>, opened: Option<Opened>) {
    let memories = opened.as_ref().map(|opened| Arc::clone(&opened.memories));
    inner.memories.store(memories);
    if let Some(opened) = opened.filter(|opened| opened.fresh) {
        let handover = Handover {
            inner: Arc::downgrade(inner),
            durable_sessions: inner.durable_sessions,
            seal: inner.keys_at_rest.memories(),
        };
        upkeep::spawn(inner, opened.outbox.consume(Arc::new(handover)));
    }
}

type Configured = Option<(Arc<dyn Memory>, u32, Duration)>;

fn configured(inner: &Arc<Inner>, config: &Config) -> Result<Configured> {
    if let Some(mem0) = &config.memory.mem0 {
        let key = mem0.api_key.as_ref();
        let key = key.map(|key| SecretString::from(key.expose()));
        let transport = HyperTransport::new(&TransportConfig::default())?;
        let memory = Mem0::new(
            mem0.flavor,
            mem0.base_url.as_deref(),
            key.as_ref(),
            Arc::new(transport),
        )?;
        return Ok(Some((Arc::new(memory), mem0.top_k, mem0.timeout)));
    }
    let Some(builtin) = &config.memory.builtin else {
        return Ok(None);
    };
    let model = builtin.embedding_model.clone().ok_or_else(|| {
        Error::invalid(
            "memory.builtin.embedding_model",
            "`memory.builtin.embedding_model` is required",
        )
    })?;
    let memory = BuiltinMemory {
        database: inner.database.clone(),
        embedder: Arc::new(OwnEmbeddings {
            inner: Arc::downgrade(inner),
            model: model.clone(),
        }),
        model,
        most: builtin.max_memories,
        min_score: builtin.min_score,
        seal: inner.keys_at_rest.memories(),
    };
    Ok(Some((Arc::new(memory), builtin.top_k, builtin.timeout)))
}

/// Embeddings by the gateway's own routes.
struct OwnEmbeddings {
    inner: Weak<Inner>,
    model: String,
}

#[async_trait]
impl Embedder for OwnEmbeddings {
    async fn embed(
        &self,
        user_id: &str,
        session_id: Option<&str>,
        texts: &[String],
    ) -> Result<Vec<Vec<f32>>> {
        #[derive(serde::Deserialize)]
        struct Entry {
            index: usize,
            embedding: Vec<f32>,
        }
        let unreadable = || {
            Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "the embeddings for the memory cannot be read",
            )
        };
        let inner = self
            .inner
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::ShuttingDown, "the engine is going down"))?;
        let body =
            serde_json::json!({"model": self.model, "input": texts, "encoding_format": "float"});
        let request = EmbeddingRequest::parse(body.to_string().into())?;
        let answer = pipeline::embed_for_memory(inner, user_id, session_id, request).await?;
        let data = answer.get("data").ok_or_else(unreadable)?;
        let mut entries: Vec<Entry> = data.decode().map_err(|_| unreadable())?;
        entries.sort_by_key(|entry| entry.index);
        Ok(entries.into_iter().map(|entry| entry.embedding).collect())
    }
}
