//! The examples do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use lyss_core::{
    Engine, Gateway, RemoteGateway,
    config::Config,
    remote::RemoteOptions,
    testing::conformance::{
        load_balancer::{self, Claim},
        session_store,
    },
};
use lyss_examples::{app, balancer::LeastBusy, calls, session_store::FileSessions};
use serde_json::{Value, json};
use tower::ServiceExt;

async fn all_calls(gateway: &dyn Gateway) {
    let said = calls::quick_start(gateway).await.unwrap();
    assert!(
        said.starts_with("simulated says: ") && said.contains("hello"),
        "{said}"
    );
    let said = calls::streaming(gateway).await.unwrap();
    assert!(said.contains('|') && said.contains("three"), "{said}");
    let said = calls::tools(gateway).await.unwrap();
    assert!(
        said.starts_with("weather(") && said.contains("Paris"),
        "{said}"
    );
    assert_eq!(
        calls::session(gateway).await.unwrap(),
        "4 messages were stored"
    );
    let said = calls::budget(gateway).await.unwrap();
    assert!(said.contains(", 402: "), "{said}");
    let said = calls::fallback(gateway).await.unwrap();
    assert_eq!(said, "simulated answered at attempt 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_work_with_an_engine_and_with_a_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::parse("calls", calls::CONFIG, &Default::default())
        .unwrap()
        .config;
    config.data.dir = Some(dir.path().to_owned());
    let engine = Engine::start(config).await.unwrap();
    all_calls(&engine).await;

    let router = lyss_http::router(Arc::new(engine.clone()), Default::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let remote = RemoteGateway::connect(RemoteOptions::new(url)).unwrap();
    all_calls(&remote).await;
    engine.shutdown(Duration::from_secs(1)).await;
}

async fn send(app: &axum::Router, method: &str, path: &str, body: &str) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_has_a_gateway_below_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let engine = app::engine(dir.path()).await.unwrap();
    let app = app::router(engine.clone());
    assert_eq!(send(&app, "GET", "/", "").await.0, 200);
    let (status, text) = send(&app, "POST", "/shout", "hello").await;
    assert!(
        status == 200 && text.starts_with("HELLO"),
        "{status} {text}"
    );

    let chat = |text: &str, stream: bool| {
        json!({"model": "shout", "session_id": "s1", "stream": stream, "messages": [{"role": "user", "content": text}]})
            .to_string()
    };
    let path = "/ai/v1/chat/completions";
    let (status, text) = send(&app, "POST", path, &chat("one", false)).await;
    assert!(status == 200 && text.contains("ONE"), "{status} {text}");
    let (status, text) = send(&app, "POST", path, &chat("two three", true)).await;
    assert!(
        status == 200 && text.ends_with("data: [DONE]\n\n"),
        "{status} {text}"
    );
    assert!(text.contains("TWO ") && !text.contains("usage"), "{text}");

    // The turns are in this program's own store.
    let (status, text) = send(&app, "GET", "/ai/v1/sessions/s1/messages", "").await;
    let messages: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, messages["data"].as_array().map(Vec::len)),
        (200, Some(4))
    );
    let files = std::fs::read_dir(dir.path().join("sessions")).unwrap();
    assert_eq!(files.count(), 1, "one user");
    assert_eq!(send(&app, "GET", "/elsewhere", "").await.0, 404);
    engine.shutdown(Duration::from_secs(1)).await;
}

#[test]
fn the_balancer_keeps_its_promises() {
    let factory: lyss_core::balance::BalancerFactory = Arc::new(|_| Box::new(LeastBusy));
    load_balancer::all(&factory, Claim::OtherShares);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_store_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, life| FileSessions::new(dir.path().join(name), life);
    let store = at("long", Duration::from_secs(600));
    let store = &store;
    session_store::create_returns_the_session_that_exists(store).await;
    session_store::a_missing_session_is_none(store).await;
    session_store::append_creates_counts_and_keeps_order(store).await;
    session_store::a_stale_version_conflicts(store).await;
    session_store::racing_appends_lose_nothing(store).await;
    session_store::the_same_turn_again_changes_nothing(store).await;
    session_store::a_deleted_session_is_not_resurrected(store).await;
    session_store::delete_is_idempotent_and_complete(store).await;
    session_store::bytes_come_back_equal(store).await;
    session_store::hostile_ids_are_data(store).await;
    session_store::another_user_finds_nothing(store).await;
    session_store::listing_pages_in_order(store).await;
    session_store::a_foreign_cursor_is_refused(store).await;
    session_store::messages_are_paged(store).await;
    session_store::the_system_prompt_is_kept_or_replaced(store).await;
    session_store::metadata_is_kept(store).await;
    let life = Duration::from_millis(1200);
    session_store::sessions_end_and_use_renews_them(&at("short", life), life).await;
}
