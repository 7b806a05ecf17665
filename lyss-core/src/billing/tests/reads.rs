//! Reads of the log: whose, which, in which order, and how much.

use super::*;
use crate::{
    database::testing,
    gateway::{CostTotal, RequestQuery, UsageQuery, UsageTotal},
    price::Exchange,
    types::log::{Attempt, Decision},
};

async fn conforms(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    let mut written = Vec::new();
    for number in 0..25_u64 {
        let row = LogRow {
            user_id: if number % 5 == 0 { "bob" } else { "ann" }.into(),
            session_id: (number % 2 == 0).then(|| "s".into()),
            api_key_id: (number == 3).then(|| "key".into()),
            model_name: if number < 10 { "old" } else { "new" }.into(),
            status: if number == 7 {
                Status::Error
            } else {
                Status::Success
            },
            stream: number % 2 == 1,
            ttft_ms: (number % 2 == 1).then_some(number),
            error_message: (number == 7).then(|| "it's \"broken\" 🙂".into()),
            cached_tokens: 2,
            reasoning_tokens: 3,
            provider_cost_pico: -1,
            user_charge_pico: i64::MAX,
            decision: Some(Decision {
                provider_id: "openai".into(),
                weight: 100,
                attempts: vec![Attempt {
                    provider_id: "openai".into(),
                    model_name: "m".into(),
                    started_ms: 1,
                    latency_ms: 2,
                    outcome: "ok".into(),
                    upstream_status: None,
                    error: Some("no".into()),
                    cost: None,
                }],
                ..Decision::default()
            }),
            ..settled(&intent())
        };
        ledger.record(&row).unwrap();
        written.push(row);
        // So that no two have the same millisecond, and "from" splits between them.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(ledger.close(LONG).await);
    written.reverse();

    let bob = written.iter().find(|row| &*row.user_id == "bob").unwrap();
    assert_eq!(&database.request(&bob.request_id, None).await.unwrap(), bob);
    assert_eq!(
        &database
            .request(&bob.request_id, Some("bob"))
            .await
            .unwrap(),
        bob
    );
    for (id, owner) in [
        (bob.request_id.as_str(), Some("ann")),
        (intent().request_id.as_str(), None),
        ("'; DROP TABLE request_logs; --", None),
    ] {
        assert_eq!(
            database.request(id, owner).await.unwrap_err().code(),
            "not_found"
        );
    }

    let mut paged = Vec::new();
    let mut query = RequestQuery {
        limit: Some(7),
        ..RequestQuery::default()
    };
    loop {
        let page = database.requests(&query, None).await.unwrap();
        assert!(page.data.len() <= 7);
        paged.extend(page.data);
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, written, "newest first, each once");
    let exact = RequestQuery {
        limit: Some(25),
        ..RequestQuery::default()
    };
    assert_eq!(
        database.requests(&exact, None).await.unwrap().next_cursor,
        None
    );

    let middle = written[10].created_at.clone();
    let some = |value: &str| Some(value.to_owned());
    type Wanted = fn(&LogRow) -> bool;
    let cases: [(RequestQuery, Option<&str>, Wanted); 6] = [
        (RequestQuery::default(), Some("ann"), |row| {
            &*row.user_id == "ann"
        }),
        (
            RequestQuery {
                user_id: some("bob"),
                ..RequestQuery::default()
            },
            Some("ann"),
            |_| false,
        ),
        (
            RequestQuery {
                user_id: some("bob"),
                ..RequestQuery::default()
            },
            None,
            |row| &*row.user_id == "bob",
        ),
        (
            RequestQuery {
                session_id: some("s"),
                model: some("old"),
                ..RequestQuery::default()
            },
            None,
            |row| row.session_id.is_some() && row.model_name == "old",
        ),
        (
            RequestQuery {
                status: some("error"),
                ..RequestQuery::default()
            },
            None,
            |row| row.status == Status::Error,
        ),
        (
            RequestQuery {
                from: some("2000-01-01"),
                to: some("2000-01-02"),
                ..RequestQuery::default()
            },
            None,
            |_| false,
        ),
    ];
    for (query, owner, wanted) in cases {
        let expected: Vec<_> = written.iter().filter(|row| wanted(row)).cloned().collect();
        assert_eq!(
            database.requests(&query, owner).await.unwrap().data,
            expected,
            "{query:?}"
        );
    }
    let since = RequestQuery {
        from: Some(middle.clone()),
        ..RequestQuery::default()
    };
    let until = RequestQuery {
        to: Some(middle),
        ..RequestQuery::default()
    };
    assert_eq!(
        database.requests(&since, None).await.unwrap().data,
        written[..11]
    );
    assert_eq!(
        database.requests(&until, None).await.unwrap().data,
        written[11..]
    );

    for (query, member) in [
        (
            RequestQuery {
                limit: Some(0),
                ..RequestQuery::default()
            },
            "limit",
        ),
        (
            RequestQuery {
                limit: Some(1_001),
                ..RequestQuery::default()
            },
            "limit",
        ),
        (
            RequestQuery {
                cursor: some("x"),
                ..RequestQuery::default()
            },
            "cursor",
        ),
        (
            RequestQuery {
                from: some("2026-13-01"),
                ..RequestQuery::default()
            },
            "from",
        ),
        (
            RequestQuery {
                to: some("2026-01-01T10:00:00"),
                ..RequestQuery::default()
            },
            "to",
        ),
        (
            RequestQuery {
                model: some("a\0"),
                ..RequestQuery::default()
            },
            "model",
        ),
    ] {
        let error = database.requests(&query, None).await.unwrap_err();
        assert_eq!(
            (error.code(), error.param()),
            ("invalid_value", Some(member))
        );
    }

    let total = |requests: u64, failed_requests, group: &[(&str, &str)]| UsageTotal {
        group: group
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        requests,
        failed_requests,
        input_tokens: 7 * requests,
        output_tokens: 11 * requests,
        cached_tokens: 2 * requests,
        reasoning_tokens: 3 * requests,
        ..UsageTotal::default()
    };
    let usage = async |by: &[&str], owner| {
        let by = by.iter().map(|name| name.to_string()).collect();
        let totals = database
            .usage(
                &UsageQuery {
                    by,
                    ..UsageQuery::default()
                },
                owner,
                &Exchange::default(),
            )
            .await;
        // What they cost is in `usage.rs`.
        let without_cost = |total| UsageTotal {
            cost: CostTotal::default(),
            ..total
        };
        totals.map(|totals| totals.into_iter().map(without_cost).collect::<Vec<_>>())
    };
    assert_eq!(usage(&[], None).await.unwrap(), [total(25, 1, &[])]);
    assert_eq!(
        usage(&[], Some("nobody")).await.unwrap(),
        [total(0, 0, &[])]
    );
    assert_eq!(
        usage(&["model"], Some("bob")).await.unwrap(),
        [
            total(3, 0, &[("model", "new")]),
            total(2, 0, &[("model", "old")]),
        ]
    );
    assert_eq!(
        usage(&["user", "model", "user"], None).await.unwrap(),
        [
            total(12, 0, &[("model", "new"), ("user", "ann")]),
            total(3, 0, &[("model", "new"), ("user", "bob")]),
            total(8, 1, &[("model", "old"), ("user", "ann")]),
            total(2, 0, &[("model", "old"), ("user", "bob")]),
        ]
    );
    assert_eq!(
        usage(&["key", "provider"], None).await.unwrap(),
        [
            total(24, 1, &[("key", ""), ("provider", "openai")]),
            total(1, 0, &[("key", "key"), ("provider", "openai")]),
        ]
    );
    let days = usage(&["day"], None).await.unwrap();
    assert_eq!(days.iter().map(|day| day.requests).sum::<u64>(), 25);
    assert!(
        days.iter()
            .any(|day| day.group["day"] == written[0].created_at[..10])
    );
    assert_eq!(
        usage(&["colour"], None).await.unwrap_err().param(),
        Some("by")
    );
}

#[tokio::test]
async fn reads_on_postgres() {
    conforms(testing::postgres().await).await;
}

#[tokio::test]
async fn reads_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    conforms(testing::sqlite(directory.path()).await).await;
}
