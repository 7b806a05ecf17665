//! The database for administration, beside a gateway that may be running.

use lyss_core::{
    config::{Config, Driver, SqliteSource},
    database::{Database, DatabaseSource},
};

use super::Failure;

/// Connections of one command.
const CONNECTIONS: u32 = 2;

/// Opens the configured database; migrates it where the gateway would.
pub(super) async fn open_migrated(config: &Config) -> Result<Database, Failure> {
    let database = open(config)?;
    if config.data.database.auto_migrate {
        database.migrate().await?;
    }
    Ok(database)
}

/// Opens the configured database.
pub(super) fn open(config: &Config) -> Result<Database, Failure> {
    let wrong = |why: String| Failure::Wrong(format!("data.database.source: {why}"));
    let source = match config.data.database.driver {
        Driver::Postgres => {
            let source = config
                .data
                .database
                .postgres_source()
                .map_err(|error| wrong(error.to_string()))?;
            let password = source.password.as_ref();
            DatabaseSource::Postgres {
                host: source.host,
                port: source.port,
                user: source.user,
                password: password.map_or("", |password| password.expose()).into(),
                dbname: source.dbname,
                sslmode: source.sslmode.as_str().to_owned(),
            }
        }
        Driver::Sqlite => match config.data.sqlite_source() {
            SqliteSource::File(path) => DatabaseSource::Sqlite(path),
            SqliteSource::Memory => {
                return Err(wrong("a database in memory ends with this command".into()));
            }
        },
    };
    Ok(Database::open(source, CONNECTIONS)?)
}
