//! Sessions whose content the store below does not see.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Place, SealRing, Unreadable, is_sealed, run};
use crate::{
    error::{Error, ErrorKind, Result},
    session::{SessionStore, SharedSessionStore},
    types::{
        RequestId,
        session::{
            Appended, Begun, LoadedSession, MessagePage, Prefix, Session, SessionKey, SessionPage,
            StoredMessage, Ticket, Turn, Version,
        },
    },
};

/// The member under which sealed metadata lies in the object that the store below keeps.
const METADATA: &str = "lyss.sealed";

type Metadata = serde_json::Map<String, serde_json::Value>;

/// A [`SessionStore`] over another one: messages, system prompts, summaries and metadata are sealed on their way down
/// and opened on their way up. What was stored in the clear before is read as it is.
///
/// A message is bound to its session and turn; within one turn the order is the store's.
pub(crate) struct SealedSessions {
    below: SharedSessionStore,
    ring: SealRing,
    /// Whether new content is sealed, or only old content opened.
    seals: bool,
}

impl SealedSessions {
    /// Seals what goes into a store, or with `seals: false` only opens what comes out.
    pub fn new(below: SharedSessionStore, ring: SealRing, seals: bool) -> Self {
        Self { below, ring, seals }
    }

    fn of<'a>(&'a self, key: &'a SessionKey) -> Sealer<'a> {
        Sealer {
            ring: &self.ring,
            user_id: &key.user_id,
            id: &key.id,
        }
    }

    async fn sealed_turn(&self, key: &SessionKey, turn: &Turn, version: Version) -> Result<Turn> {
        let bytes = turn.messages.iter().map(|(json, _)| json.len()).sum();
        let (ring, key, turn) = (self.ring.clone(), key.clone(), turn.clone());
        run(bytes, move || {
            let sealer = Sealer {
                ring: &ring,
                user_id: &key.user_id,
                id: &key.id,
            };
            let message = sealer.place("message", version);
            let seal = |(json, tokens): (Bytes, u32)| (sealer.seal(&message, &json), tokens);
            Turn {
                system: turn
                    .system
                    .map(|system| sealer.seal(&sealer.place("system", 0), &system)),
                messages: turn.messages.into_iter().map(seal).collect(),
                ..turn
            }
        })
        .await
    }

    async fn opened(&self, key: &SessionKey, loaded: LoadedSession) -> Result<LoadedSession> {
        let bytes = loaded
            .messages
            .iter()
            .map(|message| message.json.len())
            .sum();
        let (ring, key) = (self.ring.clone(), key.clone());
        run(bytes, move || {
            let sealer = Sealer {
                ring: &ring,
                user_id: &key.user_id,
                id: &key.id,
            };
            let mut loaded = loaded;
            sealer.open_metadata(&mut loaded.session)?;
            if let Some(system) = &mut loaded.system {
                sealer.open(&sealer.place("system", 0), system)?;
            }
            let prefix = sealer.place("summary", loaded.prefix.version);
            if let Some(summary) = &mut loaded.prefix.summary {
                sealer.open(&prefix, summary)?;
            }
            sealer.open_messages(&mut loaded.messages)?;
            Ok(loaded)
        })
        .await?
    }
}

/// Seals and opens what is of one session.
struct Sealer<'a> {
    ring: &'a SealRing,
    user_id: &'a str,
    id: &'a str,
}

impl Sealer<'_> {
    fn place(&self, what: &str, number: u64) -> Place {
        Place::new(&[
            b"session",
            what.as_bytes(),
            self.user_id.as_bytes(),
            self.id.as_bytes(),
            &number.to_le_bytes(),
        ])
    }

    fn seal(&self, place: &Place, clear: &[u8]) -> Bytes {
        self.ring.seal(place, clear).into()
    }

    fn open(&self, place: &Place, stored: &mut Bytes) -> Result<()> {
        if is_sealed(stored) {
            *stored = self.ring.open(place, stored).map_err(unreadable)?.into();
        }
        Ok(())
    }

    fn open_messages(&self, messages: &mut [StoredMessage]) -> Result<()> {
        for message in messages {
            let place = self.place("message", message.turn);
            self.open(&place, &mut message.json)?;
        }
        Ok(())
    }

    fn seal_metadata(&self, metadata: &Metadata) -> Result<Metadata> {
        let json = serde_json::to_vec(metadata).map_err(|error| {
            Error::invalid("metadata", "cannot be written as JSON").with_source(error)
        })?;
        let sealed = self.ring.seal(&self.place("metadata", 0), &json);
        Ok(Metadata::from_iter([(METADATA.to_owned(), sealed.into())]))
    }

    fn open_metadata(&self, session: &mut Session) -> Result<()> {
        let Some(sealed) = session
            .metadata
            .as_ref()
            .filter(|metadata| metadata.len() == 1)
            .and_then(|metadata| metadata.get(METADATA)?.as_str())
            .filter(|text| is_sealed(text.as_bytes()))
        else {
            return Ok(());
        };
        let place = self.place("metadata", 0);
        let json = self
            .ring
            .open(&place, sealed.as_bytes())
            .map_err(unreadable)?;
        session.metadata =
            serde_json::from_slice(&json).map_err(|_| unreadable(Unreadable::Altered))?;
        Ok(())
    }
}

fn unreadable(why: Unreadable) -> Error {
    Error::new(
        ErrorKind::SessionCorrupt,
        "the stored session cannot be decrypted; it was left as it is",
    )
    .with_source(why)
}

#[async_trait]
impl SessionStore for SealedSessions {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        let metadata = match metadata {
            Some(metadata) if self.seals => Some(self.of(key).seal_metadata(&metadata)?),
            metadata => metadata,
        };
        let mut session = self.below.create(key, metadata).await?;
        self.of(key).open_metadata(&mut session)?;
        Ok(session)
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        let mut session = self.below.get(key).await?;
        if let Some(session) = &mut session {
            self.of(key).open_metadata(session)?;
        }
        Ok(session)
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        match self.below.load(key).await? {
            Some(loaded) => self.opened(key, loaded).await.map(Some),
            None => Ok(None),
        }
    }

    async fn begin_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<Begun> {
        match self.below.begin_turn(key, ticket).await? {
            Begun::Granted(Some(loaded)) => match self.opened(key, *loaded).await {
                Ok(loaded) => Ok(Begun::Granted(Some(Box::new(loaded)))),
                Err(error) => {
                    // Nobody will work with it: the next one need not wait for the lease.
                    let _ = self.below.end_turn(key, ticket).await;
                    Err(error)
                }
            },
            begun => Ok(begun),
        }
    }

    async fn renew_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<bool> {
        self.below.renew_turn(key, ticket).await
    }

    async fn end_turn(&self, key: &SessionKey, ticket: &Ticket) -> Result<()> {
        self.below.end_turn(key, ticket).await
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        if !self.seals {
            return self.below.append(key, turn, expected).await;
        }
        let sealed = self
            .sealed_turn(key, turn, expected.wrapping_add(1))
            .await?;
        self.below.append(key, &sealed, expected).await
    }

    async fn begin_compression(
        &self,
        key: &SessionKey,
        by: RequestId,
        lease: Duration,
    ) -> Result<bool> {
        self.below.begin_compression(key, by, lease).await
    }

    async fn compress(&self, key: &SessionKey, prefix: &Prefix, by: RequestId) -> Result<bool> {
        if !self.seals {
            return self.below.compress(key, prefix, by).await;
        }
        let sealer = self.of(key);
        let place = sealer.place("summary", prefix.version);
        let summary = prefix.summary.as_ref();
        let sealed = Prefix {
            summary: summary.map(|summary| sealer.seal(&place, summary)),
            ..prefix.clone()
        };
        self.below.compress(key, &sealed, by).await
    }

    async fn end_compression(&self, key: &SessionKey, by: RequestId) -> Result<()> {
        self.below.end_compression(key, by).await
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let Some(page) = self.below.messages(key, after, limit).await? else {
            return Ok(None);
        };
        let bytes = page.messages.iter().map(|message| message.json.len()).sum();
        let (ring, key) = (self.ring.clone(), key.clone());
        let opened = run(bytes, move || {
            let sealer = Sealer {
                ring: &ring,
                user_id: &key.user_id,
                id: &key.id,
            };
            let mut page = page;
            sealer.open_metadata(&mut page.session)?;
            sealer.open_messages(&mut page.messages)?;
            Ok(page)
        });
        opened.await?.map(Some)
    }

    /// A session that cannot be read is left out, and logged.
    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        let mut page = self.below.list(user_id, cursor, limit).await?;
        page.sessions.retain_mut(|session| {
            let id = session.id.clone();
            let sealer = Sealer {
                ring: &self.ring,
                user_id,
                id: &id,
            };
            sealer
                .open_metadata(session)
                .inspect_err(|error| {
                    tracing::warn!(?error, "a session is left out of a listing");
                })
                .is_ok()
        });
        Ok(page)
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        self.below.delete(key).await
    }

    async fn sweep(&self) -> Result<u64> {
        self.below.sweep().await
    }

    async fn ping(&self) -> Result<()> {
        self.below.ping().await
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
