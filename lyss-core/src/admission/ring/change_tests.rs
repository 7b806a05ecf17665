//! Keys that are rotated and changed, as two instances see it.
#![allow(clippy::unwrap_used, clippy::panic)]

use secrecy::ExposeSecret;

use super::{
    tests::{SECOND, made, name, store, until},
    *,
};
use crate::{
    admission::{KeyChanges, NewKey},
    database::{Database, testing},
};

async fn on_each(test: impl AsyncFn(Database)) {
    let directory = tempfile::tempdir().unwrap();
    test(testing::sqlite(directory.path()).await).await;
    test(testing::postgres().await).await;
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_for_a_while() {
    on_each(async |database| {
        let (here, there) = (store(&database), store(&database));
        let ring = KeyRing::start(there, RingTimes::default()).await;
        let first = made(&here, NewKey::default()).await;
        let good = async |key: &str| name(&ring.verify_or_refresh(key).await);
        let first_secret = first.secret.expose_secret();
        assert_eq!(good(first_secret).await, "valid");

        let second = here.rotate(&first.id, 600 * SECOND).await.unwrap();
        let second_secret = second.secret.expose_secret();
        assert_eq!(second.id, first.id);
        assert_ne!(second_secret, first_secret);
        // The new one is looked for at once; the old one is still good afterwards.
        assert_eq!(good(second_secret).await, "valid");
        assert_eq!(good(first_secret).await, "valid");

        let third = here.rotate(&first.id, 2 * SECOND).await.unwrap();
        let third_secret = third.secret.expose_secret();
        assert_eq!(good(third_secret).await, "valid");
        assert_eq!(good(second_secret).await, "valid");
        assert_eq!(good(first_secret).await, "invalid", "two at most");
        until("the grace ends", 4 * SECOND, || {
            name(&ring.verify(second_secret)) == "expired"
        })
        .await;
        assert_eq!(good(third_secret).await, "valid");

        let fourth = here.rotate(&first.id, Duration::ZERO).await.unwrap();
        let fourth_secret = fourth.secret.expose_secret();
        assert_eq!(good(fourth_secret).await, "valid");
        assert_eq!(good(third_secret).await, "invalid", "no grace");

        let fifth = here.rotate(&first.id, 600 * SECOND).await.unwrap();
        let fifth_secret = fifth.secret.expose_secret();
        assert_eq!(good(fifth_secret).await, "valid");
        here.revoke(&first.id).await.unwrap();
        until("both secrets are revoked", SECOND, || {
            [fourth_secret, fifth_secret].map(|key| name(&ring.verify(key))) == ["invalid"; 2]
        })
        .await;
        let refused = here.rotate(&first.id, SECOND).await.unwrap_err();
        assert_eq!(refused.code(), "invalid_value");
        let missing = here.rotate("nobody", SECOND).await.unwrap_err();
        assert_eq!(missing.code(), "not_found");
        let endless = here.rotate(&first.id, 366 * 86_400 * SECOND).await;
        assert_eq!(endless.unwrap_err().param(), Some("grace"));
    })
    .await;
}

/// D2 for the old secret: its grace ends by the clock, not by the database.
#[tokio::test]
async fn the_grace_ends_without_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let store = store(&database);
    let old = made(&store, NewKey::default()).await;
    let new = store.rotate(&old.id, SECOND).await.unwrap();
    let ring = KeyRing::start(store, RingTimes::default()).await;
    let (old, new) = (old.secret.expose_secret(), new.secret.expose_secret());
    assert_eq!(name(&ring.verify(old)), "valid");
    database.close().await;
    until("the grace ends", 2 * SECOND, || {
        name(&ring.verify(old)) == "expired"
    })
    .await;
    assert_eq!(name(&ring.verify(new)), "valid");
}

#[tokio::test]
async fn changes_are_seen_and_none_is_lost() {
    on_each(async |database| {
        let (here, there) = (store(&database), store(&database));
        let ring = KeyRing::start(there.clone(), RingTimes::default()).await;
        let key = made(&here, NewKey::default()).await;
        let secret = key.secret.expose_secret();
        let change = |json: &str| serde_json::from_str::<KeyChanges>(json).unwrap();
        let (rpm, tpm, rest) = (
            change(r#"{"rpm":5}"#),
            change(r#"{"tpm":6}"#),
            change(
                r#"{"concurrent":7,"scopes":["chat"],"models":["m"],"on_disconnect":"drain",
                    "budget":{"amount":"2.5","currency":"USD","period":"day"}}"#,
            ),
        );
        let (one, two, three) = tokio::join!(
            here.change(&key.id, &rpm),
            there.change(&key.id, &tpm),
            here.change(&key.id, &rest),
        );
        for changed in [one, two, three] {
            changed.unwrap();
        }
        let seen = || match ring.verify(secret) {
            KeyAnswer::Valid(record) => Some(record),
            _ => None,
        };
        until("the changes are in force", SECOND, || {
            seen().is_some_and(|record| {
                (record.rpm, record.tpm, record.concurrent) == (Some(5), Some(6), Some(7))
            })
        })
        .await;
        let record = seen().unwrap();
        assert_eq!(record.models.as_deref(), Some(&["m".to_owned()][..]));
        assert_eq!(record.budget.as_ref().unwrap().amount.to_string(), "2.5");
        assert_eq!(format!("{:?}", record.scopes), r#"{"chat"}"#);

        let bare = here
            .change(&key.id, &change(r#"{"rpm":null,"budget":null}"#))
            .await
            .unwrap();
        assert_eq!((bare.rpm, bare.tpm), (None, Some(6)));
        assert_eq!(bare.budget, None);
        let wrong = here.change(&key.id, &change(r#"{"rpm":0}"#)).await;
        assert_eq!(wrong.unwrap_err().param(), Some("rpm"));
        let missing = here.change("nobody", &rpm).await.unwrap_err();
        assert_eq!(missing.code(), "not_found");
        here.revoke(&key.id).await.unwrap();
        let revoked = here.change(&key.id, &rpm).await.unwrap_err();
        assert_eq!(revoked.code(), "invalid_value");
    })
    .await;
}
