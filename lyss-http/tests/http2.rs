//! The listener against HTTP/2 clients that keep what they open: frames are written by hand, because a proper client
//! would not send them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers as literals that are never indexed (RFC 7541, 6.2.3).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0x10);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

fn post(stream: u32, body: &str) -> Vec<u8> {
    let headers = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
    ]);
    let mut frames = frame(HEADERS, END_HEADERS, stream, &headers);
    frames.extend(frame(DATA, END_STREAM, stream, body.as_bytes()));
    frames
}

fn streamed(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user"}}]}}"#)
}

/// A connection whose streams begin with this window.
async fn connect(server: &Running, window: u32) -> TcpStream {
    let mut socket = server.connect().await;
    let mut setting = vec![0, 4];
    setting.extend(window.to_be_bytes());
    let mut hello = PREFACE.to_vec();
    hello.extend(frame(SETTINGS, 0, 0, &setting));
    socket.write_all(&hello).await.unwrap();
    socket
}

/// The next frame: kind, flags, stream, payload; `None` when the connection has ended.
async fn next(socket: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    if head[3] == SETTINGS && head[4] & ACK == 0 {
        socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await.ok()?;
    }
    Some((head[3], head[4], stream, payload))
}

async fn until_dropped(server: &Running) -> Duration {
    let start = Instant::now();
    while !server.gateway.dropped.load(Ordering::SeqCst) {
        assert!(start.elapsed() < Duration::from_secs(10), "never given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn a_stream_whose_window_never_opens_is_given_up() {
    for model in ["flood", "other"] {
        let server = start().await;
        let mut socket = connect(&server, 0).await;
        socket.write_all(&post(1, &streamed(model))).await.unwrap();
        let took = until_dropped(&server).await;
        assert!((900..3000).contains(&(took.as_millis() as u64)), "{took:?}");
        let read = async {
            let mut goaway = false;
            while let Some((kind, _, stream, _)) = next(&mut socket).await {
                assert!(kind != DATA || stream != 1, "there was no window");
                goaway |= kind == GOAWAY;
            }
            goaway
        };
        let goaway = tokio::time::timeout(Duration::from_secs(3), read).await;
        assert!(goaway.expect("the connection ends"), "with a word");
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_does_not_end_the_others() {
    let server = start().await;
    let mut socket = connect(&server, 20_000).await;
    socket
        .write_all(&post(1, &streamed("flood")))
        .await
        .unwrap();
    let ticking = r#"{"model":"ticks","stream":true,"max_tokens":1,"messages":[{"role":"user"}]}"#;
    socket.write_all(&post(3, ticking)).await.unwrap();
    let (mut flooded, mut ticks) = (0, Vec::new());
    let read = async {
        while let Some((kind, flags, stream, payload)) = next(&mut socket).await {
            match (kind, stream) {
                (DATA, 1) => flooded += payload.len(),
                (DATA, 3) => {
                    ticks.extend(payload);
                    if flags & END_STREAM != 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), read)
        .await
        .expect("it ends");
    assert_eq!(flooded, 20_000, "the window");
    let text = String::from_utf8(ticks).unwrap();
    assert_eq!(text.matches("tick").count(), 25, "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(server.gateway.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_reader_that_is_only_slow_is_served() {
    let server = start().await;
    let mut socket = connect(&server, 20_000).await;
    socket
        .write_all(&post(1, &streamed("flood")))
        .await
        .unwrap();
    let end = Instant::now() + Duration::from_secs(3);
    let mut read = 0;
    while Instant::now() < end {
        let (kind, _, stream, payload) = next(&mut socket).await.expect("it goes on");
        assert!(kind != RST_STREAM && kind != GOAWAY, "given up");
        if (kind, stream) != (DATA, 1) || payload.is_empty() {
            continue;
        }
        read += payload.len();
        if read % 20_000 == 0 {
            // Below the second after which a stall counts.
            tokio::time::sleep(Duration::from_millis(600)).await;
            for stream in [0, 1] {
                let update = frame(WINDOW_UPDATE, 0, stream, &20_000_u32.to_be_bytes());
                socket.write_all(&update).await.unwrap();
            }
        }
    }
    assert!(read >= 60_000, "{read}");
    assert!(!server.gateway.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_nothing_else() {
    let server = start().await;
    let mut socket = connect(&server, 65_535).await;
    let mut burst = Vec::new();
    for number in 0..20_000_u32 {
        let stream = 2 * number + 1;
        burst.extend(post(stream, &streamed("never")));
        burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())); // CANCEL
    }
    let start = Instant::now();
    // The other end may be closed before all of it is sent.
    let (mut reading, mut writing) = socket.split();
    let write = async {
        let _ = writing.write_all(&burst).await;
    };
    let read = async {
        let mut last = Vec::new();
        let _ = reading.read_to_end(&mut last).await;
        last
    };
    let ((), last) =
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(write, read) })
            .await
            .expect("the connection is ended");
    assert!(start.elapsed() < Duration::from_secs(8));
    // ENHANCE_YOUR_CALM, unless the closed socket has taken the word with it.
    if let Some(at) = last
        .windows(5)
        .position(|w| w[..2] == [GOAWAY, 0] && w[2..] == [0, 0, 0])
    {
        assert_eq!(last.get(at + 10..at + 14), Some(&11_u32.to_be_bytes()[..]));
    }
    let answer = server.send("GET", "/ready", "", "").await;
    assert_eq!(status(&answer), 200, "others are served");
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let server = start().await;
    for padded in [true, false] {
        let mut socket = connect(&server, 65_535).await;
        let first = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/ready")]);
        socket
            .write_all(&frame(HEADERS, END_STREAM, 1, &first))
            .await
            .unwrap();
        // Headers without end, and frames without content.
        let more = match padded {
            true => block(&[("x-filler", &"y".repeat(100))]),
            false => Vec::new(),
        };
        let (mut reading, mut writing) = socket.split();
        let mut sent = 0_usize;
        let write = async {
            let piece = frame(CONTINUATION, 0, 1, &more).repeat(100);
            while sent < 64 << 20 && writing.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
        };
        let read = async {
            let mut last = Vec::new();
            let _ = reading.read_to_end(&mut last).await;
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), async {
            tokio::select! {
                () = write => {}
                () = read => {}
            }
        })
        .await;
        assert!(ended.is_ok(), "it is cut off");
        assert!(sent < 16 << 20, "{sent} bytes were taken");
        let answer = server.send("GET", "/ready", "", "").await;
        assert_eq!(status(&answer), 200, "others are served");
    }
}
