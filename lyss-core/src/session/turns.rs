//! Whose turn it is in one session: the rules of [`begin_turn`](super::SessionStore::begin_turn), apart from where the
//! state is kept. Times are milliseconds of one clock, the store's.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::types::{RequestId, session::Ticket};

/// A queue that nobody has asked about for so long is nobody's.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(600);

/// The turn that runs and those that wait.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Turns {
    holder: Option<Holder>,
    waiting: VecDeque<Place>,
    /// When each instance was last heard of.
    seen: BTreeMap<String, i64>,
    /// The request that was told last that its session is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Holder {
    place: Place,
    until_ms: i64,
    /// Whether the session was deleted under this turn.
    deleted: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Place {
    request: String,
    instance: String,
}

/// What becomes of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Granted,
    Waiting,
    Busy,
}

impl Turns {
    pub fn begin(&mut self, ticket: &Ticket, now: i64) -> Step {
        let me = Place {
            request: ticket.request_id.to_string(),
            instance: ticket.instance.to_string(),
        };
        let until_ms = now.saturating_add(ms(ticket.lease));
        self.seen.insert(me.instance.clone(), now);
        match &mut self.holder {
            // The answer to the last asking was lost.
            Some(holder) if holder.place == me => {
                holder.until_ms = until_ms;
                return Step::Granted;
            }
            // A turn of this instance that is still there before its first was given up unheard.
            Some(holder)
                if holder.until_ms <= now
                    || ticket.first && holder.place.instance == me.instance =>
            {
                self.holder = None;
            }
            _ => {}
        }
        let waits = self.waiting.contains(&me);
        if self.holder.is_none() {
            while let Some(first) = self.waiting.front() {
                let leftover = ticket.first && first.instance == me.instance;
                if *first == me || !(leftover || self.is_gone(first, now, ticket.lease)) {
                    break;
                }
                self.waiting.pop_front();
            }
            if self.waiting.front().is_none_or(|first| *first == me) {
                self.waiting.pop_front();
                self.holder = Some(Holder {
                    place: me,
                    until_ms,
                    deleted: false,
                });
                return Step::Granted;
            }
        }
        if waits {
            return Step::Waiting;
        }
        if !ticket.wait || self.waiting.len() >= ticket.queue_max as usize {
            return Step::Busy;
        }
        self.waiting.push_back(me);
        Step::Waiting
    }

    /// Holds the turn on; says whether it was still held.
    pub fn renew(&mut self, ticket: &Ticket, now: i64) -> bool {
        self.seen.insert(ticket.instance.to_string(), now);
        match &mut self.holder {
            Some(holder) if holder.place.request == ticket.request_id.to_string() => {
                holder.until_ms = now.saturating_add(ms(ticket.lease));
                true
            }
            _ => false,
        }
    }

    /// Gives a request's turn or place up.
    pub fn end(&mut self, request: RequestId, now: i64) {
        let request = request.to_string();
        if let Some(holder) = self
            .holder
            .take_if(|holder| holder.place.request == request)
        {
            // Whoever waits on this instance asks at once: its places are not gone.
            self.seen.insert(holder.place.instance, now);
        }
        self.waiting.retain(|place| place.request != request);
        let waiting = &self.waiting;
        self.seen
            .retain(|instance, _| waiting.iter().any(|place| place.instance == *instance));
    }

    /// The session has been deleted.
    pub fn deleted(&mut self) {
        if let Some(holder) = &mut self.holder {
            holder.deleted = true;
        }
    }

    /// Whether the session was deleted under this request's turn.
    pub fn was_deleted_under(&self, request: RequestId) -> bool {
        let request = request.to_string();
        let mut holder = self.holder.iter();
        self.gone.as_ref() == Some(&request)
            || holder.any(|holder| holder.deleted && holder.place.request == request)
    }

    /// Ends a turn under which the session was deleted, and remembers that: the answer may be lost, and the turn be
    /// appended again.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn end_deleted(&mut self, request: RequestId, now: i64) {
        self.end(request, now);
        self.gone = Some(request.to_string());
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.holder.is_none() && self.waiting.is_empty() && self.gone.is_none()
    }

    /// The request that holds the turn, if that is all there is to remember: its end leaves nothing.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn sole_holder(&self) -> Option<&str> {
        let holder = self.holder.as_ref().filter(|holder| !holder.deleted)?;
        (self.waiting.is_empty() && self.gone.is_none()).then_some(holder.place.request.as_str())
    }

    /// Whether an asking has changed what has to be written down. That the instance lives is written down four times
    /// a lease.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub fn is_news(&self, before: &Self, ticket: &Ticket) -> bool {
        let seen = |turns: &Self| turns.seen.get(&*ticket.instance).copied();
        self.holder != before.holder
            || self.waiting != before.waiting
            || match (seen(before), seen(self)) {
                (Some(before), Some(now)) => now - before >= ms(ticket.lease / 4),
                _ => true,
            }
    }

    /// Whether everybody in it is gone.
    pub fn is_over(&self, now: i64) -> bool {
        let held = self
            .holder
            .as_ref()
            .is_some_and(|holder| holder.until_ms > now);
        !held
            && self
                .waiting
                .iter()
                .all(|place| self.is_gone(place, now, FORGOTTEN))
    }

    fn is_gone(&self, place: &Place, now: i64, after: Duration) -> bool {
        self.seen
            .get(&place.instance)
            .is_none_or(|seen| now - seen >= ms(after))
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
