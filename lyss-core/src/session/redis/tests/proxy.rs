//! Between a store and its server: counts what passes, and can hold it up.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::AbortHandle,
};

use super::server;

pub(super) struct Proxy {
    pub addr: String,
    commands: Arc<Direction>,
    answers: Arc<Direction>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
}

#[derive(Default)]
struct Direction {
    bytes: AtomicU64,
    held: AtomicBool,
    freed: Notify,
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            addr: listener.local_addr().unwrap().to_string(),
            commands: Arc::default(),
            answers: Arc::default(),
            running: Arc::default(),
        };
        let running = Arc::clone(&proxy.running);
        let (commands, answers) = (Arc::clone(&proxy.commands), Arc::clone(&proxy.answers));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server().0).await.unwrap();
                let (client_in, client_out) = client.into_split();
                let (server_in, server_out) = server.into_split();
                for (mut from, mut to, direction) in [
                    (client_in, server_out, Arc::clone(&commands)),
                    (server_in, client_out, Arc::clone(&answers)),
                ] {
                    let task = tokio::spawn(async move {
                        let mut buffer = vec![0; 65536];
                        while let Ok(n @ 1..) = from.read(&mut buffer).await {
                            direction.bytes.fetch_add(n as u64, SeqCst);
                            let freed = direction.freed.notified();
                            if direction.held.load(SeqCst) {
                                freed.await;
                            }
                            if to.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                    });
                    running.lock().unwrap().push(task.abort_handle());
                }
            }
        });
        proxy
    }

    /// Lets nothing through, in either direction.
    pub fn freeze(&self) {
        self.commands.held.store(true, SeqCst);
        self.hold_answers();
    }

    /// Lets commands through, and no answers.
    pub fn hold_answers(&self) {
        self.answers.held.store(true, SeqCst);
    }

    /// Closes the connections; what is held is lost.
    pub fn cut(&self) {
        for task in self.running.lock().unwrap().drain(..) {
            task.abort();
        }
    }

    /// Lets everything through, what was held as well.
    pub fn free(&self) {
        for direction in [&self.commands, &self.answers] {
            direction.held.store(false, SeqCst);
            direction.freed.notify_waiters();
        }
    }

    /// Bytes so far, of commands and answers.
    pub fn bytes(&self) -> u64 {
        self.commands.bytes.load(SeqCst) + self.answers.bytes.load(SeqCst)
    }
}
