//! Streams: the events as they are, cancellation, and what ends early.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use lyss_core::{Gateway, RemoteGateway, remote::RemoteOptions, types::ChatStream};
use lyss_http::{RouterOptions, serve::ServeOptions};
use lyss_mock_provider::{Outcome, Script};
use lyss_tests::{client::Client, http_door::Served, process::Setup};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::{Service, chat, own, streamed};

/// How soon the provider must notice that nobody reads on.
const SOON: u64 = 400;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_millis() as u64
}

async fn frames(mut stream: ChatStream) -> Vec<u8> {
    let mut frames = Vec::new();
    while let Some(chunk) = stream.next().await {
        frames.extend_from_slice(&chunk.unwrap().frame());
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_pass_through_two_gateways_as_they_are() {
    let service = Service::start(&json!({})).await;
    let remote = service.remote("alice");
    service.world.openai.set_script(Script {
        id: Some("chatcmpl-1".into()),
        created: Some(1_700_000_000),
        chunks: Some(20),
        size: Some(9),
        ..Script::default()
    });
    // A router over the gateway is a service like the first.
    let front = Served::start(Arc::new(remote.clone())).await;
    let body = json!({
        "model": "both", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "héllo"}],
    });
    let client = |url: &str| Client::new(url.trim_start_matches("http://").parse().unwrap());
    let key = service.world.key("alice").unwrap();
    let direct = client(&service.url()).with_key(&key).chat(&body).await;
    let twice = client(&front.url()).with_key(&key).chat(&body).await;
    assert_eq!(twice.body, direct.body);
    assert!(direct.body.len() > 1000);
    for header in ["x-lyss-provider", "x-lyss-model", "x-lyss-attempts"] {
        assert_eq!(twice.header(header), direct.header(header), "{header}");
    }
    let rows = service.world.rows(2).await;
    assert_eq!(twice.header("x-request-id"), Some(&*rows[1].request_id));

    let stream = remote.chat_stream(own(), super::request(&body)).await;
    let mut whole = frames(stream.unwrap()).await;
    whole.extend_from_slice(b"data: [DONE]\n\n");
    assert_eq!(whole, direct.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again_after_a_stream_and_closed_in_one() {
    let service = Service::start(&json!({})).await;
    // Counts the connections to the service.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (front, behind) = (listener.local_addr().unwrap(), service.address);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            let mut far = TcpStream::connect(behind).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let options = RemoteOptions {
        api_key: service.world.key("alice").map(Into::into),
        ..RemoteOptions::new(format!("http://{front}"))
    };
    let remote = RemoteGateway::connect(options).unwrap();
    for _ in 0..10 {
        let stream = remote.chat_stream(own(), streamed("both", "hi")).await;
        frames(stream.unwrap()).await;
        remote.chat(own(), chat("both", "hi")).await.unwrap();
        remote.session(own(), "nobody's").await.unwrap_err();
    }
    assert_eq!(count.load(Relaxed), 1);
    let stream = remote.chat_stream(own(), streamed("both", "[[chunks:99 every:9]]"));
    drop(stream.await.unwrap());
    remote.chat(own(), chat("both", "hi")).await.unwrap();
    assert_eq!(count.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_reaches_the_provider() {
    let overlay = json!({"billing": {"on_disconnect": "cancel"}});
    let service = Service::start(&overlay).await;
    let remote = service.remote("alice");
    for k in [1, 3, 30] {
        let model = format!("after-{k}");
        let request = streamed(&model, "[[chunks:500 size:6 every:10]]");
        let mut stream = remote.chat_stream(own(), request).await.unwrap();
        for _ in 0..k {
            stream.next().await.unwrap().unwrap();
        }
        let gone = now_ms();
        drop(stream);
        let entry = service.ended(&model).await;
        assert_eq!(entry.outcome, Outcome::ClientClosed, "{entry:?}");
        let noticed = entry.ended_ms.unwrap().saturating_sub(gone);
        assert!(noticed <= SOON, "after {k}: noticed after {noticed} ms");
    }
    // Before the first event, and before an answer that comes as a whole.
    let moment = Duration::from_millis(300);
    let early = remote.chat_stream(own(), streamed("before", "[[delay:20000]]"));
    assert!(tokio::time::timeout(moment, early).await.is_err());
    let gone = now_ms();
    let whole = remote.chat(own(), chat("whole", "[[delay:20000]]"));
    assert!(tokio::time::timeout(moment, whole).await.is_err());
    for model in ["before", "whole"] {
        let entry = service.ended(model).await;
        assert_eq!(entry.outcome, Outcome::ClientClosed, "{model}");
        let noticed = entry.ended_ms.unwrap().saturating_sub(gone);
        assert!(noticed <= 300 + SOON, "{model}: noticed after {noticed} ms");
    }
    let rows = service.world.rows(5).await;
    assert!(rows.iter().all(|row| row.status.as_str() == "cancelled"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_the_calls_until_the_first_chunk() {
    // The service begins its answer after 100 ms of silence, and can then only say so in the stream.
    let router = RouterOptions {
        keep_alive: Duration::from_millis(100),
        ..RouterOptions::default()
    };
    let overlay = json!({"routing": {"max_retries": 0}});
    let service = Service::with(&overlay, router, ServeOptions::default()).await;
    let remote = service.remote("alice");
    let request = streamed("gpt-4o", "[[delay:400 status:500]]");
    let error = remote.chat_stream(own(), request).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (502, "upstream_error"));
    assert!(!error.should_retry());
    let rows = service.world.rows(1).await;
    let id = error.request_id().unwrap().to_string();
    assert_eq!(rows[0].request_id, id);
    // One that is only slow is none.
    let request = streamed("gpt-4o", "[[delay:400]]");
    let stream = remote.chat_stream(own(), request).await.unwrap();
    assert!(!frames(stream).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_is_incomplete() {
    let service = Service::start(&json!({})).await;
    let remote = service.remote("alice");
    // Between the provider and the service: the service says so.
    let request = streamed("cut", "[[chunks:50 size:9 cut:900]]");
    let mut stream = remote.chat_stream(own(), request).await.unwrap();
    let id = stream.info.request_id;
    let mut last = None;
    while let Some(item) = stream.next().await {
        last = Some(item);
    }
    let error = last.unwrap().unwrap_err();
    assert_eq!(error.code(), "upstream_incomplete");
    assert_eq!(error.request_id(), Some(id));

    // Between the service and here: the process dies.
    let setup = Setup::new(&json!({
        "auth": {"default_user": "somebody"},
        "providers": {"openai": {"api_key": "sk-upstream", "base_url": service.world.openai.base_url_openai()}},
    }));
    let mut lyss = setup.start().await;
    let url = format!("http://{}", lyss.address());
    let options = RemoteOptions::new(url);
    let remote = RemoteGateway::connect(options).unwrap();
    let request = streamed("killed", "[[chunks:500 size:6 every:20]]");
    let mut stream = remote.chat_stream(own(), request).await.unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    lyss.kill();
    let error = loop {
        match stream.next().await.expect("no clean end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error.status(), error.code()), (502, "upstream_incomplete"));
    assert!(!error.should_retry() && stream.next().await.is_none());
    let error = remote.models(own()).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (503, "service_unreachable"));
    assert!(error.should_retry(), "nobody has seen the call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_says_so() {
    let service = Service::start(&json!({})).await;
    let remote = service.remote("alice");
    let request = streamed("long", "[[chunks:500 size:6 every:20]]");
    let mut stream = remote.chat_stream(own(), request).await.unwrap();
    stream.next().await.unwrap().unwrap();
    service.shutdown.cut();
    let error = loop {
        if let Err(error) = stream.next().await.expect("no clean end") {
            break error;
        }
    };
    assert_eq!(error.code(), "shutting_down");
    assert_eq!(error.request_id(), Some(stream.info.request_id));
}
