//! The listener against clients that are slow, wrong or hostile, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use lyss_http::edge::host::HostPolicy;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn hosts_that_are_not_one_good_host() {
    let server = start_with(Scripted::default(), |_, options| {
        options.hosts = HostPolicy::Loopback;
    })
    .await;
    for head in [
        "GET /ready HTTP/1.1\r\n",
        "GET /ready HTTP/1.0\r\n",
        "GET /ready HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n",
        "GET /ready HTTP/1.1\r\nhost: a/../x?y#\r\n",
        "GET /ready HTTP/1.1\r\nhost: \r\n",
        "GET /ready HTTP/1.1\r\nhost: evil.example\r\n",
        "GET http://evil.example/ready HTTP/1.1\r\nhost: localhost\r\n",
        "GET http://localhost@evil/ready HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let answer = server.raw(format!("{head}\r\n")).await;
        assert_eq!(status(&answer), 400, "{head:?}: {answer}");
        if !body(&answer).is_empty() {
            assert_eq!(code(&answer), "bad_host", "{head:?}");
        }
        assert!(!answer.contains("\"ready\""), "{head:?}");
    }
    let good = "GET http://localhost:8000/ready HTTP/1.1\r\nhost: localhost:8000\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&server.raw(good).await), 200);
}

#[tokio::test]
async fn framing_in_doubt_never_gets_two_answers() {
    let server = start().await;
    let smuggled = "GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for (framing, body) in [
        (
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("content-length: 0\r\ncontent-length: 5\r\n", ""),
        ("content-length: 1, 2\r\n", ""),
        ("content-length: +2\r\n", "{}"),
        ("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
        ("content-length : 2\r\n", "{}"),
    ] {
        let answer = server
            .raw(format!("{head}{framing}\r\n{body}{smuggled}"))
            .await;
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{framing:?}: {answer}"
        );
        assert!(
            (400..500).contains(&status(&answer)),
            "{framing:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn paths_are_matched_as_they_come() {
    let server = start().await;
    for path in [
        "//ready",
        "/%72eady",
        "/v1/../ready",
        "/%2e%2e/ready",
        "/v1//models",
    ] {
        let answer = server.send("GET", path, "", "").await;
        assert_eq!(code(&answer), "unknown_path", "{path}");
    }
}

#[tokio::test]
async fn slow_headers_and_silence_are_cut() {
    let server = start().await;
    for sent in [
        "",
        "G",
        "PRI * HTTP/2.0",
        "GET /ready HTTP/1.1\r\nhost: local",
    ] {
        let mut socket = server.connect().await;
        socket.write_all(sent.as_bytes()).await.unwrap();
        let start = Instant::now();
        let answer = read_all(&mut socket).await;
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1500), "{sent:?}: {took:?}");
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Idle after an answer.
    let mut socket = server.connect().await;
    let get = "GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(get.as_bytes()).await.unwrap();
    let start = Instant::now();
    assert_eq!(status(&read_all(&mut socket).await), 200);
    assert!(start.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn a_slow_body_is_a_timeout() {
    let server = start().await;
    let mut socket = server.connect().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = read_all(&mut socket).await;
    assert_eq!(status(&answer), 408);
    assert_eq!(code(&answer), "request_timeout");
    assert_eq!(header(&answer, "x-should-retry"), Some("true"));
    assert_eq!(header(&answer, "connection"), Some("close"));
    assert_eq!(*server.gateway.refused.lock().unwrap(), ["request_timeout"]);
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let server = start_with(Scripted::default(), |options, _| options.max_body = 1 << 20).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    // Announced and really sent: the client gets to read the answer.
    let large = "x".repeat((1 << 20) + 1);
    let length = large.len();
    let answer = server
        .raw(format!("{head}content-length: {length}\r\n\r\n{large}"))
        .await;
    assert_eq!(code(&answer), "request_too_large");
    assert_eq!(status(&answer), 413);
    // Many times the limit, from a client that sends all of it before it reads.
    let large = "x".repeat(100 << 20);
    let length = large.len();
    let answer = server
        .raw(format!("{head}content-length: {length}\r\n\r\n{large}"))
        .await;
    assert_eq!(status(&answer), 413);
    // Announced, never sent.
    let start = Instant::now();
    let answer = server
        .raw(format!("{head}content-length: 34603008\r\n\r\n"))
        .await;
    assert_eq!(code(&answer), "request_too_large");
    assert!(start.elapsed() < Duration::from_secs(1));
    // Asked for first.
    let answer = server
        .raw(format!(
            "{head}expect: 100-continue\r\ncontent-length: 34603008\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 413, "no `100 Continue`: {answer}");
    // Chunked without end.
    let socket = server.connect().await;
    let (mut read, mut write) = socket.into_split();
    let sender = tokio::spawn(async move {
        let _ = write
            .write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())
            .await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        let mut sent = 0_usize;
        while write.write_all(chunk.as_bytes()).await.is_ok() {
            sent += 0x10000;
        }
        sent
    });
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), read.read_to_end(&mut answer)).await;
    drop(read);
    let sent = tokio::time::timeout(Duration::from_secs(5), sender)
        .await
        .expect("the connection is closed")
        .unwrap();
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    // The reset of a connection that is still being written to may overtake the answer; where it came it is right.
    if !answer.is_empty() {
        assert_eq!(status(&String::from_utf8_lossy(&answer)), 413);
    }
    // Exactly the limit is accepted.
    let exact = r#"{"model":"m","messages":[{"role":"user","content":"FILL"}]}"#;
    let fill = "x".repeat((1 << 20) - (exact.len() - 4));
    let exact = exact.replace("FILL", &fill);
    assert_eq!(exact.len(), 1 << 20);
    assert_eq!(status(&server.chat(&exact).await), 200);
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let server = start().await;
    let answer = server
        .send(
            "GET",
            "/ready",
            &format!("x: {}\r\n", "y".repeat(100 << 10)),
            "",
        )
        .await;
    assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_drops_the_call() {
    for stream in [true, false] {
        for model in if stream {
            ["ticks", "never"]
        } else {
            ["sleep", "sleep"]
        } {
            let server = start().await;
            let json = format!(
                r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user"}}]}}"#
            );
            let mut socket = server.connect().await;
            let bytes = request("POST", "/v1/chat/completions", JSON, &json);
            socket.write_all(bytes.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(350)).await;
            assert!(!server.gateway.dropped.load(Ordering::SeqCst), "{model}");
            drop(socket);
            let gone = Instant::now();
            while !server.gateway.dropped.load(Ordering::SeqCst) {
                let waited = gone.elapsed();
                assert!(waited < Duration::from_millis(250), "{model}: {waited:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_slows_the_source_and_is_given_up() {
    let server = start().await;
    let mut socket = server.connect().await;
    let json = r#"{"model":"flood","stream":true,"messages":[{"role":"user"}]}"#;
    let bytes = request("POST", "/v1/chat/completions", JSON, json);
    socket.write_all(bytes.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let first = server.gateway.produced.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = server.gateway.produced.load(Ordering::SeqCst);
    assert!(first > 0);
    assert_eq!(first, second, "production goes on without a reader");
    assert!(second < 1000, "{second} chunks of 16 KiB are buffered");
    // One read lets it go on: the stall clock starts again.
    let mut some = vec![0; 8 << 20];
    for _ in 0..100 {
        let _ = tokio::time::timeout(Duration::from_millis(20), socket.read(&mut some)).await;
    }
    assert!(server.gateway.produced.load(Ordering::SeqCst) > second);
    assert!(!server.gateway.dropped.load(Ordering::SeqCst));
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert!(server.gateway.dropped.load(Ordering::SeqCst), "given up");
}

#[tokio::test]
async fn the_connection_cap_pauses_accepting() {
    let server = start_with(Scripted::default(), |_, options| {
        options.max_connections = 2;
        options.header_timeout = Duration::from_secs(5);
    })
    .await;
    let (first, _second) = (server.connect().await, server.connect().await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut third = server.connect().await; // the kernel's backlog takes it
    let get = request("GET", "/ready", "", "");
    third.write_all(get.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(300), third.read(&mut byte)).await;
    assert!(early.is_err(), "served over the cap");
    drop(first);
    let served = tokio::time::timeout(Duration::from_secs(1), third.read(&mut byte)).await;
    assert_eq!(served.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn draining_lets_open_streams_finish_and_refuses_new_calls() {
    let server = start_with(Scripted::default(), |_, options| {
        options.grace = Duration::from_secs(3);
    })
    .await;
    let json = r#"{"model":"ticks","max_tokens":10,"stream":true,"messages":[{"role":"user"}]}"#;
    let bytes = request("POST", "/v1/chat/completions", JSON, json);
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut socket = server.connect().await;
        socket.write_all(bytes.as_bytes()).await.unwrap();
        open.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.shutdown.drain();
    let ready = server.send("GET", "/ready", "", "").await;
    assert_eq!(status(&ready), 503);
    assert!(ready.contains("shutting_down"));
    let health = server.send("GET", "/health", "", "").await;
    assert_eq!(status(&health), 200);
    let refused = server.raw(bytes.replace("connection: close\r\n", "")).await;
    assert_eq!(status(&refused), 503);
    assert_eq!(code(&refused), "shutting_down");
    assert_eq!(header(&refused, "connection"), Some("close"));
    assert_eq!(header(&refused, "x-should-retry"), Some("true"));
    assert!(header(&refused, "retry-after").is_some());
    for mut socket in open {
        let answer = read_all(&mut socket).await;
        let events = body(&answer);
        assert_eq!(events.matches("tick").count(), 25, "{events}");
        assert!(events.ends_with("data: [DONE]\n\n"));
    }
    let ended = tokio::time::timeout(Duration::from_secs(2), server.task).await;
    ended.expect("ends once the streams have").unwrap();
    assert!(
        tokio::net::TcpStream::connect(server.address)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_runs_past_the_grace_is_cut_with_a_word() {
    let server = start().await;
    let call = |json: &str| {
        let bytes = request("POST", "/v1/chat/completions", JSON, json);
        let connect = tokio::net::TcpStream::connect(server.address);
        async move {
            let mut socket = connect.await.unwrap();
            socket.write_all(bytes.as_bytes()).await.unwrap();
            socket
        }
    };
    let mut stream = call(r#"{"model":"ticks","stream":true,"messages":[{"role":"user"}]}"#).await;
    let mut waiting = call(r#"{"model":"never","stream":true,"messages":[{"role":"user"}]}"#).await;
    let mut unary = call(r#"{"model":"sleep","messages":[{"role":"user"}]}"#).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.shutdown.drain();
    let start = Instant::now();
    for socket in [&mut stream, &mut waiting] {
        let events = body(&read_all(socket).await);
        assert!(events.contains(r#""code":"shutting_down""#), "{events}");
        assert!(!events.contains("[DONE]"));
    }
    assert_eq!(code(&read_all(&mut unary).await), "shutting_down");
    server.task.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = lyss_http::serve::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = lyss_http::serve::bind(&address.to_string())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("port {} is taken", address.port()))
    );
}
