//! The table `prices`.

use super::{Database, QUERY_TIMEOUT, within};
use crate::{
    Error, ErrorKind, Result,
    config::BillingConfig,
    price::{PriceBook, PriceEntry, configured, stored},
    types::log::rfc3339,
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::Pool;

/// A row as JSON, member for column, so that both dialects are read by the same `Deserialize`.
#[cfg(feature = "postgres")]
macro_rules! postgres_price {
    () => {
        "json_build_object('id', id, 'model', model, 'provider', provider, 'currency', currency,
          'valid_from', to_char(valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
          'input', input, 'cached_input', cached_input, 'cache_write', cache_write, 'output', output,
          'reasoning', reasoning, 'tiers', tiers, 'max_output_tokens', max_output_tokens)::text"
    };
}
#[cfg(feature = "sqlite")]
macro_rules! sqlite_price {
    () => {
        "json_object('id', id, 'model', model, 'provider', provider, 'currency', currency, 'valid_from', valid_from,
          'input', input, 'cached_input', cached_input, 'cache_write', cache_write, 'output', output,
          'reasoning', reasoning, 'tiers', json(tiers), 'max_output_tokens', max_output_tokens)"
    };
}

/// The columns of a price as they are bound.
struct Columns {
    model: String,
    provider: Option<String>,
    currency: String,
    valid_from: Option<String>,
    rates: [Option<String>; 5],
    tiers: String,
    max_output_tokens: Option<i64>,
}

impl Columns {
    fn of(price: &PriceEntry) -> Result<Self> {
        let valid_from_ms = price.check()?;
        let tiers = serde_json::to_string(&price.tiers)
            .map_err(|error| Error::invalid("tiers", error.to_string()))?;
        let rates = [
            Some(price.input),
            price.cached_input,
            price.cache_write,
            Some(price.output),
            price.reasoning,
        ];
        Ok(Self {
            model: price.model.clone(),
            provider: price.provider.clone(),
            currency: price.currency.clone(),
            valid_from: price.valid_from.as_ref().map(|_| rfc3339(valid_from_ms)),
            rates: rates.map(|rate| rate.map(|rate| rate.to_string())),
            tiers,
            max_output_tokens: price.max_output_tokens.map(u64::cast_signed),
        })
    }
}

/// Binds the columns in the order of the statements.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
macro_rules! bind {
    ($query:expr, $columns:expr, $id:expr) => {{
        let Columns {
            model,
            provider,
            currency,
            valid_from,
            rates: [input, cached_input, cache_write, output, reasoning],
            tiers,
            max_output_tokens,
        } = $columns;
        let query = $query
            .bind(model)
            .bind(provider)
            .bind(currency)
            .bind(valid_from)
            .bind(input)
            .bind(cached_input)
            .bind(cache_write)
            .bind(output)
            .bind(reasoning)
            .bind(tiers)
            .bind(max_output_tokens);
        match $id {
            None => query,
            Some(id) => query.bind(id),
        }
    }};
}

impl Database {
    /// All prices of the table, by model, provider and time.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn list_prices(&self) -> Result<Vec<PriceEntry>> {
        let rows: Vec<String> =
            within(QUERY_TIMEOUT, async {
                match self.pool {
                    #[cfg(feature = "postgres")]
                    Pool::Postgres(ref pool) => sqlx::query_scalar(concat!(
                        "SELECT ",
                        postgres_price!(),
                        " FROM prices ORDER BY model, provider NULLS FIRST, valid_from NULLS FIRST"
                    ))
                    .fetch_all(pool)
                    .await,
                    #[cfg(feature = "sqlite")]
                    Pool::Sqlite(ref pool) => {
                        sqlx::query_scalar(concat!(
                            "SELECT ",
                            sqlite_price!(),
                            " FROM prices ORDER BY model, provider, valid_from"
                        ))
                        .fetch_all(pool)
                        .await
                    }
                }
            })
            .await?;
        rows.iter().map(|row| decode(row)).collect()
    }

    /// The prices in force by a configuration and the table.
    ///
    /// # Errors
    /// `invalid_value` for a model name of the configuration; `store_unavailable`.
    pub async fn price_book(&self, billing: &BillingConfig) -> Result<PriceBook> {
        let stored = stored(&self.list_prices().await?);
        Ok(PriceBook::default()
            .with_configured(configured(billing)?)
            .with_stored(stored))
    }

    /// Adds a price (no id), or changes the one with this id. Returns it as stored.
    ///
    /// # Errors
    /// `invalid_value` with the member's name, also if another price of this model and provider holds from the same time;
    /// `not_found` if no price has the id; `store_unavailable`.
    pub async fn put_price(&self, price: &PriceEntry) -> Result<PriceEntry> {
        let columns = Columns::of(price)?;
        let row: Option<String> = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => {
                    let query = match price.id {
                        None => sqlx::query_scalar(concat!(
                            "INSERT INTO prices (model, provider, currency, valid_from, input, cached_input, cache_write,
                             output, reasoning, tiers, max_output_tokens)
                             VALUES ($1, $2, $3, $4::timestamptz, $5::numeric, $6::numeric, $7::numeric, $8::numeric,
                             $9::numeric, $10::jsonb, $11) ON CONFLICT DO NOTHING RETURNING ",
                            postgres_price!()
                        )),
                        Some(_) => sqlx::query_scalar(concat!(
                            "UPDATE prices SET model = $1, provider = $2, currency = $3, valid_from = $4::timestamptz,
                             input = $5::numeric, cached_input = $6::numeric, cache_write = $7::numeric,
                             output = $8::numeric, reasoning = $9::numeric, tiers = $10::jsonb, max_output_tokens = $11,
                             updated_at = now() WHERE id = $12 AND NOT EXISTS (SELECT FROM prices other
                             WHERE other.id <> $12 AND other.model = $1 AND other.provider IS NOT DISTINCT FROM $2
                             AND other.valid_from IS NOT DISTINCT FROM $4::timestamptz) RETURNING ",
                            postgres_price!()
                        )),
                    };
                    bind!(query, columns, price.id).fetch_optional(pool).await
                }
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => {
                    let query = match price.id {
                        None => sqlx::query_scalar(concat!(
                            "INSERT INTO prices (model, provider, currency, valid_from, input, cached_input, cache_write,
                             output, reasoning, tiers, max_output_tokens)
                             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING RETURNING ",
                            sqlite_price!()
                        )),
                        Some(_) => sqlx::query_scalar(concat!(
                            "UPDATE prices SET model = ?1, provider = ?2, currency = ?3, valid_from = ?4, input = ?5,
                             cached_input = ?6, cache_write = ?7, output = ?8, reasoning = ?9, tiers = ?10,
                             max_output_tokens = ?11, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                             WHERE id = ?12 AND NOT EXISTS (SELECT 1 FROM prices other WHERE other.id <> ?12
                             AND other.model = ?1 AND other.provider IS ?2 AND other.valid_from IS ?4) RETURNING ",
                            sqlite_price!()
                        )),
                    };
                    bind!(query, columns, price.id).fetch_optional(pool).await
                }
            }
        })
        .await?;
        if let Some(row) = row {
            return decode(&row);
        }
        match price.id {
            Some(id) if !self.has_price(id).await? => Err(absent()),
            _ => Err(Error::invalid(
                "valid_from",
                "another price of this model and provider holds from the same time",
            )),
        }
    }

    async fn has_price(&self, id: i64) -> Result<bool> {
        let prices = self.list_prices().await?;
        Ok(prices.iter().any(|price| price.id == Some(id)))
    }

    /// Deletes a price.
    ///
    /// # Errors
    /// `not_found` if no price has the id; `store_unavailable`.
    pub async fn delete_price(&self, id: i64) -> Result<()> {
        let deleted: u64 = within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query("DELETE FROM prices WHERE id = $1")
                    .bind(id)
                    .execute(pool)
                    .await
                    .map(|done| done.rows_affected()),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query("DELETE FROM prices WHERE id = ?1")
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
    Error::new(ErrorKind::NotFound, "no price has this id").with_param("id")
}

fn decode(row: &str) -> Result<PriceEntry> {
    serde_json::from_str(row).map_err(|error| {
        Error::new(
            ErrorKind::StoreUnavailable,
            "a row of `prices` cannot be read",
        )
        .with_source(error)
    })
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        database::testing,
        price::{Rate, Rates, Tier},
    };

    async fn conforms(database: Database) {
        let price = |model: &str, provider: Option<&str>, valid_from: Option<&str>| PriceEntry {
            model: model.into(),
            provider: provider.map(str::to_owned),
            currency: "CNY".into(),
            valid_from: valid_from.map(str::to_owned),
            input: Rate::per_token(150_000),
            cached_input: Some(Rate::FREE),
            cache_write: None,
            output: Rate::per_token(999_999_999_999_999),
            reasoning: Some(Rate::per_token(1)),
            tiers: vec![Tier {
                above_input_tokens: 7,
                rates: Rates::new(Rate::per_token(1), Rate::per_token(2)),
            }],
            max_output_tokens: Some(8192),
            ..PriceEntry::default()
        };
        let without_id = |price: PriceEntry| PriceEntry { id: None, ..price };
        let always = database
            .put_price(&price("ö'\"", None, None))
            .await
            .unwrap();
        assert_eq!(
            without_id(always.clone()),
            price("ö'\"", None, None),
            "as given"
        );
        let dated = price("ö'\"", None, Some("2026-11-22T01:00:00+01:00"));
        let dated = database.put_price(&dated).await.unwrap();
        assert_eq!(
            dated.valid_from.as_deref(),
            Some("2026-11-22T00:00:00.000Z")
        );
        let own = database
            .put_price(&price("ö'\"", Some("p"), None))
            .await
            .unwrap();
        assert_eq!(
            database.list_prices().await.unwrap(),
            [always.clone(), dated.clone(), own.clone()]
        );

        for same in [
            price("ö'\"", None, None),
            price("ö'\"", None, Some("2026-11-22")),
            PriceEntry {
                id: own.id,
                ..always.clone()
            },
        ] {
            let error = database.put_price(&same).await.unwrap_err();
            assert_eq!(
                (error.code(), error.param()),
                ("invalid_value", Some("valid_from"))
            );
        }
        let stranger = PriceEntry {
            id: Some(9_999),
            ..price("m", None, None)
        };
        assert_eq!(
            database.put_price(&stranger).await.unwrap_err().code(),
            "not_found"
        );

        let version = database.config_version("prices").await.unwrap();
        let changed = PriceEntry {
            cached_input: None,
            reasoning: None,
            tiers: Vec::new(),
            max_output_tokens: None,
            ..own
        };
        assert_eq!(database.put_price(&changed).await.unwrap(), changed);
        database.delete_price(dated.id.unwrap()).await.unwrap();
        assert_eq!(
            database
                .delete_price(dated.id.unwrap())
                .await
                .unwrap_err()
                .code(),
            "not_found"
        );
        assert!(database.config_version("prices").await.unwrap() >= version + 2);
        assert_eq!(database.list_prices().await.unwrap(), [always, changed]);
    }

    #[tokio::test]
    async fn prices_on_postgres() {
        conforms(testing::postgres().await).await;
    }

    #[tokio::test]
    async fn prices_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        conforms(testing::sqlite(directory.path()).await).await;
    }

    #[test]
    fn every_member_is_checked() {
        let good = PriceEntry {
            model: "m".into(),
            currency: "USD".into(),
            ..PriceEntry::default()
        };
        assert!(good.check().is_ok());
        let tier = |above_input_tokens| Tier {
            above_input_tokens,
            rates: Rates::default(),
        };
        type Change = fn(&mut PriceEntry);
        let cases: [(Change, &str); 7] = [
            (|price| price.model.clear(), "model"),
            (|price| price.model = "a\0".into(), "model"),
            (|price| price.provider = Some("x".repeat(256)), "provider"),
            (|price| price.currency = "usd".into(), "currency"),
            (|price| price.valid_from = Some("soon".into()), "valid_from"),
            (
                |price| price.max_output_tokens = Some(0),
                "max_output_tokens",
            ),
            (
                |price| price.max_output_tokens = Some(u64::MAX),
                "max_output_tokens",
            ),
        ];
        for (change, member) in cases {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(bad.check().unwrap_err().param(), Some(member));
        }
        for tiers in [
            vec![tier(0)],
            vec![tier(2), tier(2)],
            (1..18).map(tier).collect(),
        ] {
            let bad = PriceEntry {
                tiers,
                ..good.clone()
            };
            assert_eq!(bad.check().unwrap_err().param(), Some("tiers"));
        }
    }
}
