//! What a store promises about whose turn it is, when several engines use it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::sleep;

use super::{LONG, appended, fresh_key, turn};
use crate::{
    error::ErrorKind,
    session::{SessionStore, SharedSessionStore},
    types::{
        RequestId,
        session::{Appended, Begun, SessionKey, Ticket, Turn},
    },
};

/// Short enough to wait for, long enough for a loaded machine.
const SHORT: Duration = Duration::from_millis(700);

/// Runs every promise about turns. Only for stores that several engines may share; one that leaves
/// [`begin_turn`](SessionStore::begin_turn) as it is does not keep them.
pub async fn run_all(make: impl AsyncFn(Duration) -> SharedSessionStore) {
    let store = make(LONG).await;
    let store = &*store;
    turns_are_granted_one_at_a_time_in_order(store).await;
    a_turn_loads_the_session(store).await;
    asking_again_changes_nothing(store).await;
    a_ticket_that_does_not_wait_is_refused(store).await;
    a_full_queue_refuses(store).await;
    a_turn_that_is_not_renewed_is_over(store).await;
    a_renewed_turn_is_held(store).await;
    the_places_of_a_dead_instance_are_passed_over(store).await;
    leftovers_of_the_own_instance_are_passed_over(store).await;
    a_place_can_be_given_up(store).await;
    a_session_deleted_under_a_turn_stays_deleted(store).await;
    a_late_holder_cannot_write(store).await;
    racing_turns_all_get_theirs(store).await;
}

fn ticket(instance: &str, lease: Duration) -> Ticket {
    Ticket {
        request_id: RequestId::new(),
        instance: instance.into(),
        first: true,
        wait: true,
        lease,
        queue_max: 100,
    }
}

async fn granted(store: &dyn SessionStore, key: &SessionKey, ticket: &Ticket) -> bool {
    matches!(
        store.begin_turn(key, ticket).await.unwrap(),
        Begun::Granted(_)
    )
}

async fn assert_waits(store: &dyn SessionStore, key: &SessionKey, ticket: &Ticket) {
    assert_eq!(store.begin_turn(key, ticket).await.unwrap(), Begun::Waiting);
}

fn turn_of(ticket: &Ticket, text: &str) -> Turn {
    Turn {
        request_id: ticket.request_id,
        ..turn(&[text])
    }
}

/// The next turn begins when the one before is appended or given up, in the order in which tickets came.
pub async fn turns_are_granted_one_at_a_time_in_order(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let tickets = ["a", "b", "c"].map(|instance| ticket(instance, LONG));
    let [a, b, c] = &tickets;
    assert!(granted(store, &key, a).await);
    assert_waits(store, &key, b).await;
    assert_waits(store, &key, c).await;
    appended(store, &key, &turn_of(a, "a"), 0).await.unwrap();
    assert_waits(store, &key, c).await;
    assert!(granted(store, &key, b).await);
    assert_waits(store, &key, c).await;
    store.end_turn(&key, b).await.unwrap();
    assert!(granted(store, &key, c).await);
    let other = fresh_key("s");
    assert!(granted(store, &other, a).await, "another session is free");
    store.end_turn(&key, c).await.unwrap();
    assert!(granted(store, &key, a).await, "nobody waits any more");
}

/// What is granted comes with the session as the turn before left it.
pub async fn a_turn_loads_the_session(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let first = ticket("a", LONG);
    assert_eq!(
        store.begin_turn(&key, &first).await.unwrap(),
        Begun::Granted(None),
        "no session yet, and none is made"
    );
    assert_eq!(store.get(&key).await.unwrap(), None);
    appended(store, &key, &turn_of(&first, "one"), 0)
        .await
        .unwrap();
    let second = ticket("b", LONG);
    let Begun::Granted(Some(session)) = store.begin_turn(&key, &second).await.unwrap() else {
        panic!("the turn is free and the session is there");
    };
    assert_eq!(Some(&*session), store.load(&key).await.unwrap().as_ref());
    assert_eq!(session.version, 1);
    assert_eq!(session.history, "digest");
}

/// A request that asks again for what it has gets it again: the first answer may have been lost.
pub async fn asking_again_changes_nothing(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, b) = (ticket("a", LONG), ticket("b", LONG));
    for _ in 0..3 {
        assert!(granted(store, &key, &a).await);
        assert_waits(store, &key, &b).await;
    }
    store.end_turn(&key, &a).await.unwrap();
    assert!(granted(store, &key, &b).await);
    assert!(granted(store, &key, &b).await);
}

/// Without `wait` a turn begins at once or not at all, and leaves no place behind.
pub async fn a_ticket_that_does_not_wait_is_refused(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, c) = (ticket("a", LONG), ticket("c", LONG));
    let mut b = ticket("b", LONG);
    b.wait = false;
    assert!(granted(store, &key, &a).await);
    assert_eq!(store.begin_turn(&key, &b).await.unwrap(), Begun::Busy);
    store.end_turn(&key, &a).await.unwrap();
    assert!(
        granted(store, &key, &c).await,
        "the refused one has no place"
    );
    store.end_turn(&key, &c).await.unwrap();
    assert!(granted(store, &key, &b).await);
}

/// The queue is bounded.
pub async fn a_full_queue_refuses(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let mut tickets: Vec<_> = (0..4).map(|_| ticket("a", LONG)).collect();
    for ticket in &mut tickets {
        ticket.queue_max = 2;
        ticket.first = false;
    }
    let mut answers = Vec::new();
    for ticket in &tickets {
        answers.push(store.begin_turn(&key, ticket).await.unwrap());
    }
    assert_eq!(
        answers,
        [
            Begun::Granted(None),
            Begun::Waiting,
            Begun::Waiting,
            Begun::Busy
        ]
    );
}

/// A holder that dies does not hold the session for ever.
pub async fn a_turn_that_is_not_renewed_is_over(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, b) = (ticket("a", SHORT), ticket("b", SHORT));
    assert!(granted(store, &key, &a).await);
    assert_waits(store, &key, &b).await;
    sleep(SHORT * 2).await;
    assert!(granted(store, &key, &b).await);
    assert!(!store.renew_turn(&key, &a).await.unwrap(), "it is lost");
}

/// A renewal holds a turn for another lease, and no one else's.
pub async fn a_renewed_turn_is_held(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, b) = (ticket("a", SHORT * 2), ticket("b", SHORT));
    assert!(granted(store, &key, &a).await);
    for _ in 0..3 {
        sleep(SHORT).await;
        assert!(store.renew_turn(&key, &a).await.unwrap());
        assert_waits(store, &key, &b).await;
        assert!(!store.renew_turn(&key, &b).await.unwrap());
    }
}

/// Who waits for a process that is gone waits no longer than a lease.
pub async fn the_places_of_a_dead_instance_are_passed_over(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, dead, c) = (
        ticket("a", SHORT),
        ticket("dead", SHORT),
        ticket("c", SHORT),
    );
    assert!(granted(store, &key, &a).await);
    assert_waits(store, &key, &dead).await;
    assert_waits(store, &key, &c).await;
    store.end_turn(&key, &a).await.unwrap();
    assert_waits(store, &key, &c).await;
    sleep(SHORT * 2).await;
    assert!(granted(store, &key, &c).await);
}

/// The first of an instance passes over what the store still has of that instance before it: places and the turn itself.
pub async fn leftovers_of_the_own_instance_are_passed_over(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, mut lost, b) = (ticket("a", LONG), ticket("b", LONG), ticket("b", LONG));
    lost.first = false;
    assert!(granted(store, &key, &a).await);
    assert_waits(store, &key, &lost).await;
    assert_waits(store, &key, &b).await;
    store.end_turn(&key, &a).await.unwrap();
    assert!(granted(store, &key, &b).await);

    let mut later = ticket("b", LONG);
    later.first = false;
    assert_waits(store, &key, &later).await;
    later.first = true;
    assert!(granted(store, &key, &later).await, "the end was not heard");
    assert!(!store.renew_turn(&key, &b).await.unwrap());
    store.end_turn(&key, &b).await.unwrap();
    assert!(store.renew_turn(&key, &later).await.unwrap());
}

/// Giving up a place, or what one does not have, disturbs nobody.
pub async fn a_place_can_be_given_up(store: &dyn SessionStore) {
    let key = fresh_key("s");
    let (a, b, c) = (ticket("a", LONG), ticket("b", LONG), ticket("c", LONG));
    store.end_turn(&key, &a).await.unwrap();
    assert!(granted(store, &key, &a).await);
    assert_waits(store, &key, &b).await;
    assert_waits(store, &key, &c).await;
    store.end_turn(&key, &b).await.unwrap();
    store.end_turn(&key, &b).await.unwrap();
    assert_waits(store, &key, &c).await;
    store.end_turn(&key, &a).await.unwrap();
    assert!(granted(store, &key, &c).await);
}

/// A session that is deleted while a turn runs stays deleted, whether the turn was its first or not; the next turn
/// makes a new one.
pub async fn a_session_deleted_under_a_turn_stays_deleted(store: &dyn SessionStore) {
    for turns in 0..2 {
        let key = fresh_key("s");
        for version in 0..turns {
            appended(store, &key, &turn(&["x"]), version).await.unwrap();
        }
        let (a, b) = (ticket("a", LONG), ticket("b", LONG));
        assert!(granted(store, &key, &a).await);
        store.delete(&key).await.unwrap();
        let stored = store.append(&key, &turn_of(&a, "late"), turns).await;
        assert_eq!(stored.unwrap(), Appended::Deleted);
        assert_eq!(store.get(&key).await.unwrap(), None);
        assert!(granted(store, &key, &b).await, "the turn is over");
        appended(store, &key, &turn_of(&b, "new"), 0).await.unwrap();
    }
}

/// A holder whose lease is over, and another one's turn is stored, is refused by the version.
pub async fn a_late_holder_cannot_write(store: &dyn SessionStore) {
    let key = fresh_key("s");
    appended(store, &key, &turn(&["x"]), 0).await.unwrap();
    let (a, b) = (ticket("a", SHORT), ticket("b", SHORT));
    assert!(granted(store, &key, &a).await);
    sleep(SHORT * 2).await;
    assert!(granted(store, &key, &b).await);
    appended(store, &key, &turn_of(&b, "b"), 1).await.unwrap();
    let late = store.append(&key, &turn_of(&a, "a"), 1).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::SessionConflict);
}

/// Many turns of several instances at once: every one gets its turn, alone, and sees the one before.
pub async fn racing_turns_all_get_theirs(store: &dyn SessionStore) {
    let key = &fresh_key("s");
    let running = &Arc::new(());
    let turns = (0..40).map(|n| async move {
        let mut ticket = ticket(["a", "b", "c"][n % 3], LONG);
        // Several of one instance ask at once here: none of them is the first.
        ticket.first = false;
        let session = loop {
            match store.begin_turn(key, &ticket).await.unwrap() {
                Begun::Granted(session) => break session,
                Begun::Waiting => sleep(Duration::from_millis(5)).await,
                Begun::Busy => panic!("there is room for all"),
            }
        };
        let alone = Arc::clone(running);
        assert_eq!(Arc::strong_count(&alone), 2, "another turn runs");
        let version = session.map_or(0, |session| session.version);
        tokio::task::yield_now().await;
        drop(alone);
        appended(store, key, &turn_of(&ticket, &n.to_string()), version)
            .await
            .unwrap()
    });
    let mut versions = join_all(turns).await;
    versions.sort_unstable();
    assert!(versions.into_iter().eq(1..=40), "each version once");
}
