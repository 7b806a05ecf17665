//! File and environment → a checked [`Config`], or everything that is wrong with them.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::check;
use super::diagnostic::{Diagnostic, nearest};
use super::dsn::PostgresSource;
use super::env::Env;
use super::interpolate;
use super::node::{self, Node};
use super::provider::{KNOWN_KINDS, LATER_KINDS, PROVIDER_KEYS, default_kind};
use super::reader::{Findings, Reader};
use super::secret::Secret;
use super::{Config, Driver, LogFormat};

/// Largest configuration file read.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// A configuration that may be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, normalised and checked.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Hash of the file's text, for [`Watch`](super::Watch) to see changes; `None` without a file.
    pub(super) digest: Option<[u8; 32]>,
}

/// Names that an embedding program has registered besides the built-in ones.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    /// Provider kinds, accepted in `providers.<id>.kind`.
    pub kinds: Vec<String>,
    /// Load balancers, accepted in `routing.load_balancer`.
    pub load_balancers: Vec<String>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every error of the file and of the environment's overrides, in the order of the file.
    pub fn load(path: &Path, env: &Env) -> Result<Loaded, Vec<Diagnostic>> {
        Self::load_with(path, env, &Extensions::default())
    }

    /// As [`Config::load`], accepting the names of `extensions` too.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(
        path: &Path,
        env: &Env,
        extensions: &Extensions,
    ) -> Result<Loaded, Vec<Diagnostic>> {
        let file = path.display().to_string();
        let text = read_file(path).map_err(|problem| vec![problem])?;
        let mut loaded = Self::parse_with(&file, &text, env, extensions)?;
        loaded.digest = Some(Sha256::digest(&text).into());
        Ok(loaded)
    }

    /// Checks a text as if it were the file `file_name`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file_name: &str, text: &str, env: &Env) -> Result<Loaded, Vec<Diagnostic>> {
        Self::parse_with(file_name, text, env, &Extensions::default())
    }

    /// As [`Config::parse`], accepting the names of `extensions` too.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse_with(
        file_name: &str,
        text: &str,
        env: &Env,
        extensions: &Extensions,
    ) -> Result<Loaded, Vec<Diagnostic>> {
        let mut findings = Findings::new(file_name);
        let parsed = node::parse(file_name, text);
        findings.errors = parsed.problems;
        let Some(mut root) = parsed.root else {
            return Err(findings.errors);
        };
        root.each_scalar(&mut |scalar| interpolate::expand(scalar, env));
        findings.errors.extend(env.overlay(&mut root));
        let config = Reader::read_root(&root, &mut findings);
        finish(config, &root, env, extensions, findings)
    }

    /// Makes the configuration of a gateway that was given none: loopback addresses, SQLite in the
    /// data directory, every provider whose key is in the environment, and `simulated`. Overrides
    /// from the environment apply.
    ///
    /// # Errors
    /// Every error of the environment's overrides.
    pub fn embedded_default(env: &Env) -> Result<Loaded, Vec<Diagnostic>> {
        let mut findings = Findings::new("environment");
        let mut root = Node::empty_map();
        findings.errors.extend(env.overlay(&mut root));
        let mut config: Self = Reader::read_root(&root, &mut findings);
        config.embedded = true;
        if !findings.present.contains("monitoring.log.format") {
            config.monitoring.log.format = LogFormat::Text; // a person is watching
        }
        config
            .auth
            .default_user
            .get_or_insert_with(|| "local".to_owned());
        let mut first = None;
        for (variable, id) in PROVIDER_KEYS {
            let Some(key) = env.non_empty(variable) else {
                continue;
            };
            if LATER_KINDS.contains(id) {
                let message =
                    format!("{variable}: this version has no {id} provider; the key is not used");
                findings
                    .warnings
                    .push(Diagnostic::of_file("environment", message));
                continue;
            }
            let provider = config.providers.entry((*id).to_owned()).or_default();
            provider
                .api_key
                .get_or_insert_with(|| Secret::new(key.trim()));
            first.get_or_insert(*id);
        }
        config.providers.entry("simulated".to_owned()).or_default();
        config
            .routing
            .default_provider
            .get_or_insert_with(|| first.unwrap_or("simulated").to_owned());
        finish(config, &root, env, &Extensions::default(), findings)
    }
}

/// Applies what needs more than one key, checks the whole, and decides.
fn finish(
    mut config: Config,
    root: &Node,
    env: &Env,
    extensions: &Extensions,
    mut findings: Findings,
) -> Result<Loaded, Vec<Diagnostic>> {
    apply_database(&mut config, root, env, &mut findings);
    config.data.dir.get_or_insert_with(|| env.data_dir());
    resolve_kinds(&mut config, root, extensions, &mut findings);
    check::check(&config, root, extensions, &mut findings);
    // In the order of the file; the environment's have line 0 and go last.
    let order = |d: &Diagnostic| (d.line == 0, d.line, d.column);
    findings.warnings.sort_by_key(order);
    if findings.errors.is_empty() {
        return Ok(Loaded {
            config,
            warnings: findings.warnings,
            digest: None,
        });
    }
    findings.errors.sort_by_key(order);
    findings.errors.dedup();
    Err(findings.errors)
}

/// `DB_*` change the parsed DSN; `DB_HOST` alone means PostgreSQL.
fn apply_database(config: &mut Config, root: &Node, env: &Env, findings: &mut Findings) {
    const PATH: [&str; 3] = ["data", "database", "source"];
    let database = &mut config.data.database;
    let key = PATH.join(".");
    let mark = root.locate(&PATH);
    let source = database.source.expose().trim();
    if database.driver == Driver::Sqlite {
        let named = findings.present.contains("data.database");
        match env.non_empty("DB_HOST") {
            Some(_) if !named => database.driver = Driver::Postgres,
            Some(_) => {
                let message = "DB_HOST is set and not used: data.database.driver is sqlite";
                findings
                    .warnings
                    .push(Diagnostic::of_file("environment", message));
            }
            None => {}
        }
        if database.driver == Driver::Sqlite {
            let postgres = ["postgres://", "postgresql://", "host="];
            if postgres.iter().any(|prefix| source.starts_with(prefix)) {
                let message =
                    "is PostgreSQL's, but data.database.driver is sqlite; write driver: postgres";
                findings.error(mark, key, message);
            }
            return;
        }
    }
    let overrides = ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"];
    let overridden = overrides.iter().any(|name| env.non_empty(name).is_some());
    if source.is_empty() && !overridden {
        let message = "is missing; accepted: libpq keywords such as host=localhost user=lyss dbname=lyss, or a postgres:// URL";
        findings.error(mark, key, message);
        return;
    }
    let mut parsed = match PostgresSource::parse(source) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = format!("{error}; accepted: libpq keywords or a postgres:// URL");
            findings.error(mark, key, message);
            return;
        }
    };
    if !parsed.ignored.is_empty() {
        let message = format!(
            "{} mean nothing here and are ignored",
            parsed.ignored.join(", ")
        );
        findings.warn(mark, key.as_str(), message);
    }
    let mut bad = |name: &str, message: &str| {
        let problem = Diagnostic::of_file("environment", format!("{name}: {message}"));
        findings.errors.push(problem);
    };
    if let Some(host) = env.non_empty("DB_HOST")
        && let Err(error) = parsed.set_host(host)
    {
        bad("DB_HOST", &error.to_string());
    }
    if let Some(port) = env.non_empty("DB_PORT") {
        match port.parse() {
            Ok(port) if port != 0 => parsed.port = port,
            _ => bad("DB_PORT", "is not a port; accepted: 1 to 65535"),
        }
    }
    if let Some(user) = env.non_empty("DB_USER") {
        parsed.user = user.to_owned();
    }
    if let Some(password) = env.non_empty("DB_PASSWORD") {
        parsed.password = Some(Secret::new(password));
    }
    if let Some(name) = env.non_empty("DB_NAME") {
        parsed.dbname = name.to_owned();
    }
    if parsed
        .password
        .as_ref()
        .is_some_and(|p| p.expose() == "lyss123")
    {
        let message = "has the password of the published example; use one of your own";
        findings.warn(mark, key, message);
    }
    if overridden {
        database.source = parsed.to_keywords();
    }
}

/// Fills in each provider's kind and preset.
pub(super) fn resolve_kinds(
    config: &mut Config,
    root: &Node,
    extensions: &Extensions,
    findings: &mut Findings,
) {
    let extra = || extensions.kinds.iter().map(String::as_str);
    let accepted = || {
        let kinds: Vec<&str> = KNOWN_KINDS
            .iter()
            .copied()
            .chain(["ollama"])
            .chain(extra())
            .collect();
        kinds.join(", ")
    };
    for (id, provider) in &mut config.providers {
        let mut error = |key: &str, message: String| {
            let mark = root.locate(&["providers", id, key]);
            findings.error(mark, format!("providers.{id}.{key}"), message);
        };
        let by_id = default_kind(id);
        match provider.kind.as_deref() {
            // Ollama speaks OpenAI's protocol; only its address is its own.
            Some("ollama") => {
                provider.kind = Some("openai".to_owned());
                provider.preset.get_or_insert_with(|| "ollama".to_owned());
            }
            Some(kind) if extra().any(|k| k == kind) => {}
            Some(kind) if LATER_KINDS.contains(&kind) => {
                error(
                    "kind",
                    format!("{kind} is not in this version; accepted: {}", accepted()),
                );
                continue;
            }
            Some(kind) if KNOWN_KINDS.contains(&kind) => {
                if let ("openai", Some((_, Some(preset)))) = (kind, by_id) {
                    provider.preset.get_or_insert_with(|| preset.to_owned());
                }
            }
            Some(kind) => {
                let known = || KNOWN_KINDS.iter().copied().chain(extra());
                let hint = match (default_kind(kind), nearest(kind, known())) {
                    (Some((_, Some(preset))), _) => format!("write preset: {preset} instead"),
                    (_, Some(near)) => format!("did you mean {near}? accepted: {}", accepted()),
                    (_, None) => format!("accepted: {}", accepted()),
                };
                error("kind", format!("{kind:?} is not a provider kind; {hint}"));
                continue;
            }
            None => match by_id {
                // A preset that is named says which protocol it is.
                _ if provider.preset.is_some() => provider.kind = Some("openai".to_owned()),
                Some((kind, preset)) => {
                    provider.kind = Some(kind.to_owned());
                    provider.preset = preset.map(str::to_owned);
                }
                None if LATER_KINDS.contains(&id.as_str()) => {
                    error(
                        "kind",
                        format!("{id} is not in this version; accepted: {}", accepted()),
                    );
                    continue;
                }
                None => {
                    let message = format!(
                        "is missing, and the id {id:?} does not tell it; accepted: {}",
                        accepted()
                    );
                    error("kind", message);
                    continue;
                }
            },
        }
        check::check_preset(id, provider, root, findings);
    }
}

fn read_file(path: &Path) -> Result<String, Diagnostic> {
    let file = path.display().to_string();
    let fail = |error: std::io::Error| {
        Diagnostic::of_file(file.clone(), format!("cannot be read: {error}"))
    };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > FILE_BYTES_MAX {
        let message = format!("is larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Diagnostic::of_file(file, message));
    }
    let bytes = std::fs::read(path).map_err(fail)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to());
        let valid = String::from_utf8_lossy(valid.unwrap_or_default());
        let last = valid.rsplit('\n').next().unwrap_or_default();
        Diagnostic {
            line: valid.matches('\n').count() + 1,
            column: last.chars().count() + 1,
            ..Diagnostic::of_file(file, "is not UTF-8 text")
        }
    })
}
