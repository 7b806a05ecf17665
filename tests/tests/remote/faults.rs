//! What fails, and with which error.

use std::{process::Command, sync::Arc, time::Duration};

use lyss_core::{
    ErrorKind, Gateway, RemoteGateway,
    error::Work,
    remote::RemoteOptions,
    types::{CallContext, Credential},
};
use lyss_http::{RouterOptions, edge::tls, serve::ServeOptions};
use lyss_tests::{client::Client, http_door::Served};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Service, chat, own, streamed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_refusals_are_its_own() {
    let overlay = json!({"limits": {"rpm": 3}, "routing": {"max_retries": 0}});
    let service = Service::start(&overlay).await;
    let remote = service.remote("alice");
    let front = Served::start(Arc::new(remote.clone())).await;
    let key = service.world.key("alice").unwrap();
    let address = |url: &str| url.trim_start_matches("http://").parse().unwrap();
    let (direct, twice) = (
        Client::new(service.address).with_key(&key),
        Client::new(address(&front.url())).with_key(&key),
    );
    // Status, headers and body are the same through both, but for the id.
    let told = |answer: &lyss_tests::client::Answer| {
        let mut body: Value = answer.json();
        let id = body["error"]["request_id"].take();
        assert_eq!(id.as_str(), answer.header("x-request-id"));
        let header = |name: &str| answer.header(name).map(str::to_owned);
        let headers = [
            "x-should-retry",
            "retry-after",
            "x-ratelimit-limit-requests",
        ]
        .map(header);
        (answer.status, headers, body)
    };
    let body = json!({"model": "gpt-4o", "user_id": "bob", "messages": [{"role": "user", "content": "hi"}]});
    let (one, two) = (direct.chat(&body).await, twice.chat(&body).await);
    assert_eq!(one.status, 403, "another's user");
    assert_eq!(told(&two), told(&one));
    let ask =
        |text: &str| json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]});
    let refused = twice.chat(&ask("[[status:422 code:odd message:no]]")).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json()["error"]["code"], "odd");
    let failed = twice.chat(&ask("[[status:500]]")).await;
    assert_eq!(
        (failed.status, failed.header("x-should-retry")),
        (502, Some("false"))
    );
    twice.chat(&ask("hi")).await;
    // The limit is used up.
    let (one, two) = (direct.chat(&ask("hi")).await, twice.chat(&ask("hi")).await);
    assert_eq!((one.status, two.status), (429, 429));
    assert_eq!(told(&two).0, told(&one).0);
    assert!(two.header("retry-after").is_some());
    assert_eq!(two.header("x-ratelimit-limit-requests"), Some("3"));
    // Ids are those of the service's log.
    let rows = service.world.rows(5).await;
    let id = two.header("x-request-id").unwrap();
    assert!(rows.iter().any(|row| row.request_id == id), "{id}");

    let stranger = CallContext::new(Credential::Key("lyss_nobody".into()));
    let error = remote.models(stranger).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidApiKey);
    let nobody = CallContext::new(Credential::Anonymous);
    let error = remote.models(nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingApiKey);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_for_the_service() {
    let router = RouterOptions {
        max_body: 10_000,
        ..RouterOptions::default()
    };
    let service = Service::with(&json!({}), router, ServeOptions::default()).await;
    let remote = service.remote("alice");
    for size in [20_000, 8 << 20] {
        let request = chat("both", &"x".repeat(size));
        let error = remote.chat(own(), request).await.unwrap_err();
        assert_eq!((error.status(), error.code()), (413, "request_too_large"));
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let remote = RemoteGateway::connect(RemoteOptions::new(&url)).unwrap();
    let error = remote.chat(own(), chat("m", "hi")).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (503, "service_unreachable"));
    assert_eq!((error.work(), error.should_retry()), (Work::None, true));
    assert!(error.message().contains(&url));
    assert!(!remote.health().await.healthy);
    let ready = remote.ready().await;
    assert_eq!(
        (ready.ready, &ready.degraded[..]),
        (false, &["service_unreachable".to_owned()][..])
    );
}

/// Answers every connection with these bytes, then keeps it open or not.
async fn answering(bytes: &'static [u8], keep: bool) -> RemoteOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(bytes).await;
            if keep {
                kept.push(socket);
            }
        }
    });
    RemoteOptions {
        timeout: Duration::from_millis(400),
        stream_idle_timeout: Duration::from_millis(400),
        max_answer: 1000,
        max_event: 1000,
        ..RemoteOptions::new(format!("http://{address}"))
    }
}

#[tokio::test]
async fn what_answers_is_broken() {
    const HTML: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>";
    const MOVED: &[u8] = b"HTTP/1.1 301 Moved\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
    const SHORT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"a\":1";
    let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(5000));
    let large: &'static [u8] = large.leak().as_bytes();
    for (bytes, keep, kind) in [
        (HTML, true, ErrorKind::ServiceUnreachable),
        (OK, true, ErrorKind::UpstreamInvalidResponse),
        (MOVED, true, ErrorKind::UpstreamInvalidResponse),
        (SHORT, false, ErrorKind::UpstreamIncomplete),
        (large, true, ErrorKind::UpstreamInvalidResponse),
        (b"", false, ErrorKind::ServiceUnreachable),
        (b"", true, ErrorKind::UpstreamTimeout),
    ] {
        let remote = RemoteGateway::connect(answering(bytes, keep).await).unwrap();
        let error = remote.chat(own(), chat("m", "hi")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.should_retry(), "{error}: it may have been done");
    }
}

#[tokio::test]
async fn streams_are_bounded() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let first = "data: {\"choices\":[]}\n\n";
    let large = format!("{HEAD}{first}data: {{\"a\":\"{}\"}}\n\n", "x".repeat(2000));
    let comment = format!("{HEAD}: keep-alive\n\n");
    let silent = format!("{HEAD}{first}");
    let ended = format!("{HEAD}{first}");
    let odd = format!("{HEAD}data: hello\n\n");
    for (text, keep, at_once, kind) in [
        (large, true, false, ErrorKind::UpstreamInvalidResponse),
        (comment, true, true, ErrorKind::UpstreamTimeout),
        (silent, true, false, ErrorKind::UpstreamTimeout),
        (ended, false, false, ErrorKind::UpstreamIncomplete),
        (odd, true, true, ErrorKind::UpstreamInvalidResponse),
    ] {
        let bytes: &'static [u8] = text.clone().leak().as_bytes();
        let remote = RemoteGateway::connect(answering(bytes, keep).await).unwrap();
        let opened = remote.chat_stream(own(), streamed("m", "hi")).await;
        assert_eq!(opened.is_err(), at_once, "{text}");
        let error = match opened {
            Err(error) => error,
            Ok(stream) => {
                let items: Vec<_> = futures::StreamExt::collect(stream).await;
                assert_eq!(items.len(), 2, "{text}");
                items.into_iter().nth(1).unwrap().unwrap_err()
            }
        };
        assert_eq!(error.kind(), kind, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_an_authority_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let options = ServeOptions {
        tls: Some(tls::load(&cert, &key).unwrap()),
        ..ServeOptions::default()
    };
    let service = Service::with(&json!({}), RouterOptions::default(), options).await;
    let url = format!("https://localhost:{}/v1", service.address.port());
    let options = || RemoteOptions {
        api_key: service.world.key("alice").map(Into::into),
        ..RemoteOptions::new(&url)
    };
    let stranger = RemoteGateway::connect(options()).unwrap();
    let error = stranger.models(own()).await.unwrap_err();
    assert_eq!(error.code(), "service_unreachable");
    let remote = RemoteGateway::connect(RemoteOptions {
        ca_file: Some(cert),
        ..options()
    })
    .unwrap();
    remote.chat(own(), chat("both", "hi")).await.unwrap();
    // HTTP/2: a stream that is left takes no other with it.
    let long = streamed("long", "[[chunks:500 size:6 every:10]]");
    let mut left = remote.chat_stream(own(), long).await.unwrap();
    futures::StreamExt::next(&mut left).await.unwrap().unwrap();
    let other = remote.chat_stream(own(), streamed("other", "hi")).await;
    drop(left);
    let other: Vec<_> = futures::StreamExt::collect(other.unwrap()).await;
    assert!(other.iter().all(Result::is_ok));
    let entry = service.ended("long").await;
    assert_eq!(entry.outcome, lyss_mock_provider::Outcome::ClientClosed);
}
