//! From a configuration to an engine. `Engine::start`, the builder and a reload all come through here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64},
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
    accounts::{Kept, configured, parts},
    providers::{self, StoredProviders},
    stores::{Background, limits, open_idempotency, open_redis, open_sessions},
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
    idempotency::SharedIdempotencyStore,
    memory::Memory,
    pipeline::Compactions,
    price::{Exchange, PriceBook, configured as configured_prices},
    provider::{registry::Registry, transport::install_crypto},
    resilience::stream_buffer::StreamBuffer,
    routing::Table,
    seal::Keys,
    session::{SharedSessionStore, TurnQueue},
    spool::Topics,
    telemetry::metrics::Metrics,
};

/// Strategies by name, besides the built-in ones.
pub(crate) type Balancers = BTreeMap<String, BalancerFactory>;

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
        let pepper = match &config.auth.pepper {
            Some(pepper) => pepper.expose().as_bytes().to_vec(),
            None => load_or_create_pepper(config.data.path())?,
        };
        let store = KeyStore::new(database.clone(), KeyHasher::new(&pepper)?);
        let secrets = upkeep::Secrets {
            at_rest: keys_at_rest.clone(),
            api_keys: store.clone(),
        };
        upkeep::verify_secrets(&database, secrets, &tasks, &cancel).await?;
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
                registered: BTreeMap::new(),
                stored_providers: StoredProviders::new(),
                configured,
                checks: CancellationToken::new(),
            }),
            registry: ArcSwap::from_pointee(registry),
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
    let config = providers::overlay(&file, &sources.registered, &sources.stored_providers);
    let balancer = balancer(&inner.balancers, &config)?;
    let old = inner.settings();
    let kept = Kept {
        config: &old.config,
        accounts: &sources.configured.accounts,
    };
    let configured = configured(
        &config,
        &inner.registry.load(),
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
