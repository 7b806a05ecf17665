//! Where keys come from: a file, or a URL. They are read again now and then, and when a token names one that is not
//! known; while the source is away those that are known stay good.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::KeySet;
use crate::{
    config::JwtConfig,
    error::{Error, Result},
    provider::transport::{HttpTransport, HyperTransport, TransportConfig, collect},
    types::Segments,
};

/// The largest set of keys.
const LARGEST: usize = 1 << 20;
/// How long a read may take.
const READ: Duration = Duration::from_secs(10);
/// How long a token waits for its key.
const PATIENCE: Duration = Duration::from_secs(3);
/// Least time between two reads, however many unknown keys are named.
const GAP: Duration = Duration::from_secs(1);
/// The first pause after a read that failed; each further one is twice as long, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What a look at the source gave.
pub(super) enum Looked {
    /// The keys as they were read just now.
    Keys(Arc<KeySet>),
    /// It cannot be read.
    Away,
}

/// The keys of an issuer, kept up to date in the background until this is dropped.
#[derive(Debug)]
pub(super) struct KeySource {
    keys: ArcSwap<KeySet>,
    place: Place,
    asked: Notify,
    /// Reads begun, and the outcome of the last one that ended.
    begun: AtomicU64,
    ended: watch::Sender<Ended>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    read: u64,
    well: bool,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Url(Box<(http::Uri, HyperTransport)>),
}

impl KeySource {
    /// A source, and what ends its reading when it is dropped.
    pub fn start(config: &JwtConfig) -> Result<(Arc<Self>, DropGuard)> {
        let place = match (&config.jwks_file, &config.jwks_url) {
            (_, Some(url)) => {
                let wrong =
                    |_| Error::invalid("auth.jwt.jwks_url", "`auth.jwt.jwks_url` is no URL");
                let transport = HyperTransport::new(&TransportConfig {
                    connect_timeout: READ,
                    ..TransportConfig::default()
                })?;
                Place::Url(Box::new((url.parse().map_err(wrong)?, transport)))
            }
            (Some(path), None) => Place::File(path.clone()),
            (None, None) => {
                return Err(Error::invalid(
                    "auth.jwt",
                    "`auth.jwt` needs `jwks_file` or `jwks_url`",
                ));
            }
        };
        let keys = match &config.jwks_file {
            Some(path) => of_file(path).map_err(|why| {
                let message = format!("`auth.jwt.jwks_file`: {} {why}", path.display());
                Error::invalid("auth.jwt.jwks_file", message)
            })?,
            None => KeySet::default(),
        };
        let source = Arc::new(Self {
            keys: ArcSwap::from_pointee(keys),
            place,
            asked: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(Ended::default()),
        });
        let stop = CancellationToken::new();
        let (stopped, following) = (stop.clone(), follow(Arc::clone(&source), config.refresh));
        tokio::spawn(async move {
            stopped.run_until_cancelled(following).await;
        });
        Ok((source, stop.drop_guard()))
    }

    /// The keys that are known.
    pub fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    /// Has the keys read, and waits for it a moment.
    pub async fn look(&self) -> Looked {
        let mut ended = self.ended.subscribe();
        // A read that is under way may have begun before the key was published.
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        self.asked.notify_one();
        let news = timeout(PATIENCE, ended.wait_for(|ended| ended.read >= wanted)).await;
        match news {
            Ok(Ok(ended)) if ended.well => Looked::Keys(self.keys()),
            _ => Looked::Away,
        }
    }

    async fn read(&self) -> Result<KeySet, String> {
        match &self.place {
            Place::File(path) => of_file(path),
            Place::Url(place) => of_url(&place.0, &place.1).await,
        }
    }

    /// Reads the keys; says whether that worked.
    async fn refresh(&self, was_well: bool) -> bool {
        let read = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let keys = timeout(READ, self.read()).await;
        let keys = keys.unwrap_or_else(|_| Err("does not answer".to_owned()));
        let well = keys.is_ok();
        match keys {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                if !was_well {
                    tracing::info!("the keys of the tokens' issuer can be read again");
                }
            }
            Err(why) if was_well => {
                tracing::warn!(
                    why,
                    "the keys of the tokens' issuer cannot be read; those known stay good"
                );
            }
            Err(_) => {}
        }
        self.ended.send_replace(Ended { read, well });
        well
    }
}

async fn follow(source: Arc<KeySource>, refresh: Duration) {
    let mut well = true;
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        well = source.refresh(well).await;
        let wait = if well { refresh } else { pause };
        pause = match well {
            true => FIRST_PAUSE,
            false => (pause * 2).min(LAST_PAUSE),
        };
        // While it is away, those who ask wait for the pause like everybody else.
        let gap = if well { GAP.min(refresh) } else { wait };
        tokio::select! {
            () = sleep(wait) => {}
            () = source.asked.notified() => sleep_until(began + gap).await,
        }
    }
}

fn of_file(path: &std::path::Path) -> Result<KeySet, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if size.len() > LARGEST as u64 {
        return Err("is too large for a set of keys".to_owned());
    }
    let json = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    KeySet::parse(&json)
}

async fn of_url(url: &http::Uri, transport: &HyperTransport) -> Result<KeySet, String> {
    let request = http::Request::get(url)
        .header(http::header::ACCEPT, "application/json")
        .body(Segments::default())
        .map_err(|_| "cannot be asked".to_owned())?;
    let failed = |error: Error| match std::error::Error::source(&error) {
        Some(cause) => format!("{}: {cause}", error.message()),
        None => error.message().to_owned(),
    };
    let answer = transport.send(request).await.map_err(failed)?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("answers with status {}", answer.status().as_u16()));
    }
    let json = collect(answer.into_body(), LARGEST).await.map_err(failed)?;
    KeySet::parse(&json)
}
