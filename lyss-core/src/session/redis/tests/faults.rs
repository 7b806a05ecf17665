//! A Redis that does not answer, or of which the answer is lost.

use std::time::Instant;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::{proxy::Proxy, *};
use crate::session::{Patience, TurnQueue, save};

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_given_up_after_five_commands_and_found_again() {
    let proxy = Proxy::start().await;
    let source = RedisSource {
        command_timeout: Duration::from_millis(50),
        dial_timeout: Duration::from_secs(1),
        ..source(proxy.addr.clone())
    };
    let store = RedisSessionStore::connect(source, HOUR).await.unwrap();
    let key = promises::fresh_key("s");
    proxy.freeze();
    for n in 0..20 {
        let begin = Instant::now();
        let error = store.load(&key).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::SessionStoreUnavailable,
            "{error:?}"
        );
        let took = begin.elapsed();
        if n < 5 {
            assert!((45..200).contains(&took.as_millis()), "{n}: {took:?}");
        } else {
            assert!(took < Duration::from_millis(20), "{n}: {took:?}");
        }
    }
    assert!(store.ping().await.is_err());
    proxy.free();
    let begin = Instant::now();
    while store.ping().await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(2), "not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.load(&key).await.unwrap(), None);
}

/// A store through a proxy, and how long it waits for an answer.
async fn through(proxy: &Proxy) -> (RedisSessionStore, Duration) {
    let patience = Duration::from_millis(600);
    let source = RedisSource {
        command_timeout: patience,
        ..source(proxy.addr.clone())
    };
    let store = RedisSessionStore::connect(source, HOUR).await.unwrap();
    (store, patience)
}

#[tokio::test]
async fn a_turn_of_which_the_grant_was_lost_is_granted_when_asked_for_again() {
    let proxy = Proxy::start().await;
    let (store, _) = through(&proxy).await;
    let key = promises::fresh_key("s");
    let a = ticket("a");
    proxy.hold_answers();
    let error = store.begin_turn(&key, &a).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionStoreUnavailable);
    proxy.free();
    let stranger = ticket("b");
    assert_eq!(
        store.begin_turn(&key, &stranger).await.unwrap(),
        Begun::Waiting,
        "the command had got through"
    );
    let again = store.begin_turn(&key, &a).await.unwrap();
    assert_eq!(again, Begun::Granted(None));
}

#[tokio::test]
async fn a_queue_asks_again_for_a_lost_grant() {
    let proxy = Proxy::start().await;
    let (store, patience) = through(&proxy).await;
    let key = promises::fresh_key("s");
    store
        .append(&key, &promises::turn(&["a"]), 0)
        .await
        .unwrap();
    let queue = TurnQueue::new(Arc::new(store), TaskTracker::new());
    let wait = Patience {
        wait: Duration::from_secs(20),
        queue_max: 10,
    };
    proxy.hold_answers();
    let free = async {
        sleep(patience * 5 / 4).await;
        proxy.free();
    };
    let (entered, ()) = tokio::join!(queue.enter(&key, RequestId::new(), wait), free);
    let (lease, session) = entered.unwrap();
    assert_eq!(session.unwrap().version, 1);
    drop(lease);
}

/// The end of a turn that Redis did not hear of holds up nobody for the rest of the lease.
#[tokio::test]
async fn a_turn_given_up_while_redis_is_away_is_free_again_soon_after() {
    let proxy = Proxy::start().await;
    let (store, patience) = through(&proxy).await;
    let key = promises::fresh_key("s");
    let queue = TurnQueue::new(Arc::new(store), TaskTracker::new());
    let wait = Patience {
        wait: Duration::from_secs(20),
        queue_max: 10,
    };
    let (held, _) = queue.enter(&key, RequestId::new(), wait).await.unwrap();
    proxy.freeze();
    drop(held);
    sleep(patience * 5 / 4).await;
    proxy.cut();
    proxy.free();
    let other = TurnQueue::new(Arc::new(super::store(HOUR).await), TaskTracker::new());
    let began = Instant::now();
    let (_lease, _) = other.enter(&key, RequestId::new(), wait).await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// A turn that was stored without a word is stored, also when another one has followed it.
#[tokio::test]
async fn a_turn_of_which_the_storing_was_lost_is_found() {
    let proxy = Proxy::start().await;
    let (store, patience) = through(&proxy).await;
    let direct = super::store(HOUR).await;
    for followed in [false, true] {
        let key = promises::fresh_key("s");
        let turn = promises::turn(&["question", "answer"]);
        proxy.hold_answers();
        let free = async {
            sleep(patience / 2).await;
            if followed {
                let next = promises::turn(&["next"]);
                direct.append(&key, &next, 1).await.unwrap();
            }
            sleep(patience).await;
            proxy.free();
        };
        let (saved, ()) = tokio::join!(save(&store, &key, &turn, 0), free);
        assert_eq!(saved.unwrap(), Appended::At(1), "followed: {followed}");
    }
    // Another turn in its place is a conflict.
    let key = promises::fresh_key("s");
    proxy.freeze();
    let free = async {
        let first = promises::turn(&["another question", "answer"]);
        direct.append(&key, &first, 0).await.unwrap();
        sleep(patience * 3 / 2).await;
        proxy.free();
    };
    let turn = promises::turn(&["question", "answer"]);
    let (saved, ()) = tokio::join!(save(&store, &key, &turn, 0), free);
    assert_eq!(saved.unwrap_err().kind(), ErrorKind::SessionConflict);
}

/// The answer that a session was deleted under its turn may be lost: sent again, the turn still makes no new session.
#[tokio::test]
async fn a_turn_that_was_told_of_the_deletion_is_told_again() {
    let store = store(HOUR).await;
    let key = promises::fresh_key("s");
    let a = ticket("a");
    store.begin_turn(&key, &a).await.unwrap();
    store.delete(&key).await.unwrap();
    let turn = Turn {
        request_id: a.request_id,
        ..promises::turn(&["a"])
    };
    for _ in 0..3 {
        let stored = store.append(&key, &turn, 0).await.unwrap();
        assert_eq!(stored, Appended::Deleted);
        assert_eq!(store.get(&key).await.unwrap(), None);
    }
    let b = ticket("b");
    assert_eq!(
        store.begin_turn(&key, &b).await.unwrap(),
        Begun::Granted(None)
    );
}
