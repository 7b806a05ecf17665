//! R1: asked to end, the gateway refuses what is new, finishes what runs, and loses no row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lyss_mock_provider::{MockProvider, Options, Outcome};
use lyss_tests::{
    client::{CHAT, Client, Reading, chat, is_done},
    process::{Lyss, Setup},
};
use serde_json::{Value, json};

const STREAMS: usize = 50;

async fn start(mock: &MockProvider) -> (Setup, Lyss) {
    let setup = Setup::new(&json!({
        "server": {"shutdown_grace": "10s"},
        "auth": {"default_user": "somebody"},
        "providers": {"openai": {"api_key": "sk-upstream", "base_url": mock.base_url_openai()}},
    }));
    let lyss = setup.start().await;
    (setup, lyss)
}

/// So many streams whose first chunk is there, and which go on for two seconds or more.
async fn open_streams(client: &Client, count: usize) -> Vec<Reading> {
    let opened = (0..count).map(|number| async move {
        let mut body = chat(&format!("open-{number}"), "[[chunks:40 size:6 every:50]]");
        body["stream"] = true.into();
        let mut reading = client.open("POST", CHAT, Some(&body)).await.unwrap();
        assert_eq!(reading.status, 200);
        assert!(reading.events(1).await.unwrap());
        reading
    });
    futures::future::join_all(opened).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_finish_and_new_requests_are_refused() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let (setup, mut lyss) = start(&mock).await;
    let client = lyss.client();
    let streams = open_streams(&client, STREAMS).await;

    let began = Instant::now();
    lyss.terminate();
    // The signal is handled in its own time: from the first 503 on there is no way back.
    let ready = loop {
        let ready = client.get("/ready").await;
        if ready.status != 200 {
            break ready;
        }
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "/ready does not notice"
        );
    };
    assert_eq!(ready.status, 503);
    assert_eq!(client.get("/health").await.status, 200, "it lives");
    let refused = client.chat(&chat("late", "hello")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "shutting_down");
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.header("retry-after").is_some());
    assert!(lyss.exited().is_none(), "it waits for the streams");

    let answers = streams.into_iter().map(Reading::whole);
    for answer in futures::future::join_all(answers).await {
        let answer = answer.expect("not cut");
        assert!(
            is_done(&answer),
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    let ended = lyss.end(Duration::from_secs(10)).await.expect("it ends");
    assert!(ended.success(), "{ended}\n{}", lyss.log());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "within the grace"
    );

    let rows = setup.sqlite().rows().await;
    let entries = mock.ledger();
    let (mut successes, mut rest) = (0, Vec::new());
    for row in &rows {
        match row["status"].as_str() {
            Some("success") => {
                successes += 1;
                let entry = entries
                    .iter()
                    .find(|entry| row["model_name"] == *entry.model);
                assert_eq!(
                    entry.unwrap().planned_tokens,
                    row["output_tokens"].as_i64().unwrap()
                );
            }
            _ => rest.push(row),
        }
    }
    assert_eq!(successes, STREAMS);
    assert!(
        rest.iter().all(|row| row["model_name"] == "late"),
        "{rest:?}"
    );
    assert!(
        entries.iter().all(|entry| entry.model != "late"),
        "it was refused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once_and_still_loses_no_row() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let (setup, mut lyss) = start(&mock).await;
    let client = lyss.client();
    let streams = open_streams(&client, 10).await;
    lyss.terminate();
    while client.get("/ready").await.status == 200 {}
    assert!(lyss.exited().is_none(), "it waits for the streams");
    let began = Instant::now();
    lyss.terminate();
    assert!(
        lyss.end(Duration::from_secs(5)).await.is_some(),
        "still there after 5 s"
    );
    assert!(
        began.elapsed() <= Duration::from_secs(1),
        "it took {:?}",
        began.elapsed()
    );
    for stream in streams {
        if let Ok(answer) = stream.whole().await {
            assert!(!is_done(&answer), "it was in the middle");
        }
    }
    let cut = mock
        .ledger()
        .iter()
        .filter(|entry| entry.outcome == Outcome::ClientClosed)
        .count();
    assert_eq!(cut, 10);

    // What was not written any more is written by the next process.
    let _next = setup.start().await;
    let all = |rows: &[Value]| rows.len() >= 10;
    let rows = setup.sqlite().rows_when(Duration::from_secs(5), all).await;
    assert_eq!(rows.len(), 10);
    for row in rows {
        let status = row["status"].as_str().unwrap().to_owned();
        assert!(
            ["cancelled", "error", "aborted"].contains(&status.as_str()),
            "{row}"
        );
    }
}
