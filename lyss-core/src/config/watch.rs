//! Sees that the configuration file has changed.
//!
//! The directory is watched, not the file: editors write a new file and rename it, and Kubernetes
//! swaps a symlink (`..data`) beside it. Besides, the file is looked at every two seconds, because
//! notifications do not come from network file systems, from the target of a symlink elsewhere, or
//! when the system's watches are used up. Only a changed *content* counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Config;
use super::diagnostic::Diagnostic;
use super::env::Env;
use super::load::{Extensions, Loaded};

/// Time between looks at the file without a notification.
const POLL: Duration = Duration::from_secs(2);
/// A file counts as written when nothing has happened for so long …
const QUIET: Duration = Duration::from_millis(100);
/// … or so long after the first event, so that a change is in force within a second.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// A watched configuration file.
///
/// ```no_run
/// # use lyss_core::config::{Config, Env, Extensions, Watch};
/// # async fn run(path: &std::path::Path) {
/// let env = Env::default();
/// let loaded = Config::load(path, &env).expect("a valid configuration");
/// let mut watch = Watch::new(path, env, Extensions::default(), &loaded);
/// loop {
///     match watch.next().await {
///         Ok(new) => { /* put new.config in force */ }
///         Err(errors) => { /* log them; the old configuration stays */ }
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    env: Env,
    extensions: Extensions,
    /// The content last reported; `None` when it could not be read.
    seen: Option<[u8; 32]>,
    changed: Arc<Notify>,
    /// Kept alive for its notifications; `None` when the system gives none.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. Changes made since `loaded` was read are reported too.
    pub fn new(
        path: impl Into<PathBuf>,
        env: Env,
        extensions: Extensions,
        loaded: &Loaded,
    ) -> Self {
        let path = path.into();
        let changed = Arc::new(Notify::new());
        let watcher = watch_directory(&path, &changed)
            .inspect_err(|error| {
                tracing::warn!(%error, "no file notifications; looking at the configuration every 2 s");
            })
            .ok();
        Self {
            path,
            env,
            extensions,
            seen: loaded.digest,
            changed,
            _watcher: watcher,
        }
    }

    /// Waits for the next change of the file's content and gives what it holds now. May be
    /// cancelled and called again without missing a change.
    ///
    /// # Errors
    /// What is wrong with the new content; the caller keeps what it has. Reported once a change.
    pub async fn next(&mut self) -> Result<Loaded, Vec<Diagnostic>> {
        loop {
            let digest = content_digest(&self.path).await;
            if digest != self.seen {
                self.settle().await;
                let digest = content_digest(&self.path).await;
                if digest != self.seen {
                    return self.load(digest).await;
                }
            }
            tokio::select! {
                () = self.changed.notified() => self.settle().await,
                () = sleep(POLL) => {}
            }
        }
    }

    /// Waits until the writer seems to have finished.
    async fn settle(&self) {
        let end = Instant::now() + SETTLE_MAX;
        while Instant::now() < end && timeout(QUIET, self.changed.notified()).await.is_ok() {}
    }

    async fn load(&mut self, digest: Option<[u8; 32]>) -> Result<Loaded, Vec<Diagnostic>> {
        let (path, env, extensions) =
            (self.path.clone(), self.env.clone(), self.extensions.clone());
        let result =
            tokio::task::spawn_blocking(move || Config::load_with(&path, &env, &extensions))
                .await
                .unwrap_or_else(|error| {
                    let file = self.path.display().to_string();
                    Err(vec![Diagnostic::of_file(
                        file,
                        format!("could not be loaded: {error}"),
                    )])
                });
        // The file may have changed again between the two reads: remember what was loaded.
        self.seen = match &result {
            Ok(loaded) => loaded.digest,
            Err(_) => digest,
        };
        result
    }
}

fn watch_directory(path: &Path, changed: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

async fn content_digest(path: &Path) -> Option<[u8; 32]> {
    let bytes = tokio::fs::read(path).await.ok()?;
    Some(Sha256::digest(&bytes).into())
}

#[cfg(test)]
#[path = "tests/watch.rs"]
mod tests;
