//! One call: its task, its stream, its end.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::{HeaderMap, Request, header};
use http_body::Frame;
use http_body_util::BodyExt;
use lyss_core::{Error, ErrorKind, types::Credential};
use lyss_http::InProcess;
use napi::Result;
use napi_derive::napi;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use crate::{
    inbox::{Event, Inbox, Payload},
    runtime::runtime,
};

/// What of a stream is handed over at once, at most: bytes that had come already.
const PIECE: usize = 64 << 10;

/// A call that was made. When the last reference to it is collected, the call ends.
#[napi]
pub struct Call(Arc<State>);

/// What the task and the handle share.
pub(crate) struct State {
    id: u32,
    /// Whether bodies are wanted as strings.
    text: bool,
    inbox: Inbox,
    /// The call is not wanted any more.
    cancel: CancellationToken,
    /// The gateway ends.
    closing: CancellationToken,
    /// The stream while nobody pulls it.
    body: Mutex<Option<Body>>,
    /// Held until the call is over: the end of the gateway waits for it.
    running: Mutex<Option<TaskTrackerToken>>,
}

#[napi]
impl Call {
    /// Asks for what comes next of a stream: `Data` with at least one event, or `End`.
    #[napi]
    pub fn pull(&self) -> Result<()> {
        let state = Arc::clone(&self.0);
        runtime()?.spawn(async move { state.pull().await });
        Ok(())
    }

    /// Ends the call, also upstream. Nothing more is heard of it.
    #[napi]
    pub fn cancel(&self) {
        self.0.cancel.cancel();
        self.0.over();
        let body = self.0.body.lock().take();
        if let (Some(body), Ok(runtime)) = (body, runtime()) {
            // A stream that is dropped may be read on for a while, which takes a task.
            let _context = runtime.enter();
            drop(body);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Call {
    /// Makes the call.
    ///
    /// # Errors
    /// No runtime.
    #[allow(clippy::too_many_arguments)] // each is of another kind
    pub(crate) fn start(
        id: u32,
        text: bool,
        inbox: Inbox,
        running: TaskTrackerToken,
        closing: CancellationToken,
        gateway: Arc<InProcess>,
        request: Request<Body>,
        credential: Credential,
    ) -> Result<Self> {
        let state = Arc::new(State {
            id,
            text,
            inbox,
            cancel: CancellationToken::new(),
            closing,
            body: Mutex::new(None),
            running: Mutex::new(Some(running)),
        });
        let task = Arc::clone(&state);
        runtime()?.spawn(async move {
            let answer = task.answer(&gateway, request, credential);
            let event = task.unless_ended(answer).await;
            let streams = matches!(event, Some(Event::Head(_, _, None)));
            if !streams {
                task.over();
            }
            if let Some(event) = event {
                task.inbox.send(task.id, event);
            }
            if streams {
                task.end_when_unread().await;
            }
        });
        Ok(Self(state))
    }
}

impl State {
    fn over(&self) {
        self.running.lock().take();
    }

    /// What comes of a future; nothing once the call is not wanted any more.
    async fn unless_ended(&self, work: impl Future<Output = Event>) -> Option<Event> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            // A defect must not leave anybody waiting.
            event = AssertUnwindSafe(work).catch_unwind() => Some(event.unwrap_or_else(|_| defect())),
            () = self.closing.cancelled() => Some(Event::Cut),
        }
    }

    /// Ends a stream that nobody is reading with its gateway, and one that was cancelled while its head was on its way.
    async fn end_when_unread(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.closing.cancelled() => {}
        }
        if self.body.lock().take().is_some() {
            self.over();
        }
    }

    async fn answer(
        &self,
        gateway: &InProcess,
        request: Request<Body>,
        credential: Credential,
    ) -> Event {
        let (head, body) = gateway.call(request, credential).await.into_parts();
        let status = head.status.as_u16();
        let headers = lines(&head.headers);
        if is_stream(&head.headers) {
            *self.body.lock() = Some(body);
            return Event::Head(status, headers, None);
        }
        // Bodies of answers in this process cannot break off.
        let body = body.collect().await.map(|body| body.to_bytes());
        let payload = Payload::new(body.unwrap_or_default(), self.text);
        Event::Head(status, headers, Some(payload))
    }

    async fn pull(&self) {
        let taken = self.body.lock().take();
        let Some(mut body) = taken else {
            let cut = self.closing.is_cancelled();
            let event = if cut { Event::Cut } else { Event::End };
            self.inbox.send(self.id, event);
            return;
        };
        let event = self.unless_ended(piece(&mut body, self.text)).await;
        let goes_on = matches!(event, Some(Event::Data(_)));
        if !goes_on {
            drop(body);
            self.over();
        } else {
            *self.body.lock() = Some(body);
            if self.cancel.is_cancelled() || self.closing.is_cancelled() {
                // Ended in between: nobody else will drop it.
                self.body.lock().take();
                self.over();
            }
        }
        if let Some(event) = event {
            self.inbox.send(self.id, event);
        }
    }
}

fn defect() -> Event {
    let error = Error::new(ErrorKind::Internal, "the gateway failed");
    Event::Head(500, String::new(), Some(Payload::Text(error.to_json(None))))
}

/// The next events: waits for the first, and takes those along that are there.
async fn piece(body: &mut Body, text: bool) -> Event {
    let Some(first) = data(body.frame().await) else {
        return Event::End;
    };
    let mut more = BytesMut::new();
    while first.len() + more.len() < PIECE {
        match body.frame().now_or_never().map(data) {
            Some(Some(next)) => {
                if more.is_empty() {
                    more.reserve(first.len() + 4 * next.len());
                    more.extend_from_slice(&first);
                }
                more.extend_from_slice(&next);
            }
            // The end is found again by the next pull.
            Some(None) | None => break,
        }
    }
    let all = if more.is_empty() {
        first
    } else {
        more.freeze()
    };
    Event::Data(Payload::new(all, text))
}

fn data<E>(frame: Option<std::result::Result<Frame<Bytes>, E>>) -> Option<Bytes> {
    frame?.ok()?.into_data().ok()
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Headers as lines, name and value in turn: one string costs less than twenty.
fn lines(headers: &HeaderMap) -> String {
    let mut text = String::with_capacity(32 * headers.len());
    for (name, value) in headers {
        if let Ok(value) = value.to_str() {
            text.push_str(name.as_str());
            text.push('\n');
            text.push_str(value);
            text.push('\n');
        }
    }
    text
}
