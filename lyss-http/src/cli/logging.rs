//! Logs: structured lines to stderr.

use std::io::IsTerminal;

use lyss_core::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Laid under the configured level. The watcher of the configuration's directory logs every event at `trace`: where
/// the log is written beside the configuration, each line would cause the next.
const QUIET: &str = "notify=info";

/// Starts logging. A second call changes nothing.
pub(super) fn start(config: &LogConfig) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(colour()).try_init(),
    };
    if let Err(error) = started {
        eprintln!("logging could not be started: {error}");
    }
}

/// Colour is for people (<https://no-color.org>).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}
