//! What turns cost: bytes on the wire, and commands on the session's keys.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{proxy::Proxy, *};

#[tokio::test]
async fn an_append_costs_as_much_as_its_turn() {
    let proxy = Proxy::start().await;
    let store = RedisSessionStore::connect(source(proxy.addr.clone()), HOUR)
        .await
        .unwrap();
    let key = promises::fresh_key("s");
    let text = "x".repeat(1000);
    let mut costs = Vec::new();
    for version in 0..300 {
        let before = proxy.bytes();
        store
            .append(&key, &promises::turn(&[&text, &text]), version)
            .await
            .unwrap();
        costs.push(proxy.bytes() - before);
    }
    // The first ones send the script.
    let (early, late) = (costs[10], costs[299]);
    assert!(
        (2000..3500).contains(&late),
        "{late} bytes for a turn of 2000"
    );
    assert!(
        late <= early + 32,
        "{early} bytes after 10 turns, {late} after 300"
    );
}

/// What Redis does on one session's keys.
struct Monitor {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
    tag: String,
}

impl Monitor {
    async fn start(key: &SessionKey) -> Self {
        let mut stream = TcpStream::connect(server().0).await.unwrap();
        stream.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        let header = session_keys(key)[0].clone();
        let tag = header.trim_end_matches(":h").to_owned();
        Self { lines, tag }
    }

    /// Scripts called and commands run in them since the last time.
    async fn counted(&mut self, store: &RedisSessionStore) -> (usize, usize) {
        let end = format!("end-{}", RequestId::new());
        let _: Value = raw(store, &["ECHO", &end]).await;
        let (mut scripts, mut commands) = (0, 0);
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            if line.contains(&end) {
                return (scripts, commands);
            }
            if line.contains(&self.tag) {
                match line.contains(" lua] ") {
                    true => commands += 1,
                    false => scripts += 1,
                }
            }
        }
    }
}

/// A turn of a kilobyte: its calls of scripts, commands in them, and bytes.
async fn cost(
    store: &RedisSessionStore,
    proxy: &Proxy,
    monitor: &mut Monitor,
    key: &SessionKey,
    window: usize,
) -> (usize, usize, u64) {
    monitor.counted(store).await;
    let before = proxy.bytes();
    let ticket = ticket("a");
    let Begun::Granted(Some(session)) = store.begin_turn(key, &ticket).await.unwrap() else {
        panic!("nobody contends for it");
    };
    assert_eq!(session.messages.len(), window);
    let text = "x".repeat(500);
    let turn = Turn {
        request_id: ticket.request_id,
        ..promises::turn(&[&text, &text])
    };
    store.append(key, &turn, session.version).await.unwrap();
    let bytes = proxy.bytes() - before;
    let (scripts, commands) = monitor.counted(store).await;
    (scripts, commands, bytes)
}

async fn append(store: &RedisSessionStore, key: &SessionKey, turns: usize, messages: usize) {
    let text = "x".repeat(500);
    let session = store.load(key).await.unwrap();
    let version = session.map_or(0, |session| session.version);
    for n in 0..turns as u64 {
        let turn = promises::turn(&vec![text.as_str(); messages]);
        store.append(key, &turn, version + n).await.unwrap();
    }
}

/// Moves the prefix, so that this many messages follow it.
async fn leave(store: &RedisSessionStore, key: &SessionKey, window: u64) {
    let session = store.load(key).await.unwrap().unwrap();
    let prefix = Prefix {
        version: session.prefix.version + 1,
        upto: session.session.message_count - window,
        covered_tokens: session.session.token_count,
        summary: Some("what was said".repeat(20).into()),
        summary_tokens: 60,
    };
    let by = RequestId::new();
    assert!(store.compress(key, &prefix, by).await.unwrap());
}

#[tokio::test]
async fn a_turn_costs_the_same_after_ten_turns_and_after_ten_thousand() {
    let proxy = Proxy::start().await;
    let store = RedisSessionStore::connect(source(proxy.addr.clone()), HOUR)
        .await
        .unwrap();
    let key = promises::fresh_key("s");
    let mut monitor = Monitor::start(&key).await;
    append(&store, &key, 10, 2).await;
    leave(&store, &key, 8).await;
    // The first sends the scripts.
    cost(&store, &proxy, &mut monitor, &key, 8).await;
    let early = cost(&store, &proxy, &mut monitor, &key, 10).await;
    // As many messages as ten thousand turns leave.
    append(&store, &key, 100, 200).await;
    leave(&store, &key, 10).await;
    let late = cost(&store, &proxy, &mut monitor, &key, 10).await;
    assert_eq!(early.0, 2, "one call each to begin and to end a turn");
    assert_eq!(early.1, late.1, "commands");
    assert!(early.1 <= 30, "{} commands", early.1);
    assert!(
        early.2.abs_diff(late.2) * 5 <= early.2,
        "{} bytes early, {} late",
        early.2,
        late.2
    );
}
