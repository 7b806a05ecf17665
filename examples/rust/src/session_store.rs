//! A session store: one JSON file a session.
//!
//! For one process, and conversations that are not large: every turn writes the whole file. It does not compress.

use std::{
    fmt::Write,
    io::ErrorKind as Io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use lyss_core::{
    Error, ErrorKind, Result,
    session::SessionStore,
    types::{
        Session, SessionKey, StoredMessage, Turn, Version,
        session::{Appended, LoadedSession, MessagePage, Prefix, SessionPage, SessionStatus},
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{fs, sync::Mutex};

type Metadata = serde_json::Map<String, serde_json::Value>;

/// Sessions in a directory: one below it a user, in that one file a session, both named by hashes, since an id may be
/// any text.
#[derive(Debug)]
pub struct FileSessions {
    dir: PathBuf,
    ttl: Duration,
    /// Reading a session and writing it again is one step.
    one_at_a_time: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    session: Session,
    version: Version,
    history: String,
    system: Option<String>,
    messages: Vec<Message>,
    last_request: Option<String>,
    expires_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Message {
    turn: Version,
    tokens: u32,
    /// As text, not as a value: it comes back byte for byte.
    json: String,
}

impl FileSessions {
    /// Sessions that live for `ttl` after their last use.
    pub fn new(dir: impl Into<PathBuf>, ttl: Duration) -> Self {
        Self {
            dir: dir.into(),
            ttl,
            one_at_a_time: Mutex::default(),
        }
    }

    fn path(&self, key: &SessionKey) -> PathBuf {
        let user = self.dir.join(hash(&key.user_id));
        user.join(hash(&key.id)).with_extension("json")
    }

    async fn read(&self, path: PathBuf) -> Result<Option<Stored>> {
        let text = match fs::read(path).await {
            Ok(text) => text,
            Err(error) if error.kind() == Io::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                ErrorKind::SessionCorrupt,
                "the session's file cannot be read",
            )
            .with_source(error)
        })?;
        Ok(Some(stored).filter(|stored| stored.expires_ms > now_ms()))
    }

    /// Writes a session, whole or not at all, and renews its life.
    async fn write(&self, key: &SessionKey, stored: &mut Stored) -> Result<()> {
        let ttl = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        stored.expires_ms = now_ms().saturating_add(ttl);
        let path = self.path(key);
        let text = serde_json::to_vec(stored).map_err(unavailable)?;
        if let Some(user) = path.parent() {
            fs::create_dir_all(user).await.map_err(unavailable)?;
        }
        let new = path.with_extension("new");
        fs::write(&new, text).await.map_err(unavailable)?;
        fs::rename(new, path).await.map_err(unavailable)
    }
}

impl Stored {
    fn new(key: &SessionKey) -> Self {
        let now = now_ms();
        Self {
            session: Session {
                id: key.id.clone(),
                user_id: key.user_id.clone(),
                message_count: 0,
                token_count: 0,
                created_ms: now,
                last_activity_ms: now,
                compressed_count: 0,
                status: SessionStatus::Active,
                metadata: None,
            },
            version: 0,
            history: String::new(),
            system: None,
            messages: Vec::new(),
            last_request: None,
            expires_ms: 0,
        }
    }

    fn append(&mut self, turn: &Turn) -> Result<()> {
        self.version += 1;
        for (json, tokens) in &turn.messages {
            self.session.message_count += 1;
            self.session.token_count += u64::from(*tokens);
            self.messages.push(Message {
                turn: self.version,
                tokens: *tokens,
                json: text(json)?,
            });
        }
        if let Some(system) = &turn.system {
            self.system = Some(text(system)?);
        }
        self.history.clone_from(&turn.history);
        self.last_request = Some(turn.request_id.to_string());
        self.session.last_activity_ms = now_ms().max(self.session.last_activity_ms);
        Ok(())
    }

    fn messages(&self) -> impl Iterator<Item = StoredMessage> {
        (1..)
            .zip(&self.messages)
            .map(|(seq, message)| StoredMessage {
                seq,
                turn: message.turn,
                json: Bytes::copy_from_slice(message.json.as_bytes()),
                tokens: message.tokens,
            })
    }
}

#[async_trait]
impl SessionStore for FileSessions {
    async fn create(&self, key: &SessionKey, metadata: Option<Metadata>) -> Result<Session> {
        let _alone = self.one_at_a_time.lock().await;
        let mut stored = match self.read(self.path(key)).await? {
            Some(stored) => stored,
            None => {
                let mut new = Stored::new(key);
                new.session.metadata = metadata;
                new
            }
        };
        self.write(key, &mut stored).await?;
        Ok(stored.session)
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        let stored = self.read(self.path(key)).await?;
        Ok(stored.map(|stored| stored.session))
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let _alone = self.one_at_a_time.lock().await;
        let Some(mut stored) = self.read(self.path(key)).await? else {
            return Ok(None);
        };
        self.write(key, &mut stored).await?;
        Ok(Some(LoadedSession {
            messages: stored.messages().collect(),
            session: stored.session,
            version: stored.version,
            history: stored.history,
            system: stored.system.map(Bytes::from),
            prefix: Prefix::default(),
        }))
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        let _alone = self.one_at_a_time.lock().await;
        let found = self.read(self.path(key)).await?;
        let mut stored = found.unwrap_or_else(|| Stored::new(key));
        // The same turn again: its first answer did not arrive.
        if stored.last_request != Some(turn.request_id.to_string()) {
            if stored.version != expected {
                return Err(Error::new(
                    ErrorKind::SessionConflict,
                    "another turn of this session was stored meanwhile, or it was deleted",
                ));
            }
            stored.append(turn)?;
            self.write(key, &mut stored).await?;
        }
        Ok(Appended::At(stored.version))
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let stored = self.read(self.path(key)).await?;
        Ok(stored.map(|stored| MessagePage {
            messages: stored
                .messages()
                .filter(|message| message.seq > after)
                .take(limit)
                .collect(),
            session: stored.session,
        }))
    }

    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        let after = cursor.map(place).transpose()?;
        let mut sessions = Vec::new();
        match fs::read_dir(self.dir.join(hash(user_id))).await {
            Ok(mut files) => {
                while let Some(file) = files.next_entry().await.map_err(unavailable)? {
                    let path = file.path();
                    if path
                        .extension()
                        .is_some_and(|extension| extension == "json")
                        && let Some(stored) = self.read(path).await?
                    {
                        sessions.push(stored.session);
                    }
                }
            }
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => return Err(unavailable(error)),
        }
        // Downwards by activity, then id.
        let place_of = |session: &Session| (session.last_activity_ms, session.id.clone());
        sessions.sort_by_key(|session| std::cmp::Reverse(place_of(session)));
        if let Some(after) = after {
            sessions.retain(|session| place_of(session) < after);
        }
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let last = sessions.last().filter(|_| more);
        Ok(SessionPage {
            next_cursor: last.map(|last| format!("{}:{}", last.last_activity_ms, last.id)),
            sessions,
        })
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        let _alone = self.one_at_a_time.lock().await;
        let path = self.path(key);
        let lives = !matches!(self.read(path.clone()).await, Ok(None));
        match fs::remove_file(path).await {
            Err(error) if error.kind() != Io::NotFound => Err(unavailable(error)),
            _ => Ok(lives),
        }
    }

    async fn ping(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).await.map_err(unavailable)
    }
}

/// The place in a listing that a cursor stands for.
fn place(cursor: &str) -> Result<(i64, String)> {
    let read = || {
        let (activity, id) = cursor.split_once(':')?;
        Some((activity.parse().ok()?, id.to_owned()))
    };
    read().ok_or_else(|| Error::invalid("cursor", "`cursor` must be a `next_cursor`"))
}

fn text(bytes: &Bytes) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| Error::new(ErrorKind::Internal, "a message is no text").with_source(error))
}

fn hash(id: &str) -> String {
    Sha256::digest(id.as_bytes())
        .iter()
        .fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        ErrorKind::SessionStoreUnavailable,
        "the session's file is out of reach",
    )
    .with_source(error)
}
