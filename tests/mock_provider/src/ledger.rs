//! What the provider knows it served: the judge of gateways' bills, retries and
//! cancellations.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Still being answered.
    Open,
    /// The whole answer was handed to the transport.
    Finished,
    /// The connection was cut because a script said so.
    Cut,
    /// The client closed the connection before the answer was complete.
    ClientClosed,
}

/// One request as the provider saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the request, from 1.
    pub seq: u64,
    /// The id sent as `x-request-id`: `req_mock_<seq>`.
    pub id: String,
    /// Request path.
    pub path: String,
    /// Model asked for, empty if none.
    pub model: String,
    /// API key used, empty if none.
    pub key: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Status of the answer, 0 while there is none.
    pub status: u16,
    /// Arrival, Unix milliseconds.
    pub started_ms: u64,
    /// End (for [`Outcome::ClientClosed`]: when the close was noticed), Unix milliseconds.
    pub ended_ms: Option<u64>,
    /// Prompt tokens this provider would bill (rule: `src/tokens.rs`); 0 on an error
    /// that is not billed.
    pub prompt_tokens: i64,
    /// Completion tokens of the whole answer, had it been delivered.
    pub planned_tokens: i64,
    /// Completion tokens handed to the transport so far: what would be billed.
    pub completion_tokens: i64,
    /// Body bytes handed to the transport so far.
    pub bytes_sent: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// Number of the request; the same as in its ledger [`Entry`].
    pub seq: u64,
    /// Method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Headers in order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, byte for byte.
    pub body: Bytes,
}

impl RecordedRequest {
    /// Value of a header (name in lower case), the first if there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Entries and requests of one provider, bounded: the oldest go first.
#[derive(Debug)]
pub(crate) struct Ledger {
    entries: Mutex<VecDeque<Entry>>,
    requests: Mutex<VecDeque<RecordedRequest>>,
    next: AtomicU64,
    max: usize,
}

impl Ledger {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            entries: Mutex::default(),
            requests: Mutex::default(),
            next: AtomicU64::new(1),
            max,
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().iter().cloned().collect()
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().clear();
        self.requests.lock().clear();
    }

    /// Opens the entry of a request; `request.seq` is filled in here.
    pub(crate) fn open(
        self: &Arc<Self>,
        mut request: RecordedRequest,
        path: &str,
        key: &str,
    ) -> Recording {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        request.seq = seq;
        let entry = Entry {
            seq,
            id: format!("req_mock_{seq}"),
            path: path.to_owned(),
            model: String::new(),
            key: key.to_owned(),
            stream: false,
            status: 0,
            started_ms: now_ms(),
            ended_ms: None,
            prompt_tokens: 0,
            planned_tokens: 0,
            completion_tokens: 0,
            bytes_sent: 0,
            outcome: Outcome::Open,
        };
        push_bounded(&mut self.entries.lock(), entry, self.max);
        push_bounded(&mut self.requests.lock(), request, self.max);
        Recording {
            ledger: Arc::clone(self),
            seq,
            open: true,
        }
    }

    fn update(&self, seq: u64, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock();
        // Entries are in order of `seq`, short of the few pushed at the same moment.
        if let Some(entry) = entries.iter_mut().rev().find(|entry| entry.seq == seq) {
            change(entry);
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps one entry up to date. Dropped before [`Recording::end`], it notes that
/// the client went away: hyper drops the work of a connection that closed.
#[derive(Debug)]
pub(crate) struct Recording {
    ledger: Arc<Ledger>,
    seq: u64,
    open: bool,
}

impl Recording {
    pub(crate) fn id(&self) -> String {
        format!("req_mock_{}", self.seq)
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Entry)) {
        self.ledger.update(self.seq, change);
    }

    pub(crate) fn sent(&self, bytes: usize, tokens: i64) {
        self.update(|entry| {
            entry.bytes_sent += bytes as u64;
            entry.completion_tokens += tokens;
        });
    }

    pub(crate) fn end(&mut self, outcome: Outcome) {
        if std::mem::take(&mut self.open) {
            self.update(|entry| {
                entry.outcome = outcome;
                entry.ended_ms = Some(now_ms());
            });
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end(Outcome::ClientClosed);
    }
}
