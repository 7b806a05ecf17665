//! The table `billing_adjustments`: corrections of what rows of the log were charged.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::request_log::Part::{Either, Sql, Time};
use crate::{
    Error, ErrorKind, Result,
    database::{Database, QUERY_TIMEOUT, within},
    types::LogRow,
};

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::database::Pool;

/// A correction of one row in one currency. The members are named as the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Adjustment {
    /// The row.
    pub request_id: String,
    /// The currency of the amounts.
    pub currency: String,
    /// The number of the correction among those of this row and currency, from 1.
    pub revision: i64,
    /// The row's.
    pub created_at: String,
    /// The row's.
    pub user_id: String,
    /// The row's.
    pub api_key_id: Option<String>,
    /// The row's.
    pub model_name: String,
    /// The row's.
    pub provider_id: String,
    /// What the amounts were computed from before.
    pub old_price_id: String,
    /// What they are computed from now.
    pub new_price_id: String,
    /// By how much the charge changes, in 1e-12 of the currency.
    pub user_charge_pico: i64,
    /// By how much the cost changes, likewise.
    pub provider_cost_pico: i64,
}

impl Database {
    /// The corrections of a page of rows, by request, in the order in which they were made.
    pub(super) async fn adjustments(
        &self,
        rows: &[LogRow],
    ) -> Result<HashMap<String, Vec<Adjustment>>> {
        // The newest row comes first.
        let (Some(newest), Some(oldest)) = (rows.first(), rows.last()) else {
            return Ok(HashMap::new());
        };
        let parts = vec![
            Either(
                "SELECT json_build_object('request_id', request_id, 'currency', currency, 'revision', revision,
                     'created_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
                     'user_id', user_id, 'api_key_id', api_key_id, 'model_name', model_name,
                     'provider_id', provider_id, 'old_price_id', old_price_id, 'new_price_id', new_price_id,
                     'user_charge_pico', user_charge_pico, 'provider_cost_pico', provider_cost_pico)::text",
                "SELECT json_object('request_id', request_id, 'currency', currency, 'revision', revision,
                 'created_at', created_at, 'user_id', user_id, 'api_key_id', api_key_id, 'model_name', model_name,
                 'provider_id', provider_id, 'old_price_id', old_price_id, 'new_price_id', new_price_id,
                 'user_charge_pico', user_charge_pico, 'provider_cost_pico', provider_cost_pico)",
            ),
            Sql(" FROM billing_adjustments WHERE created_at >= "),
            Time(oldest.created_at.clone()),
            Sql(" AND created_at <= "),
            Time(newest.created_at.clone()),
            Sql(" ORDER BY made_at, revision"),
        ];
        let mut by_request: HashMap<String, Vec<Adjustment>> = HashMap::new();
        for adjustment in self.select::<Adjustment>(parts).await? {
            let request = adjustment.request_id.clone();
            by_request.entry(request).or_default().push(adjustment);
        }
        Ok(by_request)
    }

    /// Writes corrections, all or none; but not those whose number another process has just given to its own.
    pub(super) async fn write_adjustments(&self, adjustments: &[Adjustment]) -> Result<()> {
        if adjustments.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_string(adjustments).map_err(|error| {
            Error::new(ErrorKind::Internal, "a correction cannot be written").with_source(error)
        })?;
        within(QUERY_TIMEOUT, async {
            match self.pool {
                #[cfg(feature = "postgres")]
                Pool::Postgres(ref pool) => sqlx::query(
                    "INSERT INTO billing_adjustments (request_id, currency, revision, created_at, user_id, api_key_id,
                     model_name, provider_id, old_price_id, new_price_id, user_charge_pico, provider_cost_pico)
                     SELECT * FROM jsonb_to_recordset($1::jsonb) AS e(request_id uuid, currency text, revision bigint,
                     created_at timestamptz, user_id text, api_key_id text, model_name text, provider_id text,
                     old_price_id text, new_price_id text, user_charge_pico bigint, provider_cost_pico bigint)
                     ON CONFLICT DO NOTHING",
                )
                .bind(json)
                .execute(pool)
                .await
                .map(drop),
                #[cfg(feature = "sqlite")]
                Pool::Sqlite(ref pool) => sqlx::query(
                    "INSERT INTO billing_adjustments (request_id, currency, revision, created_at, user_id, api_key_id,
                     model_name, provider_id, old_price_id, new_price_id, user_charge_pico, provider_cost_pico)
                     SELECT value ->> 'request_id', value ->> 'currency', value ->> 'revision', value ->> 'created_at',
                     value ->> 'user_id', value ->> 'api_key_id', value ->> 'model_name', value ->> 'provider_id',
                     value ->> 'old_price_id', value ->> 'new_price_id', value ->> 'user_charge_pico',
                     value ->> 'provider_cost_pico' FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING",
                )
                .bind(json)
                .execute(pool)
                .await
                .map(drop),
            }
        })
        .await
    }
}
