//! What the conformance suite cannot ask: damage, cost, an absent server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::*;
use crate::{
    database::testing,
    session::SharedSessionStore,
    testing::conformance::session_store::{self as promises, fresh_key, turn},
    types::session::Ticket,
};

async fn conforms(database: Database) {
    promises::run_all(async |ttl| {
        Arc::new(DatabaseSessionStore::new(database.clone(), ttl)) as SharedSessionStore
    })
    .await;
}

async fn keeps_the_order(database: Database) {
    promises::turns(async |ttl| {
        Arc::new(DatabaseSessionStore::new(database.clone(), ttl)) as SharedSessionStore
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_turns_on_postgres() {
    keeps_the_order(testing::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_turns_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    keeps_the_order(testing::sqlite(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_on_postgres() {
    conforms(testing::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    conforms(testing::sqlite(directory.path()).await).await;
}

async fn execute(database: &Database, sql: &'static str) {
    on!(Pool, &database.pool, |pool| {
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    });
}

async fn count(database: &Database, sql: &'static str) -> i64 {
    on!(Pool, &database.pool, |pool| sqlx::query_scalar(sql)
        .fetch_one(pool)
        .await
        .unwrap())
}

async fn damaged_swept_and_cheap(database: Database) {
    let store = DatabaseSessionStore::new(database.clone(), Duration::from_secs(600));
    promises::damage_is_reported_and_left(
        &store,
        async |_| execute(&database, "UPDATE sessions SET version = -1").await,
        async |key| {
            let sql = "SELECT version, message_count, last_request FROM sessions WHERE id = $1";
            let row: (i64, i64, String) = on!(Pool, &database.pool, |pool| sqlx::query_as(sql)
                .bind(&key.id)
                .fetch_one(pool)
                .await
                .unwrap());
            vec![format!("{row:?}").into_bytes()]
        },
    )
    .await;
    let key = fresh_key("s");
    let corrupt = ErrorKind::SessionCorrupt;
    for sql in [
        "DELETE FROM session_messages WHERE seq = 1",
        "UPDATE session_messages SET tokens = -1",
        "UPDATE sessions SET metadata = '[1]'",
    ] {
        store.append(&key, &turn(&["a", "b"]), 0).await.unwrap();
        execute(&database, sql).await;
        let error = store.load(&key).await.unwrap_err();
        assert_eq!(error.kind(), corrupt, "{sql}");
        store.delete(&key).await.unwrap();
    }

    // An append writes its own messages and touches one session row, however long the history.
    store.append(&key, &turn(&["x"; 2500]), 0).await.unwrap();
    execute(&database, "UPDATE session_messages SET tokens = 77").await;
    store.append(&key, &turn(&["y", "z"]), 1).await.unwrap();
    let rows = "SELECT COUNT(*) FROM session_messages WHERE tokens = 77";
    assert_eq!(count(&database, rows).await, 2500);
    let rows = "SELECT COUNT(*) FROM session_messages WHERE turn = 2 AND seq IN (2501, 2502)";
    assert_eq!(count(&database, rows).await, 2);

    let brief = DatabaseSessionStore::new(database.clone(), Duration::from_millis(1));
    for n in 0..600 {
        let key = fresh_key(&n.to_string());
        brief.append(&key, &turn(&["a"]), 0).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let ended = "SELECT COUNT(*) FROM sessions WHERE id <> 's'";
    assert_eq!(count(&database, ended).await, 600);
    assert_eq!(brief.sweep().await.unwrap(), 600);
    assert_eq!(count(&database, ended).await, 0);
    let rows =
        "SELECT COUNT(*) FROM session_messages WHERE session_ref NOT IN (SELECT ref FROM sessions)";
    assert_eq!(count(&database, rows).await, 0);
    assert!(store.get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn damage_sweep_and_cost_on_postgres() {
    damaged_swept_and_cheap(testing::postgres().await).await;
}

#[tokio::test]
async fn damage_sweep_and_cost_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    damaged_swept_and_cheap(testing::sqlite(directory.path()).await).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_an_error_and_no_empty_session() {
    let source =
        crate::database::DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/lyss".into());
    let database = Database::open(source, 1).unwrap();
    let store = DatabaseSessionStore::new(database, Duration::from_secs(60));
    let error = store.load(&fresh_key("s")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionStoreUnavailable);
}

async fn turns_leave_nothing_behind(database: Database) {
    let store = DatabaseSessionStore::new(database.clone(), Duration::from_secs(600));
    let rows = "SELECT COUNT(*) FROM session_turns";
    let (key, unasked) = (fresh_key("s"), fresh_key("s"));
    let ticket = |request_id| Ticket {
        request_id,
        instance: "one".into(),
        first: true,
        wait: true,
        lease: Duration::from_secs(60),
        queue_max: 9,
    };
    let first = turn(&["a"]);
    store
        .begin_turn(&key, &ticket(first.request_id))
        .await
        .unwrap();
    assert_eq!(count(&database, rows).await, 1);

    // An append that is refused leaves the turn with its holder.
    let refused = store.append(&key, &first, 7).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SessionConflict);
    assert_eq!(count(&database, rows).await, 1);
    assert!(
        store
            .renew_turn(&key, &ticket(first.request_id))
            .await
            .unwrap()
    );

    // Someone waits: the end of the first turn is not the row's.
    let second = turn(&["b"]);
    store
        .begin_turn(&key, &ticket(second.request_id))
        .await
        .unwrap();
    store.append(&key, &first, 0).await.unwrap();
    assert_eq!(count(&database, rows).await, 1);
    let begun = store
        .begin_turn(&key, &ticket(second.request_id))
        .await
        .unwrap();
    assert!(matches!(begun, Begun::Granted(Some(_))));
    store.append(&key, &second, 1).await.unwrap();
    assert_eq!(count(&database, rows).await, 0);

    store
        .begin_turn(&unasked, &ticket(first.request_id))
        .await
        .unwrap();
    store.sweep().await.unwrap();
    assert_eq!(count(&database, rows).await, 1, "it may still be asked for");
    execute(&database, "UPDATE session_turns SET expires_ms = 1").await;
    store.sweep().await.unwrap();
    assert_eq!(count(&database, rows).await, 0);

    // That the session was deleted is told again to whom it was told.
    let late = turn(&["c"]);
    store
        .begin_turn(&unasked, &ticket(late.request_id))
        .await
        .unwrap();
    store.delete(&unasked).await.unwrap();
    for _ in 0..2 {
        let told = store.append(&unasked, &late, 0).await.unwrap();
        assert_eq!(told, Appended::Deleted);
    }
    execute(&database, "DELETE FROM session_turns").await;

    // What cannot be read is nobody's turn.
    store
        .begin_turn(&unasked, &ticket(first.request_id))
        .await
        .unwrap();
    execute(&database, "UPDATE session_turns SET state = '{'").await;
    let begun = store.begin_turn(&unasked, &ticket(second.request_id)).await;
    assert_eq!(begun.unwrap(), Begun::Granted(None));
}

#[tokio::test]
async fn turns_leave_nothing_behind_on_postgres() {
    turns_leave_nothing_behind(testing::postgres().await).await;
}

#[tokio::test]
async fn turns_leave_nothing_behind_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    turns_leave_nothing_behind(testing::sqlite(directory.path()).await).await;
}
