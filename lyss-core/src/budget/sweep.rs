//! Settles what nobody else settles: reservations whose process died, or whose settlement did not get through. The
//! request's row tells what it cost; the rows of a dead process come when its spool is adopted.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    counter::{Counter, nano},
    settling::Settling,
    store::{Amounts, BudgetStore, Open, Settlement, Source},
};
use crate::{
    database::{Database, Pool, within},
    error::Result,
    price::Exchange,
    session::now_ms,
    types::{Pico, RequestId, log::rfc3339},
};

/// A reservation that is not older is left to its own process: its settlement is on the way.
const AGE_MS: i64 = 1_000;
/// How long after its end a period is kept: its last requests end in it.
const KEPT_MS: i64 = 2 * 86_400_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Sweeps a page of the open reservations and moves `from` on to the next: so those of a dead process get their turn
/// however many others are open. How many were settled.
pub(super) async fn sweep(
    store: &dyn BudgetStore,
    database: &Database,
    settling: &Settling,
    exchange: &Arc<Exchange>,
    from: &Mutex<Option<String>>,
) -> Result<usize> {
    let position = from.lock().clone();
    let page = store
        .open_before(now_ms() - AGE_MS, position.as_deref())
        .await?;
    // Before anything else can fail: one page must not hold up the others.
    *from.lock() = page.next;
    let mut open = page.open;
    open.retain(|open| !settling.is_open(&open.id));
    let ids: Vec<RequestId> = open.iter().map(|open| open.id).collect();
    let mut settlements = Vec::new();
    for row in charged(database, &ids).await? {
        if let Some(open) = open.iter().find(|open| open.id == row.id) {
            settlements.push(Settlement {
                id: open.id,
                charges: charges(open, &row, exchange),
                source: Source::Log,
            });
        }
    }
    if !settlements.is_empty() {
        store.settle(&settlements, exchange).await?;
        tracing::info!(
            reservations = settlements.len(),
            "reservations settled by what the request log says"
        );
    }
    Ok(settlements.len())
}

/// Removes the counters of periods that are long over.
pub(super) async fn forget(store: &dyn BudgetStore) -> Result<()> {
    store.forget_before(now_ms() - KEPT_MS).await
}

/// What a request was charged.
struct Row {
    id: RequestId,
    charge: Pico,
    currency: Option<String>,
}

fn charges(open: &Open, row: &Row, exchange: &Exchange) -> Amounts {
    let each = open.amounts.iter().map(|(key, reserved)| {
        let charge = match (&row.currency, Counter::parse(key)) {
            (Some(currency), Some(counter)) => exchange
                .convert(row.charge, currency, &counter.currency)
                // The rate is gone since it was reserved: as much as could have been spent.
                .map_or(*reserved, nano),
            _ => 0,
        };
        (Arc::clone(key), charge)
    });
    each.collect()
}

/// The rows that there are of some requests.
async fn charged(database: &Database, ids: &[RequestId]) -> Result<Vec<Row>> {
    let times = ids.iter().map(RequestId::unix_ms);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return Ok(Vec::new());
    };
    let (first, last) = (rfc3339(first), rfc3339(last));
    let json = serde_json::Value::from_iter(ids.iter().map(ToString::to_string)).to_string();
    let rows: Vec<(String, i64, Option<String>)> = within(PATIENCE, async {
        match &database.pool {
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => {
                sqlx::query_as(
                    "SELECT request_id::text, user_charge_pico, currency FROM request_logs
                     WHERE created_at BETWEEN $1::text::timestamptz AND $2::text::timestamptz
                     AND request_id IN (SELECT jsonb_array_elements_text($3::text::jsonb)::uuid)",
                )
                .bind(first)
                .bind(last)
                .bind(json)
                .fetch_all(pool)
                .await
            }
            #[cfg(feature = "sqlite")]
            Pool::Sqlite(pool) => {
                sqlx::query_as(
                    "SELECT request_id, user_charge_pico, currency FROM request_logs
                     WHERE created_at BETWEEN $1 AND $2 AND request_id IN (SELECT value FROM json_each($3))",
                )
                .bind(first)
                .bind(last)
                .bind(json)
                .fetch_all(pool)
                .await
            }
        }
    })
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, charge, currency)| {
            Some(Row {
                id: RequestId::parse(&id)?,
                charge: Pico(charge.into()),
                currency,
            })
        })
        .collect())
}
