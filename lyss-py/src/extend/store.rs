//! Session stores that are written in Python; `lyss.SessionStore` says what the methods get and give.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lyss_core::{
    Error, ErrorKind, Result,
    error::Work,
    session::SessionStore,
    types::{
        Session, SessionKey,
        session::{
            Appended, LoadedSession, MessagePage, Prefix, SessionPage, SessionStatus,
            StoredMessage, Turn, Version,
        },
    },
};
use pyo3::{
    IntoPyObjectExt,
    exceptions::PyKeyError,
    prelude::*,
    types::{PyBytes, PyDict, PyList},
};
use serde_json::{Map, Value};

use super::{Failure, invoke};

/// An object with the methods of `lyss.SessionStore`.
pub(crate) struct PySessionStore(Arc<Py<PyAny>>);

impl PySessionStore {
    pub(crate) fn new(object: Arc<Py<PyAny>>) -> Self {
        Self(object)
    }

    /// Calls a method.
    async fn method<T: Send + 'static>(
        &self,
        name: &'static str,
        args: impl FnOnce(Python<'_>) -> PyResult<Vec<Py<PyAny>>> + Send + 'static,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    ) -> Result<T> {
        let object = Arc::clone(&self.0);
        let all = move |py: Python<'_>| {
            let mut all = vec![object.clone_ref(py), name.into_py_any(py)?];
            all.extend(args(py)?);
            Ok(all)
        };
        let called = invoke("call", all, read);
        called.await.map_err(|failure| match failure {
            Failure::Raised { code, message } if code == ErrorKind::SessionConflict.code() => {
                Error::new(ErrorKind::SessionConflict, message)
            }
            Failure::Raised { message, .. } => Error::new(
                ErrorKind::SessionStoreUnavailable,
                "the session store failed",
            )
            .with_source(format!("{name}: {message}"))
            .with_work(Work::None),
            Failure::Gone => Error::new(
                ErrorKind::SessionStoreUnavailable,
                "the process that the session store runs in is ending",
            ),
        })
    }
}

/// The arguments that name a session.
fn named(py: Python<'_>, key: &SessionKey) -> PyResult<Vec<Py<PyAny>>> {
    Ok(vec![
        key.user_id.as_str().into_py_any(py)?,
        key.id.as_str().into_py_any(py)?,
    ])
}

#[async_trait]
impl SessionStore for PySessionStore {
    async fn create(
        &self,
        key: &SessionKey,
        metadata: Option<Map<String, Value>>,
    ) -> Result<Session> {
        let named_key = key.clone();
        let args = move |py: Python<'_>| {
            let mut args = named(py, &named_key)?;
            args.push(match metadata {
                Some(metadata) => from_json(py, &Value::Object(metadata))?.unbind(),
                None => py.None(),
            });
            Ok(args)
        };
        let key = key.clone();
        self.method("create", args, move |value| session(value, &key))
            .await
    }

    async fn get(&self, key: &SessionKey) -> Result<Option<Session>> {
        let (named_key, key) = (key.clone(), key.clone());
        let args = move |py: Python<'_>| named(py, &named_key);
        self.method("get", args, move |value| {
            optional(value, |value| session(value, &key))
        })
        .await
    }

    async fn load(&self, key: &SessionKey) -> Result<Option<LoadedSession>> {
        let (named_key, key) = (key.clone(), key.clone());
        let args = move |py: Python<'_>| named(py, &named_key);
        self.method("load", args, move |value| {
            optional(value, |value| {
                let system: Option<Vec<u8>> = member(value, "system")?.extract()?;
                Ok(LoadedSession {
                    session: session(&member(value, "session")?, &key)?,
                    version: member(value, "version")?.extract()?,
                    history: member(value, "history")?.extract()?,
                    system: system.map(Bytes::from),
                    prefix: Prefix::default(),
                    messages: messages(&member(value, "messages")?)?,
                })
            })
        })
        .await
    }

    async fn append(&self, key: &SessionKey, turn: &Turn, expected: Version) -> Result<Appended> {
        let (key, turn) = (key.clone(), turn.clone());
        let args = move |py: Python<'_>| {
            let mut args = named(py, &key)?;
            args.push(turn_dict(py, &turn)?.into_py_any(py)?);
            args.push(expected.into_py_any(py)?);
            Ok(args)
        };
        self.method("append", args, |value| {
            Ok(match value.extract::<Option<Version>>()? {
                Some(version) => Appended::At(version),
                None => Appended::Deleted,
            })
        })
        .await
    }

    async fn messages(
        &self,
        key: &SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Option<MessagePage>> {
        let (named_key, key) = (key.clone(), key.clone());
        let args = move |py: Python<'_>| {
            let mut args = named(py, &named_key)?;
            args.push(after.into_py_any(py)?);
            args.push(limit.into_py_any(py)?);
            Ok(args)
        };
        self.method("messages", args, move |value| {
            optional(value, |value| {
                Ok(MessagePage {
                    session: session(&member(value, "session")?, &key)?,
                    messages: messages(&member(value, "messages")?)?,
                })
            })
        })
        .await
    }

    async fn list(&self, user_id: &str, cursor: Option<&str>, limit: usize) -> Result<SessionPage> {
        let (user, cursor) = (user_id.to_owned(), cursor.map(str::to_owned));
        let key = SessionKey {
            user_id: user.clone(),
            id: String::new(),
        };
        let args = move |py: Python<'_>| {
            Ok(vec![
                user.into_py_any(py)?,
                cursor.into_py_any(py)?,
                limit.into_py_any(py)?,
            ])
        };
        self.method("list", args, move |value| {
            let sessions: PyResult<Vec<Session>> = member(value, "sessions")?
                .try_iter()?
                .map(|value| session(&value?, &key))
                .collect();
            Ok(SessionPage {
                sessions: sessions?,
                next_cursor: member(value, "next_cursor")?.extract()?,
            })
        })
        .await
    }

    async fn delete(&self, key: &SessionKey) -> Result<bool> {
        let key = key.clone();
        let args = move |py: Python<'_>| named(py, &key);
        self.method("delete", args, |value| value.extract()).await
    }

    async fn ping(&self) -> Result<()> {
        self.method("ping", |_| Ok(Vec::new()), |_| Ok(())).await
    }
}

fn optional<'py, T>(
    value: &Bound<'py, PyAny>,
    read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    if value.is_none() {
        return Ok(None);
    }
    read(value).map(Some)
}

/// A member of a dict that must be there.
fn member<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let dict = value.cast::<PyDict>()?;
    dict.get_item(name)?
        .ok_or_else(|| PyKeyError::new_err(format!("the session store left `{name}` out")))
}

/// A session as a store gives it. `key` says what it leaves out.
fn session(value: &Bound<'_, PyAny>, key: &SessionKey) -> PyResult<Session> {
    let dict = value.cast::<PyDict>()?;
    let text = |name: &str, otherwise: &str| match dict.get_item(name)? {
        Some(value) => value.extract(),
        None => Ok(otherwise.to_owned()),
    };
    let count = |name: &str| match dict.get_item(name)? {
        Some(value) => value.extract::<u64>(),
        None => Ok(0),
    };
    let metadata = match dict.get_item("metadata")? {
        Some(value) if !value.is_none() => match to_json(&value)? {
            Value::Object(object) => Some(object),
            _ => None,
        },
        _ => None,
    };
    Ok(Session {
        id: text("id", &key.id)?,
        user_id: text("user_id", &key.user_id)?,
        message_count: member(value, "message_count")?.extract()?,
        token_count: count("token_count")?,
        created_ms: member(value, "created_ms")?.extract()?,
        last_activity_ms: member(value, "last_activity_ms")?.extract()?,
        compressed_count: 0,
        status: SessionStatus::Active,
        metadata,
    })
}

fn messages(value: &Bound<'_, PyAny>) -> PyResult<Vec<StoredMessage>> {
    let read = |value: PyResult<Bound<'_, PyAny>>| -> PyResult<StoredMessage> {
        let value = value?;
        let json: Vec<u8> = member(&value, "json")?.extract()?;
        Ok(StoredMessage {
            seq: member(&value, "seq")?.extract()?,
            turn: member(&value, "turn")?.extract()?,
            json: json.into(),
            tokens: member(&value, "tokens")?.extract()?,
        })
    };
    value.try_iter()?.map(read).collect()
}

fn turn_dict<'py>(py: Python<'py>, turn: &Turn) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("request_id", turn.request_id.to_string())?;
    let system = turn.system.as_ref().map(|system| PyBytes::new(py, system));
    dict.set_item("system", system)?;
    dict.set_item("history", &turn.history)?;
    let messages = PyList::empty(py);
    for (json, tokens) in &turn.messages {
        let message = PyDict::new(py);
        message.set_item("json", PyBytes::new(py, json))?;
        message.set_item("tokens", tokens)?;
        messages.append(message)?;
    }
    dict.set_item("messages", messages)?;
    Ok(dict)
}

fn from_json<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?
        .call_method1("loads", (value.to_string(),))
}

fn to_json(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    let text: String = value
        .py()
        .import("json")?
        .call_method1("dumps", (value,))?
        .extract()?;
    serde_json::from_str(&text)
        .map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
}
