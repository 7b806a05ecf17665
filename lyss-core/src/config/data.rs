//! `data`: the database, Redis, and the directory for what must survive a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dsn::{DsnError, PostgresSource};
use super::reader::{Choice, Reader, Section};
use super::secret::Secret;
use super::value;
use crate::seal::SealKey;

/// `data`.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// The database for rules, keys, logs and sessions.
    pub database: DatabaseConfig,
    /// Redis, when there is one.
    pub redis: Option<RedisConfig>,
    /// Directory of the gateway's own files. After loading it is always set: the platform's data
    /// directory unless the configuration names another.
    pub dir: Option<PathBuf>,
    /// Directory of the request log's spool; see [`DataConfig::spool_path`].
    pub spool_dir: Option<PathBuf>,
    /// Most bytes that the spool may hold while the database is away.
    pub spool_max_bytes: u64,
    /// Most bytes of each topic that is handed on after an answer (memories to remember), while its destination is
    /// away. They lie below the spool directory.
    pub outbox_max_bytes: u64,
    /// The key that conversations are sealed with where they are stored: 32 bytes in base64. Unset: they are not, and
    /// provider keys that come through the admin API are sealed with a generated key in the data directory.
    pub encryption_key: Option<Secret>,
    /// Keys that only open what they have sealed.
    pub old_encryption_keys: Vec<Secret>,
}

/// `data.database`.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// Which database.
    pub driver: Driver,
    /// Where it is: for PostgreSQL libpq keywords or a URL, with the `DB_*` variables already
    /// applied; for SQLite a path, a `sqlite:` URL or `:memory:`, empty for the default file.
    pub source: Secret,
    /// Whether `lyss serve` applies migrations at start.
    pub auto_migrate: bool,
    /// How long request log rows are kept.
    pub log_retention: Duration,
    /// Most connections of the pool.
    pub max_connections: u32,
}

/// `data.database.driver`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// PostgreSQL.
    Postgres,
    /// SQLite, in a file of the data directory.
    #[default]
    Sqlite,
}

/// `data.redis`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisConfig {
    /// `host:port` of a single server.
    pub addr: String,
    /// Addresses of a cluster's nodes; when not empty, `addr` is not used.
    pub cluster: Vec<String>,
    /// Whether to speak TLS.
    pub tls: bool,
    /// ACL user; none is Redis' `default` user.
    pub username: Option<String>,
    /// Password; empty for none.
    pub password: Secret,
    /// Database number; clusters have only 0.
    pub db: u32,
    /// How long connecting may take.
    pub dial_timeout: Duration,
    /// How long a reply may take before the connection counts as broken. Requests degrade much
    /// earlier.
    pub read_timeout: Duration,
    /// How long sending a command may take.
    pub write_timeout: Duration,
}

/// Where the SQLite database lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqliteSource {
    /// In a file.
    File(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

impl DataConfig {
    /// The data directory; the current directory if nothing has set one.
    pub fn path(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new("."))
    }

    /// The spool directory: `data.spool_dir`, else `spool` in the data directory.
    pub fn spool_path(&self) -> PathBuf {
        self.spool_dir
            .clone()
            .unwrap_or_else(|| self.path().join("spool"))
    }

    /// Where SQLite keeps its data: the source, else `lyss.db` in the data directory. Meaningful
    /// with [`Driver::Sqlite`] only.
    pub fn sqlite_source(&self) -> SqliteSource {
        let source = self.database.source.expose().trim();
        let path = source
            .strip_prefix("sqlite://")
            .or_else(|| source.strip_prefix("sqlite:"))
            .unwrap_or(source);
        match path {
            "" => SqliteSource::File(self.path().join("lyss.db")),
            ":memory:" => SqliteSource::Memory,
            path => SqliteSource::File(PathBuf::from(path)),
        }
    }
}

impl DatabaseConfig {
    /// Reads `source` as PostgreSQL's. Meaningful with [`Driver::Postgres`] only.
    ///
    /// # Errors
    /// Never after loading: the loader has checked it.
    pub fn postgres_source(&self) -> Result<PostgresSource, DsnError> {
        PostgresSource::parse(self.source.expose())
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            database: DatabaseConfig::default(),
            redis: None,
            dir: None,
            spool_dir: None,
            spool_max_bytes: 1 << 30,
            outbox_max_bytes: 256 << 20,
            encryption_key: None,
            old_encryption_keys: Vec::new(),
        }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            driver: Driver::default(),
            source: Secret::default(),
            auto_migrate: true,
            log_retention: Duration::from_secs(365 * 86_400),
            max_connections: 10,
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            addr: "localhost:6379".to_owned(),
            cluster: Vec::new(),
            tls: false,
            username: None,
            password: Secret::default(),
            db: 0,
            dial_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(3),
        }
    }
}

impl Choice for Driver {
    const NAMES: &'static [(&'static str, Self)] =
        &[("postgres", Self::Postgres), ("sqlite", Self::Sqlite)];
}

impl Section for DataConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.section("database", &mut self.database);
        r.optional("redis", &mut self.redis);
        r.path("dir", &mut self.dir);
        r.path("spool_dir", &mut self.spool_dir);
        r.size(
            "spool_max_bytes",
            1 << 20..=1 << 44,
            &mut self.spool_max_bytes,
        );
        r.size(
            "outbox_max_bytes",
            4 << 20..=1 << 44,
            &mut self.outbox_max_bytes,
        );
        r.hidden(
            "encryption_key",
            ENCRYPTION_KEY,
            encryption_key,
            &mut self.encryption_key,
        );
        r.hidden_items(
            "old_encryption_keys",
            ENCRYPTION_KEY,
            encryption_key,
            &mut self.old_encryption_keys,
        );
    }
}

const ENCRYPTION_KEY: &str = "32 bytes in base64, e.g. from `openssl rand -base64 32`";

fn encryption_key(text: &str) -> Result<Secret, String> {
    SealKey::parse(text).map(|_| Secret::new(text.trim()))
}

impl Section for DatabaseConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.choice("driver", &mut self.driver);
        r.secret("source", &mut self.source);
        r.boolean("auto_migrate", &mut self.auto_migrate);
        r.duration("log_retention", &mut self.log_retention);
        r.integer("max_connections", 1..=10_000, &mut self.max_connections);
    }
}

impl Section for RedisConfig {
    fn read(&mut self, r: &mut Reader<'_, '_>) {
        r.address("addr", &mut self.addr);
        r.items(
            "cluster",
            "an address such as 10.0.0.1:6379",
            value::parse_address,
            &mut self.cluster,
        );
        r.boolean("tls", &mut self.tls);
        r.text("username", &mut self.username);
        r.secret("password", &mut self.password);
        r.integer("db", 0..=65_535, &mut self.db);
        r.duration("dial_timeout", &mut self.dial_timeout);
        r.duration("read_timeout", &mut self.read_timeout);
        r.duration("write_timeout", &mut self.write_timeout);
    }
}
