//! `/admin/budgets`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Error, ErrorKind, Result, budget::BudgetDefinition};

use crate::routes::{Call, List, json, no_content};

pub(in crate::routes) async fn list(call: Call) -> Result<Response> {
    let budgets = call.app.gateway.budgets(call.context).await?;
    json(StatusCode::OK, &List::whole(budgets))
}

pub(in crate::routes) async fn add(mut call: Call) -> Result<Response> {
    let budget: BudgetDefinition = call.json().await?;
    if budget.id.is_some() {
        let message = "leave `id` out: it is given to a new budget; `PUT` changes one";
        return call.counted(Err(Error::invalid("id", message)));
    }
    let budget = call.app.gateway.put_budget(call.context, budget).await?;
    json(StatusCode::CREATED, &budget)
}

pub(in crate::routes) async fn retrieve(call: Call) -> Result<Response> {
    let id = budget_id(&call);
    let budgets = call.app.gateway.budgets(call.context).await?;
    // After the gateway's answer: whoever may not see budgets is told so, not whether one exists.
    let id = id?;
    let budget = budgets
        .into_iter()
        .find(|budget| budget.definition.id == Some(id))
        .ok_or_else(no_budget)?;
    json(StatusCode::OK, &budget)
}

pub(in crate::routes) async fn put(mut call: Call) -> Result<Response> {
    let id = budget_id(&call)?;
    let mut budget: BudgetDefinition = call.json().await?;
    if budget.id.is_some_and(|given| given != id) {
        let message = "`id` differs from the one in the path";
        return call.counted(Err(Error::invalid("id", message)));
    }
    budget.id = Some(id);
    let budget = call.app.gateway.put_budget(call.context, budget).await?;
    json(StatusCode::OK, &budget)
}

pub(in crate::routes) async fn delete(call: Call) -> Result<Response> {
    let id = budget_id(&call)?;
    call.app.gateway.delete_budget(call.context, id).await?;
    Ok(no_content())
}

fn budget_id(call: &Call) -> Result<i64> {
    call.param.parse().map_err(|_| no_budget())
}

fn no_budget() -> Error {
    Error::new(ErrorKind::NotFound, "there is no budget of this id")
}
