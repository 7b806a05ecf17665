//! `/admin/routing-rules`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Error, ErrorKind, Result, gateway::RoutingRule};

use crate::routes::{Call, List, json, no_content};

pub(in crate::routes) async fn list_rules(call: Call) -> Result<Response> {
    let rules = call.app.gateway.routing_rules(call.context).await?;
    json(StatusCode::OK, &List::whole(rules))
}

pub(in crate::routes) async fn add_rule(mut call: Call) -> Result<Response> {
    let rule: RoutingRule = call.json().await?;
    if rule.id.is_some() {
        let message = "leave `id` out: it is given to a new rule; `PUT` changes one";
        return call.counted(Err(Error::invalid("id", message)));
    }
    let rule = call
        .app
        .gateway
        .put_routing_rule(call.context, rule)
        .await?;
    json(StatusCode::CREATED, &rule)
}

pub(in crate::routes) async fn retrieve_rule(call: Call) -> Result<Response> {
    let id = rule_id(&call);
    let rules = call.app.gateway.routing_rules(call.context).await?;
    // After the gateway's answer: whoever may not see rules is told so, not whether one exists.
    let id = id?;
    let rule = rules
        .into_iter()
        .find(|rule| rule.id == Some(id))
        .ok_or_else(no_rule)?;
    json(StatusCode::OK, &rule)
}

pub(in crate::routes) async fn put_rule(mut call: Call) -> Result<Response> {
    let id = rule_id(&call)?;
    let mut rule: RoutingRule = call.json().await?;
    if rule.id.is_some_and(|given| given != id) {
        let message = "`id` differs from the one in the path";
        return call.counted(Err(Error::invalid("id", message)));
    }
    rule.id = Some(id);
    let rule = call
        .app
        .gateway
        .put_routing_rule(call.context, rule)
        .await?;
    json(StatusCode::OK, &rule)
}

pub(in crate::routes) async fn delete_rule(call: Call) -> Result<Response> {
    let id = rule_id(&call)?;
    call.app
        .gateway
        .delete_routing_rule(call.context, id)
        .await?;
    Ok(no_content())
}

fn rule_id(call: &Call) -> Result<i64> {
    call.param.parse().map_err(|_| no_rule())
}

fn no_rule() -> Error {
    Error::new(ErrorKind::NotFound, "there is no routing rule of this id")
}
