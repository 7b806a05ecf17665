//! A scripted HTTP/1.1 server on loopback that plays a provider: it decides about every byte, chunk and close.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method, target and headers, as text.
    pub head: String,
    /// The body.
    pub body: Bytes,
}

impl Seen {
    /// The path with its query.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP says.
    Clean,
    /// The connection is closed in the middle of the body.
    Cut,
    /// Nothing more comes, and the connection stays open.
    Silent,
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    /// Each piece is one chunk of a chunked body.
    pieces: Vec<Bytes>,
    pause: Duration,
    end: End,
}

impl Answer {
    /// A status and a JSON body.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            pieces: vec![body.into()],
            pause: Duration::ZERO,
            end: End::Clean,
        }
    }

    /// A stream of events, in these pieces.
    pub fn events(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            headers: vec![(
                "content-type".into(),
                "text/event-stream; charset=utf-8".into(),
            )],
            pieces: pieces.into_iter().collect(),
            ..Self::json(200, "")
        }
    }

    /// No answer at all: the connection stays open.
    pub fn silence() -> Self {
        Self {
            status: 0,
            end: End::Silent,
            ..Self::json(0, "")
        }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Waits before each piece.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Ends otherwise.
    pub fn with_end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The server. Dropping it closes all its connections.
pub struct Upstream {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    hung_up: Arc<tokio::sync::Semaphore>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Listens on a free port and answers each request as the script says.
    pub async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hung_up = Arc::new(tokio::sync::Semaphore::new(0));
        let script: Arc<Script> = Arc::new(script);
        let (log, gone) = (seen.clone(), hung_up.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let (script, log, gone) = (script.clone(), log.clone(), gone.clone());
                connections.spawn(async move {
                    let silent = serve(socket, &*script, &log).await;
                    if silent {
                        gone.add_permits(1);
                    }
                });
            }
        });
        Self {
            url,
            seen,
            hung_up,
            accepting,
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Waits until a client has hung up on an answer that fell silent; says whether it did within five seconds.
    pub async fn was_hung_up(&self) -> bool {
        let permit = self.hung_up.acquire();
        match tokio::time::timeout(Duration::from_secs(5), permit).await {
            Ok(permit) => {
                permit.unwrap().forget();
                true
            }
            Err(_) => false,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves a connection to its end; says whether the client ended it during a silence.
async fn serve(mut socket: TcpStream, script: &Script, log: &Mutex<Vec<Seen>>) -> bool {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut socket, &mut buffer).await {
        let answer = script(&request);
        log.lock().push(request);
        let end = answer.end;
        if write_answer(&mut socket, answer).await.is_err() {
            return end == End::Silent;
        }
        match end {
            End::Clean => {}
            End::Cut => return false,
            End::Silent => {
                let mut ignored = [0; 64];
                while matches!(socket.read(&mut ignored).await, Ok(read) if read > 0) {}
                return true;
            }
        }
    }
    false
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let mut seen = Seen {
                head: String::from_utf8_lossy(&buffer[..end]).into_owned(),
                body: Bytes::new(),
            };
            let length = seen
                .header("content-length")
                .map_or(0, |length| length.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                seen.body = Bytes::copy_from_slice(&buffer[end + 4..end + 4 + length]);
                buffer.drain(..end + 4 + length);
                return Some(seen);
            }
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn write_answer(socket: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    if answer.status == 0 {
        return Ok(());
    }
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\ntransfer-encoding: chunked\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).await?;
    for piece in answer.pieces.iter().filter(|piece| !piece.is_empty()) {
        tokio::time::sleep(answer.pause).await;
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        socket.write_all(&chunk).await?;
    }
    if answer.end == End::Clean {
        socket.write_all(b"0\r\n\r\n").await?;
    }
    socket.flush().await
}
