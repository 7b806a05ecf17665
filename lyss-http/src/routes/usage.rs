//! `GET /usage`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Result, gateway::UsageQuery};
use serde::Deserialize;

use super::{Call, List, json};

#[derive(Deserialize)]
struct Query {
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    user_id: Option<String>,
}

pub(super) async fn totals(call: Call) -> Result<Response> {
    let query: Query = call.query()?;
    let by = query.by.unwrap_or_default();
    let query = UsageQuery {
        from: query.from,
        to: query.to,
        by: by
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        user_id: query.user_id,
    };
    let totals = call.app.gateway.usage(call.context, query).await?;
    json(StatusCode::OK, &List::whole(totals))
}
