//! Sees that the configuration file has changed, by reading it twice a second.
//!
//! Reading a small file costs less than it saves: it works on every file system, through every symlink that Kubernetes
//! swaps and however an editor saves, and a directory full of other writers (a log, a database) does not wake it. Only
//! a changed *content* counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::Config;
use super::diagnostic::Diagnostic;
use super::env::Env;
use super::load::{Extensions, Loaded};

/// Time between looks at the file: a change is in force within a second.
const POLL: Duration = Duration::from_millis(400);
/// A file counts as written when two looks so far apart see the same.
const QUIET: Duration = Duration::from_millis(100);

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
}

impl Watch {
    /// Begins to watch. Changes made since `loaded` was read are reported too.
    pub fn new(
        path: impl Into<PathBuf>,
        env: Env,
        extensions: Extensions,
        loaded: &Loaded,
    ) -> Self {
        Self {
            path: path.into(),
            env,
            extensions,
            seen: loaded.digest,
        }
    }

    /// Waits for the next change of the file's content and gives what it holds now. May be
    /// cancelled and called again without missing a change.
    ///
    /// # Errors
    /// What is wrong with the new content; the caller keeps what it has. Reported once a change.
    pub async fn next(&mut self) -> Result<Loaded, Vec<Diagnostic>> {
        let mut last = None;
        loop {
            let digest = content_digest(&self.path).await;
            if digest == self.seen {
                last = None;
                sleep(POLL).await;
            } else if last == Some(digest) {
                return self.load(digest).await;
            } else {
                // Perhaps still being written.
                last = Some(digest);
                sleep(QUIET).await;
            }
        }
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

async fn content_digest(path: &Path) -> Option<[u8; 32]> {
    let bytes = tokio::fs::read(path).await.ok()?;
    Some(Sha256::digest(&bytes).into())
}

#[cfg(test)]
#[path = "tests/watch.rs"]
mod tests;
