//! The gateway's own memory, for small scale: what users wrote, with embeddings, in the database.
//!
//! What is remembered are the user's own messages, each as it was written, up to [`MEMORY_CHARS`]; nothing is inferred.
//! A search compares with the newest memories of the user in this process; there is no index. The embeddings come
//! through the gateway's own routes, are logged like any other call of the user, and are never stored elsewhere.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Memorized, Memory, SpokenTurn, beginning};
use crate::{
    database::{Database, NewMemory},
    error::{Error, ErrorKind, Result},
    seal::{Origin, SealedMemories},
    types::RequestId,
};

/// Characters of one memory; what follows is not remembered.
const MEMORY_CHARS: usize = 2_000;

/// Makes embeddings.
#[async_trait]
pub(crate) trait Embedder: Send + Sync + 'static {
    /// One vector for each text, in order; the call is made for the user, and in the session's name.
    async fn embed(
        &self,
        user_id: &str,
        session_id: Option<&str>,
        texts: &[String],
    ) -> Result<Vec<Vec<f32>>>;
}

/// The memory of a database.
pub(crate) struct BuiltinMemory {
    pub database: Database,
    pub embedder: Arc<dyn Embedder>,
    /// Of which model the embeddings are: others cannot be compared with them.
    pub model: String,
    /// Memories of a user that are kept, and searched.
    pub most: u32,
    /// Memories that fit less well (cosine) are not found.
    pub min_score: f64,
    /// Seals what is stored.
    pub seal: SealedMemories,
}

#[async_trait]
impl Memory for BuiltinMemory {
    async fn search(&self, user_id: &str, query: &str, limit: usize) -> Result<Vec<Memorized>> {
        if !self.database.has_memories(user_id, &self.model).await? {
            // Nothing to compare with: the embedding would be for nothing.
            return Ok(Vec::new());
        }
        let query = [query.to_owned()];
        let vectors = self.embedder.embed(user_id, None, &query).await?;
        let query = vectors.into_iter().next().unwrap_or_default();
        let stored = self
            .database
            .memories(user_id, &self.model, self.most)
            .await?;
        let (owner, min_score) = (user_id.to_owned(), self.min_score);
        let (seal, user_id) = (self.seal.clone(), user_id.to_owned());
        let ranked = tokio::task::spawn_blocking(move || {
            let open = |(request_id, text, vector): (String, String, Vec<u8>)| {
                let of = Origin {
                    user_id: &user_id,
                    request_id: &request_id,
                };
                seal.open(of, text, vector)
                    .inspect_err(|why| tracing::warn!(%why, "a memory cannot be read"))
                    .ok()
            };
            let mut ranked: Vec<(f64, String)> = stored
                .into_iter()
                .filter_map(open)
                .filter_map(|(text, vector)| Some((similarity(&query, &vector)?, text)))
                .filter(|(score, _)| *score >= min_score)
                .collect();
            ranked.sort_by(|(left, _), (right, _)| right.total_cmp(left));
            ranked.dedup_by(|(_, left), (_, right)| left == right);
            ranked.truncate(limit);
            ranked
        });
        let ranked = ranked.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the memories cannot be compared").with_source(error)
        })?;
        let memorized = |(score, text)| Memorized {
            text,
            user_id: Some(owner.clone()),
            score: Some(score),
        };
        Ok(ranked.into_iter().map(memorized).collect())
    }

    async fn add(&self, turn: &SpokenTurn) -> Result<()> {
        let request_id = RequestId::parse(&turn.request_id)
            .ok_or_else(|| Error::invalid("request_id", "a turn's id must be a UUIDv7"))?;
        let texts: Vec<String> = turn
            .messages
            .iter()
            .filter(|message| message.role == "user")
            // PostgreSQL's text cannot hold NUL.
            .map(|message| beginning(&message.content, MEMORY_CHARS).replace('\0', " "))
            .filter(|text| !text.trim().is_empty())
            .collect();
        if texts.is_empty() {
            return Ok(());
        }
        let session_id = turn.session_id.as_deref();
        let vectors = self
            .embedder
            .embed(&turn.user_id, session_id, &texts)
            .await?;
        if vectors.len() != texts.len() {
            return Err(Error::new(
                ErrorKind::UpstreamInvalidResponse,
                "there is not one embedding for each text",
            ));
        }
        let memories = texts.into_iter().zip(vectors);
        let of = Origin {
            user_id: &turn.user_id,
            request_id: &turn.request_id,
        };
        let memories: Vec<NewMemory> = memories
            .map(|(text, vector)| {
                let (text, embedding) = self.seal.seal(of, text, bytes_of(&vector));
                NewMemory { text, embedding }
            })
            .collect();
        self.database
            .remember(
                &turn.user_id,
                session_id,
                request_id,
                &self.model,
                &memories,
                self.most,
            )
            .await
    }

    async fn forget(&self, user_id: &str, session_id: &str) -> Result<()> {
        self.database.forget_session(user_id, session_id).await
    }
}

/// A vector as it is stored: little-endian float32.
fn bytes_of(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The cosine of the angle between a vector and a stored one; `None` if they cannot be compared.
fn similarity(query: &[f32], stored: &[u8]) -> Option<f64> {
    if stored.len() != query.len() * 4 {
        return None;
    }
    let (mut dot, mut left, mut right) = (0.0, 0.0, 0.0);
    for (x, bytes) in query.iter().zip(stored.chunks_exact(4)) {
        let y = f32::from_le_bytes(bytes.try_into().ok()?);
        let (x, y) = (f64::from(*x), f64::from(y));
        dot += x * y;
        left += x * x;
        right += y * y;
    }
    let cosine = dot / (left.sqrt() * right.sqrt());
    cosine.is_finite().then_some(cosine)
}

#[cfg(test)]
mod similarity_tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn similarity_is_the_cosine() {
        let of = |left: &[f32], right: &[f32]| similarity(left, &bytes_of(right));
        assert!((of(&[1.0, 0.0], &[2.0, 0.0]).unwrap() - 1.0).abs() < 1e-9);
        assert!(of(&[1.0, 0.0], &[0.0, 3.0]).unwrap().abs() < 1e-9);
        assert!((of(&[1.0, 1.0], &[-1.0, -1.0]).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(of(&[1.0], &[1.0, 0.0]), None, "of another model");
        assert_eq!(of(&[0.0], &[1.0]), None);
    }
}
