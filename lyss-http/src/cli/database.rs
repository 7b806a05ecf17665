//! The database for administration, beside a gateway that may be running.

use lyss_core::{
    config::Config,
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
    Ok(Database::open(
        DatabaseSource::from_config(&config.data)?,
        CONNECTIONS,
    )?)
}
