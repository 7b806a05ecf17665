//! What the head of an answer says, also of one that begins before its provider has said anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use lyss_http::RouterOptions;
use lyss_mock_provider::Script;
use lyss_tests::{
    client::{CHAT, Client, chat, is_done},
    world::World,
};
use serde_json::json;

#[tokio::test]
async fn a_stream_that_begins_with_comments_names_its_session() {
    for (overlay, session) in [
        (json!({}), Some("new")),
        (json!({"session": {"auto_create": true}}), None),
        (json!({}), Some("chosen")),
    ] {
        let world = World::start(&overlay).await;
        let options = RouterOptions {
            keep_alive: Duration::from_millis(100),
            ..RouterOptions::default()
        };
        let router = lyss_http::router(Arc::new(world.engine.clone()), options);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(address).with_key(&world.key("alice").unwrap());

        world.openai.set_script(Script {
            delay_ms: 400,
            ..Script::default()
        });
        let mut body = chat("gpt-4o-mini", "hello");
        body["stream"] = true.into();
        if let Some(session) = session {
            body["session_id"] = session.into();
        }
        let answer = client.send("POST", CHAT, Some(&body)).await.unwrap();
        assert!(answer.body.starts_with(b": keep-alive"), "it began early");
        assert!(is_done(&answer));
        assert!(answer.header("x-request-id").is_some());
        assert!(answer.header("x-lyss-provider").is_none(), "not known then");
        let id = answer.header("x-lyss-session-id").expect("the session");
        match session {
            Some("chosen") => assert_eq!(id, "chosen"),
            _ => assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}"),
        }
        let kept = client.get(&format!("/v1/sessions/{id}")).await.json();
        assert_eq!(kept["message_count"], 2, "{kept}");
    }
}
