//! The table `budgets`: those that are made while the gateway runs.

use std::sync::Arc;

use super::{
    Budget, Scope,
    counter::{nano, pico},
};
use crate::{
    config::BudgetPeriod,
    database::{Database, Pool, QUERY_TIMEOUT, transaction::on, within},
    error::{Error, ErrorKind, Result},
};

/// A budget of the table.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub id: i64,
    pub budget: Arc<Budget>,
}

type Row = (i64, String, String, i64, String, String);

const LIST: &str =
    "SELECT id, scope, subject, amount_nano, currency, period FROM budgets ORDER BY id";
const INSERT: &str = "INSERT INTO budgets (scope, subject, amount_nano, currency, period)
     VALUES ($1, $2, $3, $4, $5) RETURNING id";
#[cfg(feature = "postgres")]
const UPDATE_POSTGRES: &str =
    "UPDATE budgets SET scope = $1, subject = $2, amount_nano = $3, currency = $4, period = $5,
     updated_at = now() WHERE id = $6 RETURNING id";
#[cfg(feature = "sqlite")]
const UPDATE_SQLITE: &str =
    "UPDATE budgets SET scope = $1, subject = $2, amount_nano = $3, currency = $4, period = $5,
     updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = $6 RETURNING id";
const DELETE: &str = "DELETE FROM budgets WHERE id = $1";

impl Database {
    /// All budgets of the table, by id.
    pub(crate) async fn list_budgets(&self) -> Result<Vec<Stored>> {
        let rows: Vec<Row> = within(QUERY_TIMEOUT, async {
            on!(Pool, &self.pool, |pool| sqlx::query_as(LIST)
                .fetch_all(pool)
                .await)
        })
        .await?;
        rows.into_iter().map(read).collect()
    }

    /// Adds a budget, or changes the one of this id; its id.
    pub(crate) async fn put_budget(&self, id: Option<i64>, budget: &Budget) -> Result<i64> {
        macro_rules! put {
            ($pool:expr, $update:expr) => {{
                let query = sqlx::query_scalar(match id {
                    None => INSERT,
                    Some(_) => $update,
                })
                .bind(budget.scope.as_str())
                .bind(&*budget.subject)
                .bind(nano(budget.amount))
                .bind(&*budget.currency)
                .bind(word(budget.period));
                match id {
                    None => query,
                    Some(id) => query.bind(id),
                }
                .fetch_optional($pool)
                .await
            }};
        }
        let row: Option<i64> = within(QUERY_TIMEOUT, async {
            match &self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => put!(pool, UPDATE_POSTGRES),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(pool) => put!(pool, UPDATE_SQLITE),
            }
        })
        .await?;
        row.ok_or_else(absent)
    }

    /// Deletes a budget. What was spent stays counted.
    pub(crate) async fn delete_budget(&self, id: i64) -> Result<()> {
        let deleted: u64 = within(QUERY_TIMEOUT, async {
            on!(Pool, &self.pool, |pool| sqlx::query(DELETE)
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected()))
        })
        .await?;
        if deleted == 0 { Err(absent()) } else { Ok(()) }
    }
}

fn absent() -> Error {
    Error::new(ErrorKind::NotFound, "no budget has this id").with_param("id")
}

fn read((id, scope, subject, amount, currency, period): Row) -> Result<Stored> {
    let period = match period.as_str() {
        "day" => Some(BudgetPeriod::Day),
        "month" => Some(BudgetPeriod::Month),
        "total" => Some(BudgetPeriod::Total),
        _ => None,
    };
    let (Some(scope), Some(period)) = (Scope::parse(&scope), period) else {
        // The table's own checks keep this out.
        return Err(Error::new(
            ErrorKind::StoreUnavailable,
            "a row of `budgets` cannot be read",
        ));
    };
    let budget = Budget {
        scope,
        subject: subject.into(),
        amount: pico(amount),
        currency: currency.into(),
        period,
    };
    Ok(Stored {
        id,
        budget: Arc::new(budget),
    })
}

fn word(period: BudgetPeriod) -> &'static str {
    match period {
        BudgetPeriod::Day => "day",
        BudgetPeriod::Month => "month",
        BudgetPeriod::Total => "total",
    }
}
