//! Turns of one session that come at once, to two gateways with one Redis: one after another, none lost, none twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use lyss_mock_provider::{MockProvider, Script};
use lyss_tests::{
    client::{Answer, CHAT, Client, chat, is_done},
    pair::{Pair, unique},
};
use serde_json::{Value, json};

/// How long a turn is held without a renewal.
const LEASE: Duration = Duration::from_secs(5);

fn turn(session: &str, mark: &str) -> Value {
    let mut body = chat("gpt-4o-mini", &format!("this is <{mark}>"));
    body["session_id"] = session.into();
    body
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

fn mark(message: &Value) -> String {
    let text = message["content"].as_str().unwrap();
    let (_, rest) = text.split_once('<').unwrap();
    rest.split_once('>').unwrap().0.to_owned()
}

/// The marks of a session's turns, in order; each is whole, and in its place.
async fn stored(client: &Client, session: &str) -> Vec<String> {
    let mut marks = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/sessions/{session}/messages?limit=200&cursor={cursor}");
        let page = client.get(path.trim_end_matches("&cursor=")).await.json();
        for turn in page["data"].as_array().unwrap().chunks(2) {
            let [asked, answered] = turn else {
                panic!("half a turn: {turn:?}");
            };
            assert_eq!(asked["turn"], marks.len() + 1);
            assert_eq!(answered["turn"], marks.len() + 1);
            assert_eq!(answered["message"]["role"], "assistant");
            let own = mark(&asked["message"]);
            assert_eq!(own, mark(&answered["message"]), "a turn is whole");
            marks.push(own);
        }
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return marks,
        }
    }
}

/// What the provider was shown: by the mark of the last message, the marks of those before it.
fn shown(mock: &MockProvider) -> BTreeMap<String, Vec<String>> {
    let chats = mock.requests().into_iter();
    let chats = chats.filter(|request| request.uri.ends_with("/chat/completions"));
    let requests = chats.map(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let mut marks: Vec<_> = body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(mark)
            .collect();
        (marks.pop().unwrap(), marks)
    });
    requests.collect()
}

/// How many calls the provider has taken.
fn calls(mock: &MockProvider) -> usize {
    let ledger = mock.ledger();
    let chats = ledger
        .iter()
        .filter(|entry| entry.path.ends_with("/chat/completions"));
    chats.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_racing_turns_of_twenty_sessions() {
    const SESSIONS: usize = 20;
    const CLIENTS: usize = 10;
    const TURNS: usize = 5;
    // Not about time: the machine may be busy.
    let pair = Pair::start(&json!({"session": {"queue_timeout": "120s"}})).await;
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let clients = pair.clients(&key);
    // A new key is known to both soon, but not at once.
    for client in &clients {
        client.get("/v1/models").await;
    }
    let talks = (0..SESSIONS * CLIENTS).map(|n| {
        let (session, caller) = (n / CLIENTS, n % CLIENTS);
        let (client, pair) = (&clients[caller % 2], &pair);
        async move {
            for number in 0..TURNS {
                let mark = format!("{session}.{caller}.{number}");
                let mut body = turn(&format!("s{session}"), &mark);
                let streamed = (caller + number) % 3 == 0;
                body["stream"] = streamed.into();
                let answer = client.send("POST", CHAT, Some(&body)).await.unwrap();
                assert_eq!(
                    answer.status,
                    200,
                    "{mark}: {}\n{}",
                    text(&answer),
                    pair.warnings()
                );
                assert!(!streamed || is_done(&answer), "{mark}: {}", text(&answer));
            }
        }
    });
    join_all(talks).await;

    let shown = shown(&pair.openai);
    for session in 0..SESSIONS {
        let marks = stored(&clients[session % 2], &format!("s{session}")).await;
        assert_eq!(marks.len(), TURNS * CLIENTS, "{marks:?}");
        let mut expected: Vec<_> = (0..TURNS * CLIENTS)
            .map(|n| format!("{session}.{}.{}", n / TURNS, n % TURNS))
            .collect();
        for caller in expected.chunks(TURNS) {
            let places = caller
                .iter()
                .map(|own| marks.iter().position(|mark| mark == own));
            assert!(
                places.is_sorted(),
                "a caller's turns change places: {marks:?}"
            );
        }
        let mut sorted = marks.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "each turn once");
        for (before, own) in marks.iter().zip(&marks[1..]) {
            assert!(
                shown[own].ends_with(&[before.clone(), before.clone()]),
                "{own} did not see {before}: {:?}",
                shown[own]
            );
        }
    }
    assert_eq!(
        calls(&pair.openai),
        TURNS * SESSIONS * CLIENTS,
        "no call twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_turns_do_not_wait_one_of_many_runs() {
    let pair = Pair::start(&json!({"session": {"concurrency": "reject"}})).await;
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let clients = pair.clients(&key);
    for round in 0..3 {
        pair.openai.set_script(Script {
            delay_ms: 2000,
            ..Script::default()
        });
        let race = join_all((0..16).map(|n| {
            let client = &clients[n % 2];
            let mut body = turn("s", &format!("{round}.{n}"));
            body["stream"] = (n % 4 >= 2).into();
            async move { client.send("POST", CHAT, Some(&body)).await.unwrap() }
        }))
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = race.iter().partition(|answer| answer.status == 200);
        assert_eq!(
            won.len(),
            1,
            "{:?}",
            race.iter().map(text).collect::<Vec<_>>()
        );
        for answer in lost {
            assert_eq!(answer.status, 409);
            assert_eq!(answer.json()["error"]["code"], "session_busy");
            assert!(answer.header("retry-after").is_some());
        }
        assert_eq!(stored(&clients[0], "s").await.len(), round + 1);
        assert_eq!(
            calls(&pair.openai),
            round + 1,
            "who is refused costs nothing"
        );
    }
    let rows = pair
        .store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 48)
        .await;
    let busy = |row: &&Value| row["status"] == "rejected" && row["error_code"] == "session_busy";
    assert_eq!((rows.len(), rows.iter().filter(busy).count()), (48, 45));
}

/// S6: who holds a turn and is not heard of for a lease has lost it, and finds out when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_slept_through_its_turn_overwrites_nothing() {
    let pair = Pair::start(&json!({})).await;
    pair.openai.set_script(Script {
        delay_ms: 500,
        ..Script::default()
    });
    let key = pair.first.0.create_key(&["--user", &unique("alice")]);
    let [one, two] = pair.clients(&key);
    let sessions = ["unary", "streamed"];
    let late = sessions.map(|session| {
        let mut body = turn(session, &format!("late {session}"));
        body["stream"] = (session == "streamed").into();
        let one = one.clone();
        tokio::spawn(async move { one.send("POST", CHAT, Some(&body)).await.unwrap() })
    });
    let began = Instant::now();
    while calls(&pair.openai) < 2 {
        assert!(began.elapsed() < Duration::from_secs(5), "not dispatched");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pair.first.1.freeze();
    let began = Instant::now();
    for session in sessions {
        let answer = two.chat(&turn(session, &format!("after {session}"))).await;
        assert_eq!(answer.status, 200, "{}", text(&answer));
        let took = began.elapsed();
        assert!(took < LEASE + Duration::from_secs(3), "{took:?}");
    }
    assert!(began.elapsed() > LEASE / 2, "it had to wait for the lease");
    pair.first.1.thaw();
    for (session, late) in sessions.into_iter().zip(late) {
        let answer = late.await.unwrap();
        let said = text(&answer);
        assert!(said.contains("\"session_conflict\""), "{session}: {said}");
        match session {
            "unary" => assert_eq!(answer.status, 409),
            _ => assert!(!is_done(&answer), "{said}"),
        }
        assert_eq!(stored(&two, session).await, [format!("after {session}")]);
    }
    // It is billed all the same: the provider has answered.
    let rows = pair
        .store
        .rows_when(Duration::from_secs(5), |rows| rows.len() >= 4)
        .await;
    assert_eq!(rows.len(), 4);
    let conflicts: Vec<_> = rows
        .iter()
        .filter(|row| row["error_code"] == "session_conflict")
        .collect();
    assert_eq!(conflicts.len(), 2, "{rows:?}");
    assert!(
        conflicts.iter().all(|row| row["output_tokens"] != 0),
        "{conflicts:?}"
    );
    assert!(pair.first.1.logs("a session's turn was lost").await);
    // And the sessions go on.
    for session in sessions {
        let answer = one.chat(&turn(session, "next")).await;
        assert_eq!(answer.status, 200, "{}", text(&answer));
    }
}
