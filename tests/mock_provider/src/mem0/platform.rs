//! The hosted service.

use http::Method;
use serde_json::{Value, json};

use super::{
    Call, Reply,
    store::{Filter, Store, wrong_messages},
};

const IDS: [&str; 4] = ["user_id", "agent_id", "app_id", "run_id"];

pub(super) fn reply(call: &Call<'_>, store: &Store) -> Reply {
    if !call.path.ends_with('/') {
        // The body of a POST is lost on the way.
        return Reply {
            location: Some(format!("{}/", call.path)),
            ..Reply::new(301, json!({}))
        };
    }
    // `Token`, not `Bearer`.
    if call.header("authorization") != Some(&format!("Token {}", call.key)) {
        let detail = "Authentication credentials were not provided or are invalid.";
        return Reply::new(401, json!({"detail": detail}));
    }
    match (call.method, call.path) {
        (&Method::GET, "/v1/ping/") => Reply::new(
            200,
            json!({"status": "ok", "org_id": "org-1", "project_id": "proj-1", "user_email": "a@b.c"}),
        ),
        (&Method::POST, "/v3/memories/add/") => add(call, store),
        (&Method::POST, "/v3/memories/search/") => search(call, store),
        (&Method::POST, "/v3/memories/") => match Filter::read(&call.body["filters"]) {
            None => wrong("filters with an entity id is required"),
            Some(filter) => {
                let results = store.list(&filter);
                let count = results.len();
                Reply::new(
                    200,
                    json!({"count": count, "next": null, "previous": null, "results": results}),
                )
            }
        },
        (&Method::DELETE, "/v1/memories/") => {
            let filter = Filter {
                user_id: call.query("user_id").map(str::to_owned),
                run_id: call.query("run_id").map(str::to_owned),
            };
            if !filter.is_some() {
                return wrong("an entity id is required");
            }
            store.delete(&filter);
            Reply::new(
                200,
                json!({"message": "Memories deletion started.", "event_id": "event-1"}),
            )
        }
        _ => Reply::new(404, json!({"detail": "Not found."})),
    }
}

fn wrong(why: &str) -> Reply {
    Reply::new(
        400,
        json!({"error": "400 Bad Request", "details": {"message": why}}),
    )
}

fn add(call: &Call<'_>, store: &Store) -> Reply {
    const KNOWN: [&str; 16] = [
        "messages",
        "user_id",
        "agent_id",
        "app_id",
        "run_id",
        "org_id",
        "project_id",
        "metadata",
        "infer",
        "expiration_date",
        "timestamp",
        "immutable",
        "includes",
        "excludes",
        "custom_categories",
        "custom_instructions",
    ];
    if let Some(why) = wrong_messages(&call.body) {
        return wrong(why);
    }
    if !IDS.iter().any(|id| call.body[id].is_string()) {
        return wrong("one of user_id, agent_id, app_id, run_id is required");
    }
    // Not a rule of the service's: it would ignore the member, and nobody would notice.
    let members = call.body.as_object().into_iter().flatten();
    for (name, _) in members {
        if !KNOWN.contains(&name.as_str()) && name != "source" {
            return wrong(&format!("{name} is not known"));
        }
    }
    let results = store.take(&call.body);
    if call.body["infer"] == Value::Bool(false) {
        return Reply::new(
            200,
            json!({"message": "Memories stored.", "status": "SUCCEEDED", "event_id": "event-1", "results": results}),
        );
    }
    Reply::new(200, json!({"event_id": "event-1", "status": "PENDING"}))
}

fn search(call: &Call<'_>, store: &Store) -> Reply {
    if IDS.iter().any(|id| call.body.get(*id).is_some()) {
        return wrong("entity ids belong into filters");
    }
    let Some(query) = call.body["query"]
        .as_str()
        .filter(|query| !query.is_empty())
    else {
        return wrong("query is required");
    };
    let Some(filter) = Filter::read(&call.body["filters"]) else {
        return wrong("filters with an entity id is required");
    };
    let top_k = match call.body.get("top_k") {
        None => 10,
        Some(top_k) => match top_k.as_u64().filter(|top_k| (1..=1000).contains(top_k)) {
            Some(top_k) => top_k,
            None => return wrong("top_k must be from 1 to 1000"),
        },
    };
    Reply::new(200, json!({"results": store.search(query, &filter, top_k)}))
}
