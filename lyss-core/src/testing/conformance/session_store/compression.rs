//! What a store promises about the prefix of a conversation.

use std::time::Duration;

use super::{appended, fresh_key, loaded, texts, turn};
use crate::{
    session::SessionStore,
    types::{
        RequestId,
        session::{Prefix, SessionKey, SessionStatus},
    },
};

const LEASE: Duration = Duration::from_millis(400);

/// Runs every promise about compression.
pub async fn run_all(store: &dyn SessionStore) {
    a_prefix_stands_for_messages_that_stay(store).await;
    a_prefix_only_follows_its_predecessor(store).await;
    appends_and_compressions_do_not_disturb_each_other(store).await;
    a_compression_shows_and_is_one_at_a_time(store).await;
}

async fn conversation(store: &dyn SessionStore, turns: u64) -> SessionKey {
    let key = fresh_key("s");
    for version in 0..turns {
        appended(store, &key, &turn(&["q", "a"]), version)
            .await
            .unwrap();
    }
    key
}

fn prefix(version: u64, upto: u64) -> Prefix {
    Prefix {
        version,
        upto,
        covered_tokens: upto * 10,
        summary: Some(format!("\"sum\" of {upto} … \u{1F600}").into()),
        summary_tokens: 7,
    }
}

async fn status(store: &dyn SessionStore, key: &SessionKey) -> SessionStatus {
    store.get(key).await.unwrap().unwrap().status
}

/// `load` gives the prefix and what follows it; `messages` gives all, and the session says how many are covered.
pub async fn a_prefix_stands_for_messages_that_stay(store: &dyn SessionStore) {
    let key = conversation(store, 4).await;
    let before = loaded(store, &key).await;
    assert_eq!(before.prefix, Prefix::default());
    assert_eq!(before.session.compressed_count, 0);
    let by = RequestId::new();
    assert!(store.compress(&key, &prefix(1, 5), by).await.unwrap());
    let after = loaded(store, &key).await;
    assert_eq!(after.prefix, prefix(1, 5));
    assert_eq!(after.version, before.version);
    assert_eq!(texts(&after), ["a", "q", "a"]);
    assert_eq!(after.messages.first().map(|message| message.seq), Some(6));
    assert_eq!(after.session.compressed_count, 5);
    assert_eq!(after.session.message_count, 8);
    let page = store.messages(&key, 3, 3).await.unwrap().unwrap();
    assert_eq!(page.session, after.session);
    let seqs: Vec<_> = page.messages.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, [4, 5, 6]);
    let none = Prefix {
        summary: None,
        summary_tokens: 0,
        ..prefix(2, 8)
    };
    assert!(store.compress(&key, &none, by).await.unwrap());
    let after = loaded(store, &key).await;
    assert_eq!((after.prefix, after.messages.len()), (none, 0));
    assert_eq!(
        store.list(&key.user_id, None, 9).await.unwrap().sessions,
        [after.session]
    );
}

/// Of two compressions from the same state one wins; one that covers less than before, or more than there is, none.
pub async fn a_prefix_only_follows_its_predecessor(store: &dyn SessionStore) {
    let key = conversation(store, 4).await;
    let by = RequestId::new();
    assert!(!store.compress(&key, &prefix(2, 4), by).await.unwrap());
    assert!(!store.compress(&key, &prefix(1, 9), by).await.unwrap());
    assert!(store.compress(&key, &prefix(1, 4), by).await.unwrap());
    assert!(!store.compress(&key, &prefix(1, 5), by).await.unwrap());
    assert!(!store.compress(&key, &prefix(2, 3), by).await.unwrap());
    assert_eq!(loaded(store, &key).await.prefix, prefix(1, 4));
    assert!(store.compress(&key, &prefix(2, 4), by).await.unwrap());
    let missing = fresh_key("s");
    assert!(!store.compress(&missing, &prefix(1, 0), by).await.unwrap());
    assert_eq!(store.get(&missing).await.unwrap(), None);
    assert!(store.delete(&key).await.unwrap());
    appended(store, &key, &turn(&["new"]), 0).await.unwrap();
    let anew = loaded(store, &key).await;
    assert_eq!(texts(&anew), ["new"]);
    assert_eq!(anew.prefix, Prefix::default());
}

/// An append goes by the version, a compression by the prefix: neither fences the other.
pub async fn appends_and_compressions_do_not_disturb_each_other(store: &dyn SessionStore) {
    let key = conversation(store, 2).await;
    for round in 1..6 {
        let turn = turn(&["q", "a"]);
        let prefix = prefix(round, round);
        let (version, done) = tokio::join!(
            appended(store, &key, &turn, round + 1),
            store.compress(&key, &prefix, RequestId::new())
        );
        assert_eq!((version.unwrap(), done.unwrap()), (round + 2, true));
    }
    let session = loaded(store, &key).await;
    assert_eq!((session.version, session.prefix.upto), (7, 5));
    assert_eq!(session.messages.len(), 9);
}

/// While a session is being compressed it says so and nobody else begins to; it ends by itself when it is forgotten.
pub async fn a_compression_shows_and_is_one_at_a_time(store: &dyn SessionStore) {
    let key = conversation(store, 3).await;
    let (one, two) = (RequestId::new(), RequestId::new());
    let long = LEASE * 100;
    assert!(store.begin_compression(&key, one, long).await.unwrap());
    assert_eq!(status(store, &key).await, SessionStatus::Compressing);
    assert!(!store.begin_compression(&key, two, long).await.unwrap());
    store.end_compression(&key, two).await.unwrap();
    assert_eq!(status(store, &key).await, SessionStatus::Compressing);
    store.end_compression(&key, one).await.unwrap();
    assert_eq!(status(store, &key).await, SessionStatus::Active);
    assert!(store.begin_compression(&key, two, long).await.unwrap());
    assert!(store.compress(&key, &prefix(1, 2), two).await.unwrap());
    assert_eq!(status(store, &key).await, SessionStatus::Active);
    assert!(store.begin_compression(&key, one, LEASE).await.unwrap());
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(status(store, &key).await, SessionStatus::Active);
    assert!(store.begin_compression(&key, two, LEASE).await.unwrap());
    let missing = fresh_key("s");
    assert!(!store.begin_compression(&missing, one, LEASE).await.unwrap());
    store.end_compression(&missing, one).await.unwrap();
}
