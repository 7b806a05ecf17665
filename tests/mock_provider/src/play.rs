//! A response body that is played event by event, with the script's faults.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::conn::SocketControl;
use crate::ledger::{Outcome, Recording};
use crate::script::{LineEnd, Script};

/// One piece of a body: an SSE event with its closing empty line, or a whole JSON body.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) text: String,
    /// Completion tokens it delivers.
    pub(crate) tokens: i64,
}

impl Event {
    pub(crate) fn new(text: String, tokens: i64) -> Self {
        Self { text, tokens }
    }
}

/// Events, made when they are due: a reply may be longer than memory should hold.
pub(crate) type Events = Box<dyn Iterator<Item = Event> + Send + Sync>;

/// The script cut the connection.
#[derive(Debug)]
pub(crate) struct CutShort;

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut by the script")
    }
}

impl std::error::Error for CutShort {}

enum Step {
    Send(Bytes, i64),
    Pause(Duration),
    Cut,
    End,
}

/// The body.
pub(crate) struct Play {
    events: Peekable<Events>,
    script: Script,
    /// Takes the place of the event at `script.error_at`.
    error_event: Option<String>,
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
    index: usize,
    sent: u64,
    /// Length announced, for a body that is not a stream.
    length: Option<u64>,
    socket: Arc<SocketControl>,
    recording: Recording,
    done: bool,
}

/// A script's pause before a cut, so that what was sent before it arrives.
const BEFORE_CUT: Duration = Duration::from_millis(20);

impl Play {
    pub(crate) fn stream(
        events: Events,
        script: Script,
        error_event: String,
        socket: Arc<SocketControl>,
        recording: Recording,
    ) -> Self {
        Self::new(events, script, Some(error_event), None, socket, recording)
    }

    pub(crate) fn whole(
        body: String,
        tokens: i64,
        script: Script,
        socket: Arc<SocketControl>,
        recording: Recording,
    ) -> Self {
        let length = Some(body.len() as u64);
        let events: Events = Box::new(std::iter::once(Event::new(body, tokens)));
        Self::new(events, script, None, length, socket, recording)
    }

    fn new(
        events: Events,
        script: Script,
        error_event: Option<String>,
        length: Option<u64>,
        socket: Arc<SocketControl>,
        recording: Recording,
    ) -> Self {
        Self {
            events: events.peekable(),
            script,
            error_event,
            steps: VecDeque::new(),
            sleep: None,
            index: 0,
            sent: 0,
            length,
            socket,
            recording,
            done: false,
        }
    }

    /// Plans what happens up to and including the next event.
    fn refill(&mut self) {
        let due: u64 = self
            .script
            .stalls
            .iter()
            .filter(|stall| stall.after == self.index)
            .map(|stall| stall.ms)
            .sum();
        self.pause(due);
        if self.script.cut.is_some_and(|cut| self.sent >= cut.after) {
            self.steps.push_back(Step::Pause(BEFORE_CUT));
            self.steps.push_back(Step::Cut);
            return;
        }
        if self.error_event.is_some() && self.script.error_at.is_some_and(|at| at <= self.index) {
            if let Some(event) = self.error_event.take() {
                self.send(event, 0);
            }
            self.steps.push_back(Step::End);
            return;
        }
        let Some(event) = self.events.next() else {
            self.steps.push_back(Step::End);
            return;
        };
        if self.index > 0 {
            self.pause(self.script.every_ms);
        }
        if self.length.is_none() && self.script.bad_json_at == Some(self.index) {
            self.send(broken(&event.text), 0);
        } else {
            self.send(event.text, event.tokens);
        }
        self.index += 1;
    }

    fn pause(&mut self, mut ms: u64) {
        if let Some(every) = self.script.comment_ms.filter(|_| self.length.is_none()) {
            while ms >= every {
                self.steps
                    .push_back(Step::Pause(Duration::from_millis(every)));
                self.send(": keep-alive\n\n".to_owned(), 0);
                ms -= every;
            }
        }
        if ms > 0 {
            self.steps.push_back(Step::Pause(Duration::from_millis(ms)));
        }
    }

    fn send(&mut self, text: String, tokens: i64) {
        let mut text = if self.length.is_some() {
            text
        } else {
            match self.script.line_end {
                LineEnd::Lf => text,
                LineEnd::Crlf => text.replace('\n', "\r\n"),
                LineEnd::Cr => text.replace('\n', "\r"),
            }
        };
        if self.script.bom && self.sent == 0 && self.length.is_none() {
            text.insert(0, '\u{feff}');
        }
        let mut bytes = Bytes::from(text);
        if let Some(cut) = self.script.cut {
            let left = usize::try_from(cut.after.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            bytes.truncate(left);
        }
        self.sent += bytes.len() as u64;
        if !bytes.is_empty() {
            self.steps.push_back(Step::Send(bytes, tokens));
        }
    }

    /// A body of known length is never polled past its last byte.
    fn note_end_of_whole_body(&mut self) {
        if self.length == Some(self.sent)
            && self.steps.is_empty()
            && self.script.cut.is_none_or(|cut| self.sent < cut.after)
        {
            self.done = true;
            self.recording.end(Outcome::Finished);
        }
    }
}

/// The event's data cut in half: not JSON any more, but still an event.
fn broken(event: &str) -> String {
    let half = event.trim_end().len() / 2;
    let cut = (0..=half)
        .rev()
        .find(|at| event.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}\n\n", &event[..cut])
}

impl Body for Play {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = &mut *self;
        loop {
            if let Some(sleep) = this.sleep.as_mut() {
                ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            if this.done {
                return Poll::Ready(None);
            }
            match this.steps.pop_front() {
                None => this.refill(),
                Some(Step::Pause(time)) => this.sleep = Some(Box::pin(tokio::time::sleep(time))),
                Some(Step::Send(bytes, tokens)) => {
                    this.recording.sent(bytes.len(), tokens);
                    this.note_end_of_whole_body();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Cut) => {
                    this.done = true;
                    if this.script.cut.is_some_and(|cut| cut.reset) {
                        this.socket.reset_on_close();
                    }
                    this.recording.end(Outcome::Cut);
                    return Poll::Ready(Some(Err(CutShort)));
                }
                Some(Step::End) => {
                    this.done = true;
                    this.recording.end(Outcome::Finished);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| {
            if self.done {
                SizeHint::with_exact(0)
            } else {
                SizeHint::with_exact(length)
            }
        })
    }
}
