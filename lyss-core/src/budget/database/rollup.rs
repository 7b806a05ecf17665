//! What requests have spent whose rows leave the log: budgets without an end go on counting it.

/// Adds up rows by user, by key and in all. The source is `gone`: `user_id`, `api_key_id`, `currency` and
/// `user_charge_pico` of each.
macro_rules! roll_up {
    ($gone:expr) => {
        concat!(
            "WITH gone AS (", $gone, ")
             INSERT INTO budget_rollups (scope, subject, currency, spent_nano)
             SELECT scope, subject, currency, spent FROM (
                 SELECT 'total' AS scope, '' AS subject, currency,
                     CAST((SUM(user_charge_pico) + 999) / 1000 AS BIGINT) AS spent
                     FROM gone GROUP BY currency
                 UNION ALL SELECT 'user', user_id, currency,
                     CAST((SUM(user_charge_pico) + 999) / 1000 AS BIGINT) FROM gone GROUP BY user_id, currency
                 UNION ALL SELECT 'key', api_key_id, currency,
                     CAST((SUM(user_charge_pico) + 999) / 1000 AS BIGINT) FROM gone
                     WHERE api_key_id IS NOT NULL GROUP BY api_key_id, currency
             ) AS sums WHERE spent > 0 AND currency IS NOT NULL
             ON CONFLICT (scope, subject, currency)
             DO UPDATE SET spent_nano = budget_rollups.spent_nano + excluded.spent_nano"
        )
    };
}

/// Rolls up a partition that is to be dropped, and locks it until then.
#[cfg(feature = "postgres")]
pub(crate) async fn roll_up_partition(
    transaction: &mut sqlx::PgTransaction<'_>,
    name: &str,
) -> sqlx::Result<()> {
    // The caller has made the name of a prefix and two numbers; a table's name is no parameter.
    let lock = format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock))
        .execute(&mut **transaction)
        .await?;
    let sql =
        roll_up!("SELECT user_id, api_key_id, currency, user_charge_pico FROM request_logs_gone");
    let sql = sql.replace("request_logs_gone", name);
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .execute(&mut **transaction)
        .await
        .map(drop)
}

/// Deletes rows of the default partition from before `$1`, and rolls them up.
#[cfg(feature = "postgres")]
pub(crate) const ROLL_UP_DEFAULT: &str = roll_up!(
    "DELETE FROM request_logs_default WHERE created_at < $1::text::timestamptz
     RETURNING user_id, api_key_id, currency, user_charge_pico"
);

/// Rolls up the oldest 2,000 rows from before `?1`; deleted by [`DELETE_PORTION`] in the same transaction.
#[cfg(feature = "sqlite")]
pub(crate) const ROLL_UP_PORTION: &str = roll_up!(
    "SELECT user_id, api_key_id, currency, user_charge_pico FROM request_logs WHERE created_at < ?1
     ORDER BY created_at, id LIMIT 2000"
);

/// Deletes them.
#[cfg(feature = "sqlite")]
pub(crate) const DELETE_PORTION: &str = "DELETE FROM request_logs WHERE id IN
     (SELECT id FROM request_logs WHERE created_at < ?1 ORDER BY created_at, id LIMIT 2000)";
