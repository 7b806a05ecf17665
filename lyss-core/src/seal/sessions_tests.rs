#![allow(clippy::unwrap_used, clippy::panic)]
use std::{collections::HashMap, sync::Arc};

use super::*;
use crate::{
    seal::SealKey,
    session::MemorySessionStore,
    testing::conformance::session_store::{self as promises, fresh_key, turn},
};

const LIFE: Duration = Duration::from_secs(600);

fn ring(key: u8, others: &[u8]) -> SealRing {
    let others = others.iter().map(|key| SealKey::new(&[*key; 32])).collect();
    SealRing::new(SealKey::new(&[key; 32]), others)
}

fn pair(ring: SealRing) -> (SharedSessionStore, SealedSessions) {
    let below: SharedSessionStore = Arc::new(MemorySessionStore::new(LIFE));
    let above = SealedSessions::new(Arc::clone(&below), ring, true);
    (below, above)
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_of_a_store() {
    promises::run_all(async |ttl| {
        let below = Arc::new(MemorySessionStore::new(ttl));
        Arc::new(SealedSessions::new(below, ring(1, &[]), true)) as SharedSessionStore
    })
    .await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises_over_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lyss.db");
    let source = crate::database::DatabaseSource::Sqlite(path);
    let database = crate::database::Database::open(source, 8).unwrap();
    database.migrate().await.unwrap();
    promises::run_all(async |ttl| {
        let below = Arc::new(crate::session::DatabaseSessionStore::new(
            database.clone(),
            ttl,
        ));
        Arc::new(SealedSessions::new(below, ring(1, &[]), true)) as SharedSessionStore
    })
    .await;
}

#[tokio::test]
async fn nothing_of_the_content_reaches_the_store_below() {
    let (below, above) = pair(ring(1, &[]));
    let key = fresh_key("s");
    let metadata = Metadata::from_iter([("note".to_owned(), "SECRET".into())]);
    let created = above.create(&key, Some(metadata.clone())).await.unwrap();
    assert_eq!(created.metadata, Some(metadata.clone()));
    let mut spoken = turn(&[r#"{"role":"user","content":"SECRET"}"#, "{}"]);
    spoken.system = Some(Bytes::from_static(b"[\"SECRET\"]"));
    above.append(&key, &spoken, 0).await.unwrap();
    let prefix = Prefix {
        version: 1,
        upto: 1,
        summary: Some(Bytes::from_static(b"SECRET")),
        ..Prefix::default()
    };
    assert!(
        above
            .compress(&key, &prefix, RequestId::new())
            .await
            .unwrap()
    );

    let stored = below.load(&key).await.unwrap().unwrap();
    let all = below.messages(&key, 0, 10).await.unwrap().unwrap();
    let listed = below.list(&key.user_id, None, 10).await.unwrap();
    let seen = format!("{stored:?} {all:?} {listed:?}");
    assert!(
        !seen.contains("SECRET") && seen.contains("lyss.sealed.1."),
        "{seen}"
    );

    let loaded = above.load(&key).await.unwrap().unwrap();
    assert_eq!(loaded.system, spoken.system);
    assert_eq!(loaded.prefix.summary, prefix.summary);
    assert_eq!(loaded.session.metadata, Some(metadata.clone()));
    assert_eq!(&loaded.messages[0].json[..], b"{}");
    let page = above.messages(&key, 0, 10).await.unwrap().unwrap();
    assert_eq!(page.messages[0].json, spoken.messages[0].0);
    let listed = above.list(&key.user_id, None, 10).await.unwrap();
    assert_eq!(listed.sessions[0].metadata, Some(metadata));
}

#[tokio::test]
async fn clear_and_sealed_turns_are_read_side_by_side() {
    let below: SharedSessionStore = Arc::new(MemorySessionStore::new(LIFE));
    let key = fresh_key("s");
    below.append(&key, &turn(&["{\"a\":1}"]), 0).await.unwrap();
    let above = SealedSessions::new(Arc::clone(&below), ring(1, &[]), true);
    above.append(&key, &turn(&["{\"b\":2}"]), 1).await.unwrap();
    // The key has been taken out of use, and the next turn is in the clear again.
    let opening = SealedSessions::new(Arc::clone(&below), ring(2, &[1]), false);
    opening
        .append(&key, &turn(&["{\"c\":3}"]), 2)
        .await
        .unwrap();
    let texts: Vec<_> = opening.load(&key).await.unwrap().unwrap().messages;
    let texts: Vec<_> = texts.iter().map(|message| &message.json[..]).collect();
    assert_eq!(texts, [b"{\"a\":1}", b"{\"b\":2}", b"{\"c\":3}"]);
    let stored = below.load(&key).await.unwrap().unwrap();
    assert_eq!(&stored.messages[2].json[..], b"{\"c\":3}");
}

#[tokio::test]
async fn the_same_turn_again_is_the_same_bytes() {
    let (below, above) = pair(ring(1, &[]));
    let key = fresh_key("s");
    let spoken = turn(&["{\"a\":1}"]);
    let one = above.sealed_turn(&key, &spoken, 1).await.unwrap();
    assert_eq!(one, above.sealed_turn(&key, &spoken, 1).await.unwrap());
    above.append(&key, &spoken, 0).await.unwrap();
    assert_eq!(
        above.append(&key, &spoken, 0).await.unwrap(),
        Appended::At(1)
    );
    assert_eq!(below.get(&key).await.unwrap().unwrap().message_count, 1);
}

#[tokio::test]
async fn what_was_moved_or_sealed_by_an_unknown_key_is_corrupt() {
    let (below, above) = pair(ring(1, &[]));
    let key = fresh_key("s");
    above.append(&key, &turn(&["{\"a\":1}"]), 0).await.unwrap();
    let stored = below.load(&key).await.unwrap().unwrap();
    // Another session, and another turn of the same one.
    let moved = Turn {
        messages: vec![(stored.messages[0].json.clone(), 1)],
        ..turn(&[])
    };
    let elsewhere = fresh_key("s");
    below.append(&elsewhere, &moved, 0).await.unwrap();
    below.append(&key, &moved, 1).await.unwrap();
    let other = SealedSessions::new(Arc::clone(&below), ring(2, &[]), true);
    let mut errors = HashMap::new();
    errors.insert("moved", above.load(&elsewhere).await.unwrap_err());
    errors.insert("replayed", above.load(&key).await.unwrap_err());
    errors.insert("other key", other.messages(&key, 0, 1).await.unwrap_err());
    for (what, error) in errors {
        assert_eq!(error.kind(), ErrorKind::SessionCorrupt, "{what}");
        assert!(!format!("{error:?}").contains("lyss.sealed"), "{what}");
    }
}
