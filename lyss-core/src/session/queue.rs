//! The turns of this engine wait here, first come, first served; the store keeps the order among engines.
//!
//! A turn takes its place in the store as soon as it comes ([`begin_turn`](super::SessionStore::begin_turn)), but of several that wait
//! for one session here only the first asks on: what one turn leaves, the next takes without a pause, and a hundred
//! waiting turns cost the store no more than one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use uuid::Uuid;

use super::SharedSessionStore;
use crate::{
    error::{Error, ErrorKind, Result, Retry},
    types::{
        RequestId,
        session::{Begun, LoadedSession, SessionKey, Ticket},
    },
};

/// How long a turn is held without a renewal: what a killed process delays the turns behind it.
const LEASE: Duration = Duration::from_secs(5);
/// How often a turn is renewed: three times a lease.
const RENEWAL: Duration = Duration::from_millis(1500);
/// Pauses between the tries to give up a turn that was held, while the store does not answer: within its lease.
const RETRIES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Pauses before a store that did not answer is asked again.
const HICCUPS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(150)];
/// How long the first in line pauses between two askings, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(40));

/// How turns wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// How long at most; zero: a turn that cannot begin at once is refused.
    pub wait: Duration,
    /// Most turns that wait for one session.
    pub queue_max: u32,
}

/// The waiting turns of this engine.
pub(crate) struct TurnQueue {
    store: SharedSessionStore,
    instance: Arc<str>,
    lines: Arc<Lines>,
    tasks: TaskTracker,
}

type Lines = Mutex<HashMap<SessionKey, Arc<Line>>>;

/// Those that want one session.
#[derive(Default)]
struct Line {
    /// Held while a place is taken, so that the order here is the order in the store.
    arriving: tokio::sync::Mutex<()>,
    /// Held by who is first: it asks the store, and then works.
    first: Arc<tokio::sync::Mutex<()>>,
    waiting: AtomicU32,
    /// How many are in it; changed under the lock of all lines.
    inside: AtomicU32,
}

/// A session's turn, or the place in its queue. Given up when dropped.
pub(crate) struct TurnLease {
    store: SharedSessionStore,
    tasks: TaskTracker,
    key: SessionKey,
    ticket: Ticket,
    /// Whether the store may know of the ticket.
    known: bool,
    first: Option<OwnedMutexGuard<()>>,
    renewal: Option<AbortOnDropHandle<()>>,
    line: Arc<Line>,
    lines: Arc<Lines>,
}

impl TurnQueue {
    pub fn new(store: SharedSessionStore, tasks: TaskTracker) -> Self {
        Self {
            store,
            instance: Uuid::new_v4().simple().to_string().into(),
            lines: Arc::default(),
            tasks,
        }
    }

    /// Waits for the session's turn and loads it; `None` if there is no such session yet.
    ///
    /// # Errors
    /// `session_busy` when it is not granted in time, and those of the store.
    pub async fn enter(
        &self,
        key: &SessionKey,
        request_id: RequestId,
        patience: Patience,
    ) -> Result<(TurnLease, Option<Box<LoadedSession>>)> {
        let deadline = Instant::now() + patience.wait;
        let line = {
            let mut lines = self.lines.lock();
            let line = lines.entry(key.clone()).or_default();
            line.inside.fetch_add(1, Relaxed);
            Arc::clone(line)
        };
        let mut lease = TurnLease {
            store: Arc::clone(&self.store),
            tasks: self.tasks.clone(),
            key: key.clone(),
            ticket: Ticket {
                request_id,
                instance: Arc::clone(&self.instance),
                first: false,
                wait: !patience.wait.is_zero(),
                lease: LEASE,
                queue_max: patience.queue_max,
            },
            known: false,
            first: None,
            renewal: None,
            line: Arc::clone(&line),
            lines: Arc::clone(&self.lines),
        };
        let loaded = match self.arrive(&mut lease, &line, deadline).await? {
            Begun::Granted(loaded) => loaded,
            Begun::Waiting => self.ask(&mut lease, deadline).await?,
            Begun::Busy => return Err(busy()),
        };
        lease.keep();
        Ok((lease, loaded))
    }

    /// Takes a place, here and in the store, and waits to be the first of this engine. Says how things stand then.
    async fn arrive(&self, lease: &mut TurnLease, line: &Line, deadline: Instant) -> Result<Begun> {
        let arriving = timeout_at(deadline, line.arriving.lock())
            .await
            .map_err(|_| busy())?;
        if let Ok(first) = Arc::clone(&line.first).try_lock_owned() {
            // Still arriving while the store is asked: who comes next is behind this one there as well.
            return self.begin_first(lease, first).await;
        }
        let _waiting = Waiting::of(&line.waiting);
        if !lease.ticket.wait || line.waiting.load(Relaxed) > lease.ticket.queue_max {
            return Err(busy());
        }
        let mut turn = Box::pin(Arc::clone(&line.first).lock_owned());
        // The first poll takes the place.
        if let std::task::Poll::Ready(first) = futures::poll!(&mut turn) {
            return self.begin_first(lease, first).await;
        }
        lease.known = true;
        if self.begin(lease).await? == Begun::Busy {
            return Err(busy());
        }
        drop(arriving);
        lease.first = Some(timeout_at(deadline, turn).await.map_err(|_| busy())?);
        // Also when the turn was granted: what has been loaded is of before the wait.
        Ok(Begun::Waiting)
    }

    async fn begin_first(
        &self,
        lease: &mut TurnLease,
        first: OwnedMutexGuard<()>,
    ) -> Result<Begun> {
        lease.first = Some(first);
        lease.ticket.first = true;
        lease.known = true;
        self.begin(lease).await
    }

    /// Asks for the turn until it is granted.
    async fn ask(
        &self,
        lease: &mut TurnLease,
        deadline: Instant,
    ) -> Result<Option<Box<LoadedSession>>> {
        lease.ticket.first = true;
        lease.known = true;
        let (mut pause, longest) = PAUSES;
        loop {
            match self.begin(lease).await? {
                Begun::Granted(loaded) => return Ok(loaded),
                Begun::Busy => return Err(busy()),
                Begun::Waiting if Instant::now() >= deadline => return Err(busy()),
                Begun::Waiting => {}
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = pause.mul_f64(1.5).min(longest);
        }
    }

    /// Asks the store, and again if no answer comes: it may be lost, and asking again changes nothing.
    async fn begin(&self, lease: &TurnLease) -> Result<Begun> {
        let mut pauses = HICCUPS.iter();
        loop {
            match self.store.begin_turn(&lease.key, &lease.ticket).await {
                Err(error) if error.kind() == ErrorKind::SessionStoreUnavailable => {
                    let Some(pause) = pauses.next() else {
                        return Err(error);
                    };
                    sleep(*pause).await;
                }
                begun => return begun,
            }
        }
    }
}

impl TurnLease {
    /// The store has given the turn up itself, with the append.
    pub fn appended(&mut self) {
        self.known = false;
    }

    /// Renews the turn for as long as this value lives.
    fn keep(&mut self) {
        let (store, key, ticket) = (
            Arc::clone(&self.store),
            self.key.clone(),
            self.ticket.clone(),
        );
        let renewal = async move {
            loop {
                sleep(RENEWAL).await;
                match store.renew_turn(&key, &ticket).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(
                            request_id = %ticket.request_id,
                            "a session's turn was lost: the store did not hear of it in time"
                        );
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "a session's turn is not renewed yet"),
                }
            }
        };
        self.renewal = Some(AbortOnDropHandle::new(self.tasks.spawn(renewal)));
    }
}

impl TurnLease {
    /// Leaves the line, and forgets it when nobody else is in it.
    fn leave(&self) {
        let mut lines = self.lines.lock();
        if self.line.inside.fetch_sub(1, Relaxed) == 1 {
            lines.remove(&self.key);
        }
    }
}

impl Drop for TurnLease {
    fn drop(&mut self) {
        let held = self.renewal.take().is_some();
        let mut first = self.first.take();
        self.leave();
        if !self.known {
            return;
        }
        // Without a runtime the lease runs out by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, key, ticket) = (
            Arc::clone(&self.store),
            self.key.clone(),
            self.ticket.clone(),
        );
        let give_up = async move {
            let mut retries = if held { &RETRIES[..] } else { &[] }.iter();
            while let Err(error) = store.end_turn(&key, &ticket).await {
                // Who is next here is not held up by it, but those of other engines are.
                first = None;
                let Some(pause) = retries.next() else {
                    tracing::debug!(%error, "a session's turn is given up by the end of its lease only");
                    return;
                };
                sleep(*pause).await;
            }
            // Who is next here asks when there is something to have.
            drop(first);
        };
        self.tasks.spawn_on(give_up, &runtime);
    }
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn busy() -> Error {
    Error::new(
        ErrorKind::SessionBusy,
        "another turn of this session is running; turns of a session run one after another",
    )
    .with_retry(Retry::After(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use bytes::Bytes;
    use futures::future::join_all;

    use super::*;
    use crate::{
        session::MemorySessionStore,
        types::session::{Appended, Turn},
    };

    const PATIENT: Patience = Patience {
        wait: Duration::from_secs(20),
        queue_max: 256,
    };

    fn queue() -> TurnQueue {
        let store = Arc::new(MemorySessionStore::new(Duration::from_secs(60)));
        TurnQueue::new(store, TaskTracker::new())
    }

    fn key(id: &str) -> SessionKey {
        SessionKey {
            user_id: "u".into(),
            id: id.into(),
        }
    }

    async fn turn(queue: &TurnQueue, key: &SessionKey, text: &str) {
        let request_id = RequestId::new();
        let (mut lease, loaded) = queue.enter(key, request_id, PATIENT).await.unwrap();
        let version = loaded.map_or(0, |loaded| loaded.version);
        sleep(Duration::from_millis(1)).await;
        let turn = Turn {
            request_id,
            system: None,
            history: String::new(),
            messages: vec![(Bytes::from(text.to_owned()), 1)],
        };
        let stored = queue.store.append(key, &turn, version).await.unwrap();
        assert_eq!(stored, Appended::At(version + 1));
        lease.appended();
    }

    async fn refused(queue: &TurnQueue, key: &SessionKey, patience: Patience) {
        match queue.enter(key, RequestId::new(), patience).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::SessionBusy),
            Ok(_) => panic!("the turn is held"),
        }
    }

    #[tokio::test]
    async fn turns_run_one_after_another_in_the_order_they_came() {
        let (queue, key) = (queue(), key("s"));
        let texts: Vec<_> = (0..60).map(|n| n.to_string()).collect();
        join_all(texts.iter().map(|text| turn(&queue, &key, text))).await;
        let session = queue.store.load(&key).await.unwrap().unwrap();
        let stored: Vec<_> = session.messages.iter().map(|m| &m.json[..]).collect();
        let expected: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
        assert_eq!(stored, expected);
        assert!(queue.lines.lock().is_empty(), "no line is kept");
    }

    #[tokio::test]
    async fn two_engines_share_the_order_of_one_store() {
        let (one, key) = (queue(), key("s"));
        let other = TurnQueue::new(Arc::clone(&one.store), TaskTracker::new());
        let turns = (0..40).map(|n| turn([&one, &other][n % 2], &key, "x"));
        join_all(turns.collect::<Vec<_>>()).await;
        let session = one.store.get(&key).await.unwrap().unwrap();
        assert_eq!(session.message_count, 40);
    }

    #[tokio::test]
    async fn who_does_not_wait_or_not_long_enough_is_refused() {
        let (queue, key) = (queue(), key("s"));
        let held = queue.enter(&key, RequestId::new(), PATIENT).await.unwrap();
        let patience = |wait, queue_max| Patience { wait, queue_max };
        refused(&queue, &key, patience(Duration::ZERO, 9)).await;
        refused(&queue, &key, patience(Duration::from_millis(60), 9)).await;
        let waiting = queue.enter(&key, RequestId::new(), PATIENT);
        let late = async {
            sleep(Duration::from_millis(20)).await;
            refused(&queue, &key, patience(Duration::from_secs(20), 1)).await;
            drop(held);
        };
        let (waited, ()) = tokio::join!(waiting, late);
        drop(waited.unwrap());
        turn(&queue, &key, "free again").await;
    }

    #[tokio::test]
    async fn who_goes_away_leaves_no_place() {
        let (queue, key) = (queue(), key("s"));
        let held = queue.enter(&key, RequestId::new(), PATIENT).await.unwrap();
        for _ in 0..5 {
            let waiting = queue.enter(&key, RequestId::new(), PATIENT);
            let gone = tokio::time::timeout(Duration::from_millis(10), waiting).await;
            assert!(gone.is_err());
        }
        drop(held);
        let begun = Instant::now();
        turn(&queue, &key, "next").await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        queue.tasks.close();
        queue.tasks.wait().await;
        assert!(queue.lines.lock().is_empty());
    }
}
