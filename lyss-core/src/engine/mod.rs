//! The engine: everything a gateway holds, behind one clonable handle.

#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    // Without a driver no `Database` can be made, and what needs one is never reached.
    allow(unreachable_code, unused_variables)
)]

mod accounts;
mod budgets;
mod build;
mod callers;
mod gateway;
mod keys;
mod memory;
mod outlive;
mod prices;
mod providers;
mod stores;
mod upkeep;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use build::EngineBuilder;

use crate::{
    admission::{KeyRecord, KeyRing, KeyStore, jwt::JwtVerifier, limit::CallerLimits},
    billing::Ledger,
    budget::Budgets,
    config::{AuthMode, Config, Diagnostic, ProviderConfig, RetryOn},
    context::tokens::Corrections,
    database::Database,
    error::Result,
    gateway::RoutingRule,
    idempotency::SharedIdempotencyStore,
    memory::{Memories, Memory},
    pipeline::Compactions,
    price::{Exchange, PriceBook},
    provider::{Provider, registry::Registry},
    resilience::{limit::RateLimits, stream_buffer::StreamBuffer},
    routing::Table,
    seal,
    session::{SharedSessionStore, TurnQueue},
    spool::Topics,
    telemetry::metrics::Metrics,
    types::OnDisconnect,
};

/// Streams at once that are read on for callers that have gone; of more the calls upstream end.
const DRAINS_MOST: usize = 1_000;

/// How long the end waits until what requests have cost is counted; the rest is told by the log.
const BUDGET_PATIENCE: Duration = Duration::from_secs(2);

/// How long the end waits for what is to be handed on; the rest is on disk, and the next process hands it on.
const OUTBOX_PATIENCE: Duration = Duration::from_secs(2);

/// The gateway's engine. Clones are the same engine.
///
/// # Example
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use lyss_core::{Engine, Gateway, config::Config, types::{CallContext, ChatRequest}};
///
/// let dir = tempfile::tempdir().unwrap();
/// let yaml = format!("data: {{ dir: {} }}\nproviders: {{ simulated: {{}} }}", dir.path().display());
/// let config = Config::parse("gateway.yaml", &yaml, &Default::default()).unwrap().config;
/// let engine = Engine::start(config).await.unwrap();
/// let request = ChatRequest::parse(
///     r#"{"model":"simulated/echo","messages":[{"role":"user","content":"hello"}]}"#.into(),
/// )
/// .unwrap();
/// let answer = engine.chat(CallContext::process("me"), request).await.unwrap();
/// assert!(answer.body.to_bytes().windows(5).any(|text| text == b"hello"));
/// engine.shutdown(std::time::Duration::from_secs(1)).await;
/// # });
/// ```
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

/// What all clones share.
pub(crate) struct Inner {
    pub metrics: Metrics,
    /// How far estimated tokens are off, by upstream model.
    pub corrections: Corrections,
    pub ledger: Ledger,
    pub budgets: Budgets,
    pub database: Database,
    pub sessions: SharedSessionStore,
    pub turns: TurnQueue,
    /// What is handed on after an answer.
    pub topics: Topics,
    pub idempotency: SharedIdempotencyStore,
    pub keys: Arc<KeyRing>,
    /// What the admin API changes keys in.
    key_store: KeyStore,
    /// What stored content is sealed with.
    pub keys_at_rest: seal::Keys,
    /// The memory in use, if there is one.
    memories: ArcSwapOption<Memories>,
    /// A memory that the builder was given.
    own_memory: Option<Arc<dyn Memory>>,
    /// Whether sessions outlive the process.
    durable_sessions: bool,
    pub limits: RateLimits,
    /// The limits of callers.
    pub callers: Arc<CallerLimits>,
    pub stream_buffer: StreamBuffer,
    /// Places of streams that are read on for callers that have gone.
    pub drains: Arc<Semaphore>,
    /// Sessions that are being compressed.
    pub compactions: Compactions,
    redis: Option<stores::RedisPing>,
    /// What tokens cost.
    pub prices: ArcSwap<PriceBook>,
    table: ArcSwap<Table>,
    settings: ArcSwap<Settings>,
    /// What tables are built from; locked only while one is.
    sources: Mutex<Sources>,
    registry: ArcSwap<Registry>,
    balancers: build::Balancers,
    draining: AtomicBool,
    in_flight: AtomicI64,
    /// Whether the listeners the engine was started for can be reached from this machine only.
    loopback: bool,
    /// Whether the rules of the database have been read.
    rules_loaded: AtomicBool,
    /// Whether the prices of the database have been read.
    prices_loaded: AtomicBool,
    /// Whether the providers of the database have been read.
    providers_loaded: AtomicBool,
    database_up: AtomicBool,
    redis_up: AtomicBool,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// What the hot path reads of the configuration.
pub(crate) struct Settings {
    pub auth: Auth,
    pub max_retries: u32,
    pub retry_on: Vec<RetryOn>,
    pub max_in_flight: i64,
    pub auto_create_sessions: bool,
    pub exchange: Exchange,
    pub config: Config,
}

impl Settings {
    /// What becomes of a call of this key whose caller goes away; `None` for the default of its kind.
    pub fn on_disconnect(&self, key: Option<&KeyRecord>) -> Option<OnDisconnect> {
        key.and_then(|key| key.on_disconnect)
            .or(self.config.billing.on_disconnect)
    }
}

/// Who may call.
pub(crate) struct Auth {
    pub mode: AuthMode,
    pub admin_key: Option<SecretString>,
    pub default_user: Option<Arc<str>>,
    /// What checks tokens, if they are accepted.
    pub jwt: Option<Arc<JwtVerifier>>,
    /// Whether only this machine can reach the gateway.
    pub loopback: bool,
}

struct Sources {
    stored_rules: Vec<RoutingRule>,
    /// The configuration without what is stored or registered.
    file: Config,
    /// Providers that the program has registered.
    registered: BTreeMap<String, ProviderConfig>,
    stored_providers: providers::StoredProviders,
    configured: accounts::Configured,
    /// Ends the checks of the accounts in use.
    checks: CancellationToken,
}

/// A provider as it is shown at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSummary {
    /// Its configured id.
    pub id: String,
    /// Its protocol.
    pub kind: String,
    /// The models that are known of it.
    pub models: Vec<String>,
    /// What is worth knowing, such as why it is off.
    pub note: Option<String>,
}

impl Engine {
    /// Builds an engine with the built-in providers, stores and balancers and starts its background tasks.
    ///
    /// A database or Redis that is away does not fail this; what needs it answers 503 until it is back.
    ///
    /// # Errors
    /// `invalid_value` for a configuration that cannot be put into force, `internal` if the data directory cannot be used.
    pub async fn start(config: Config) -> Result<Self> {
        EngineBuilder::new(config).start().await
    }

    /// An engine with providers, stores or balancers of one's own.
    pub fn builder(config: Config) -> EngineBuilder {
        EngineBuilder::new(config)
    }

    /// Puts a new configuration into force: providers, rules, limits, auth. Calls in flight end under the old one.
    /// Listening addresses, database, Redis and the stores of sessions and idempotency keys stay as they were started.
    ///
    /// # Errors
    /// `invalid_value`; the old configuration then stays in force.
    pub async fn reload(&self, config: Config) -> Result<()> {
        build::reload(&self.0, config).inspect_err(|_| self.0.metrics.reload_failed())
    }

    /// Adds a provider of one's own to the running engine, or replaces the one of this id: the model `ID/NAME` goes to it, and
    /// the names in `models` do without the prefix, where no rule says otherwise. It stays over a reload, and goes before an
    /// entry of the same id in the configuration.
    ///
    /// # Errors
    /// `invalid_value` if a setting that is in force cannot be put into force again.
    pub fn register_provider(
        &self,
        id: &str,
        provider: Arc<dyn Provider>,
        models: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        providers::register(&self.0, id, provider, models)
    }

    /// Takes what [`Watch`](crate::config::Watch) has seen: puts it into force, or logs and counts why the old one stays.
    pub async fn take(&self, changed: Result<Config, Vec<Diagnostic>>) {
        const STAYS: &str = "the new configuration is refused, the old one stays in force";
        match changed {
            Ok(config) => match self.reload(config).await {
                Ok(()) => tracing::info!("the new configuration is in force"),
                Err(error) => tracing::error!(%error, "{STAYS}"),
            },
            Err(found) => {
                self.0.metrics.reload_failed();
                for diagnostic in found {
                    tracing::error!(%diagnostic, "{STAYS}");
                }
            }
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn metrics(&self) -> String {
        let spool = self.0.ledger.stats();
        for (topic, stats) in self.0.topics.stats() {
            self.0.metrics.outbox(topic, &stats);
        }
        self.0.metrics.limited_alone(self.0.limits.alone());
        if let Some((alone, instances)) = self.0.callers.stats() {
            self.0.metrics.callers.shared(alone, instances);
        }
        self.0.metrics.stream_buffer(self.0.stream_buffer.used());
        self.0.metrics.encode(&spool)
    }

    /// Stops taking calls: `/ready` says no, new calls are refused with `shutting_down`.
    pub fn drain(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// Waits for running calls, at most for `grace`; then ends the background tasks and writes what is in the spool.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain();
        let end = tokio::time::Instant::now() + grace;
        while self.0.in_flight.load(Relaxed) > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.topics.close(OUTBOX_PATIENCE).await;
        self.0.budgets.settled(BUDGET_PATIENCE).await;
        self.0.cancel.cancel();
        self.0.keys.stop();
        self.0.sources.lock().checks.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(Duration::from_secs(2), self.0.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("background tasks did not end in time");
        } else {
            self.0.topics.remove_empty();
        }
        // A database that is away will not be back in time; what is in the spool is written by the next process.
        let away = !self.0.database_up.load(Relaxed);
        let patience = Duration::from_secs(if away { 1 } else { 5 });
        self.0.ledger.close(patience).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.database.close()).await;
    }

    /// The providers, by id.
    pub fn providers(&self) -> Vec<ProviderSummary> {
        let models = self.all_models();
        let settings = self.0.settings();
        let summary = |(id, provider): (&String, &ProviderConfig)| ProviderSummary {
            id: id.clone(),
            kind: provider.kind.clone().unwrap_or_else(|| id.clone()),
            models: models
                .values()
                .filter(|model| model.provider == *id)
                .map(|model| model.id.clone())
                .collect(),
            note: provider.disabled.clone(),
        };
        settings.config.providers.iter().map(summary).collect()
    }

    /// The database, for administration beside the running engine.
    pub fn database(&self) -> &Database {
        &self.0.database
    }
}

impl Inner {
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Whether calls can be told apart: without keys nobody is, with keys once they have been read.
    pub fn keys_usable(&self) -> bool {
        self.settings.load().auth.mode == AuthMode::None || self.keys.is_loaded()
    }

    /// Whether the database answered when it was looked at last.
    pub fn database_answers(&self) -> bool {
        self.database_up.load(Relaxed)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether more calls run than are allowed, the asking one included.
    pub fn over_capacity(&self) -> bool {
        self.in_flight.load(Relaxed) > self.settings.load().max_in_flight
    }

    /// The memory in use.
    pub fn memories(&self) -> Option<Arc<Memories>> {
        self.memories.load_full()
    }

    /// Where work goes that outlives its caller.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Ends when the engine does: for work that outlives its caller.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Runs what may be given up when the engine ends.
    pub fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// A call has come.
    pub fn entered(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.metrics.in_flight(1);
    }

    /// A call has ended.
    pub fn left(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.metrics.in_flight(-1);
    }

    /// Whether one of a provider's accounts answers.
    pub fn is_up(&self, provider: &str) -> bool {
        let table = self.table.load();
        let accounts = table.providers().get(provider);
        accounts.is_none_or(|accounts| accounts.iter().any(|account| account.health.answers()))
    }

    /// Takes over rules of the database.
    pub fn use_stored_rules(&self, rules: Vec<RoutingRule>) {
        let mut sources = self.sources.lock();
        sources.stored_rules = rules;
        self.rebuild(&sources, true);
        self.rules_loaded.store(true, Relaxed);
    }

    /// Builds the table anew from what is known now. Shares go on where they were, unless the strategy is another.
    fn rebuild(&self, sources: &Sources, same_strategy: bool) {
        let parts = accounts::parts(&sources.configured, sources.stored_rules.clone());
        let old = self.table.load();
        let table = Table::build(&parts, same_strategy.then_some(&old));
        self.table.store(Arc::new(table));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // An engine that is dropped without `shutdown` still ends its tasks.
        self.cancel.cancel();
        self.sources.get_mut().checks.cancel();
    }
}
