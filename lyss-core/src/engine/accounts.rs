//! From a configuration to providers and routes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use arc_swap::ArcSwap;
use secrecy::SecretString;

use crate::{
    balance::BalancerFactory,
    config::{Config, ProviderConfig},
    error::Result,
    gateway::RoutingRule,
    price::Catalog,
    provider::{
        ProviderSpec,
        registry::Registry,
        transport::{Egress, HttpTransport, HyperTransport, TransportConfig},
    },
    resilience::{limit::RateLimit, stream_buffer::StreamBuffer, timeout::Timeouts},
    routing::{Account, TableParts},
};

/// What a configuration says about providers and routes.
pub(super) struct Configured {
    pub accounts: HashMap<Arc<str>, Vec<Arc<Account>>>,
    pub rules: Vec<RoutingRule>,
    pub named_models: Vec<RoutingRule>,
    pub default_provider: Option<Arc<str>>,
    pub balancer: BalancerFactory,
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

/// What a reload may keep: an account whose provider is configured as before goes on with its connections and its
/// health.
pub(super) struct Kept<'a> {
    pub config: &'a Config,
    pub accounts: &'a HashMap<Arc<str>, Vec<Arc<Account>>>,
}

pub(super) fn configured(
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
