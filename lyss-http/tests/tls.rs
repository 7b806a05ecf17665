//! TLS and HTTP/2, with a certificate made for the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lyss_http::edge::tls;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use support::*;
use tokio::{io::AsyncReadExt, net::TcpStream};

fn certificate(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
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
        .expect("openssl makes the certificate");
    assert!(made.status.success(), "{made:?}");
    (cert, key)
}

async fn connect(
    server: &Running,
    cert: &Path,
    alpn: &[&[u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(cert).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(
            ServerName::try_from("localhost").unwrap(),
            server.connect().await,
        )
        .await
        .unwrap()
}

#[tokio::test]
async fn http2_and_http1_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let config = tls::load(&cert, &key).unwrap();
    let server = start_with(Scripted::default(), |_, options| {
        options.tls = Some(config);
        options.idle_timeout = Duration::from_millis(600);
    })
    .await;

    let stream = connect(&server, &cert, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let json = r#"{"model":"m","stream":true,"messages":[{"role":"user"}]}"#;
    let calls = (0..50).map(|_| {
        let request = http::Request::post("https://localhost/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(json.as_bytes())))
            .unwrap();
        let answer = client.send_request(request);
        async move {
            let answer = answer.await.unwrap();
            assert_eq!(answer.version(), http::Version::HTTP_2);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.ends_with(b"data: [DONE]\n\n"));
        }
    });
    futures::future::join_all(calls.collect::<Vec<_>>()).await;
    let foreign = http::Request::get("https://localhost/ready")
        .header("host", "evil.example")
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_eq!(client.send_request(foreign).await.unwrap().status(), 400);
    // Idle, it is ended from here.
    tokio::time::timeout(Duration::from_secs(3), connection)
        .await
        .expect("an idle HTTP/2 connection is closed")
        .unwrap()
        .unwrap();

    let stream = connect(&server, &cert, &[b"http/1.1"]).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let get = http::Request::get("/ready")
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .unwrap();
    assert_eq!(client.send_request(get).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let config = tls::load(&cert, &key).unwrap();
    let server = start_with(Scripted::default(), |_, options| options.tls = Some(config)).await;
    let mut socket = server.connect().await;
    let mut buffer = [0; 16];
    let read = tokio::time::timeout(Duration::from_millis(1500), socket.read(&mut buffer)).await;
    assert_eq!(read.expect("closed in time").unwrap(), 0);
}

#[test]
fn unusable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let (other, empty) = (dir.path().join("other"), dir.path().join("empty.pem"));
    std::fs::create_dir(&other).unwrap();
    let (_, other_key) = certificate(&other);
    std::fs::write(&empty, "nothing\n").unwrap();
    let missing = dir.path().join("missing.pem");
    for (cert, key, named) in [
        (&missing, &key, "missing.pem: cannot read the certificate"),
        (&empty, &key, "empty.pem: holds no PEM certificate"),
        (&cert, &missing, "missing.pem: cannot read the private key"),
        (&cert, &empty, "empty.pem: cannot read the private key"),
        (&cert, &other_key, "cert.pem: does not work with"),
    ] {
        let error = tls::load(cert, key).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
