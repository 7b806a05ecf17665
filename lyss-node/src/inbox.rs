//! What JavaScript is told: one thread-safe function of the environment that opened the gateway.

use std::sync::Arc;

use bytes::Bytes;
use napi::{
    Result, Status,
    bindgen_prelude::{Buffer, Either, FnArgs, Function},
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};

/// What happened. The numbers are those of `lib/native.ts`.
#[derive(Debug)]
pub(crate) enum Event {
    /// The head of an answer: status, `name\nvalue\n…`, and the body unless it is a stream.
    Head(u16, String, Option<Payload>),
    /// What of a stream has come.
    Data(Payload),
    /// A stream is over.
    End,
    /// The call was ended by the end of the gateway.
    Cut,
    /// The gateway is open.
    Opened,
    /// The gateway is not opened: an error envelope as JSON.
    Refused(String),
    /// The gateway is closed.
    Closed,
    /// A provider is asked: its id and the path that is called, the body.
    Ask(String, String),
    /// A provider's stream is asked for more.
    More,
    /// A provider's answer is not wanted any more.
    Leave,
}

/// Bytes on their way to JavaScript, as what the caller wants them.
#[derive(Debug)]
pub(crate) enum Payload {
    Text(String),
    Bytes(Vec<u8>),
}

impl Payload {
    /// `text`: as a string; what is not UTF-8 in it is replaced.
    pub(crate) fn new(bytes: Bytes, text: bool) -> Self {
        let bytes = Vec::from(bytes);
        match text {
            false => Self::Bytes(bytes),
            true => Self::Text(
                String::from_utf8(bytes)
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            ),
        }
    }
}

type Parts = FnArgs<(u32, u32, u16, String, Option<Either<String, Buffer>>)>;
type Call = ThreadsafeFunction<(u32, Event), (), Parts, Status, false, true, 0>;

/// The way to the environment's thread. Clones lead to the same function; it does not keep the event loop alive.
#[derive(Clone)]
pub(crate) struct Inbox(Arc<Call>);

/// The function in JavaScript: `(id, kind, status, text, payload)`.
pub(crate) type Dispatch<'a> = Function<'a, Parts, ()>;

impl Inbox {
    /// # Errors
    /// The environment is ending.
    pub(crate) fn new(dispatch: &Dispatch<'_>) -> Result<Self> {
        let call = dispatch
            .build_threadsafe_function::<(u32, Event)>()
            .weak::<true>()
            .callee_handled::<false>()
            .build_callback(|context| {
                let (id, event) = context.value;
                Ok(parts(id, event))
            })?;
        Ok(Self(Arc::new(call)))
    }

    /// Tells what happened to `id`. `false`: the environment has ended, and nobody will hear of it.
    pub(crate) fn send(&self, id: u32, event: Event) -> bool {
        // Never blocks: what may be queued is bounded by the calls in flight, since every stream is pulled.
        self.0
            .call((id, event), ThreadsafeFunctionCallMode::NonBlocking)
            == Status::Ok
    }
}

fn parts(id: u32, event: Event) -> Parts {
    let (kind, status, text, payload) = match event {
        Event::Head(status, headers, payload) => (0, status, headers, payload),
        Event::Data(payload) => (1, 0, String::new(), Some(payload)),
        Event::End => (2, 0, String::new(), None),
        Event::Cut => (3, 0, String::new(), None),
        Event::Opened => (4, 0, String::new(), None),
        Event::Refused(error) => (5, 0, error, None),
        Event::Closed => (6, 0, String::new(), None),
        Event::Ask(what, body) => (7, 0, what, Some(Payload::Text(body))),
        Event::More => (8, 0, String::new(), None),
        Event::Leave => (9, 0, String::new(), None),
    };
    let payload = payload.map(|payload| match payload {
        Payload::Text(text) => Either::A(text),
        Payload::Bytes(bytes) => Either::B(bytes.into()),
    });
    (id, kind, status, text, payload).into()
}
