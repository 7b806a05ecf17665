//! What every [`SessionStore`] promises.
//!
//! [`run_all`] keeps them all; the single promises are public so that a failing one can be run alone. Every promise
//! works below users of its own, so that a store which outlives the test may be used, and several tests may use it at
//! once.

mod compression;
mod turns;

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use futures::future::join_all;

use crate::{
    error::{ErrorKind, Result},
    session::{SessionStore, SharedSessionStore},
    types::{
        call::RequestId,
        session::{Appended, LoadedSession, Session, SessionKey, SessionStatus, Turn, Version},
    },
};

/// A life that no test outlasts.
const LONG: Duration = Duration::from_secs(600);

/// Runs every promise. `make` gives a store whose sessions live for the given time after their last use.
pub async fn run_all(make: impl AsyncFn(Duration) -> SharedSessionStore) {
    let store = make(LONG).await;
    let store = &*store;
    store.ping().await.unwrap();
    create_returns_the_session_that_exists(store).await;
    a_missing_session_is_none(store).await;
    append_creates_counts_and_keeps_order(store).await;
    a_stale_version_conflicts(store).await;
    racing_appends_lose_nothing(store).await;
    the_same_turn_again_changes_nothing(store).await;
    a_deleted_session_is_not_resurrected(store).await;
    delete_is_idempotent_and_complete(store).await;
    bytes_come_back_equal(store).await;
    hostile_ids_are_data(store).await;
    another_user_finds_nothing(store).await;
    listing_pages_in_order(store).await;
    a_foreign_cursor_is_refused(store).await;
    messages_are_paged(store).await;
    the_system_prompt_is_kept_or_replaced(store).await;
    metadata_is_kept(store).await;
    compression::run_all(store).await;

    let life = Duration::from_millis(1200);
    let store = make(life).await;
    sessions_end_and_use_renews_them(&*store, life).await;
}

pub use compression::run_all as compression;
pub use turns::run_all as turns;

/// A key of a user that nobody else has.
pub fn fresh_key(id: &str) -> SessionKey {
    SessionKey {
        user_id: format!("u-{}", RequestId::new()),
        id: id.to_owned(),
    }
}

/// A turn of the given messages, ten tokens each.
pub fn turn(messages: &[&str]) -> Turn {
    Turn {
        request_id: RequestId::new(),
        system: None,
        history: "digest".into(),
        messages: messages
            .iter()
            .map(|text| (Bytes::from((*text).to_owned()), 10))
            .collect(),
    }
}

/// Appends a turn that nobody deletes the session under.
async fn appended(
    store: &dyn SessionStore,
    key: &SessionKey,
    turn: &Turn,
    expected: Version,
) -> Result<Version> {
    match store.append(key, turn, expected).await? {
        Appended::At(version) => Ok(version),
        Appended::Deleted => panic!("nobody deleted the session"),
    }
}

async fn loaded(store: &dyn SessionStore, key: &SessionKey) -> LoadedSession {
    store.load(key).await.unwrap().expect("the session exists")
}

fn texts(session: &LoadedSession) -> Vec<&str> {
    session
        .messages
        .iter()
        .map(|message| std::str::from_utf8(&message.json).unwrap())
        .collect()
}

async fn listed(store: &dyn SessionStore, user_id: &str) -> Vec<Session> {
    let page = store.list(user_id, None, 100).await.unwrap();
    assert_eq!(page.next_cursor, None);
    page.sessions
}

async fn assert_conflict(store: &dyn SessionStore, key: &SessionKey, expected: Version) {
    let error = appended(store, key, &turn(&["x"]), expected)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionConflict, "{error:?}");
}

/// `create` makes an empty session once; afterwards it returns it, turns and metadata untouched.
pub async fn create_returns_the_session_that_exists(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let metadata = |n: u32| serde_json::json!({"n": n}).as_object().cloned();
    let made = store.create(&key, metadata(1)).await.unwrap();
    assert_eq!((&made.id, &made.user_id), (&key.id, &key.user_id));
    assert_eq!((made.message_count, made.token_count), (0, 0));
    assert_eq!(made.status, SessionStatus::Active);
    assert!(made.created_ms > 1_600_000_000_000 && made.last_activity_ms >= made.created_ms);
    let session = loaded(store, &key).await;
    assert_eq!((session.version, session.messages.len()), (0, 0));
    assert_eq!(session.session, made);
    appended(store, &key, &turn(&["a"]), 0).await.unwrap();
    let again = store.create(&key, metadata(2)).await.unwrap();
    assert_eq!(again.metadata, metadata(1));
    assert_eq!(
        (again.created_ms, again.message_count),
        (made.created_ms, 1)
    );
    assert_eq!(store.get(&key).await.unwrap(), Some(again));

    let key = fresh_key("s");
    let made = join_all((0..16).map(|n| store.create(&key, metadata(n)))).await;
    let made: Vec<_> = made.into_iter().map(|made| made.unwrap()).collect();
    assert!(made.iter().all(|one| one == &made[0]), "one was made");
}

/// A session that does not exist is `None`, and not an error or an empty one.
pub async fn a_missing_session_is_none(store: &dyn SessionStore) {
    let key = fresh_key("nobody");
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(store.load(&key).await.unwrap(), None);
    assert_eq!(store.messages(&key, 0, 10).await.unwrap(), None);
    assert!(listed(store, &key.user_id).await.is_empty());
    assert!(!store.delete(&key).await.unwrap());
    assert_conflict(store, &key, 1).await;
    assert_eq!(
        store.get(&key).await.unwrap(),
        None,
        "a conflict makes nothing"
    );
}

/// Appending to no session at version 0 creates it; counts, positions and turns follow.
pub async fn append_creates_counts_and_keeps_order(store: &dyn SessionStore) {
    let key = fresh_key("s");
    assert_eq!(
        appended(store, &key, &turn(&["a", "b"]), 0).await.unwrap(),
        1
    );
    assert_eq!(appended(store, &key, &turn(&[]), 1).await.unwrap(), 2);
    assert_eq!(appended(store, &key, &turn(&["c"]), 2).await.unwrap(), 3);
    let session = loaded(store, &key).await;
    assert_eq!(session.version, 3);
    assert_eq!(texts(&session), ["a", "b", "c"]);
    let places: Vec<_> = session
        .messages
        .iter()
        .map(|message| (message.seq, message.turn, message.tokens))
        .collect();
    assert_eq!(places, [(1, 1, 10), (2, 1, 10), (3, 3, 10)]);
    assert_eq!(session.session.message_count, 3);
    assert_eq!(session.session.token_count, 30);
    assert!(session.session.last_activity_ms >= session.session.created_ms);
    assert_eq!(listed(store, &key.user_id).await, [session.session]);
}

/// The version is a fence: older and newer ones than the stored are refused, and nothing is written.
pub async fn a_stale_version_conflicts(store: &dyn SessionStore) {
    let key = fresh_key("s");
    appended(store, &key, &turn(&["a"]), 0).await.unwrap();
    appended(store, &key, &turn(&["b"]), 1).await.unwrap();
    let before = loaded(store, &key).await;
    for expected in [0, 1, 3, u64::from(u32::MAX)] {
        assert_conflict(store, &key, expected).await;
    }
    assert_eq!(loaded(store, &key).await, before);
}

/// Of fifty racing appends one wins each version; callers that load and try again all get through, once.
pub async fn racing_appends_lose_nothing(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let race = join_all((0..50).map(|n| {
        let key = &key;
        async move { appended(store, key, &turn(&[&format!("first {n}")]), 0).await }
    }))
    .await;
    let won = race.iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1, "one append wins a version");
    for lost in race.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(lost.kind(), ErrorKind::SessionConflict, "{lost:?}");
    }

    let versions = join_all((0..50).map(|n| {
        let key = &key;
        async move {
            let turn = turn(&[&format!("{n} question"), &format!("{n} answer")]);
            loop {
                let version = loaded(store, key).await.version;
                match appended(store, key, &turn, version).await {
                    Ok(version) => return version,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::SessionConflict, "{error:?}"),
                }
            }
        }
    }))
    .await;
    let distinct: HashSet<_> = versions.iter().copied().collect();
    assert_eq!(distinct, (2..=51).collect(), "every version once");
    let session = loaded(store, &key).await;
    assert_eq!(session.session.message_count, 101);
    let seqs: Vec<_> = session.messages.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=101).collect::<Vec<_>>());
    let texts = texts(&session);
    for (n, version) in versions.iter().enumerate() {
        let at = texts
            .iter()
            .position(|text| *text == format!("{n} question"))
            .unwrap();
        assert_eq!(
            texts[at + 1],
            format!("{n} answer"),
            "turns are not interleaved"
        );
        assert_eq!(session.messages[at].turn, *version);
    }
}

/// Appending the last turn again returns its version and stores nothing, also when the copies race.
pub async fn the_same_turn_again_changes_nothing(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let first = turn(&["a"]);
    let racing = join_all((0..8).map(|_| appended(store, &key, &first, 0))).await;
    for result in racing {
        assert_eq!(result.unwrap(), 1);
    }
    let second = turn(&["b"]);
    assert_eq!(appended(store, &key, &second, 1).await.unwrap(), 2);
    let before = loaded(store, &key).await;
    assert_eq!(appended(store, &key, &second, 1).await.unwrap(), 2);
    assert_eq!(loaded(store, &key).await, before);
    let error = appended(store, &key, &first, 0).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::SessionConflict,
        "only the last turn is known again"
    );
}

/// A turn that was loaded before its session was deleted is refused, and the session stays deleted.
pub async fn a_deleted_session_is_not_resurrected(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let first = turn(&["a"]);
    appended(store, &key, &first, 0).await.unwrap();
    assert!(store.delete(&key).await.unwrap());
    assert_conflict(store, &key, 1).await;
    let error = appended(store, &key, &first, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionConflict);
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(listed(store, &key.user_id).await.is_empty());
}

/// Deleting takes messages, prompt, metadata and the listing's entry with it; a second time is no error. A session that
/// is then made under the same id is a new one.
pub async fn delete_is_idempotent_and_complete(store: &dyn SessionStore) {
    let (key, other) = (fresh_key("s"), fresh_key("s"));
    let neighbour = SessionKey {
        user_id: key.user_id.clone(),
        id: "t".into(),
    };
    for key in [&key, &other, &neighbour] {
        appended(store, key, &turn(&["a", "b"]), 0).await.unwrap();
    }
    assert!(store.delete(&key).await.unwrap());
    assert!(!store.delete(&key).await.unwrap());
    assert_eq!(store.load(&key).await.unwrap(), None);
    assert_eq!(store.messages(&key, 0, 10).await.unwrap(), None);
    let left = listed(store, &key.user_id).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].id, "t");
    assert_eq!(loaded(store, &other).await.messages.len(), 2);
    assert_eq!(loaded(store, &neighbour).await.messages.len(), 2);
    assert_eq!(appended(store, &key, &turn(&["new"]), 0).await.unwrap(), 1);
    let again = loaded(store, &key).await;
    assert_eq!(texts(&again), ["new"]);
    assert_eq!((again.system, again.session.metadata), (None, None));
}

/// A message comes back byte for byte: number formats, escapes, whitespace, unicode, a mebibyte.
pub async fn bytes_come_back_equal(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let big = format!(
        r#"{{"role":"user","content":"{}"}}"#,
        "ä".repeat(512 * 1024)
    );
    let messages = [
        r#"{"role":"user","content":"日本語 🦀 \u00e9 \ud83e\udd80"}"#,
        r#"{ "b" : 1.0 ,"a":1E+2, "n": 12345678901234567890123 ,  "b2":-0 }"#,
        "{\"content\":\"line\\nbreak\"}\n\t ",
        "",
        "1 2 3",
        big.as_str(),
    ];
    let mut turn = turn(&messages);
    let system =
        Bytes::from_static("[ {\"role\":\"system\",\"content\":\"é\\u0000\"} ]".as_bytes());
    turn.system = Some(system.clone());
    appended(store, &key, &turn, 0).await.unwrap();
    let session = loaded(store, &key).await;
    assert_eq!(session.system, Some(system));
    assert_eq!(session.messages.len(), messages.len());
    for (stored, sent) in session.messages.iter().zip(messages) {
        assert!(
            stored.json == sent.as_bytes(),
            "{:.60} came back changed",
            sent
        );
    }
    let page = store.messages(&key, 0, 100).await.unwrap().unwrap();
    assert_eq!(page.messages, session.messages);
}

/// Whatever an id contains, it names one session, its own, and comes back unchanged.
pub async fn hostile_ids_are_data(store: &dyn SessionStore) {
    let long = "ж".repeat(128);
    let ids = [
        "a:b",
        "../x",
        "..",
        "/",
        "{}",
        "{a}b",
        "}",
        "*",
        "a*",
        "?",
        "[a-z]",
        "%",
        "_",
        "a%b",
        "'",
        "\"",
        "`",
        "\\",
        "'; --",
        "$1",
        "a b",
        " ",
        " a",
        "a ",
        "A",
        "a",
        "é",
        "e\u{301}",
        "日本",
        "🦀",
        "\u{feff}",
        "\u{202e}",
        "%00",
        "+inf",
        "(1",
        "-",
        "a.b",
        "lyss:s:{x}:h",
        &long,
    ];
    let user = fresh_key("").user_id;
    let key = |id: &str| SessionKey {
        user_id: user.clone(),
        id: id.to_owned(),
    };
    for id in ids {
        assert_eq!(
            appended(store, &key(id), &turn(&[id]), 0).await.unwrap(),
            1,
            "{id:?} is new"
        );
    }
    for id in ids {
        let session = loaded(store, &key(id)).await;
        assert_eq!(session.session.id, id);
        assert_eq!(texts(&session), [id]);
    }
    let found: HashSet<_> = listed(store, &user)
        .await
        .into_iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(found, ids.iter().map(|id| (*id).to_owned()).collect());
    assert!(store.delete(&key("*")).await.unwrap());
    assert!(store.delete(&key("%")).await.unwrap());
    assert_eq!(
        listed(store, &user).await.len(),
        ids.len() - 2,
        "patterns match nothing"
    );

    // The same characters, cut elsewhere into user and id.
    let cuts = ["a:b:c", "a.b.c", "a/b/c", "a}b{c", "YQ.Yg.Yw"];
    for cut in cuts {
        let places: Vec<_> = (0..=cut.len()).map(|at| cut.split_at(at)).collect();
        for (left, id) in &places {
            let key = SessionKey {
                user_id: format!("{user}{left}"),
                id: (*id).to_owned(),
            };
            let text = format!("{left}|{id}");
            appended(store, &key, &turn(&[&text]), 0).await.unwrap();
            assert_eq!(texts(&loaded(store, &key).await), [text]);
        }
    }
}

/// No method finds, changes or deletes a session of another user.
pub async fn another_user_finds_nothing(store: &dyn SessionStore) {
    let key = fresh_key("shared");
    let stranger = fresh_key("shared");
    let metadata = serde_json::json!({"secret": 1}).as_object().cloned();
    store.create(&key, metadata).await.unwrap();
    appended(store, &key, &turn(&["a"]), 0).await.unwrap();
    let before = loaded(store, &key).await;
    assert_eq!(store.get(&stranger).await.unwrap(), None);
    assert_eq!(store.load(&stranger).await.unwrap(), None);
    assert_eq!(store.messages(&stranger, 0, 10).await.unwrap(), None);
    assert!(listed(store, &stranger.user_id).await.is_empty());
    assert!(!store.delete(&stranger).await.unwrap());
    assert_conflict(store, &stranger, 1).await;
    let own = store.create(&stranger, None).await.unwrap();
    assert_eq!((own.message_count, own.metadata), (0, None));
    assert_eq!(
        appended(store, &stranger, &turn(&["b"]), 0).await.unwrap(),
        1
    );
    assert_eq!(loaded(store, &key).await, before);
    let page = store.list(&key.user_id, None, 1).await.unwrap();
    assert_eq!(page.sessions.len(), 1);
    assert_eq!(listed(store, &stranger.user_id).await.len(), 1);
}

/// Pages go from the newest activity to the oldest, without loss or repetition, however many share a millisecond.
pub async fn listing_pages_in_order(store: &dyn SessionStore) {
    let user = fresh_key("").user_id;
    let key = |n: usize| SessionKey {
        user_id: user.clone(),
        id: format!("s{n}"),
    };
    let keys: Vec<_> = (0..83).map(key).collect();
    for result in join_all(keys.iter().map(|key| store.create(key, None))).await {
        result.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    appended(store, &key(7), &turn(&["a"]), 0).await.unwrap();
    let all = listed(store, &user).await;
    assert_eq!(all.len(), 83);
    assert_eq!(all[0].id, "s7", "the latest activity is first");
    assert!(all.is_sorted_by(|a, b| a.last_activity_ms >= b.last_activity_ms));
    for limit in [1, 7, 82, 83, 84] {
        let mut paged = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = store.list(&user, cursor.as_deref(), limit).await.unwrap();
            assert!(page.sessions.len() <= limit);
            paged.extend(page.sessions);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
            assert!(paged.len() < 83, "a page after the last");
        }
        assert_eq!(paged, all, "in pages of {limit}");
    }
    // A cursor still works when the session it was made from is gone.
    let page = store.list(&user, None, 3).await.unwrap();
    let last = &page.sessions[2];
    let gone = SessionKey {
        user_id: user.clone(),
        id: last.id.clone(),
    };
    store.delete(&gone).await.unwrap();
    let rest = store
        .list(&user, page.next_cursor.as_deref(), 100)
        .await
        .unwrap();
    assert_eq!(rest.sessions, all[3..]);
}

/// A cursor that the store did not make is `invalid_value`.
pub async fn a_foreign_cursor_is_refused(store: &dyn SessionStore) {
    let user = fresh_key("").user_id;
    for cursor in ["", "0", "x", "null", "' OR 1=1", "日本", "AAAA"] {
        let error = store.list(&user, Some(cursor), 10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue, "{cursor}: {error:?}");
        assert_eq!(error.param(), Some("cursor"));
    }
}

/// Messages come oldest first, after a position, at most so many; also when they are many megabytes.
pub async fn messages_are_paged(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let filling = "x".repeat(100_000);
    for n in 0..15_u64 {
        let texts: Vec<_> = (1..=3)
            .map(|m| format!("{} {filling}", n * 3 + m))
            .collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        appended(store, &key, &turn(&texts), n).await.unwrap();
    }
    for (after, limit, expected) in [
        (0, 0, 1..1),
        (0, 1, 1..2),
        (0, 45, 1..46),
        (0, usize::MAX, 1..46),
        (10, 5, 11..16),
        (44, 9, 45..46),
        (45, 9, 1..1),
        (u64::MAX, usize::MAX, 1..1),
    ] {
        let page = store.messages(&key, after, limit).await.unwrap().unwrap();
        let seqs: Vec<_> = page.messages.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, expected.collect::<Vec<_>>(), "after {after}, {limit}");
        for message in page.messages {
            let start = format!("{} x", message.seq);
            assert!(message.json.starts_with(start.as_bytes()));
            assert_eq!(message.turn, (message.seq - 1) / 3 + 1);
        }
    }
    let session = loaded(store, &key).await;
    assert_eq!(
        session.messages.len(),
        45,
        "a load reads all of a long session"
    );
}

/// `system: None` leaves the prompt, `Some` replaces it; it counts as no message.
pub async fn the_system_prompt_is_kept_or_replaced(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let prompt = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let with = |system| Turn {
        system,
        ..turn(&["a"])
    };
    appended(store, &key, &with(None), 0).await.unwrap();
    assert_eq!(loaded(store, &key).await.system, None);
    appended(store, &key, &with(prompt("[1]")), 1)
        .await
        .unwrap();
    appended(store, &key, &with(None), 2).await.unwrap();
    assert_eq!(loaded(store, &key).await.system, prompt("[1]"));
    appended(store, &key, &with(prompt("[]")), 3).await.unwrap();
    let session = loaded(store, &key).await;
    assert_eq!(session.system, prompt("[]"));
    assert_eq!(session.session.message_count, 4);
}

/// Metadata comes back as the same JSON, also when it is large, empty or foreign.
pub async fn metadata_is_kept(store: &dyn SessionStore) {
    for value in [
        serde_json::json!({}),
        serde_json::json!({"ключ": ["a", null, {"b": 1.5}], "": "'\"\\"}),
        serde_json::json!({"long": "y".repeat(16_000)}),
    ] {
        let key = fresh_key("s");
        let metadata = value.as_object().cloned();
        let made = store.create(&key, metadata.clone()).await.unwrap();
        assert_eq!(made.metadata, metadata);
        appended(store, &key, &turn(&["a"]), 0).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().unwrap().metadata, metadata);
        assert_eq!(listed(store, &key.user_id).await[0].metadata, metadata);
    }
}

/// Without use a session ends, wholly; each of `load`, `create` and `append` gives it its life anew.
pub async fn sessions_end_and_use_renews_them(store: &dyn SessionStore, life: Duration) {
    let keys = ["unused", "loaded", "created", "appended"].map(fresh_key);
    let [unused, load, create, append] = &keys;
    let first = turn(&["a"]);
    for key in &keys {
        appended(store, key, &first, 0).await.unwrap();
    }
    for n in 1..=4 {
        tokio::time::sleep(life / 2).await;
        assert!(store.load(load).await.unwrap().is_some(), "load renews");
        let found = store.create(create, None).await.unwrap();
        assert_eq!(found.message_count, 1, "create renews");
        appended(store, append, &turn(&["b"]), n).await.unwrap();
    }
    assert_eq!(store.get(unused).await.unwrap(), None);
    assert_eq!(store.load(unused).await.unwrap(), None);
    assert_eq!(store.messages(unused, 0, 10).await.unwrap(), None);
    assert!(listed(store, &unused.user_id).await.is_empty());
    assert!(!store.delete(unused).await.unwrap());
    let error = appended(store, unused, &turn(&["b"]), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionConflict);
    for key in [load, create, append] {
        assert_eq!(
            listed(store, &key.user_id).await.len(),
            1,
            "{} is listed",
            key.id
        );
    }
    // What has ended does not come back with its id.
    assert_eq!(appended(store, unused, &first, 0).await.unwrap(), 1);
    assert_eq!(texts(&loaded(store, unused).await), ["a"]);
    tokio::time::sleep(life * 5 / 4).await;
    for key in &keys {
        assert_eq!(store.get(key).await.unwrap(), None, "{} has ended", key.id);
    }
}

/// A stored value that cannot be read is `session_corrupt` for every method but `delete`, and is left as it is.
///
/// For stores whose values can be damaged from outside: `damage` does it to a session with one turn, `look` returns
/// what then lies there.
pub async fn damage_is_reported_and_left(
    store: &dyn SessionStore,
    damage: impl AsyncFn(&SessionKey),
    look: impl AsyncFn(&SessionKey) -> Vec<Vec<u8>>,
) {
    let key = fresh_key("s");
    appended(store, &key, &turn(&["a"]), 0).await.unwrap();
    damage(&key).await;
    let before = look(&key).await;
    let kind = |error: crate::Error| error.kind();
    let corrupt = ErrorKind::SessionCorrupt;
    assert_eq!(store.load(&key).await.map_err(kind), Err(corrupt), "load");
    let next = appended(store, &key, &turn(&["b"]), 1).await.map_err(kind);
    let first = appended(store, &key, &turn(&["b"]), 0).await.map_err(kind);
    assert_eq!((next, first), (Err(corrupt), Err(corrupt)), "append");
    let page = store.messages(&key, 0, 10).await.map_err(kind);
    assert_eq!(page, Err(corrupt), "messages");
    assert_eq!(look(&key).await, before, "left as it was");
    assert!(store.delete(&key).await.unwrap(), "delete is the way out");
    assert_eq!(appended(store, &key, &turn(&["new"]), 0).await.unwrap(), 1);
}
