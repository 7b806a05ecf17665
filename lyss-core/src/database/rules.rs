//! The table `routing_rules`: what each model is served by.

use super::{Database, QUERY_TIMEOUT, within};
use crate::{Error, ErrorKind, Result, gateway::RoutingRule};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A rule as JSON, member for column, so that both dialects are read by the same `Deserialize`.
#[cfg(feature = "postgres")]
macro_rules! postgres_rule {
    () => {
        "json_build_object('id', id, 'model_name', model_name, 'provider_id', provider_id, 'priority', priority,
          'weight', weight, 'max_rps', max_rps, 'is_enabled', is_enabled, 'upstream_model', upstream_model)::text"
    };
}
#[cfg(feature = "sqlite")]
macro_rules! sqlite_rule {
    () => {
        "json_object('id', id, 'model_name', model_name, 'provider_id', provider_id, 'priority', priority,
          'weight', weight, 'max_rps', max_rps, 'is_enabled', json(iif(is_enabled, 'true', 'false')),
          'upstream_model', upstream_model)"
    };
}

impl Database {
    /// All routing rules, by model, then tier, then id.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn list_rules(&self) -> Result<Vec<RoutingRule>> {
        let rows: Vec<String> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    sqlx::query_scalar(concat!(
                        "SELECT ",
                        postgres_rule!(),
                        " FROM routing_rules ORDER BY model_name, priority, id"
                    ))
                    .fetch_all(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    sqlx::query_scalar(concat!(
                        "SELECT ",
                        sqlite_rule!(),
                        " FROM routing_rules ORDER BY model_name, priority, id"
                    ))
                    .fetch_all(pool)
                    .await
                }
            }
        })
        .await?;
        rows.iter().map(|row| decode(row)).collect()
    }

    /// Adds a rule (no id), or changes the one with this id. Returns it as stored.
    ///
    /// # Errors
    /// `invalid_value` with the member's name; `not_found` if no rule has the id; `store_unavailable`.
    pub async fn put_rule(&self, rule: &RoutingRule) -> Result<RoutingRule> {
        check(rule)?;
        let row: Option<String> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = match rule.id {
                        None => sqlx::query_scalar(concat!(
                            "INSERT INTO routing_rules (model_name, provider_id, priority, weight, max_rps, is_enabled,
                             upstream_model) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING ",
                            postgres_rule!()
                        )),
                        Some(_) => sqlx::query_scalar(concat!(
                            "UPDATE routing_rules SET model_name = $1, provider_id = $2, priority = $3, weight = $4,
                             max_rps = $5, is_enabled = $6, upstream_model = $7, updated_at = now() WHERE id = $8
                             RETURNING ",
                            postgres_rule!()
                        )),
                    };
                    let query = query
                        .bind(&rule.model_name)
                        .bind(&rule.provider_id)
                        .bind(rule.priority.cast_signed())
                        .bind(rule.weight.cast_signed())
                        .bind(rule.max_rps.map(u32::cast_signed))
                        .bind(rule.is_enabled)
                        .bind(&rule.upstream_model);
                    match rule.id {
                        None => query,
                        Some(id) => query.bind(id),
                    }
                    .fetch_optional(pool)
                    .await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = match rule.id {
                        None => sqlx::query_scalar(concat!(
                            "INSERT INTO routing_rules (model_name, provider_id, priority, weight, max_rps, is_enabled,
                             upstream_model) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING ",
                            sqlite_rule!()
                        )),
                        Some(_) => sqlx::query_scalar(concat!(
                            "UPDATE routing_rules SET model_name = ?1, provider_id = ?2, priority = ?3, weight = ?4,
                             max_rps = ?5, is_enabled = ?6, upstream_model = ?7,
                             updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?8 RETURNING ",
                            sqlite_rule!()
                        )),
                    };
                    let query = query
                        .bind(&rule.model_name)
                        .bind(&rule.provider_id)
                        .bind(rule.priority)
                        .bind(rule.weight)
                        .bind(rule.max_rps)
                        .bind(rule.is_enabled)
                        .bind(&rule.upstream_model);
                    match rule.id {
                        None => query,
                        Some(id) => query.bind(id),
                    }
                    .fetch_optional(pool)
                    .await
                }
            }
        })
        .await?;
        match row {
            Some(row) => decode(&row),
            None => Err(absent()),
        }
    }

    /// Deletes a rule.
    ///
    /// # Errors
    /// `not_found` if no rule has the id; `store_unavailable`.
    pub async fn delete_rule(&self, id: i64) -> Result<()> {
        let deleted: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query("DELETE FROM routing_rules WHERE id = $1")
                    .bind(id)
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query("DELETE FROM routing_rules WHERE id = ?1")
                    .bind(id)
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()),
            }
        })
        .await?;
        if deleted == 0 { Err(absent()) } else { Ok(()) }
    }
}

fn absent() -> Error {
    Error::new(ErrorKind::NotFound, "no routing rule has this id").with_param("id")
}

fn decode(row: &str) -> Result<RoutingRule> {
    serde_json::from_str(row).map_err(|error| {
        Error::new(
            ErrorKind::StoreUnavailable,
            "a row of `routing_rules` cannot be read",
        )
        .with_source(error)
    })
}

/// The checks of the table, with the member's name; the table's own are for edits by hand.
fn check(rule: &RoutingRule) -> Result<()> {
    let names = [
        ("model_name", Some(&rule.model_name)),
        ("provider_id", Some(&rule.provider_id)),
        ("upstream_model", rule.upstream_model.as_ref()),
    ];
    for (member, name) in names {
        if name.is_some_and(|name| name.is_empty() || name.contains('\0')) {
            return Err(Error::invalid(
                member,
                format!("`{member}` must not be empty, nor contain NUL"),
            ));
        }
    }
    let numbers = [
        ("priority", rule.priority, 1),
        ("weight", rule.weight, 0),
        ("max_rps", rule.max_rps.unwrap_or(1), 1),
    ];
    for (member, number, least) in numbers {
        if number < least || i32::try_from(number).is_err() {
            return Err(Error::invalid(
                member,
                format!("`{member}` must be from {least} to {}", i32::MAX),
            ));
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::database::testing;

    async fn by_hand(database: &Database, sql: &'static str) -> bool {
        match database.pool {
            Pool::Postgres(ref pool) => sqlx::raw_sql(sql).execute(pool).await.is_ok(),
            Pool::Sqlite(ref pool) => sqlx::raw_sql(sql).execute(pool).await.is_ok(),
        }
    }

    async fn conforms(database: Database) {
        let rule = |model: &str, priority| RoutingRule {
            id: None,
            model_name: model.into(),
            provider_id: "openai".into(),
            priority,
            weight: 0,
            max_rps: Some(7),
            is_enabled: false,
            upstream_model: Some("ö\"'".into()),
        };
        let first = database.put_rule(&rule("b", 2)).await.unwrap();
        assert_eq!(
            RoutingRule {
                id: None,
                ..first.clone()
            },
            rule("b", 2),
            "as given"
        );
        let second = database.put_rule(&rule("b", 1)).await.unwrap();
        let third = database.put_rule(&rule("a", 9)).await.unwrap();
        assert_eq!(
            database.list_rules().await.unwrap(),
            [third.clone(), second, first.clone()]
        );

        let changed = RoutingRule {
            max_rps: None,
            is_enabled: true,
            upstream_model: None,
            weight: i32::MAX.cast_unsigned(),
            ..first
        };
        assert_eq!(database.put_rule(&changed).await.unwrap(), changed);
        let stranger = RoutingRule {
            id: Some(9_999),
            ..changed.clone()
        };
        assert_eq!(
            database.put_rule(&stranger).await.unwrap_err().code(),
            "not_found"
        );
        assert_eq!(
            database.delete_rule(9_999).await.unwrap_err().code(),
            "not_found"
        );
        database.delete_rule(third.id.unwrap()).await.unwrap();
        assert_eq!(database.list_rules().await.unwrap().len(), 2);

        for (bad, member) in [
            (
                RoutingRule {
                    priority: 0,
                    ..changed.clone()
                },
                "priority",
            ),
            (
                RoutingRule {
                    weight: u32::MAX,
                    ..changed.clone()
                },
                "weight",
            ),
            (
                RoutingRule {
                    max_rps: Some(0),
                    ..changed.clone()
                },
                "max_rps",
            ),
            (
                RoutingRule {
                    model_name: String::new(),
                    ..changed.clone()
                },
                "model_name",
            ),
            (
                RoutingRule {
                    provider_id: "a\0".into(),
                    ..changed.clone()
                },
                "provider_id",
            ),
        ] {
            let error = database.put_rule(&bad).await.unwrap_err();
            assert_eq!(
                (error.code(), error.param()),
                ("invalid_value", Some(member))
            );
        }

        let before = database.config_version("routing_rules").await.unwrap();
        for sql in [
            "INSERT INTO routing_rules (model_name, provider_id) VALUES ('m', 'p')",
            "UPDATE routing_rules SET weight = 3 WHERE model_name = 'm'",
            "DELETE FROM routing_rules WHERE model_name = 'm'",
        ] {
            let version = database.config_version("routing_rules").await.unwrap();
            assert!(by_hand(&database, sql).await);
            assert!(
                database.config_version("routing_rules").await.unwrap() > version,
                "{sql}"
            );
        }
        assert_eq!(
            database.config_version("routing_rules").await.unwrap(),
            before + 3
        );
        assert_eq!(database.config_version("api_keys").await.unwrap(), 1);
        assert_eq!(
            database.config_version("x").await.unwrap_err().code(),
            "not_found"
        );
        for sql in [
            "INSERT INTO routing_rules (model_name, provider_id, weight) VALUES ('m', 'p', -1)",
            "INSERT INTO routing_rules (model_name, provider_id, priority) VALUES ('m', 'p', 0)",
            "INSERT INTO routing_rules (model_name, provider_id, max_rps) VALUES ('m', 'p', 0)",
        ] {
            assert!(!by_hand(&database, sql).await, "{sql}");
        }
    }

    #[tokio::test]
    async fn rules_on_postgres() {
        conforms(testing::postgres().await).await;
    }

    #[tokio::test]
    async fn rules_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        conforms(testing::sqlite(directory.path()).await).await;
    }
}
