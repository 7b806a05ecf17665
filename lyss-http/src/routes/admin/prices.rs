//! `/admin/prices`.

use axum::response::Response;
use http::StatusCode;
use lyss_core::{Error, ErrorKind, Result, price::PriceEntry};

use crate::routes::{Call, List, json, no_content};

pub(in crate::routes) async fn list(call: Call) -> Result<Response> {
    let prices = call.app.gateway.prices(call.context).await?;
    json(StatusCode::OK, &List::whole(prices))
}

pub(in crate::routes) async fn add(mut call: Call) -> Result<Response> {
    let price: PriceEntry = call.json().await?;
    if price.id.is_some() {
        let message = "leave `id` out: it is given to a new price; `PUT` changes one";
        return call.counted(Err(Error::invalid("id", message)));
    }
    let price = call.app.gateway.put_price(call.context, price).await?;
    json(StatusCode::CREATED, &price)
}

pub(in crate::routes) async fn retrieve(call: Call) -> Result<Response> {
    let id = price_id(&call);
    let prices = call.app.gateway.prices(call.context).await?;
    // After the gateway's answer: whoever may not see prices is told so, not whether one exists.
    let id = id?;
    let price = prices
        .into_iter()
        .find(|price| price.id == Some(id))
        .ok_or_else(no_price)?;
    json(StatusCode::OK, &price)
}

pub(in crate::routes) async fn put(mut call: Call) -> Result<Response> {
    let id = price_id(&call)?;
    let mut price: PriceEntry = call.json().await?;
    if price.id.is_some_and(|given| given != id) {
        let message = "`id` differs from the one in the path";
        return call.counted(Err(Error::invalid("id", message)));
    }
    price.id = Some(id);
    let price = call.app.gateway.put_price(call.context, price).await?;
    json(StatusCode::OK, &price)
}

pub(in crate::routes) async fn delete(call: Call) -> Result<Response> {
    let id = price_id(&call)?;
    call.app.gateway.delete_price(call.context, id).await?;
    Ok(no_content())
}

fn price_id(call: &Call) -> Result<i64> {
    call.param.parse().map_err(|_| no_price())
}

fn no_price() -> Error {
    Error::new(ErrorKind::NotFound, "there is no price of this id")
}
