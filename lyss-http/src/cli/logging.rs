//! Logs: structured lines to stderr.
//!
//! Lines about requests are gathered for a moment and written together: a write a request would be a good part of what
//! a request costs. A warning takes everything with it at once, and so does the end of the process.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lyss_core::config::{LogConfig, LogFormat};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::json_lines::JsonLines;

/// How long a line waits for others.
const GATHER: Duration = Duration::from_millis(50);
/// At this size they are written at once.
const ENOUGH: usize = 32 << 10;

/// Lines that are not written yet.
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Starts logging. A second call changes nothing.
pub(super) fn start(config: &LogConfig) {
    // PostgreSQL's own remarks ("already exists, skipping") are of no use to an operator, unless asked for.
    let level = format!("sqlx::postgres::notice=warn,{}", config.level);
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Gathered);
    let started = match config.format {
        LogFormat::Json => lines.event_format(JsonLines).try_init(),
        LogFormat::Text => lines.with_ansi(colour()).try_init(),
    };
    let gathering = std::thread::Builder::new().name("log".into()).spawn(|| {
        loop {
            std::thread::sleep(GATHER);
            flush();
        }
    });
    if let Some(error) = started.map_err(|error| error.to_string()).err() {
        eprintln!("logging could not be started: {error}");
    }
    if let Err(error) = gathering {
        eprintln!("log lines will be late: {error}");
    }
}

/// Writes what has been gathered.
pub(super) fn flush() {
    let mut lines = lines();
    if !lines.is_empty() {
        // A closed stderr must not end the gateway.
        let _ = io::stderr().write_all(&lines);
        lines.clear();
    }
}

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Gathered;

/// Takes the text of one event.
struct Line {
    urgent: bool,
}

impl<'a> MakeWriter<'a> for Gathered {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: true }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        Line {
            urgent: *meta.level() <= tracing::Level::WARN,
        }
    }
}

impl Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut lines = lines();
        lines.extend_from_slice(text);
        self.urgent |= lines.len() >= ENOUGH;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.urgent {
            flush();
        }
    }
}

/// Colour is for people (<https://no-color.org>).
fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}
