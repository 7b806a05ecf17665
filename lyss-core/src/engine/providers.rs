//! Providers of the table: set up through the admin API, in force on every instance within a second.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use super::{Inner, build};
use crate::{
    config::{Config, Diagnostic, Extensions, ProviderConfig},
    database::ProviderRow,
    error::{Error, ErrorKind, Result},
    gateway::{ProviderInfo, ProviderSource},
    provider::{Provider, registry::Registry, transport::Egress},
    seal::{self, Place, SealRing},
    session::now_ms,
};

/// The members that are secret, and sealed.
const SECRETS: [&str; 3] = ["api_key", "api_keys", "headers"];
/// The members that say where calls, and with them the keys, are sent.
const DESTINATION: [&str; 3] = ["kind", "preset", "base_url"];
/// Most providers in the table.
const MOST: usize = 1_000;
/// How often a write is tried that others overtake.
const TRIES: usize = 5;

/// A row of the table as it is in force.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// Its members without the secrets, as they came.
    settings: Map<String, Value>,
    created_ms: i64,
    updated_ms: i64,
    /// What it means; `disabled` if it is switched off or cannot be used.
    config: ProviderConfig,
}

/// The stored providers by id.
pub(super) type StoredProviders = BTreeMap<String, Stored>;

/// The configuration with the registered providers in it, and the stored ones: each takes the place of those of the same id.
pub(super) fn overlay(
    file: &Config,
    registered: &BTreeMap<String, ProviderConfig>,
    stored: &StoredProviders,
) -> Config {
    let mut config = file.clone();
    config.providers.extend(registered.clone());
    for (id, provider) in stored {
        config.providers.insert(id.clone(), provider.config.clone());
    }
    config
}

/// Takes a provider of the program's own into use.
pub(super) fn register(
    inner: &Arc<Inner>,
    id: &str,
    provider: Arc<dyn Provider>,
    models: impl IntoIterator<Item = String>,
) -> Result<()> {
    let mut sources = inner.sources.lock();
    // Kinds and ids are different namespaces: an own provider may be called `openai`.
    let kind = format!("registered:{id}");
    let mut registry = Registry::clone(&inner.registry.load());
    registry.register(kind.clone(), move |_| Ok(Arc::clone(&provider)));
    inner.registry.store(Arc::new(registry));
    let config = ProviderConfig {
        kind: Some(kind),
        models: models
            .into_iter()
            .map(|name| (name.clone(), name))
            .collect(),
        ..ProviderConfig::default()
    };
    sources.registered.insert(id.to_owned(), config);
    // What was registered under this name before is configured alike, and would be kept.
    sources.configured.accounts.remove(id);
    let file = sources.file.clone();
    build::put_into_force(inner, &mut sources, file)
}

impl Inner {
    /// Reads the table.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(super) async fn read_stored_providers(&self) -> Result<StoredProviders> {
        let rows = self.database.list_providers().await?;
        let read = |row: ProviderRow| (row.id.clone(), self.stored(row));
        Ok(rows.into_iter().map(read).collect())
    }

    /// What a row means. One that cannot be read is a provider that is disabled.
    fn stored(&self, row: ProviderRow) -> Stored {
        let settings: Map<String, Value> = serde_json::from_str(&row.settings).unwrap_or_default();
        let enabled = settings.get(ENABLED) != Some(&Value::Bool(false));
        let read = secrets_of(&self.keys_at_rest.ring, &row).and_then(|secrets| {
            let mut members = settings.clone();
            members.remove(ENABLED);
            members.extend(secrets);
            parse(&row.id, &members, &self.registry.load())
                .map_err(|error| error.message().to_owned())
        });
        let mut config = read.unwrap_or_else(|why| {
            tracing::error!(provider = %row.id, why, "a provider of the table cannot be used");
            ProviderConfig {
                disabled: Some(why),
                ..ProviderConfig::default()
            }
        });
        config.vetted = true;
        if !enabled {
            config.disabled = Some("switched off through the admin API".to_owned());
        }
        Stored {
            settings,
            created_ms: row.created_ms,
            updated_ms: row.updated_ms,
            config,
        }
    }

    /// Takes the stored providers into use.
    pub(super) fn use_stored_providers(self: &Arc<Self>, stored: StoredProviders) {
        let mut sources = self.sources.lock();
        if sources.stored_providers == stored {
            return;
        }
        let before = std::mem::replace(&mut sources.stored_providers, stored);
        let file = sources.file.clone();
        if let Err(error) = build::put_into_force(self, &mut sources, file) {
            tracing::error!(%error, "the providers of the table cannot be put into force");
            sources.stored_providers = before;
        }
    }

    /// All providers, of the configuration and of the table.
    pub(super) fn provider_infos(&self) -> Vec<ProviderInfo> {
        let settings = self.settings();
        let sources = self.sources.lock();
        let info = |(id, config): (&String, &ProviderConfig)| {
            info(id, config, sources.stored_providers.get(id))
        };
        settings.config.providers.iter().map(info).collect()
    }

    /// Sets a provider up, or changes it, and takes it into use here.
    pub(super) async fn write_provider(
        self: &Arc<Self>,
        id: &str,
        members: Map<String, Value>,
        create: bool,
    ) -> Result<ProviderInfo> {
        let change = Change::new(id, members)?;
        for _ in 0..TRIES {
            let rows = self.database.list_providers().await?;
            let known = rows.len();
            let existing = rows.into_iter().find(|row| row.id == id);
            match &existing {
                Some(_) if create => {
                    let message = format!("there is a provider `{id}` already; `PUT` changes it");
                    return Err(Error::invalid("id", message));
                }
                None if known >= MOST => {
                    let message = format!("there are {MOST} providers, and no room for more");
                    return Err(Error::invalid("id", message));
                }
                _ => {}
            }
            let row = self.row_of(&change, existing.as_ref())?;
            if row.secrets.is_some() {
                seal::register(&self.database, &self.keys_at_rest.ring).await?;
            }
            let replaced = existing.map(|row| row.updated_ms);
            if self.database.write_provider(&row, replaced).await? {
                tracing::info!(provider = id, "a provider was set up through the admin API");
                self.use_stored_providers_now().await;
                let stored = self.stored(row);
                return Ok(info(id, &stored.config, Some(&stored)));
            }
        }
        Err(Error::new(
            ErrorKind::StoreUnavailable,
            "others change this provider at the same time; try again",
        ))
    }

    /// Deletes a provider of the table; one of the configuration that it stood in for is in force again.
    pub(super) async fn remove_provider(self: &Arc<Self>, id: &str) -> Result<()> {
        if !self.database.delete_provider(id).await? {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no provider of this id was set up through the admin API; those of the configuration are changed there",
            ));
        }
        tracing::info!(
            provider = id,
            "a provider was deleted through the admin API"
        );
        self.use_stored_providers_now().await;
        Ok(())
    }

    /// The change is stored already: if it cannot be read back now, the next look at the table will see it.
    async fn use_stored_providers_now(self: &Arc<Self>) {
        if let Ok(stored) = self.read_stored_providers().await {
            self.use_stored_providers(stored);
        }
    }

    /// The row that a change makes, checked as far as can be without calling the provider.
    fn row_of(&self, change: &Change, existing: Option<&ProviderRow>) -> Result<ProviderRow> {
        let mut secrets = change.secrets.clone();
        if let Some(row) = existing {
            change.keep_secrets(&self.keys_at_rest.ring, row, &mut secrets)?;
        }
        let mut members = change.settings.clone();
        members.remove(ENABLED);
        members.extend(secrets.clone());
        let registry = self.registry.load();
        let mut provider = parse(&change.id, &members, &registry)?;
        provider.vetted = true;
        let settings = self.settings();
        let egress = Egress::new(&settings.config.routing.egress);
        let made = super::accounts::accounts_of(
            &change.id.as_str().into(),
            &provider,
            &settings.config,
            &registry,
            &self.stream_buffer,
        )?;
        for account in made {
            check_endpoint(account.provider.endpoint(), &egress)?;
        }
        let now = now_ms();
        let updated_ms = existing.map_or(now, |row| now.max(row.updated_ms.saturating_add(1)));
        let sealed = || {
            let json = Value::Object(secrets.clone()).to_string();
            let place = place(&change.id);
            self.keys_at_rest.ring.seal(&place, json.as_bytes())
        };
        Ok(ProviderRow {
            id: change.id.clone(),
            settings: Value::Object(change.settings.clone()).to_string(),
            secrets: (!secrets.is_empty()).then(sealed),
            created_ms: existing.map_or(updated_ms, |row| row.created_ms),
            updated_ms,
        })
    }
}

/// The member that switches a provider on and off.
const ENABLED: &str = "enabled";

/// A change that is asked for.
struct Change {
    id: String,
    settings: Map<String, Value>,
    secrets: Map<String, Value>,
}

impl Change {
    fn new(id: &str, mut members: Map<String, Value>) -> Result<Self> {
        members.remove("id");
        if !members.get(ENABLED).is_none_or(Value::is_boolean) {
            return Err(Error::invalid(ENABLED, "`enabled` is true or false"));
        }
        if members.contains_key("proxy") {
            return Err(Error::invalid(
                "proxy",
                "a proxy sees where calls lead and cannot be vetted: set it in the configuration",
            ));
        }
        let url = members.get("base_url").and_then(Value::as_str);
        if url.is_some_and(|url| url.contains(['@', '?'])) {
            return Err(Error::invalid(
                "base_url",
                "`base_url` holds no credentials and no query; keys are sent as `api_key` or in `headers`",
            ));
        }
        let secrets = SECRETS
            .iter()
            .filter_map(|name| members.remove_entry(*name))
            .collect();
        Ok(Self {
            id: id.to_owned(),
            settings: members,
            secrets,
        })
    }

    /// Keeps the secrets that the change does not name, since nobody can read them back. They are kept for the same
    /// destination only: whoever changes that must know the key.
    fn keep_secrets(
        &self,
        ring: &SealRing,
        row: &ProviderRow,
        secrets: &mut Map<String, Value>,
    ) -> Result<()> {
        let names_keys = secrets.contains_key("api_key") || secrets.contains_key("api_keys");
        let kept = |name: &str| match name {
            "headers" => !secrets.contains_key("headers"),
            _ => !names_keys,
        };
        let before: Map<String, Value> = serde_json::from_str(&row.settings).unwrap_or_default();
        let moved = DESTINATION
            .iter()
            .any(|name| before.get(*name) != self.settings.get(*name));
        let old = match secrets_of(ring, row) {
            Ok(old) => old,
            // What cannot be read can only be replaced.
            Err(_) if names_keys => return Ok(()),
            Err(why) => {
                return Err(Error::invalid(
                    "api_key",
                    format!("send the key again: {why}"),
                ));
            }
        };
        let old: Map<String, Value> = old.into_iter().filter(|(name, _)| kept(name)).collect();
        if let Some(name) = old.keys().next().filter(|_| moved) {
            return Err(Error::invalid(
                name.clone(),
                format!(
                    "send `{name}` again: what is stored is not sent to another `kind`, `preset` or `base_url`"
                ),
            ));
        }
        secrets.extend(old);
        Ok(())
    }
}

fn place(id: &str) -> Place {
    Place::new(&[b"provider", id.as_bytes()])
}

fn secrets_of(ring: &SealRing, row: &ProviderRow) -> Result<Map<String, Value>, String> {
    let Some(sealed) = &row.secrets else {
        return Ok(Map::new());
    };
    let opened = ring.open(&place(&row.id), sealed.as_bytes());
    let json = opened.map_err(|why| format!("its keys cannot be decrypted: {why}"))?;
    serde_json::from_slice(&json).map_err(|_| "its keys cannot be read".to_owned())
}

fn parse(id: &str, members: &Map<String, Value>, registry: &Registry) -> Result<ProviderConfig> {
    let extensions = Extensions {
        kinds: registry.kinds().map(str::to_owned).collect(),
        load_balancers: Vec::new(),
    };
    ProviderConfig::from_json(id, members, &extensions).map_err(|errors| {
        let said = |error: &Diagnostic| match error.key.as_str() {
            "" => error.message.clone(),
            key => format!("{key}: {}", error.message),
        };
        let message = errors.iter().map(said).collect::<Vec<_>>().join("; ");
        let first = errors.into_iter().next().map(|error| error.key);
        let param = first.filter(|key| !key.is_empty());
        Error::invalid(param.unwrap_or_else(|| "id".to_owned()), message)
    })
}

/// Checks where a provider leads, as far as the URL says; the rest is looked at when it is connected to.
fn check_endpoint(endpoint: &str, egress: &Egress) -> Result<()> {
    let Ok(url) = endpoint.parse::<http::Uri>() else {
        return Ok(());
    };
    if url.scheme().is_none() {
        // It answers without a network.
        return Ok(());
    }
    egress
        .check_url(&url)
        .map_err(|why| Error::invalid("base_url", format!("`base_url` {why}")))
}

fn info(id: &str, config: &ProviderConfig, stored: Option<&Stored>) -> ProviderInfo {
    let mut settings = match stored {
        Some(stored) => stored.settings.clone(),
        None => settings_of(config),
    };
    settings.remove(ENABLED);
    for (name, value) in [("kind", &config.kind), ("preset", &config.preset)] {
        if let Some(value) = value {
            settings.insert(name.to_owned(), value.as_str().into());
        }
    }
    ProviderInfo {
        id: id.to_owned(),
        source: match stored {
            Some(_) => ProviderSource::Database,
            None => ProviderSource::Config,
        },
        enabled: config.disabled.is_none(),
        disabled_reason: config.disabled.clone(),
        api_keys: config.keys().map(|key| tail(key.expose())).collect(),
        headers: config.headers.keys().cloned().collect(),
        created_ms: stored.map(|stored| stored.created_ms),
        updated_ms: stored.map(|stored| stored.updated_ms),
        settings,
    }
}

/// What of an entry of the configuration is shown.
fn settings_of(config: &ProviderConfig) -> Map<String, Value> {
    let mut settings = Map::new();
    if let Some(url) = config
        .base_url
        .as_ref()
        .filter(|url| !url.contains(['@', '?']))
    {
        settings.insert("base_url".into(), url.as_str().into());
    }
    if !config.models.is_empty() {
        let models = config.models.iter();
        let models: Map<String, Value> = models
            .map(|(name, upstream)| (name.clone(), upstream.as_str().into()))
            .collect();
        settings.insert("models".into(), models.into());
    }
    settings.insert("weight".into(), config.weight.into());
    if let Some(rps) = config.max_rps {
        settings.insert("max_rps".into(), rps.into());
    }
    settings
}

/// The last four characters of a key, by which its owner knows it; of a short one nothing.
fn tail(key: &str) -> String {
    const SHOWN: usize = 4;
    const LONG: usize = 16;
    let start = key.len().saturating_sub(SHOWN);
    let end = key.get(start..).filter(|_| key.len() >= LONG);
    format!("…{}", end.unwrap_or_default())
}
