//! From a configuration to an engine. `Engine::start`, the builder and a reload all come through here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Auth, Engine, Inner, Settings, Sources,
    providers::{self, StoredProviders},
    upkeep,
};
use crate::{
    admission::{KeyHasher, KeyRing, KeyStore, RingTimes, jwt::JwtVerifier, load_or_create_pepper},
    balance::{BalancerFactory, SessionAffinity},
    billing::{Ledger, LedgerOptions},
    config::{AuthMode, Config, ProviderConfig, StoreKind},
    context::tokens::Corrections,
    database::{Database, DatabaseSource},
    error::{Error, Result},
    gateway::RoutingRule,
    idempotency::{MemoryIdempotencyStore, SharedIdempotencyStore},
    memory::Memory,
    pipeline::Compactions,
    price::{Catalog, Exchange, PriceBook, configured as configured_prices},
    provider::{
        ProviderSpec,
        registry::Registry,
        transport::{Egress, HttpTransport, HyperTransport, TransportConfig, install_crypto},
    },
    resilience::{
        limit::{RateLimit, RateLimits},
        stream_buffer::StreamBuffer,
        timeout::Timeouts,
    },
    routing::{Account, Table, TableParts},
    seal::Keys,
    session::{MemorySessionStore, SharedSessionStore, TurnQueue},
    spool::Topics,
    telemetry::metrics::Metrics,
};

/// Strategies by name, besides the built-in ones.
pub(crate) type Balancers = BTreeMap<String, BalancerFactory>;

#[cfg(feature = "redis")]
pub(super) type RedisPing = crate::redis::RedisHandle;
#[cfg(not(feature = "redis"))]
pub(super) enum RedisPing {}

#[cfg(not(feature = "redis"))]
impl RedisPing {
    pub(super) async fn ping(&self) -> Result<()> {
        match *self {}
    }
}

/// What a configuration says about providers and routes.
pub(super) struct Configured {
    pub accounts: HashMap<Arc<str>, Vec<Arc<Account>>>,
    pub rules: Vec<RoutingRule>,
    pub named_models: Vec<RoutingRule>,
    pub default_provider: Option<Arc<str>>,
    pub balancer: BalancerFactory,
}

/// Puts an engine together from a configuration and parts of one's own.
pub struct EngineBuilder {
    config: Config,
    registry: Registry,
    balancers: Balancers,
    sessions: Option<SharedSessionStore>,
    idempotency: Option<SharedIdempotencyStore>,
    memory: Option<Arc<dyn Memory>>,
}

impl EngineBuilder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            registry: Registry::builtin(),
            balancers: Balancers::new(),
            sessions: None,
            idempotency: None,
            memory: None,
        }
    }

    /// The provider kinds; add one's own with [`Registry::register`].
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Adds a strategy, to be named in `routing.load_balancer`.
    pub fn balancer(mut self, name: impl Into<String>, factory: BalancerFactory) -> Self {
        self.balancers.insert(name.into(), factory);
        self
    }

    /// A session store of one's own in place of the configured one.
    pub fn session_store(mut self, store: SharedSessionStore) -> Self {
        self.sessions = Some(store);
        self
    }

    /// A store of idempotency keys of one's own in place of the configured one.
    pub fn idempotency_store(mut self, store: SharedIdempotencyStore) -> Self {
        self.idempotency = Some(store);
        self
    }

    /// A memory of one's own in place of the configured one; `memory.scope` and `memory.max_bytes` hold for it too.
    pub fn memory(mut self, memory: Arc<dyn Memory>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Builds and starts the engine; see [`Engine::start`].
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub async fn start(self) -> Result<Engine> {
        install_crypto();
        let Self {
            mut config,
            registry,
            balancers,
            sessions,
            idempotency,
            memory,
        } = self;
        if config.embedded {
            find_ollama(&mut config).await;
        }
        let loopback = config.listens_on_loopback_only();
        let database = Database::open(
            DatabaseSource::from_config(&config.data)?,
            config.data.database.max_connections,
        )?;
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        // What has been started ends with a start that fails.
        let started = cancel.clone().drop_guard();
        if config.data.database.auto_migrate {
            upkeep::migrate_first(&database, &tasks, &cancel).await;
        }
        let keys_at_rest = Keys::load(&config.data)?;
        upkeep::verify_keys(&database, &keys_at_rest, &tasks, &cancel).await?;
        let options = LedgerOptions {
            retention: Some(config.data.database.log_retention),
            durability: config.billing.durability,
            ..LedgerOptions::new(config.data.spool_path(), config.data.spool_max_bytes)
        };
        let metrics = Metrics::default();
        let ledger = Ledger::open(options, Some(database.clone()))?;
        let topics = Topics::new(config.data.spool_path(), config.data.outbox_max_bytes);
        let redis = open_redis(&config).await?;
        let budgets = super::budgets::open(&config, &metrics, &database, redis.as_ref()).await?;
        let durable_sessions =
            sessions.is_some() || config.session.store != Some(StoreKind::Memory);
        let sessions = match sessions {
            Some(sessions) => sessions,
            None => {
                let background = Background {
                    topics: &topics,
                    tasks: &tasks,
                    cancel: &cancel,
                };
                open_sessions(&config, &database, redis.as_ref(), &background)?
            }
        };
        let idempotency = match idempotency {
            Some(idempotency) => idempotency,
            None => open_idempotency(&config, &database, redis.as_ref())?,
        };
        let sessions = keys_at_rest.sessions(sessions);
        let idempotency = keys_at_rest.replies(idempotency);
        let pepper = match &config.auth.pepper {
            Some(pepper) => pepper.expose().as_bytes().to_vec(),
            None => load_or_create_pepper(config.data.path())?,
        };
        let store = KeyStore::new(database.clone(), KeyHasher::new(&pepper)?);
        let keys = KeyRing::start(store.clone(), RingTimes::default()).await;
        let balancer = balancer(&balancers, &config)?;
        let stream_buffer = StreamBuffer::new(config.server.stream_buffer_max);
        let configured = configured(&config, &registry, &stream_buffer, balancer, None)?;
        let prices = PriceBook::default().with_configured(configured_prices(&config.billing)?);
        let table = Table::build(&parts(&configured, Vec::new()), None);
        let inner = Arc::new(Inner {
            metrics,
            ledger,
            budgets,
            database,
            turns: TurnQueue::new(Arc::clone(&sessions), tasks.clone()),
            sessions,
            topics,
            idempotency,
            keys,
            key_store: store,
            keys_at_rest,
            memories: ArcSwapOption::empty(),
            own_memory: memory,
            durable_sessions,
            limits: limits(redis.as_ref()),
            callers: super::callers::open(redis.as_ref(), &tasks),
            stream_buffer,
            drains: Arc::new(Semaphore::new(super::DRAINS_MOST)),
            corrections: Corrections::default(),
            compactions: Compactions::default(),
            redis,
            prices: ArcSwap::from_pointee(prices),
            table: ArcSwap::from_pointee(table),
            settings: ArcSwap::from_pointee(settings(config.clone(), loopback, None)?),
            loopback,
            sources: Mutex::new(Sources {
                stored_rules: Vec::new(),
                file: config,
                stored_providers: StoredProviders::new(),
                configured,
                checks: CancellationToken::new(),
            }),
            registry,
            balancers,
            draining: AtomicBool::new(false),
            in_flight: AtomicI64::new(0),
            rules_loaded: AtomicBool::new(false),
            prices_loaded: AtomicBool::new(false),
            providers_loaded: AtomicBool::new(false),
            database_up: AtomicBool::new(true),
            redis_up: AtomicBool::new(true),
            tasks,
            cancel,
        });
        let memory = super::memory::open(&inner, &inner.settings().config)?;
        super::memory::put_into_force(&inner, memory);
        let engine = Engine(inner);
        started.disarm();
        upkeep::start(&engine).await;
        Ok(engine)
    }
}

/// Puts a new configuration into force.
pub(super) fn reload(inner: &Arc<Inner>, config: Config) -> Result<()> {
    put_into_force(inner, &mut inner.sources.lock(), config)
}

/// Puts a configuration into force, with the stored providers in it.
pub(super) fn put_into_force(
    inner: &Arc<Inner>,
    sources: &mut Sources,
    file: Config,
) -> Result<()> {
    let config = providers::overlay(&file, &sources.stored_providers);
    let balancer = balancer(&inner.balancers, &config)?;
    let old = inner.settings();
    let kept = Kept {
        config: &old.config,
        accounts: &sources.configured.accounts,
    };
    let configured = configured(
        &config,
        &inner.registry,
        &inner.stream_buffer,
        balancer,
        Some(&kept),
    )?;
    let prices = configured_prices(&config.billing)?;
    let settings = settings(config, inner.loopback, Some(&old))?;
    // The last step that can fail.
    let memory = if settings.config.memory == old.config.memory {
        None
    } else {
        Some(super::memory::open(inner, &settings.config)?)
    };
    inner.budgets.configure(&settings.config)?;
    let strategy = |config: &Config| {
        let routing = &config.routing;
        (routing.load_balancer.clone(), routing.session_affinity)
    };
    let same_strategy = strategy(&old.config) == strategy(&settings.config);
    sources.checks.cancel();
    sources.checks = CancellationToken::new();
    sources.configured = configured;
    sources.file = file;
    inner
        .stream_buffer
        .resize(settings.config.server.stream_buffer_max);
    inner
        .prices
        .rcu(|book| book.with_configured(prices.iter().cloned()));
    inner.settings.store(Arc::new(settings));
    if let Some(memory) = memory {
        super::memory::put_into_force(inner, memory);
    }
    inner.rebuild(sources, same_strategy);
    let accounts = sources
        .configured
        .accounts
        .values()
        .flatten()
        .cloned()
        .collect();
    upkeep::check_accounts(inner, accounts, &sources.checks);
    Ok(())
}

/// What the table is built from.
pub(super) fn parts(configured: &Configured, stored_rules: Vec<RoutingRule>) -> TableParts {
    TableParts {
        accounts: configured.accounts.clone(),
        config_rules: configured.rules.clone(),
        stored_rules,
        named_models: configured.named_models.clone(),
        default_provider: configured.default_provider.clone(),
        balancer: Arc::clone(&configured.balancer),
    }
}

fn balancer(own: &Balancers, config: &Config) -> Result<BalancerFactory> {
    let name = &config.routing.load_balancer;
    let factory = own
        .get(name)
        .cloned()
        .or_else(|| crate::balance::builtin(name))
        .ok_or_else(|| {
            Error::invalid(
                "routing.load_balancer",
                format!("there is no load balancer `{name}`; accepted: weighted_round_robin"),
            )
        })?;
    Ok(if config.routing.session_affinity {
        SessionAffinity::over(factory)
    } else {
        factory
    })
}

/// `old`: what was in force. `loopback`: whether the listeners that are open can be reached from this machine only. A reload does not move them,
/// so it must not open what they guard.
fn settings(config: Config, loopback: bool, old: Option<&Settings>) -> Result<Settings> {
    let mode = match config.auth.mode {
        Some(AuthMode::None) if !loopback && !config.auth.allow_anonymous => {
            return Err(Error::invalid(
                "auth.mode",
                "`none` on an address that others can reach needs `auth.allow_anonymous: true`",
            ));
        }
        Some(mode) => mode,
        None if loopback => AuthMode::None,
        None => AuthMode::Keys,
    };
    let default_user = match (&config.auth.default_user, mode) {
        (Some(user), _) => Some(user.as_str()),
        (None, AuthMode::None) => Some("local"),
        (None, AuthMode::Keys) => None,
    };
    let jwt = match &config.auth.jwt {
        // The keys that are known stay, and need not be read again.
        Some(jwt) => match old.and_then(|old| old.auth.jwt.as_ref()) {
            Some(verifier) if verifier.config() == jwt => Some(Arc::clone(verifier)),
            _ => Some(Arc::new(JwtVerifier::start(jwt)?)),
        },
        None => None,
    };
    let auth = Auth {
        mode,
        jwt,
        admin_key: config
            .auth
            .admin_key
            .as_ref()
            .map(|key| SecretString::from(key.expose())),
        default_user: default_user
            .filter(|_| !config.auth.require_user_id)
            .map(Arc::from),
        loopback,
    };
    Ok(Settings {
        auth,
        max_retries: config.routing.max_retries,
        retry_on: config.routing.retry_on.clone(),
        max_in_flight: i64::try_from(config.server.max_in_flight).unwrap_or(i64::MAX),
        auto_create_sessions: config.session.auto_create,
        exchange: Exchange::new(&config.billing),
        config,
    })
}

#[cfg(feature = "redis")]
async fn open_redis(config: &Config) -> Result<Option<RedisPing>> {
    let Some(redis) = &config.data.redis else {
        return Ok(None);
    };
    let source = crate::redis::RedisSource {
        addr: redis.addr.clone(),
        cluster: redis.cluster.clone(),
        tls: redis.tls,
        username: redis.username.clone(),
        password: SecretString::from(redis.password.expose()),
        db: i64::from(redis.db),
        dial_timeout: redis.dial_timeout,
        ..Default::default()
    };
    crate::redis::RedisHandle::connect(source).await.map(Some)
}

#[cfg(not(feature = "redis"))]
async fn open_redis(config: &Config) -> Result<Option<RedisPing>> {
    match &config.data.redis {
        None => Ok(None),
        Some(_) => Err(Error::invalid(
            "data.redis",
            "this build has no Redis (cargo feature `redis`)",
        )),
    }
}

fn limits(redis: Option<&RedisPing>) -> RateLimits {
    #[cfg(feature = "redis")]
    if let Some(redis) = redis {
        return RateLimits::shared(redis.clone());
    }
    let _ = redis;
    RateLimits::default()
}

/// Where a store leaves what is to be done after an answer.
#[cfg_attr(
    not(all(feature = "redis", any(feature = "postgres", feature = "sqlite"))),
    allow(dead_code)
)]
struct Background<'a> {
    topics: &'a Topics,
    tasks: &'a TaskTracker,
    cancel: &'a CancellationToken,
}

fn open_sessions(
    config: &Config,
    database: &Database,
    redis: Option<&RedisPing>,
    #[cfg_attr(not(feature = "redis"), allow(unused_variables))] background: &Background<'_>,
) -> Result<SharedSessionStore> {
    let ttl = config.session.ttl;
    let kind = config.session.store.unwrap_or(if redis.is_some() {
        StoreKind::Redis
    } else {
        StoreKind::Database
    });
    Ok(match (kind, redis) {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        (StoreKind::Database, _) => Arc::new(crate::session::DatabaseSessionStore::new(
            database.clone(),
            ttl,
        )),
        (StoreKind::Memory, _) => Arc::new(MemorySessionStore::new(ttl)),
        #[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Redis, Some(redis)) if config.session.archive => {
            open_archived_sessions(redis, database, ttl, background)?
        }
        #[cfg(feature = "redis")]
        (StoreKind::Redis, Some(redis)) => {
            let _ = background;
            Arc::new(crate::session::RedisSessionStore::new(redis.clone(), ttl))
        }
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Database, _) => {
            return Err(Error::invalid(
                "session.store",
                "this build has no database driver",
            ));
        }
        (StoreKind::Redis, _) => {
            return Err(Error::invalid(
                "session.store",
                "`redis` needs `data.redis`",
            ));
        }
    })
}

fn open_idempotency(
    config: &Config,
    database: &Database,
    redis: Option<&RedisPing>,
) -> Result<SharedIdempotencyStore> {
    /// Replies that are kept in memory at once.
    const MEMORY: usize = 64 << 20;
    let ttl = config.idempotency.ttl;
    let kind = config.idempotency.store.unwrap_or(if redis.is_some() {
        StoreKind::Redis
    } else {
        StoreKind::Database
    });
    Ok(match (kind, redis) {
        #[cfg(any(feature = "postgres", feature = "sqlite"))]
        (StoreKind::Database, _) => Arc::new(crate::idempotency::DatabaseIdempotencyStore::new(
            database.clone(),
            ttl,
        )),
        (StoreKind::Memory, _) => Arc::new(MemoryIdempotencyStore::new(ttl, MEMORY)),
        #[cfg(feature = "redis")]
        (StoreKind::Redis, Some(redis)) => Arc::new(
            crate::idempotency::RedisIdempotencyStore::new(redis.clone(), ttl),
        ),
        #[cfg(not(any(feature = "postgres", feature = "sqlite")))]
        (StoreKind::Database, _) => {
            return Err(Error::invalid(
                "idempotency.store",
                "this build has no database driver",
            ));
        }
        (StoreKind::Redis, _) => {
            return Err(Error::invalid(
                "idempotency.store",
                "`redis` needs `data.redis`",
            ));
        }
    })
}

/// Redis as the working copy, the database as the archive.
#[cfg(all(feature = "redis", any(feature = "postgres", feature = "sqlite")))]
fn open_archived_sessions(
    redis: &RedisPing,
    database: &Database,
    ttl: Duration,
    background: &Background<'_>,
) -> Result<SharedSessionStore> {
    use crate::session::{
        ARCHIVE_TOPIC, ArchivedSessionStore, DatabaseSessionStore, RedisSessionStore,
    };
    let (outbox, _) = background.topics.open(ARCHIVE_TOPIC)?;
    let live = RedisSessionStore::new(redis.clone(), ttl);
    let archive = DatabaseSessionStore::new(database.clone(), ttl);
    let (store, keeping) = ArchivedSessionStore::new(live, archive, outbox);
    let cancel = background.cancel.clone();
    background.tasks.spawn(async move {
        cancel.run_until_cancelled(keeping).await;
    });
    Ok(Arc::new(store))
}

/// What a reload may keep: an account whose provider is configured as before goes on with its connections and its
/// health.
struct Kept<'a> {
    config: &'a Config,
    accounts: &'a HashMap<Arc<str>, Vec<Arc<Account>>>,
}

fn configured(
    config: &Config,
    registry: &Registry,
    stream_buffer: &StreamBuffer,
    balancer: BalancerFactory,
    kept: Option<&Kept<'_>>,
) -> Result<Configured> {
    let mut accounts = HashMap::new();
    let mut named_models = Vec::new();
    let timing = |config: &Config| {
        let routing = &config.routing;
        (
            routing.timeout,
            routing.connect_timeout,
            routing.first_chunk_timeout,
            routing.stream_idle_timeout,
            routing.stream_total_timeout,
        )
    };
    for (id, provider) in config
        .providers
        .iter()
        .filter(|(_, provider)| provider.disabled.is_none())
    {
        let id: Arc<str> = id.as_str().into();
        let same = kept.filter(|kept| {
            kept.config.providers.get(&*id) == Some(provider)
                && timing(kept.config) == timing(config)
                && kept.config.routing.egress == config.routing.egress
        });
        let own = match same.and_then(|kept| kept.accounts.get(&id)) {
            Some(accounts) => accounts.clone(),
            None => match accounts_of(&id, provider, config, registry, stream_buffer) {
                // It was checked when it was set up, by a gateway of another version or configuration.
                Err(error) if provider.vetted => {
                    tracing::error!(provider = %id, %error, "a provider of the table cannot be used");
                    continue;
                }
                made => made?,
            },
        };
        for (public, upstream) in &provider.models {
            named_models.push(RoutingRule {
                id: None,
                model_name: public.clone(),
                provider_id: id.to_string(),
                priority: 1,
                weight: provider.weight,
                max_rps: None,
                is_enabled: true,
                upstream_model: Some(upstream.clone()),
            });
        }
        accounts.insert(id, own);
    }
    let rules = config
        .routing
        .rules
        .iter()
        .map(|rule| RoutingRule {
            id: None,
            model_name: rule.model.clone(),
            provider_id: rule.provider.clone(),
            priority: rule.priority,
            weight: rule.weight,
            max_rps: rule.max_rps,
            is_enabled: rule.enabled,
            upstream_model: rule.upstream_model.clone(),
        })
        .collect();
    Ok(Configured {
        accounts,
        rules,
        named_models,
        default_provider: config.routing.default_provider.as_deref().map(Arc::from),
        balancer,
    })
}

/// One account for each key of a provider; one without a key if it has none.
pub(super) fn accounts_of(
    id: &Arc<str>,
    provider: &ProviderConfig,
    config: &Config,
    registry: &Registry,
    stream_buffer: &StreamBuffer,
) -> Result<Vec<Arc<Account>>> {
    let routing = &config.routing;
    let transport: Arc<dyn HttpTransport> = Arc::new(HyperTransport::new(&TransportConfig {
        connect_timeout: provider.connect_timeout.unwrap_or(routing.connect_timeout),
        proxy: provider
            .proxy
            .as_ref()
            .map(|proxy| SecretString::from(proxy.expose())),
        egress: provider.vetted.then(|| Egress::new(&routing.egress)),
        ..TransportConfig::default()
    })?);
    let timeouts = Timeouts {
        unary: provider.timeout.unwrap_or(routing.timeout),
        first_chunk: provider
            .first_chunk_timeout
            .unwrap_or(routing.first_chunk_timeout),
        idle: provider
            .stream_idle_timeout
            .unwrap_or(routing.stream_idle_timeout),
        total: provider
            .stream_total_timeout
            .or(routing.stream_total_timeout),
    };
    let limit = provider
        .max_rps
        .map(|rps| Arc::new(RateLimit::of_provider(id, rps)));
    let running = Arc::new(AtomicUsize::new(0));
    let kind = provider.kind.as_deref().unwrap_or(id);
    let catalog = Catalog::of(
        kind,
        provider.preset.as_deref(),
        provider.base_url.as_deref(),
    );
    let keys: Vec<Option<SecretString>> = match provider.keys().count() {
        0 => vec![None],
        _ => provider
            .keys()
            .map(|key| Some(SecretString::from(key.expose())))
            .collect(),
    };
    keys.into_iter()
        .enumerate()
        .map(|(key, api_key)| {
            let mut spec = ProviderSpec::new(Arc::clone(id), Arc::clone(&transport));
            spec.api_key = api_key;
            spec.preset.clone_from(&provider.preset);
            spec.base_url.clone_from(&provider.base_url);
            spec.headers = provider
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), SecretString::from(value.expose())))
                .collect();
            spec.options.clone_from(&provider.options);
            if let Some(most) = provider.max_event {
                spec.max_event = usize::try_from(most).unwrap_or(usize::MAX);
            }
            spec.stream_buffer = stream_buffer.clone();
            Ok(Arc::new(Account {
                id: Arc::clone(id),
                key,
                kind: kind.to_owned(),
                preset: provider.preset.clone(),
                catalog,
                provider: registry.build(kind, spec)?,
                weight: provider.weight,
                timeouts,
                limit: limit.clone(),
                max_concurrent: provider.max_concurrent,
                running: Arc::clone(&running),
                health: Arc::default(),
                models: ArcSwap::default(),
                context_windows: provider.context_windows.clone(),
                in_flight: AtomicUsize::new(0),
                key_balancer: std::sync::OnceLock::new(),
            }))
        })
        .collect()
}

/// Looks for a local Ollama, which needs no key (contract section 3).
async fn find_ollama(config: &mut Config) {
    const ADDRESS: &str = "127.0.0.1:11434";
    if config.providers.contains_key("ollama") {
        return;
    }
    let answer = tokio::time::timeout(
        Duration::from_millis(200),
        tokio::net::TcpStream::connect(ADDRESS),
    )
    .await;
    if matches!(answer, Ok(Ok(_))) {
        config.providers.insert(
            "ollama".into(),
            ProviderConfig {
                kind: Some("openai".into()),
                preset: Some("ollama".into()),
                ..Default::default()
            },
        );
    }
}
