//! I1: every route, made from the router's own table, with no key, a wrong one, a revoked one, another tenant's and an
//! admin's. A route that this file does not know fails it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Method;
use lyss_core::admission::{KeyHasher, KeyStore, NewKey, load_or_create_pepper};
use lyss_http::routes::{Policy, Route, table};
use lyss_tests::{
    client::{Answer, Client, chat},
    world::World,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// In everything of alice's, and in nothing that anybody else may see.
const CANARY: &str = "canary-of-alice";

/// The model of the only rule in the table.
const RULE: &str = "model-of-the-rule";

struct Tenants {
    world: World,
    address: SocketAddr,
    revoked: String,
    /// The id of a request of alice's.
    request: String,
    /// The id of a rule.
    rule: i64,
}

impl Tenants {
    async fn start() -> Self {
        let world = World::start(&json!({})).await;
        let router = lyss_http::router(Arc::new(world.engine.clone()), Default::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = |name: &str| Client::new(address).with_key(&world.key(name).unwrap());

        let mut body = chat("gpt-4o-mini", CANARY);
        body["session_id"] = CANARY.into();
        let answer = client("alice").chat(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        let request = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(world.rows(1).await.len(), 1);
        let rule = json!({"model_name": RULE, "provider_id": "openai"});
        let rule = client("admin")
            .send("POST", "/v1/admin/routing-rules", Some(&rule))
            .await
            .unwrap();
        assert_eq!(rule.status, 201, "{}", rule.json());
        let rule = rule.json()["id"].as_i64().unwrap();
        let revoked = revoked_key(&world, &Client::new(address)).await;
        Self {
            world,
            address,
            revoked,
            request,
            rule,
        }
    }

    /// A caller: nobody, or somebody with the key of this name.
    fn caller(&self, name: &str) -> Client {
        let client = Client::new(self.address);
        match name {
            "revoked" => client.with_key(&self.revoked),
            name => match self.world.key(name) {
                Some(key) => client.with_key(&key),
                None => client,
            },
        }
    }

    async fn call(&self, caller: &str, route: &Route, path: &str) -> Answer {
        let body = self.body(route);
        self.caller(caller)
            .send(route.method.as_str(), path, body.as_ref())
            .await
            .unwrap()
    }

    /// A body that the route accepts.
    fn body(&self, route: &Route) -> Option<Value> {
        match (&route.method, route.path) {
            (&Method::GET | &Method::DELETE, _) => None,
            (_, "/chat/completions" | "/tokens") => Some(chat("gpt-4o-mini", "hello")),
            (_, "/embeddings") => {
                Some(json!({"model": "text-embedding-3-small", "input": "hello"}))
            }
            (_, "/sessions") => Some(json!({"id": "another"})),
            (_, "/admin/prices" | "/admin/prices/{id}") => {
                Some(json!({"model": "another", "currency": "USD", "input": "1", "output": "2"}))
            }
            (_, "/admin/budgets" | "/admin/budgets/{id}") => {
                Some(json!({ "user": "nobody", "amount": "1", "period": "day" }))
            }
            (_, "/admin/keys") => Some(json!({"user_id": "another"})),
            (_, "/admin/keys/{id}") => Some(json!({"scopes": ["admin"]})),
            (_, "/admin/keys/{id}/rotate") => Some(json!({"grace_seconds": 0})),
            (_, "/admin/routing-rules" | "/admin/routing-rules/{id}") => {
                Some(json!({"model_name": "another", "provider_id": "backup"}))
            }
            (_, "/admin/providers" | "/admin/providers/{id}") => {
                Some(json!({"id": "another", "kind": "simulated"}))
            }
            (method, path) => panic!("no body for the new route {method} {path}"),
        }
    }

    /// The path with alice's ids in it.
    fn path(&self, route: &Route, path: &str) -> String {
        let id = match route.path {
            path if !path.contains('{') => return path_without_parameter(path, route),
            "/models/{*id}" => "gpt-4o-mini".to_owned(),
            "/sessions/{id}" | "/sessions/{id}/messages" => CANARY.to_owned(),
            "/requests/{id}" => self.request.clone(),
            "/admin/budgets/{id}" => "1".to_owned(),
            "/admin/routing-rules/{id}" => self.rule.to_string(),
            "/admin/prices/{id}" => "1".to_owned(),
            // Bob's own: not even that.
            "/admin/keys/{id}" | "/admin/keys/{id}/rotate" => {
                self.world.key("bob").unwrap()[5..17].to_owned()
            }
            "/admin/providers/{id}" => "another".to_owned(),
            "/docs/{*file}" => "index.html".to_owned(),
            path => panic!("no id for the new route {path}"),
        };
        let (before, rest) = path.split_once('{').unwrap();
        let (_, after) = rest.split_once('}').unwrap();
        format!("{before}{id}{after}")
    }
}

fn path_without_parameter(path: &str, route: &Route) -> String {
    assert_eq!(path, route.path);
    path.to_owned()
}

/// A key of alice's that is good no more.
async fn revoked_key(world: &World, client: &Client) -> String {
    let pepper = load_or_create_pepper(world.dir.path()).unwrap();
    let store = KeyStore::new(
        world.engine.database().clone(),
        KeyHasher::new(&pepper).unwrap(),
    );
    let new = NewKey {
        user_id: Some("alice".into()),
        ..NewKey::default()
    };
    let key = store.create(new).await.unwrap();
    let secret = key.secret.expose_secret().to_owned();
    let client = client.with_key(&secret);
    assert_eq!(client.get("/v1/models").await.status, 200, "it was good");
    store.revoke(&key.id).await.unwrap();
    for _ in 0..100 {
        if client.get("/v1/models").await.status == 401 {
            return secret;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the revoked key is still good after 2 s");
}

/// What bob gets at a path with alice's ids in it.
fn foreign(route: &Route) -> u16 {
    match (&route.method, route.path) {
        // Nobody's: the same for all.
        (_, "/chat/completions" | "/tokens" | "/embeddings") => 200,
        (_, "/models" | "/models/{*id}") => 200,
        // His own.
        (_, "/sessions" | "/requests" | "/usage") => 200,
        // Always: it tells nothing.
        (&Method::DELETE, "/sessions/{id}") => 204,
        (_, "/sessions/{id}" | "/sessions/{id}/messages" | "/requests/{id}") => 404,
        (method, path) => {
            panic!("say what the new route {method} {path} answers to another tenant")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_for_every_kind_of_caller() {
    let tenants = Tenants::start().await;
    let routes = table();
    assert!(routes.len() >= 20, "the table is not found");
    for route in &routes {
        for pattern in route.paths() {
            let relative = pattern
                .strip_suffix(route.path)
                .map(|prefix| format!("{prefix}{}", tenants.path(route, route.path)))
                .unwrap();
            let name = format!("{} {relative}", route.method);
            if route.policy == Policy::Public {
                let answer = tenants.call("none", route, &relative).await;
                assert!(answer.status < 400, "{name}: {}", answer.status);
                assert!(!shows_canary(&answer), "{name}");
                continue;
            }
            for (caller, code) in [
                ("none", "missing_api_key"),
                ("wrong", "invalid_api_key"),
                ("revoked", "invalid_api_key"),
            ] {
                let answer = tenants.call(caller, route, &relative).await;
                assert_eq!(
                    answer.status,
                    401,
                    "{name} with key `{caller}`: {}",
                    answer.json()
                );
                assert_eq!(
                    answer.json()["error"]["code"],
                    code,
                    "{name} with key `{caller}`"
                );
                assert!(!shows_canary(&answer), "{name} with key `{caller}`");
            }
            let answer = tenants.call("bob", route, &relative).await;
            assert!(!shows_canary(&answer), "{name}: {}", answer.json());
            if route.policy == Policy::Admin {
                assert_eq!(answer.status, 403, "{name} as a user: {}", answer.json());
                assert_eq!(answer.json()["error"]["code"], "admin_required", "{name}");
            } else {
                assert_eq!(
                    answer.status,
                    foreign(route),
                    "{name} as bob: {}",
                    answer.json()
                );
            }
        }
    }
    // Nothing of what the others tried has done anything: what is alice's is there, and hers alone.
    let alice = tenants.caller("alice");
    for path in [
        format!("/v1/sessions/{CANARY}"),
        format!("/v1/sessions/{CANARY}/messages"),
        "/v1/sessions".to_owned(),
        format!("/v1/requests/{}", tenants.request),
        "/v1/requests".to_owned(),
    ] {
        let answer = alice.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        assert!(shows_canary(&answer), "{path}: {}", answer.json());
    }
    let rules = tenants.caller("admin").get("/v1/admin/routing-rules").await;
    let rules = rules.json();
    assert_eq!(rules["data"].as_array().unwrap().len(), 1, "{rules}");
    assert_eq!(rules["data"][0]["model_name"], RULE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another() {
    let tenants = Tenants::start().await;
    let bob = tenants.caller("bob");
    let mut body = chat("gpt-4o-mini", "hello");
    body["user_id"] = "alice".into();
    body["session_id"] = CANARY.into();
    let sessions = json!({"id": CANARY, "user_id": "alice"});
    let embeddings = json!({"model": "m", "input": "x", "user_id": "alice"});
    for (path, body) in [
        ("/v1/chat/completions", &body),
        ("/v1/tokens", &body),
        ("/v1/embeddings", &embeddings),
        ("/v1/sessions", &sessions),
    ] {
        let answer = bob.send("POST", path, Some(body)).await.unwrap();
        assert_eq!(answer.status, 403, "{path}: {}", answer.json());
        assert_eq!(answer.json()["error"]["code"], "user_mismatch", "{path}");
    }
    for path in [
        "/v1/sessions".to_owned(),
        format!("/v1/sessions/{CANARY}"),
        format!("/v1/sessions/{CANARY}/messages"),
        "/v1/requests".to_owned(),
        format!("/v1/requests/{}", tenants.request),
        "/v1/usage".to_owned(),
    ] {
        let answer = bob.get(&format!("{path}?user_id=alice")).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.json());
        assert!(!shows_canary(&answer), "{path}");
    }
    let requests = tenants.world.openai.requests();
    let dispatched = requests.iter().filter(|request| request.method == "POST");
    assert_eq!(dispatched.count(), 1, "only alice's own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_anothers_looks_like_what_is_not_there() {
    let tenants = Tenants::start().await;
    let bob = tenants.caller("bob");
    let missing_request = "01890000-0000-7000-8000-000000000000";
    for (foreign, missing) in [
        (
            format!("/v1/sessions/{CANARY}"),
            "/v1/sessions/nothing".to_owned(),
        ),
        (
            format!("/v1/sessions/{CANARY}/messages"),
            "/v1/sessions/nothing/messages".to_owned(),
        ),
        (
            format!("/v1/requests/{}", tenants.request),
            format!("/v1/requests/{missing_request}"),
        ),
    ] {
        let said = async |path: &str| {
            let answer = bob.get(path).await;
            let mut error = answer.json();
            error["error"]["request_id"].take();
            (answer.status, error)
        };
        assert_eq!(said(&foreign).await, said(&missing).await, "{foreign}");
    }
    // A session of the same name is another session.
    let mut body = chat("gpt-4o-mini", "what do you know?");
    body["session_id"] = CANARY.into();
    assert_eq!(bob.chat(&body).await.status, 200);
    let sent = tenants.world.openai.requests();
    let sent = String::from_utf8_lossy(&sent.last().unwrap().body).into_owned();
    assert!(
        sent.contains("what do you know?") && !sent.contains(CANARY),
        "{sent}"
    );
}

fn shows_canary(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains(CANARY)
        || answer
            .headers
            .values()
            .any(|value| String::from_utf8_lossy(value.as_bytes()).contains(CANARY))
}

/// Where the operator's providers lie is shown to admins only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_admins_see_where_a_request_went() {
    let tenants = Tenants::start().await;
    for (caller, sees) in [("alice", false), ("admin", true)] {
        let client = tenants.caller(caller);
        let one = client
            .get(&format!("/v1/requests/{}", tenants.request))
            .await;
        let all = client.get("/v1/requests").await;
        assert_eq!((one.status, all.status), (200, 200), "{caller}");
        let (one, all) = (one.json(), all.json());
        let rows = all["data"].as_array().unwrap();
        let listed = rows.iter().find(|row| row["request_id"] == tenants.request);
        for row in [&one, listed.unwrap()] {
            let decision = &row["decision"];
            assert!(decision["provider_id"].is_string(), "{caller}: {row}");
            assert_eq!(decision["endpoint"].is_string(), sees, "{caller}: {row}");
        }
    }
}
