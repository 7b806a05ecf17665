#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::time::Instant;

use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Accepts connections one after another; each answers its requests with the next of `answers`, then closes.
async fn server(answers: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/x", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65536];
            let read = socket.read(&mut request).await.unwrap();
            requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (url, task)
}

fn post(url: &str, body: &[&'static str]) -> http::Request<Segments> {
    http::Request::post(url)
        .header("authorization", "Bearer sk-secret")
        .body(Segments(
            body.iter()
                .map(|part| Bytes::from_static(part.as_bytes()))
                .collect(),
        ))
        .unwrap()
}

fn transport() -> HyperTransport {
    HyperTransport::new(&TransportConfig::default()).unwrap()
}

async fn exchange(answer: &'static str) -> Result<http::Response<BodyStream>, Error> {
    let (url, _server) = server(vec![answer]).await;
    transport().send(post(&url, &["{}"])).await
}

fn failure<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_body_of_slices_arrives_whole_with_its_length() {
    let (url, server) = server(vec!["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]).await;
    let response = transport()
        .send(post(&url, &["{\"a\":", "", "[1,", "2]}"]))
        .await
        .unwrap();
    assert_eq!(collect(response.into_body(), 2).await.unwrap(), "ok");
    let request = server.await.unwrap().remove(0);
    assert!(request.starts_with("POST /v1/x HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("content-length: 11\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"a\":[1,2]}"), "{request}");
    assert!(!request.contains("accept-encoding"), "{request}");
}

#[tokio::test]
async fn redirects_and_compression_are_refused() {
    for answer in [
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n",
    ] {
        let error = failure(exchange(answer).await);
        assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse, "{answer}");
    }
    let plain = "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 0\r\n\r\n";
    assert!(exchange(plain).await.is_ok());
}

#[tokio::test]
async fn what_the_provider_may_have_done_is_known() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/?key=sk-secret", listener.local_addr().unwrap())
    };
    let refused = failure(transport().send(post(&closed, &["{}"])).await);
    assert_eq!(
        (refused.kind(), refused.work(), refused.retry()),
        (ErrorKind::UpstreamError, Work::None, Retry::Elsewhere)
    );
    assert!(!format!("{refused} {refused:?}").contains("sk-secret"));
    for answer in ["", "HTTP/1.1 200 O"] {
        let lost = failure(exchange(answer).await);
        assert_eq!(
            (lost.kind(), lost.work(), lost.retry()),
            (ErrorKind::UpstreamError, Work::Unknown, Retry::Elsewhere)
        );
    }
}

#[tokio::test]
async fn a_body_is_bounded_and_must_be_complete() {
    let long = exchange("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")
        .await
        .unwrap();
    let error = failure(collect(long.into_body(), 2).await);
    assert_eq!(error.kind(), ErrorKind::UpstreamInvalidResponse);
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    ] {
        let cut = exchange(answer).await.unwrap();
        let error = failure(collect(cut.into_body(), 10).await);
        assert_eq!(error.kind(), ErrorKind::UpstreamIncomplete, "{answer}");
    }
}

#[tokio::test]
async fn a_silent_host_costs_no_more_than_the_connect_timeout() {
    // The server accepts TCP and then says nothing, so TLS never completes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let transport = HyperTransport::new(&TransportConfig {
        connect_timeout: Duration::from_millis(100),
        ..TransportConfig::default()
    })
    .unwrap();
    let start = Instant::now();
    let error = failure(transport.send(post(&url, &["{}"])).await);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        (error.kind(), error.work(), error.retry()),
        (ErrorKind::UpstreamError, Work::None, Retry::Elsewhere)
    );
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_replaced() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (url, server) = server(vec![answer, answer, answer]).await;
    let transport = transport();
    for _ in 0..3 {
        let response = transport.send(post(&url, &["{}"])).await.unwrap();
        assert_eq!(collect(response.into_body(), 2).await.unwrap(), "ok");
        // Lets the close arrive, so that the case is a stale connection and not a lost request.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_with_its_credentials() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4096];
        let read = socket.read(&mut asked).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await
            .unwrap();
        let mut request = [0; 4096];
        let through = socket.read(&mut request).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        [&asked[..read], &request[..through]]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    });
    let transport = HyperTransport::new(&TransportConfig {
        proxy: Some(format!("http://us%40er:p:w@{address}/").into()),
        ..TransportConfig::default()
    })
    .unwrap();
    let response = transport
        .send(post("http://provider.invalid/v1/chat", &["{}"]))
        .await
        .unwrap();
    assert_eq!(collect(response.into_body(), 2).await.unwrap(), "ok");
    let [asked, request] = proxy.await.unwrap();
    assert!(
        asked.starts_with("CONNECT provider.invalid:80 HTTP/1.1\r\n"),
        "{asked}"
    );
    let credentials = BASE64_STANDARD.encode("us@er:p:w");
    assert!(
        asked.contains(&format!("Proxy-Authorization: Basic {credentials}\r\n")),
        "{asked}"
    );
    assert!(
        !asked.contains("sk-secret"),
        "the key goes through the tunnel only"
    );
    assert!(
        request.starts_with("POST /v1/chat HTTP/1.1\r\n"),
        "{request}"
    );
}

#[test]
fn bad_settings_are_named() {
    for proxy in [
        "socks5://h:1",
        "https://h",
        "h:1",
        "",
        "http://h/path",
        "http://",
    ] {
        let config = TransportConfig {
            proxy: Some(proxy.into()),
            ..TransportConfig::default()
        };
        assert_eq!(
            failure(HyperTransport::new(&config)).param(),
            Some("proxy"),
            "{proxy}"
        );
    }
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path().to_owned(), "/does/not/exist".into()] {
        let config = TransportConfig {
            ca_file: Some(path),
            ..TransportConfig::default()
        };
        assert_eq!(
            failure(HyperTransport::new(&config)).param(),
            Some("ca_file")
        );
    }
}

/// Serves HTTPS on loopback, HTTP/2 if the client offers it; answers with the version that was spoken.
async fn https_server() -> (String, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut ca_file, made.cert.pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that does not trust the certificate hangs up here.
            let Ok(socket) = acceptor.accept(socket).await else {
                continue;
            };
            let answer = hyper::service::service_fn(async |request: http::Request<Incoming>| {
                let version = format!("{:?}", request.version());
                let body = http_body_util::Full::new(Bytes::from(version));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            tokio::spawn(async move {
                hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), answer)
                    .await
            });
        }
    });
    (url, ca_file)
}

#[tokio::test]
async fn certificates_are_checked_and_http_2_is_spoken_over_tls() {
    let (url, ca_file) = https_server().await;
    let error = failure(transport().send(post(&url, &["{}"])).await);
    assert_eq!(
        (error.kind(), error.work()),
        (ErrorKind::UpstreamError, Work::None),
        "an unknown authority"
    );
    let trusting = HyperTransport::new(&TransportConfig {
        ca_file: Some(ca_file.path().to_owned()),
        ..TransportConfig::default()
    })
    .unwrap();
    let response = trusting.send(post(&url, &["{\"a\":", "1}"])).await.unwrap();
    assert_eq!(
        collect(response.into_body(), 100).await.unwrap(),
        "HTTP/2.0"
    );
}

/// Serves keep-alive connections, each request with `ok`; counts the connections that were opened and are open.
async fn keep_alive_server() -> (String, Arc<[std::sync::atomic::AtomicUsize; 2]>) {
    use std::sync::atomic::Ordering::SeqCst;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let counts = Arc::new([0, 0].map(std::sync::atomic::AtomicUsize::new));
    let counted = counts.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counts = counted.clone();
            counts[0].fetch_add(1, SeqCst);
            counts[1].fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    socket.write_all(answer).await.unwrap();
                }
                counts[1].fetch_sub(1, SeqCst);
            });
        }
    });
    (url, counts)
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_was_read() {
    use std::sync::atomic::Ordering::SeqCst;
    let (url, counts) = keep_alive_server().await;
    let transport = HyperTransport::new(&TransportConfig {
        pool_max_idle: 1,
        pool_idle_timeout: Duration::from_secs(2),
        ..TransportConfig::default()
    })
    .unwrap();
    let ask = async || transport.send(post(&url, &["{}"])).await.unwrap();
    for _ in 0..5 {
        assert_eq!(collect(ask().await.into_body(), 2).await.unwrap(), "ok");
    }
    assert_eq!(counts[0].load(SeqCst), 1);

    // Two at once need two; only one of them is kept.
    let (one, two) = tokio::join!(ask(), ask());
    for answer in [one, two] {
        collect(answer.into_body(), 2).await.unwrap();
    }
    assert_eq!(counts[0].load(SeqCst), 2);
    let open = async |wanted: usize| {
        let end = Instant::now() + Duration::from_secs(20);
        while counts[1].load(SeqCst) != wanted {
            assert!(Instant::now() < end, "{wanted} connections are open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    open(1).await;

    // Nobody reads this answer, so its connection is not kept.
    drop(ask().await);
    open(0).await;

    // One that waits too long is closed without a further call.
    collect(ask().await.into_body(), 2).await.unwrap();
    open(1).await;
    open(0).await;
}

#[tokio::test]
async fn many_calls_share_an_http_2_connection() {
    let (url, ca_file) = https_server().await;
    let transport = HyperTransport::new(&TransportConfig {
        ca_file: Some(ca_file.path().to_owned()),
        ..TransportConfig::default()
    })
    .unwrap();
    let ask = async || {
        let answer = transport.send(post(&url, &["{}"])).await.unwrap();
        collect(answer.into_body(), 100).await.unwrap()
    };
    assert_eq!(ask().await, "HTTP/2.0");
    let answers = futures::future::join_all((0..20).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| answer == "HTTP/2.0"));
}
