//! Brings the tables up to date. The SQL is compiled in; each file runs once, in a transaction of its own, and
//! several instances may start at once.

use super::Database;
use crate::Result;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use {
    super::{Pool, unavailable},
    sqlx::{
        SqlSafeStr,
        migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
    },
    std::{collections::HashSet, time::Duration},
};

macro_rules! migrations {
    ($name:ident, $feature:literal: $($number:literal $file:literal,)*) => {
        #[cfg(feature = $feature)]
        const $name: &[(i64, &str, &str)] = &[$((
            $number,
            $file,
            include_str!(concat!("../../migrations/", $feature, "/", $file, ".sql")),
        ),)*];
    };
}

migrations! { POSTGRES, "postgres":
    1 "0001_request_logs",
    2 "0002_routing_rules",
    3 "0003_api_keys",
    4 "0004_sessions",
    5 "0005_session_turns",
    6 "0006_idempotency_keys",
    7 "0007_memories",
    8 "0008_session_archive",
    9 "0009_costs",
    10 "0010_prices",
    11 "0011_budgets",
    12 "0012_api_keys",
    13 "0013_sealed",
}

migrations! { SQLITE, "sqlite":
    1 "0001_request_logs",
    2 "0002_routing_rules",
    3 "0003_api_keys",
    4 "0004_sessions",
    5 "0005_session_turns",
    6 "0006_idempotency_keys",
    7 "0007_memories",
    8 "0008_session_archive",
    9 "0009_costs",
    10 "0010_prices",
    11 "0011_budgets",
    12 "0012_api_keys",
    13 "0013_sealed",
}

/// How long an instance waits for another one's migrations.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const LOCK_WAIT: Duration = Duration::from_secs(300);

impl Database {
    /// Applies the migrations that this database lacks, and returns their names. Also makes the log's partitions, so
    /// that the first rows need not go to the default one and be moved later.
    ///
    /// Safe when several instances start at once: one works, the others wait and find nothing left to do. Migrations
    /// of a newer release are left alone, so that an old instance can still start during an upgrade.
    ///
    /// # Errors
    /// `store_unavailable`: the database is away, refuses (rights), or a migration was changed after it had run.
    pub async fn migrate(&self) -> Result<Vec<String>> {
        let applied = self.apply_migrations().await?;
        self.ensure_partitions(crate::types::RequestId::new().unix_ms())
            .await?;
        Ok(applied)
    }

    pub(super) async fn apply_migrations(&self) -> Result<Vec<String>> {
        match self.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(ref pool) => {
                use sqlx::{ConnectOptions, Connection};
                // A connection of its own: a failed run leaves the advisory lock behind, which ends with the session.
                // No statement timeout: it would also end the wait for another instance's run.
                let options = pool
                    .connect_options()
                    .as_ref()
                    .clone()
                    .options([("statement_timeout", "0")]);
                let mut connection =
                    tokio::time::timeout(super::ACQUIRE_TIMEOUT, options.connect())
                        .await
                        .map_err(unavailable)?
                        .map_err(unavailable)?;
                let applied = tokio::time::timeout(LOCK_WAIT, run(&mut connection, POSTGRES)).await;
                match applied {
                    Ok(applied) => {
                        let _ = connection.close().await;
                        applied.map_err(unavailable)
                    }
                    Err(late) => Err(unavailable(late)),
                }
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(ref pool) => {
                // sqlx has no lock for SQLite; the write lock of the file is one, and it covers other processes.
                let mut lock = begin_immediate(pool).await.map_err(unavailable)?;
                let applied = run(&mut *lock, SQLITE).await.map_err(unavailable)?;
                lock.commit().await.map_err(unavailable)?;
                Ok(applied)
            }
        }
    }
}

/// Takes the write lock, waiting longer than the busy timeout of one statement.
#[cfg(feature = "sqlite")]
async fn begin_immediate(
    pool: &sqlx::SqlitePool,
) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
    let start = std::time::Instant::now();
    loop {
        match pool.begin_with("BEGIN IMMEDIATE").await {
            // 5 is SQLITE_BUSY.
            Err(sqlx::Error::Database(busy))
                if busy.code().as_deref() == Some("5") && start.elapsed() < LOCK_WAIT => {}
            other => return other,
        }
    }
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn run<C: Migrate>(
    connection: &mut C,
    files: &[(i64, &'static str, &'static str)],
) -> Result<Vec<String>, MigrateError> {
    let mut migrator = Migrator::with_migrations(
        files
            .iter()
            .map(|(number, name, sql)| {
                let kind = MigrationType::Simple;
                Migration::new(*number, (*name).into(), kind, sql.into_sql_str(), false)
            })
            .collect(),
    );
    migrator.set_ignore_missing(true);
    let table = migrator.table_name.clone();
    // PostgreSQL's advisory lock counts: the migrator takes and gives it once more inside.
    connection.lock().await?;
    connection.ensure_migrations_table(&table).await?;
    let before: HashSet<i64> = connection
        .list_applied_migrations(&table)
        .await?
        .iter()
        .map(|migration| migration.version)
        .collect();
    migrator.run_direct(None, connection, false).await?;
    connection.unlock().await?;
    Ok(files
        .iter()
        .filter(|(number, ..)| !before.contains(number))
        .map(|(_, name, _)| (*name).to_owned())
        .collect())
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::database::{DatabaseSource, testing};

    async fn eight_at_once(open: impl Fn() -> Database) {
        let runs = (0..8).map(|_| {
            let database = open();
            tokio::spawn(async move { database.migrate().await })
        });
        let mut applied = Vec::new();
        for run in futures::future::join_all(runs).await {
            applied.extend(run.unwrap().unwrap());
        }
        applied.sort();
        let names: Vec<_> = SQLITE.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(applied, names, "each ran once, on one instance");
        assert!(open().migrate().await.unwrap().is_empty());
        for table in [
            "routing_rules",
            "api_keys",
            "budgets",
            "prices",
            "providers",
        ] {
            assert_eq!(open().config_version(table).await.unwrap(), 1);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn eight_instances_migrate_one_postgres_at_once() {
        let url = testing::new_postgres_url().await;
        eight_at_once(|| Database::open(DatabaseSource::PostgresUrl(url.clone()), 2).unwrap())
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn eight_instances_migrate_one_sqlite_file_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/lyss.db");
        eight_at_once(|| Database::open(DatabaseSource::Sqlite(path.clone()), 2).unwrap()).await;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode =
                |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
            let folder = path.parent().unwrap();
            assert_eq!(mode(folder), 0o700);
            let mut files = 0;
            for file in std::fs::read_dir(folder).unwrap() {
                assert_eq!(mode(&file.unwrap().path()), 0o600);
                files += 1;
            }
            assert!(files >= 1);
        }
    }

    #[tokio::test]
    async fn opening_needs_no_server_and_using_says_that_it_is_away() {
        let source = DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/lyss".into());
        let database = Database::open(source, 2).unwrap();
        assert_eq!(
            database.ping().await.unwrap_err().code(),
            "store_unavailable"
        );
        assert_eq!(
            database.migrate().await.unwrap_err().code(),
            "store_unavailable"
        );
    }
}
