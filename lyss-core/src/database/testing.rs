//! Real databases for this crate's tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use secrecy::SecretString;
use sqlx::Connection;

use super::{Database, DatabaseSource};

/// The URL of a fresh PostgreSQL database.
pub(crate) async fn new_postgres_url() -> SecretString {
    let server = std::env::var("LYSS_TEST_POSTGRES").expect(
        "LYSS_TEST_POSTGRES is not set: run `make test`, or start a server with tests/services/postgres.sh",
    );
    let name = format!("lyss_test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{name}").into()
}

/// A migrated PostgreSQL database of its own, on the server that `LYSS_TEST_POSTGRES` names.
pub(crate) async fn postgres() -> Database {
    let database = postgres_without_months().await;
    database.migrate().await.unwrap();
    database
}

/// The same, but of the log's partitions only the default one is there.
pub(crate) async fn postgres_without_months() -> Database {
    let url = new_postgres_url().await;
    let database = Database::open(DatabaseSource::PostgresUrl(url), 8).unwrap();
    database.apply_migrations().await.unwrap();
    database
}

/// A migrated SQLite database in a directory.
pub(crate) async fn sqlite(directory: &std::path::Path) -> Database {
    let path = directory.join("lyss.db");
    let database = Database::open(DatabaseSource::Sqlite(path), 8).unwrap();
    database.migrate().await.unwrap();
    database
}
