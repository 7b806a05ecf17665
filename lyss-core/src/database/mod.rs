//! The database: PostgreSQL, or SQLite in one file.
//!
//! [`Database`] hides which of the two it is, and that sqlx is underneath: no type of it leaves this crate. Every
//! query is written once per dialect, next to its twin, with bound parameters only.

#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    // Without a driver no `Database` can be made, and what needs one is never reached.
    allow(unreachable_code, unused_variables, dead_code)
)]

mod encryption_keys;
mod follow;
mod keys;
mod memories;
mod migrate;
mod partition;
#[cfg(feature = "postgres")]
mod postgres;
mod prices;
mod providers;
mod rules;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod suspend;
#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
pub(crate) mod testing;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod transaction;

pub(crate) use encryption_keys::KnownKey;
pub(crate) use follow::follow_table;
pub(crate) use memories::NewMemory;
pub(crate) use providers::ProviderRow;
#[cfg(feature = "sqlite")]
pub use suspend::Suspended;

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{
    Error, ErrorKind, Result,
    config::{DataConfig, Driver, SqliteSource},
};

/// How long a call waits for a connection, establishing one included.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which database, and how it is reached.
#[derive(Debug, Clone)]
pub enum DatabaseSource {
    /// PostgreSQL by parts, as a libpq keyword string names them.
    Postgres {
        /// Host name, address, or directory of a Unix socket (starts with `/`).
        host: String,
        /// Port.
        port: u16,
        /// Role.
        user: String,
        /// Its password; empty for none.
        password: SecretString,
        /// Database.
        dbname: String,
        /// `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.
        sslmode: String,
    },
    /// PostgreSQL by a `postgres://` URL.
    PostgresUrl(SecretString),
    /// A SQLite file; made if it is missing, with its directory.
    Sqlite(PathBuf),
}

impl DatabaseSource {
    /// The database that a configuration names.
    ///
    /// # Errors
    /// `invalid_value` for a source that cannot be read, and for SQLite in memory: keys and log rows would end with the
    /// process.
    pub fn from_config(data: &DataConfig) -> Result<Self> {
        let wrong = |why: String| {
            Error::invalid(
                "data.database.source",
                format!("data.database.source: {why}"),
            )
        };
        match data.database.driver {
            Driver::Postgres => {
                let source = data
                    .database
                    .postgres_source()
                    .map_err(|error| wrong(error.to_string()))?;
                Ok(Self::Postgres {
                    host: source.host,
                    port: source.port,
                    user: source.user,
                    password: source
                        .password
                        .as_ref()
                        .map_or("", |password| password.expose())
                        .into(),
                    dbname: source.dbname,
                    sslmode: source.sslmode.as_str().to_owned(),
                })
            }
            Driver::Sqlite => match data.sqlite_source() {
                SqliteSource::File(path) => Ok(Self::Sqlite(path)),
                SqliteSource::Memory => Err(wrong(
                    "a database in memory ends with the process; name a file".into(),
                )),
            },
        }
    }
}

/// A database. Clones share the connections.
#[derive(Clone)]
pub struct Database {
    pub(crate) pool: Pool,
    /// What new connections to a SQLite file pass.
    #[cfg(feature = "sqlite")]
    gate: Option<std::sync::Arc<suspend::Gate>>,
}

/// The connections. Empty if neither feature is on; then no [`Database`] can be made.
#[derive(Clone)]
pub(crate) enum Pool {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

impl Database {
    /// Makes the pool, without connecting: a server that is away is no error here, but of each call until it is back.
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// `invalid_value` if the source cannot be right (malformed URL, unknown `sslmode`, a driver that was compiled
    /// out); `store_unavailable` if the SQLite file cannot be made.
    pub fn open(source: DatabaseSource, max_connections: u32) -> Result<Self> {
        let max_connections = max_connections.max(1);
        #[cfg(feature = "sqlite")]
        let mut gate = None;
        let pool = match source {
            #[cfg(feature = "postgres")]
            source @ (DatabaseSource::Postgres { .. } | DatabaseSource::PostgresUrl(_)) => {
                Pool::Postgres(postgres::open(source, max_connections)?)
            }
            #[cfg(feature = "sqlite")]
            DatabaseSource::Sqlite(path) => {
                let gate = gate.insert(std::sync::Arc::default());
                Pool::Sqlite(sqlite::open(&path, max_connections, gate)?)
            }
            #[cfg(not(all(feature = "postgres", feature = "sqlite")))]
            _ => {
                return Err(Error::invalid(
                    "data.database.driver",
                    "this build has no driver for this database (cargo features `postgres`, `sqlite`)",
                ));
            }
        };
        Ok(Self {
            pool,
            #[cfg(feature = "sqlite")]
            gate,
        })
    }

    /// `postgres` or `sqlite`.
    pub fn driver(&self) -> &'static str {
        match self.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(_) => "postgres",
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(_) => "sqlite",
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn ping(&self) -> Result<()> {
        within(Duration::from_secs(5), async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query("SELECT 1").execute(pool).await.map(drop),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query("SELECT 1").execute(pool).await.map(drop),
            }
        })
        .await
    }

    /// The version of a table that is followed (`routing_rules`, `api_keys`, `prices`, `providers`): it rises with every
    /// change of the table, whoever made it.
    /// Instances poll it; it is one lookup by primary key.
    ///
    /// # Errors
    /// `store_unavailable`; `not_found` for another name.
    pub async fn config_version(&self, name: &str) -> Result<i64> {
        let version: Option<i64> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_scalar("SELECT version FROM config_versions WHERE name = $1")
                        .bind(name)
                        .fetch_optional(pool)
                        .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_scalar("SELECT version FROM config_versions WHERE name = ?1")
                        .bind(name)
                        .fetch_optional(pool)
                        .await
                }
            }
        })
        .await?;
        version.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("no table `{name}` has a version"),
            )
        })
    }

    /// Closes the connections, once the running queries have ended.
    pub async fn close(&self) {
        match self.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(ref pool) => pool.close().await,
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(ref pool) => pool.close().await,
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.driver()).finish()
    }
}

/// Above the server's own `statement_timeout` (10 s): a frozen server cannot cancel anything.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(15);

/// The outcome of a query.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) type QueryResult<T> = Result<T, sqlx::Error>;
/// Without a driver no query can be made.
#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
pub(crate) type QueryResult<T> = Result<T, std::convert::Infallible>;

/// Awaits a query, but not for ever: a server that has stopped without closing its sockets never answers.
pub(crate) async fn within<T>(
    limit: Duration,
    query: impl Future<Output = QueryResult<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, query).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(query_error(error)),
        Err(_) => Err(Error::new(
            ErrorKind::StoreUnavailable,
            format!("the database has not answered within {} s", limit.as_secs()),
        )),
    }
}

/// What a failed query means to the caller: a value that the database refuses is theirs, all else is ours.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn query_error(error: sqlx::Error) -> Error {
    if is_data_error(&error) {
        Error::new(
            ErrorKind::InvalidValue,
            "the database does not accept one of the values",
        )
        .with_source(error)
    } else {
        unavailable(error)
    }
}

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
pub(crate) fn query_error(error: std::convert::Infallible) -> Error {
    match error {}
}

/// The error of a database that is away, or does not do what it should.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::StoreUnavailable, "the database is not available").with_source(error)
}

/// Whether the values are at fault, so that asking again cannot help.
///
/// # Source
/// PostgreSQL, appendix A: class 22 is "data exception", 23 "integrity constraint violation". SQLite result codes:
/// 1 is the generic error (malformed JSON), 19 a constraint (the low byte of an extended code), 20 a type mismatch.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn is_data_error(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return false;
    };
    let Some(code) = database.code() else {
        return false;
    };
    #[cfg(feature = "sqlite")]
    if database
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        return code
            .parse::<u32>()
            .is_ok_and(|code| matches!(code & 0xff, 19 | 20))
            || database.message().contains("malformed JSON");
    }
    // 23514 without a constraint's name: the row was on its way into the default partition when its month's was
    // attached (ensure_partitions). The next try finds the new one.
    let repartitioned = code == "23514" && database.constraint().is_none();
    (code.starts_with("22") || code.starts_with("23")) && !repartitioned
}
