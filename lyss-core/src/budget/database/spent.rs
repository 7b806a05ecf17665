//! What was spent, according to the request log.

use std::time::Duration;

use crate::{
    budget::{
        Scope,
        counter::{Counter, MOST_NANO, nano, pico, session_parts},
    },
    database::{Database, Pool, within},
    error::Result,
    price::Exchange,
    types::{Pico, RequestId, log::rfc3339},
};

/// How long the count may take: of everybody's requests of a month it may be millions of rows.
const PATIENCE: Duration = Duration::from_secs(60);
/// The end of the calendar.
const NEVER: &str = "9999-12-31T23:59:59.999Z";

/// Counts what a counter's subject has spent in its period, in 1e-9 of its currency, but for some requests. What the
/// log no longer holds is in the rollup, for periods that do not end.
pub(crate) async fn spent(
    database: &Database,
    counter: &Counter,
    exchange: &Exchange,
    without: &[RequestId],
) -> Result<i64> {
    let mut total = Pico::ZERO;
    for (currency, amount) in logged(database, counter, without).await? {
        match exchange.convert(amount, &currency, &counter.currency) {
            Some(amount) => total = total.checked_add(amount).unwrap_or(total),
            None => tracing::warn!(
                currency,
                to = &*counter.currency,
                "what was spent in a currency without an exchange rate is not counted against a budget"
            ),
        }
    }
    Ok(nano(total).min(MOST_NANO))
}

/// What was spent in each currency.
async fn logged(
    database: &Database,
    counter: &Counter,
    without: &[RequestId],
) -> Result<Vec<(String, Pico)>> {
    let from = rfc3339(counter.span.start_ms);
    let to = counter
        .span
        .end_ms
        .map_or_else(|| NEVER.to_owned(), rfc3339);
    let without = serde_json::Value::from_iter(without.iter().map(ToString::to_string)).to_string();
    let session = session_parts(&counter.subject).unwrap_or_default();
    let (whose, user, second) = match counter.scope {
        Scope::Key => ("key", &*counter.subject, ""),
        Scope::User => ("user", &*counter.subject, ""),
        Scope::Session => ("session", session.0, session.1),
        Scope::Total => ("total", "", ""),
    };
    let rows: Vec<(String, i64, i64)> = within(PATIENCE, async {
        match &database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => {
                let mut transaction = crate::database::transaction::begin_on_postgres(pool).await?;
                sqlx::query("SET LOCAL statement_timeout = '60s'")
                    .execute(&mut *transaction)
                    .await?;
                sqlx::query_as(postgres(whose))
                    .bind(&from)
                    .bind(&to)
                    .bind(&without)
                    .bind(user)
                    .bind(second)
                    .fetch_all(&mut *transaction)
                    .await
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => {
                sqlx::query_as(sqlite(whose))
                    .bind(&from)
                    .bind(&to)
                    .bind(&without)
                    .bind(user)
                    .bind(second)
                    .fetch_all(pool)
                    .await
            }
        }
    })
    .await?;
    let mut sums: Vec<(String, Pico)> = rows
        .into_iter()
        // Two sums, since one of 1e-12 is beyond what SQLite can add.
        .map(|(currency, high, low)| {
            (
                currency,
                Pico(i128::from(high) * 1_000_000 + i128::from(low)),
            )
        })
        .collect();
    if counter.span.end_ms.is_none() {
        sums.extend(rolled_up(database, counter).await?);
    }
    Ok(sums)
}

macro_rules! sum {
    ($from:literal, $to:literal, $without:literal, $whose:literal) => {
        concat!(
            "SELECT currency, CAST(SUM(user_charge_pico / 1000000) AS BIGINT),
             CAST(SUM(user_charge_pico % 1000000) AS BIGINT) FROM request_logs
             WHERE created_at >= ",
            $from,
            " AND created_at < ",
            $to,
            " AND currency IS NOT NULL
             AND request_id NOT IN (",
            $without,
            ") AND ",
            $whose,
            " GROUP BY currency"
        )
    };
}

// Every statement names all parameters: a driver does not bind what is not there.
#[cfg(feature = "postgres")]
fn postgres(whose: &str) -> &'static str {
    macro_rules! of {
        ($whose:literal) => {
            sum!(
                "$1::text::timestamptz",
                "$2::text::timestamptz",
                "SELECT jsonb_array_elements_text($3::text::jsonb)::uuid",
                $whose
            )
        };
    }
    match whose {
        "key" => of!("api_key_id = $4::text AND $5::text = ''"),
        "user" => of!("user_id = $4::text AND $5::text = ''"),
        "session" => of!("user_id = $4::text AND session_id = $5::text"),
        _ => of!("$4::text = '' AND $5::text = ''"),
    }
}

#[cfg(feature = "sqlite")]
fn sqlite(whose: &str) -> &'static str {
    macro_rules! of {
        ($whose:literal) => {
            sum!("$1", "$2", "SELECT value FROM json_each($3)", $whose)
        };
    }
    match whose {
        "key" => of!("api_key_id = $4 AND $5 = ''"),
        "user" => of!("user_id = $4 AND $5 = ''"),
        "session" => of!("user_id = $4 AND session_id = $5"),
        _ => of!("$4 = '' AND $5 = ''"),
    }
}

/// What was spent by requests that are no longer in the log. Sessions are not followed that long.
async fn rolled_up(database: &Database, counter: &Counter) -> Result<Vec<(String, Pico)>> {
    const SQL: &str =
        "SELECT currency, spent_nano FROM budget_rollups WHERE scope = $1 AND subject = $2";
    let rows: Vec<(String, i64)> = within(PATIENCE, async {
        crate::database::transaction::on!(Pool, &database.pool, |pool| sqlx::query_as(SQL)
            .bind(counter.scope.as_str())
            .bind(&*counter.subject)
            .fetch_all(pool)
            .await)
    })
    .await?;
    Ok(rows
        .into_iter()
        .map(|(currency, spent)| (currency, pico(spent)))
        .collect())
}
