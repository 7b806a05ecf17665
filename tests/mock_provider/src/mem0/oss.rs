//! The self-hosted server (FastAPI).

use http::Method;
use serde_json::json;

use super::{
    Call, Reply,
    store::{Filter, Store, wrong_messages},
};

const IDS: [&str; 3] = ["user_id", "agent_id", "run_id"];

pub(super) fn reply(call: &Call<'_>, store: &Store) -> Reply {
    let key = call.header("x-api-key");
    if key != Some(call.key) {
        return detail(401, "Invalid or missing API key.");
    }
    // `redirect_slashes=False`: a path with a slash at its end is another path.
    match (call.method, call.path) {
        (&Method::POST, "/memories") => add(call, store),
        (&Method::POST, "/search") => search(call, store),
        (&Method::GET, "/memories") => match filter(call) {
            None => detail(400, "At least one identifier is required."),
            Some(filter) => Reply::new(200, json!({"results": store.list(&filter)})),
        },
        (&Method::DELETE, "/memories") => match filter(call) {
            None => detail(400, "At least one identifier is required."),
            Some(filter) => {
                store.delete(&filter);
                Reply::new(200, json!({"message": "All relevant memories deleted"}))
            }
        },
        (_, "/memories" | "/search") => detail(405, "Method Not Allowed"),
        _ => detail(404, "Not Found"),
    }
}

fn detail(status: u16, why: &str) -> Reply {
    Reply::new(status, json!({"detail": why}))
}

fn unprocessable(member: &str) -> Reply {
    Reply::new(
        422,
        json!({"detail": [{"loc": ["body", member], "msg": "Field required", "type": "missing"}]}),
    )
}

fn filter(call: &Call<'_>) -> Option<Filter> {
    let filter = Filter {
        user_id: call.query("user_id").map(str::to_owned),
        run_id: call.query("run_id").map(str::to_owned),
    };
    filter.is_some().then_some(filter)
}

fn add(call: &Call<'_>, store: &Store) -> Reply {
    if wrong_messages(&call.body).is_some() {
        return unprocessable("messages");
    }
    if !IDS.iter().any(|id| call.body[id].is_string()) {
        return detail(
            400,
            "At least one identifier (user_id, agent_id, run_id) is required.",
        );
    }
    Reply::new(200, json!({"results": store.take(&call.body)}))
}

fn search(call: &Call<'_>, store: &Store) -> Reply {
    let Some(query) = call.body["query"].as_str() else {
        return unprocessable("query");
    };
    // Ids beside the query are accepted by old versions only.
    let Some(filter) = Filter::read(&call.body["filters"]) else {
        return detail(400, "filters must contain an identifier");
    };
    let top_k = call.body["top_k"].as_u64().unwrap_or(20);
    Reply::new(200, json!({"results": store.search(query, &filter, top_k)}))
}
