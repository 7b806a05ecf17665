//! What every [`IdempotencyStore`] promises.
//!
//! [`run_all`] keeps them all; the single promises are public so that a failing one can be run alone. Every promise
//! works on entries of its own, so that a store which outlives the test may be used, and several tests may use it at
//! once.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use crate::{
    idempotency::{Claim, Claimed, EntryId, Fingerprint, IdempotencyStore, SharedIdempotencyStore},
    types::RequestId,
};

/// A life and a lease that no test outlasts.
const LONG: Duration = Duration::from_secs(600);
/// A lease for claims that are not about leases.
pub const LEASE: Duration = Duration::from_secs(60);
/// A lease that a test waits for.
const SHORT: Duration = Duration::from_millis(300);

/// Runs every promise. `make` gives a store that forgets a key so long after its use.
pub async fn run_all(make: impl AsyncFn(Duration) -> SharedIdempotencyStore) {
    let store = make(LONG).await;
    let store = &*store;
    one_of_many_is_granted(store).await;
    another_fingerprint_is_refused(store).await;
    a_reply_comes_back_byte_for_byte(store).await;
    what_was_released_is_free(store).await;
    what_is_done_stays_done(store).await;
    calls_may_be_repeated(store).await;
    a_dead_claim_is_taken_over_and_its_owner_fenced(store).await;
    what_was_dispatched_is_never_free(store).await;
    a_late_reply_is_kept(store).await;
    a_renewed_lease_holds(store).await;
    a_lost_entry_is_made_anew_by_its_reply(store).await;
    let life = Duration::from_millis(700);
    let store = make(life).await;
    keys_are_forgotten(&*store, life).await;
}

/// A claim of an entry that nobody else has.
pub fn fresh_claim() -> Claim {
    let owner = RequestId::new();
    let mut id = [7; 32];
    id[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    Claim {
        id: EntryId(id),
        fingerprint: Fingerprint([1; 32]),
        owner,
    }
}

/// The same request sent again.
pub fn again(claim: &Claim) -> Claim {
    Claim {
        owner: RequestId::new(),
        ..*claim
    }
}

async fn claimed(store: &dyn IdempotencyStore, claim: &Claim) -> Claimed {
    store.claim(claim, LEASE).await.unwrap()
}

async fn granted(store: &dyn IdempotencyStore, lease: Duration) -> Claim {
    let claim = fresh_claim();
    assert_eq!(store.claim(&claim, lease).await.unwrap(), Claimed::Granted);
    claim
}

/// Of requests that race for a key exactly one gets it; the others see it run, then done.
pub async fn one_of_many_is_granted(store: &dyn IdempotencyStore) {
    let first = fresh_claim();
    let racers: Vec<Claim> = (0..32).map(|_| again(&first)).collect();
    let met = join_all(racers.iter().map(|claim| claimed(store, claim))).await;
    let winners: Vec<&Claim> = racers
        .iter()
        .zip(&met)
        .filter(|(_, met)| **met == Claimed::Granted)
        .map(|(claim, _)| claim)
        .collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(
        met.iter().filter(|met| **met == Claimed::Running).count(),
        31
    );
    let winner = winners[0];
    assert!(store.dispatch(winner, LEASE).await.unwrap());
    assert_eq!(claimed(store, &again(&first)).await, Claimed::Running);
    assert!(store.complete(winner, "the reply".into()).await.unwrap());
    let met = join_all(racers.iter().map(|claim| claimed(store, claim))).await;
    let done = Claimed::Done {
        reply: "the reply".into(),
        by: winner.owner,
    };
    assert!(met.iter().all(|met| *met == done), "{met:?}");
}

/// Another request under the same key is told so, in every state; other entries are not concerned.
pub async fn another_fingerprint_is_refused(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    let other = Claim {
        fingerprint: Fingerprint([2; 32]),
        ..again(&claim)
    };
    assert_eq!(claimed(store, &other).await, Claimed::Reused);
    store.dispatch(&claim, LEASE).await.unwrap();
    assert_eq!(claimed(store, &other).await, Claimed::Reused);
    store.complete(&claim, "x".into()).await.unwrap();
    assert_eq!(claimed(store, &other).await, Claimed::Reused);
    let elsewhere = Claim {
        id: fresh_claim().id,
        ..other
    };
    assert_eq!(claimed(store, &elsewhere).await, Claimed::Granted);
}

/// Replies are bytes: empty, any byte, and some megabytes.
pub async fn a_reply_comes_back_byte_for_byte(store: &dyn IdempotencyStore) {
    let large: Vec<u8> = (0..3_000_001_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for bytes in [Vec::new(), (0..=255).collect(), large] {
        let reply = Bytes::from(bytes);
        let claim = granted(store, LEASE).await;
        store.dispatch(&claim, LEASE).await.unwrap();
        assert!(store.complete(&claim, reply.clone()).await.unwrap());
        match claimed(store, &again(&claim)).await {
            Claimed::Done { reply: kept, by } => {
                assert!(kept == reply, "{} bytes, not {}", kept.len(), reply.len());
                assert_eq!(by, claim.owner);
            }
            met => panic!("{met:?}"),
        }
    }
}

/// A released key is free, dispatched or not; releasing what is another's frees nothing.
pub async fn what_was_released_is_free(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    let second = again(&claim);
    store.release(&second).await.unwrap();
    assert_eq!(claimed(store, &second).await, Claimed::Running);
    store.release(&claim).await.unwrap();
    assert_eq!(claimed(store, &second).await, Claimed::Granted);
    store.dispatch(&second, LEASE).await.unwrap();
    store.release(&second).await.unwrap();
    let other = Claim {
        fingerprint: Fingerprint([3; 32]),
        ..again(&claim)
    };
    assert_eq!(claimed(store, &other).await, Claimed::Granted);
}

/// Nothing that comes late changes what is done.
pub async fn what_is_done_stays_done(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    let late = again(&claim);
    store.dispatch(&claim, LEASE).await.unwrap();
    store.complete(&claim, "first".into()).await.unwrap();
    store.release(&claim).await.unwrap();
    assert!(!store.dispatch(&claim, LEASE).await.unwrap());
    assert!(!store.renew(&claim, LEASE).await.unwrap());
    assert!(!store.complete(&late, "second".into()).await.unwrap());
    let done = Claimed::Done {
        reply: "first".into(),
        by: claim.owner,
    };
    assert_eq!(claimed(store, &late).await, done);
}

/// Who did not hear the answer asks again, and hears it.
pub async fn calls_may_be_repeated(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    assert_eq!(claimed(store, &claim).await, Claimed::Granted);
    for _ in 0..2 {
        assert!(store.dispatch(&claim, LEASE).await.unwrap());
    }
    for _ in 0..2 {
        assert!(store.complete(&claim, "r".into()).await.unwrap());
    }
    assert_ne!(claimed(store, &again(&claim)).await, Claimed::Granted);
}

/// What was only claimed by somebody who has died may be done by another; the dead one, should it wake up, must not.
pub async fn a_dead_claim_is_taken_over_and_its_owner_fenced(store: &dyn IdempotencyStore) {
    let dead = granted(store, SHORT).await;
    let heir = again(&dead);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(claimed(store, &heir).await, Claimed::Granted);
    assert!(!store.dispatch(&dead, LEASE).await.unwrap());
    assert!(!store.renew(&dead, LEASE).await.unwrap());
    store.release(&dead).await.unwrap();
    assert!(!store.complete(&dead, "stale".into()).await.unwrap());
    assert!(store.dispatch(&heir, LEASE).await.unwrap());
    assert_eq!(claimed(store, &again(&dead)).await, Claimed::Running);
}

/// What was dispatched by somebody who has died is lost, for everybody, and stays so.
pub async fn what_was_dispatched_is_never_free(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    assert!(store.dispatch(&claim, SHORT).await.unwrap());
    tokio::time::sleep(SHORT * 2).await;
    for _ in 0..2 {
        assert_eq!(claimed(store, &again(&claim)).await, Claimed::Lost);
    }
    // Not for the same owner either.
    assert_eq!(claimed(store, &claim).await, Claimed::Lost);
}

/// An owner that was only slow may still tell what came of it.
pub async fn a_late_reply_is_kept(store: &dyn IdempotencyStore) {
    let claim = granted(store, LEASE).await;
    store.dispatch(&claim, SHORT).await.unwrap();
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(claimed(store, &again(&claim)).await, Claimed::Lost);
    assert!(store.complete(&claim, "late".into()).await.unwrap());
    let done = Claimed::Done {
        reply: "late".into(),
        by: claim.owner,
    };
    assert_eq!(claimed(store, &again(&claim)).await, done);
}

/// A lease that is renewed does not end, dispatched or not.
pub async fn a_renewed_lease_holds(store: &dyn IdempotencyStore) {
    let claim = granted(store, SHORT).await;
    assert!(store.renew(&claim, LEASE).await.unwrap());
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(claimed(store, &again(&claim)).await, Claimed::Running);
    store.dispatch(&claim, SHORT).await.unwrap();
    assert!(store.renew(&claim, LEASE).await.unwrap());
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(claimed(store, &again(&claim)).await, Claimed::Running);
}

/// A reply is kept though the store has forgotten the claim.
pub async fn a_lost_entry_is_made_anew_by_its_reply(store: &dyn IdempotencyStore) {
    let claim = fresh_claim();
    assert!(!store.dispatch(&claim, LEASE).await.unwrap());
    assert!(store.complete(&claim, "r".into()).await.unwrap());
    let other = Claim {
        fingerprint: Fingerprint([4; 32]),
        ..again(&claim)
    };
    assert_eq!(claimed(store, &other).await, Claimed::Reused);
    let done = Claimed::Done {
        reply: "r".into(),
        by: claim.owner,
    };
    assert_eq!(claimed(store, &again(&claim)).await, done);
}

/// After its life a key is free for anything, whatever its state was.
pub async fn keys_are_forgotten(store: &dyn IdempotencyStore, life: Duration) {
    let (dispatched, done) = (granted(store, LEASE).await, granted(store, LEASE).await);
    store.dispatch(&dispatched, LEASE).await.unwrap();
    store.complete(&done, "r".into()).await.unwrap();
    assert!(matches!(
        claimed(store, &again(&done)).await,
        Claimed::Done { .. }
    ));
    tokio::time::sleep(life + Duration::from_millis(300)).await;
    for claim in [dispatched, done] {
        let other = Claim {
            fingerprint: Fingerprint([5; 32]),
            ..again(&claim)
        };
        assert_eq!(claimed(store, &other).await, Claimed::Granted);
    }
}
