//! What streams hold for readers that do not read is bounded over all of them, in bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_mock_provider::{MockProvider, Options, Script};
use lyss_tests::{
    client::{CHAT, Client, Reading, chat, is_done},
    process::{Lyss, Setup, free_port},
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 40 * MIB;
/// More than the sockets of a connection take.
const EVENT: u64 = 15 * MIB;

struct Gateway {
    provider: MockProvider,
    metrics: Client,
    lyss: Lyss,
    _setup: Setup,
}

impl Gateway {
    async fn start() -> Self {
        let provider = MockProvider::start(Options::default()).unwrap();
        let metrics = free_port();
        let setup = Setup::new(&json!({
            "server": {"stream_buffer_max": format!("{BUDGET}B")},
            "providers": {"openai": {
                "api_key": "sk-openai", "base_url": provider.base_url_openai(), "max_event": "16MiB",
            }},
            "monitoring": {"prometheus": {"enabled": true, "addr": format!("127.0.0.1:{metrics}")}},
        }));
        let lyss = setup.start().await;
        Self {
            provider,
            metrics: Client::new(([127, 0, 0, 1], metrics).into()),
            lyss,
            _setup: setup,
        }
    }

    /// The bytes that streams hold, as the metrics say.
    async fn held(&self) -> u64 {
        let text = self.metrics.get("/metrics").await.body;
        std::str::from_utf8(&text)
            .unwrap()
            .lines()
            .find_map(|line| {
                line.strip_prefix("gateway_stream_buffer_bytes ")?
                    .parse()
                    .ok()
            })
            .expect("the metric")
    }

    async fn holds_nothing(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.held().await > 0 {
            assert!(Instant::now() < end, "{} bytes are held", self.held().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open(&self) -> Reading {
        let mut body = chat("gpt-4o-mini", "hello");
        body["stream"] = true.into();
        // A client of its own, and with that a connection.
        let client = Client::new(self.lyss.address());
        client.open("POST", CHAT, Some(&body)).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_cannot_fill_the_memory() {
    let gateway = Gateway::start().await;
    let small = gateway.open().await.whole().await.unwrap();
    assert!(is_done(&small));
    let before = gateway.lyss.resident();

    gateway.provider.set_script(Script {
        big_event: Some(EVENT as usize),
        ..Script::default()
    });
    let mut readers = Vec::new();
    for _ in 0..16 {
        let reader = gateway.open().await;
        assert_eq!(reader.status, 200);
        readers.push(reader);
    }
    let mut most = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(gateway.held().await <= BUDGET);
        most = most.max(gateway.lyss.resident().saturating_sub(before));
    }
    // The budget, what reading an event takes for a moment, and what an allocator does not give back at once; of the
    // 240 MiB that all of them would take.
    assert!(most < 3 * BUDGET, "{} MiB for streams", most / MIB);
    assert!(gateway.held().await >= EVENT, "large events are held");

    // Streams of small events go on meanwhile.
    gateway.provider.set_script(Script::default());
    assert!(is_done(&gateway.open().await.whole().await.unwrap()));

    // Some end whole, the others with an error that says why; none hangs.
    let (mut whole, mut refused) = (0, 0);
    for reader in readers {
        let answer = tokio::time::timeout(Duration::from_secs(20), reader.whole())
            .await
            .expect("no stream hangs")
            .unwrap();
        if is_done(&answer) {
            assert!(answer.body.len() as u64 > EVENT);
            whole += 1;
        } else {
            let text = String::from_utf8_lossy(&answer.body);
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(error["error"]["code"], "overloaded", "{error}");
            assert!(
                error["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("stream_buffer_max")
            );
            refused += 1;
        }
    }
    assert!(
        whole >= 2 && refused >= 2,
        "{whole} whole, {refused} refused"
    );
    gateway.holds_nothing().await;

    // There is room again, also after a caller that went away in the middle.
    gateway.provider.set_script(Script {
        big_event: Some(EVENT as usize),
        ..Script::default()
    });
    let gone = gateway.open().await;
    while gateway.held().await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(gone);
    gateway.holds_nothing().await;
    assert!(is_done(&gateway.open().await.whole().await.unwrap()));
}
