//! The HTTP surface: every route, the error envelope, streams, and the document that describes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lyss_core::{ErrorKind, types::RequestId};
use lyss_http::routes::{API_PREFIXES, Policy, table};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HELLO: &str = r#"{"model":"m","messages":[{"role":"user","content":"\u00e9","x":1.50}]}"#;

fn streamed(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user"}}]}}"#)
}

#[tokio::test]
async fn an_answer_travels_untouched() {
    let server = start().await;
    let headers = format!("{JSON}authorization: Bearer k\r\nx-client-request-id: mine\r\n");
    let answer = server
        .send("POST", "/api/v1/chat/completions", &headers, HELLO)
        .await;
    assert_eq!(status(&answer), 200);
    assert_eq!(body(&answer), HELLO);
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-lyss-provider", "p1"),
        ("x-lyss-model", "up-1"),
        ("x-lyss-session-id", "s1"),
        ("x-lyss-attempts", "2"),
    ] {
        assert_eq!(header(&answer, name), Some(value), "{name}");
    }
    let id = header(&answer, "x-request-id").unwrap();
    let seen = server.gateway.seen.lock().unwrap().clone().unwrap();
    assert_eq!(RequestId::parse(id), Some(seen.request_id));
    assert_eq!(seen.client_request_id.as_deref(), Some("mine"));
}

#[tokio::test]
async fn every_route_has_its_policy() {
    let keyless = start_with(
        Scripted {
            keys: true,
            ..Scripted::default()
        },
        |_, _| {},
    )
    .await;
    let rule = r#"{"model_name":"m","provider_id":"p"}"#;
    for route in table() {
        for path in route.paths() {
            let path = path
                .replace("{*file}", "index.css")
                .replace("{*id}", "a/b")
                .replace("{id}", "7");
            let body = match (route.method.as_str(), path.rsplit('/').next().unwrap()) {
                ("POST", "completions" | "tokens") => HELLO,
                ("POST", "embeddings") => r#"{"model":"m","input":"x"}"#,
                ("POST", "sessions") => "{}",
                ("POST", "keys" | "rotate") | ("PATCH", _) => "{}",
                ("POST" | "PUT", _) if path.contains("/prices") => {
                    r#"{"model":"m","currency":"USD","input":"1","output":"2"}"#
                }
                ("POST" | "PUT", _) if path.contains("/budgets") => {
                    r#"{"user":"u","amount":"1","period":"day"}"#
                }
                ("POST" | "PUT", _) => rule,
                _ => "",
            };
            let call = |key: &str| {
                let headers = format!("{key}{JSON}");
                keyless.raw(request(route.method.as_str(), &path, &headers, body))
            };
            let name = format!("{} {path}", route.method);
            let anonymous = status(&call("").await);
            let keyed = status(&call("authorization: Bearer k\r\n").await);
            match route.policy {
                Policy::Public => assert!(anonymous < 400, "{name}: {anonymous}"),
                Policy::Caller => {
                    assert_eq!(anonymous, 401, "{name}");
                    assert!(keyed < 300, "{name}: {keyed}");
                }
                Policy::Admin => {
                    assert_eq!(anonymous, 401, "{name}");
                    assert_eq!(keyed, 403, "{name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_document_describes_what_is_served() {
    let server = start().await;
    let answer = server.send("GET", "/v1/openapi.json", "", "").await;
    let document: serde_json::Value = serde_json::from_str(&body(&answer)).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method == "servers" {
                continue;
            }
            let prefixes = match item.get("servers") {
                Some(_) => [""].as_slice(),
                None => API_PREFIXES.as_slice(),
            };
            let public = operation["security"] == serde_json::json!([]);
            let open = operation["security"]
                .as_array()
                .is_some_and(|ways| ways.contains(&serde_json::json!({})));
            let policy = match (public, open) {
                (true, _) => "public",
                (false, true) => "caller",
                (false, false) => "admin",
            };
            for prefix in prefixes {
                described.insert(format!("{} {prefix}{path} {policy}", method.to_uppercase()));
            }
        }
    }
    let served: BTreeSet<String> = table()
        .iter()
        .flat_map(|route| {
            let policy = match route.policy {
                Policy::Public => "public",
                Policy::Caller => "caller",
                Policy::Admin => "admin",
            };
            let method = route.method.clone();
            route
                .paths()
                .into_iter()
                .map(move |path| format!("{method} {} {policy}", path.replace("{*", "{")))
        })
        .collect();
    assert_eq!(described, served);
    let codes: Vec<&str> = document["components"]["schemas"]["ErrorCode"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|code| code.as_str().unwrap())
        .collect();
    let table: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(codes, table);
    // Every reference leads somewhere.
    let text = body(&answer);
    for reference in text.split("\"#/").skip(1) {
        let pointer = format!("/{}", reference.split('"').next().unwrap());
        assert!(document.pointer(&pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn refusals_have_the_envelope() {
    let server = start().await;
    let chat = "/v1/chat/completions";
    let gzip = format!("{JSON}content-encoding: gzip\r\n");
    for (method, path, headers, body, expected, code_expected) in [
        ("GET", "/nothing", "", "", 404, "unknown_path"),
        ("GET", chat, "", "", 405, "method_not_allowed"),
        ("POST", chat, "", HELLO, 415, "unsupported_media_type"),
        (
            "POST",
            chat,
            "content-type: text/plain\r\n",
            HELLO,
            415,
            "unsupported_media_type",
        ),
        ("POST", chat, &gzip, HELLO, 415, "unsupported_media_type"),
        ("POST", chat, JSON, "{", 400, "invalid_json"),
        (
            "POST",
            chat,
            JSON,
            r#"{"model":"m","model":"n"}"#,
            400,
            "duplicate_key",
        ),
        ("POST", chat, JSON, "{}", 400, "missing_field"),
        (
            "POST",
            "/v1/sessions",
            JSON,
            r#"{"x":1}"#,
            400,
            "invalid_value",
        ),
        ("POST", "/v1/sessions", JSON, "[", 400, "invalid_json"),
        (
            "GET",
            "/v1/sessions/s/messages?limit=0",
            "",
            "",
            400,
            "invalid_value",
        ),
        ("GET", "/v1/sessions?limit=x", "", "", 400, "invalid_value"),
        ("GET", "/v1/models?user_id=", "", "", 400, "invalid_value"),
        ("GET", "/v1/sessions/%ff", "", "", 400, "invalid_value"),
        ("GET", "/docs/nothing", "", "", 404, "unknown_path"),
    ] {
        server.gateway.refused.lock().unwrap().clear();
        let answer = server.send(method, path, headers, body).await;
        let name = format!("{method} {path} {body}");
        assert_eq!(status(&answer), expected, "{name}: {answer}");
        assert_eq!(code(&answer), code_expected, "{name}");
        assert_eq!(header(&answer, "x-should-retry"), Some("false"), "{name}");
        assert_eq!(header(&answer, "content-type"), Some("application/json"));
        let json: serde_json::Value = serde_json::from_str(&support::body(&answer)).unwrap();
        assert_eq!(
            json["error"]["request_id"].as_str(),
            header(&answer, "x-request-id"),
            "{name}"
        );
        let counted = server.gateway.refused.lock().unwrap().clone();
        assert_eq!(counted, [code_expected], "{name}");
    }
    let answer = server.send("PATCH", "/v1/sessions", "", "").await;
    let mut allowed: Vec<&str> = header(&answer, "allow").unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let json_charset = "content-type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(
        status(&server.send("POST", chat, json_charset, HELLO).await),
        200
    );
    // The gateway's own errors are not counted twice.
    server.gateway.refused.lock().unwrap().clear();
    let answer = server.chat(&HELLO.replace("\"m\"", "\"busy\"")).await;
    assert_eq!(status(&answer), 429);
    assert_eq!(header(&answer, "retry-after"), Some("1"));
    assert_eq!(header(&answer, "x-should-retry"), Some("true"));
    assert!(server.gateway.refused.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_words() {
    let server = start().await;
    let answer = server.chat(&HELLO.replace("\"m\"", "\"panic\"")).await;
    assert_eq!(status(&answer), 500);
    assert_eq!(code(&answer), "internal");
    assert!(!answer.contains("secret"));
    let events = body(&server.chat(&streamed("panic")).await);
    assert!(events.contains(r#""code":"internal""#), "{events}");
    assert!(!events.contains("secret") && !events.contains("[DONE]"));
}

#[tokio::test]
async fn model_names_with_slashes_and_colons() {
    let server = start().await;
    for (path, id) in [
        ("/v1/models/gpt-4o", "gpt-4o"),
        ("/v1/models/openrouter/a/b:free", "openrouter/a/b:free"),
        ("/api/v1/models/a%2Fb%3Afree", "a/b:free"),
        ("/v1/models/..%2f..%2fx", "../../x"),
    ] {
        let answer = server.send("GET", path, "", "").await;
        let model: serde_json::Value = serde_json::from_str(&body(&answer)).unwrap();
        assert_eq!(model["id"], id);
    }
}

#[tokio::test]
async fn sessions_as_the_contract_shows_them() {
    let server = start().await;
    let json =
        |answer: String| -> serde_json::Value { serde_json::from_str(&body(&answer)).unwrap() };
    let session = json(
        server
            .send("GET", "/v1/sessions/a%2Fb?user_id=u1", "", "")
            .await,
    );
    assert_eq!(session["id"], "a/b");
    assert_eq!(session["last_activity"], "2023-11-14T22:13:20.123Z");
    assert_eq!(session["status"], "active");
    let seen = server.gateway.seen.lock().unwrap().clone().unwrap();
    assert_eq!(seen.user_id.as_deref(), Some("u1"));
    let listed = json(server.send("GET", "/v1/sessions", "", "").await);
    assert_eq!(listed["next_cursor"], "c");
    let messages = body(
        &server
            .send("GET", "/v1/sessions/s/messages?after=4", "", "")
            .await,
    );
    assert!(messages.contains(r#""message":{"role":"user","content":"\u00e9","n":1.50}"#));
    assert!(messages.contains(r#""seq":5"#));
    let created = json(server.send("POST", "/v1/sessions", "", "").await);
    assert_eq!(created["id"], "fresh", "no body is needed");
    let gone = server.send("DELETE", "/v1/sessions/s", "", "").await;
    assert_eq!(status(&gone), 204);
}

#[tokio::test]
async fn usage_is_grouped_by_a_list() {
    let server = start().await;
    let answer = server
        .send("GET", "/v1/usage?by=day,%20model", "", "")
        .await;
    assert!(
        body(&answer).contains(r#""day":"x","model":"x""#),
        "{answer}"
    );
}

#[tokio::test]
async fn health_waits_for_nobody() {
    let server = start().await; // its dependencies never answer
    let answer = server.send("GET", "/health", "", "").await;
    assert_eq!(status(&answer), 200);
    let health: serde_json::Value = serde_json::from_str(&body(&answer)).unwrap();
    assert_eq!(health["healthy"], false);
    assert_eq!(health["status"]["database"], false);
    let ready = server.send("GET", "/ready", "", "").await;
    assert_eq!(status(&ready), 200);
    assert_eq!(body(&ready), r#"{"ready":true,"degraded":["redis"]}"#);
}

#[tokio::test]
async fn a_stream_in_order_with_its_end() {
    let server = start().await;
    let answer = server.chat(&streamed("m")).await;
    assert_eq!(
        body(&answer),
        "data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"two\"}}]}\n\ndata: [DONE]\n\n"
    );
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("x-lyss-provider", "p1"),
        ("x-lyss-attempts", "2"),
    ] {
        assert_eq!(header(&answer, name), Some(value), "{name}");
    }
    assert!(header(&answer, "x-request-id").is_some());
}

#[tokio::test]
async fn a_stream_that_fails_says_so_and_has_no_done() {
    let server = start().await;
    // Before the first chunk: an ordinary error.
    let answer = server.chat(&streamed("refuse")).await;
    assert_eq!(status(&answer), 404);
    assert_eq!(code(&answer), "model_not_found");
    // After it: an event.
    let answer = server.chat(&streamed("cut")).await;
    assert_eq!(status(&answer), 200);
    let events = body(&answer);
    let last = events.trim_end().rsplit("\n\n").next().unwrap();
    let error: serde_json::Value =
        serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "upstream_incomplete");
    assert_eq!(
        error["error"]["request_id"].as_str(),
        header(&answer, "x-request-id")
    );
    assert!(!events.contains("[DONE]"));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let server = start().await; // a comment after 250 ms; the answer after 700
    for (model, end) in [("late", "data: [DONE]\n\n"), ("late-error", "}}\n\n")] {
        let start = Instant::now();
        let mut socket = server.connect().await;
        let bytes = request("POST", "/v1/chat/completions", JSON, &streamed(model));
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let mut first = [0; 4096];
        let length = socket.read(&mut first).await.unwrap();
        let took = start.elapsed();
        assert!(took > Duration::from_millis(200) && took < Duration::from_millis(600));
        let head = String::from_utf8_lossy(&first[..length]).into_owned();
        assert_eq!(status(&head), 200);
        let events = body(&(head + &read_all(&mut socket).await));
        assert!(events.starts_with(": keep-alive\n\n"), "{events}");
        let comments = events.matches(": keep-alive").count();
        assert!((2..=3).contains(&comments), "{events}");
        assert!(events.ends_with(end), "{events}");
        assert_eq!(
            events.contains("upstream_incomplete"),
            model == "late-error"
        );
        assert_eq!(events.contains("[DONE]"), model == "late");
    }
    let events = body(&server.chat(&streamed("gap")).await);
    let (before, after) = events.split_once("\"a\"").unwrap();
    assert!(!before.contains("keep-alive"));
    assert!(after.find(": keep-alive").unwrap() < after.find("\"b\"").unwrap());
}

#[tokio::test]
async fn only_listed_origins_may_read() {
    let server = start_with(Scripted::default(), |options, _| {
        options.cors = vec!["https://app.example".into()];
    })
    .await;
    let preflight = "origin: https://app.example\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n";
    let answer = server
        .send("OPTIONS", "/v1/chat/completions", preflight, "")
        .await;
    assert_eq!(status(&answer), 200);
    assert_eq!(
        header(&answer, "access-control-allow-origin"),
        Some("https://app.example")
    );
    let allowed = header(&answer, "access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization"), "{allowed}");
    let other = server
        .send("GET", "/ready", "origin: https://evil.example\r\n", "")
        .await;
    assert_eq!(header(&other, "access-control-allow-origin"), None);
}

#[tokio::test]
async fn the_documentation_comes_from_here() {
    let server = start().await;
    let answer = server.send("GET", "/docs", "", "").await;
    assert_eq!(
        (status(&answer), header(&answer, "location")),
        (308, Some("docs/"))
    );
    let page = body(&server.send("GET", "/docs/", "", "").await);
    assert!(page.contains("swagger-ui"));
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http"),
        "no CDN"
    );
    let start = body(
        &server
            .send("GET", "/docs/swagger-initializer.js", "", "")
            .await,
    );
    assert!(start.contains("../api/v1/openapi.json"), "{start}");
    let root = server.send("GET", "/", "", "").await;
    assert!(body(&root).contains("href=\"docs/\"") && !root.contains("<script"));
}
