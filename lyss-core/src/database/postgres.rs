//! What is particular to PostgreSQL: how a connection is made.

use std::str::FromStr;

use secrecy::ExposeSecret;
use sqlx::{
    ConnectOptions, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use super::{ACQUIRE_TIMEOUT, DatabaseSource};
use crate::{Error, Result};

/// Longest time that the server spends on one statement.
const STATEMENT_TIMEOUT: &str = "10s";

/// A pool that connects when it is first used.
pub(super) fn open(source: DatabaseSource, max_connections: u32) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options(source)?))
}

fn options(source: DatabaseSource) -> Result<PgConnectOptions> {
    let options = match source {
        DatabaseSource::PostgresUrl(url) => {
            // The cause is dropped on purpose: it may quote the URL, and with it the password.
            PgConnectOptions::from_str(url.expose_secret()).map_err(|_| {
                Error::invalid(
                    "data.database.source",
                    "not a PostgreSQL URL: expected `postgres://user:password@host:5432/dbname?sslmode=require`",
                )
            })?
        }
        DatabaseSource::Postgres {
            host,
            port,
            user,
            password,
            dbname,
            sslmode,
        } => {
            let sslmode = PgSslMode::from_str(&sslmode).map_err(|_| {
                Error::invalid(
                    "data.database.source",
                    format!("unknown sslmode `{sslmode}`: one of disable, allow, prefer, require, verify-ca, verify-full"),
                )
            })?;
            let options = PgConnectOptions::new_without_pgpass()
                .host(&host)
                .port(port)
                .username(&user)
                .database(&dbname)
                .ssl_mode(sslmode);
            match password.expose_secret() {
                "" => options,
                password => options.password(password),
            }
        }
        DatabaseSource::Sqlite(_) => {
            return Err(Error::invalid(
                "data.database.source",
                "not a PostgreSQL source",
            ));
        }
    };
    let limited = options
        .get_options()
        .is_some_and(|given| given.contains("statement_timeout"));
    let options = if limited {
        options
    } else {
        options.options([("statement_timeout", STATEMENT_TIMEOUT)])
    };
    Ok(options.application_name("lyss").disable_statement_logging())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        let error = options(DatabaseSource::PostgresUrl(
            "postgres://lyss:hunter2@host:notaport/db".into(),
        ))
        .unwrap_err();
        assert_eq!(error.code(), "invalid_value");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn parts_are_taken_as_they_are() {
        let parts = |sslmode: &str| DatabaseSource::Postgres {
            host: "db.example".into(),
            port: 6543,
            user: "us er".into(),
            password: "p@ss/w:rd".into(),
            dbname: "gate way".into(),
            sslmode: sslmode.into(),
        };
        let built = options(parts("verify-full")).unwrap();
        assert_eq!(built.get_host(), "db.example");
        assert_eq!(built.get_port(), 6543);
        assert_eq!(built.get_username(), "us er");
        assert_eq!(built.get_database(), Some("gate way"));
        assert!(matches!(built.get_ssl_mode(), PgSslMode::VerifyFull));
        assert!(
            built
                .get_options()
                .is_some_and(|o| o.contains("statement_timeout=10s"))
        );
        assert_eq!(options(parts("maybe")).unwrap_err().code(), "invalid_value");
    }
}
