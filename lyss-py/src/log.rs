//! What the engine has to say to operators, handed to Python's `logging`: warnings and errors, to the logger `lyss`.
//!
//! Threads of the runtime never wait for the interpreter: what they say goes through a bounded queue to a thread that
//! does. What finds no room is dropped and counted.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    layer::{Context, SubscriberExt},
    registry,
};

/// Lines that wait for the interpreter, at most.
const QUEUE: usize = 1_000;

/// `logging`'s numbers.
const WARNING: u8 = 30;
const ERROR: u8 = 40;

type Line = (u8, String);

static QUEUE_IN: ArcSwapOption<SyncSender<Line>> = ArcSwapOption::const_empty();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Starts handing lines over, in this process. Does nothing to what a program that embeds Python has installed itself.
pub(crate) fn start() {
    let (sender, receiver) = sync_channel(QUEUE);
    let started = thread::Builder::new()
        .name("lyss-log".to_owned())
        .spawn(move || hand_over(&receiver));
    if started.is_err() {
        return;
    }
    QUEUE_IN.store(Some(Arc::new(sender)));
    if !INSTALLED.swap(true, Ordering::Relaxed) {
        let ours = filter_fn(|event| event.target().starts_with("lyss"));
        let layer = ToPython.with_filter(ours).with_filter(LevelFilter::WARN);
        let _ = tracing::subscriber::set_global_default(registry().with(layer));
    }
}

/// In a forked child the thread is not there.
pub(crate) fn forget() {
    std::mem::forget(QUEUE_IN.swap(None));
}

fn hand_over(lines: &Receiver<Line>) {
    while let Ok((level, text)) = lines.recv() {
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        let logged = Python::try_attach(|py| -> PyResult<()> {
            let logger = py.import("logging")?.call_method1("getLogger", ("lyss",))?;
            if dropped > 0 {
                let text = format!("{dropped} lines before this one found no room");
                logger.call_method1("log", (WARNING, "%s", text))?;
            }
            logger.call_method1("log", (level, "%s", text)).map(drop)
        });
        if logged.is_none() {
            return; // the interpreter ends
        }
    }
}

struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => ERROR,
            _ => WARNING,
        };
        let queue = QUEUE_IN.load();
        let sent = queue
            .as_ref()
            .is_some_and(|queue| queue.try_send((level, text.line())).is_ok());
        if !sent {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event as one line: the message, then the fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn line(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
