#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use secrecy::ExposeSecret;

use super::*;
use crate::{
    admission::{CreatedKey, KeyBudget, NewKey, Scope, Scopes},
    config::BudgetPeriod,
    database::{Database, DatabaseSource, Pool, testing},
    types::OnDisconnect,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn store(database: &Database) -> KeyStore {
    KeyStore::new(database.clone(), KeyHasher::new(&[7; 32]).unwrap())
}

pub(super) async fn made(store: &KeyStore, new: NewKey) -> CreatedKey {
    store.create(new).await.unwrap()
}

pub(super) fn name(answer: &KeyAnswer) -> &'static str {
    match answer {
        KeyAnswer::Valid(_) => "valid",
        KeyAnswer::Invalid => "invalid",
        KeyAnswer::Expired => "expired",
        KeyAnswer::Unknown => "unknown",
    }
}

pub(super) async fn until(what: &str, within: Duration, check: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !check() {
        assert!(begin.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn keys_live_and_die(database: Database) {
    // Two stores and two rings: two instances.
    let (here, there) = (store(&database), store(&database));
    let ring = KeyRing::start(there.clone(), RingTimes::default()).await;
    let new = NewKey {
        user_id: Some("ü'\"".into()),
        name: "ci".into(),
        admin: true,
        scopes: Some(Scopes::NONE.with(Scope::Chat).with(Scope::Admin)),
        models: Some(vec!["gpt-4o".into(), "qwen".into()]),
        rpm: Some(60),
        tpm: Some(u64::from(u32::MAX) * 2),
        concurrent: Some(3),
        budget: Some(KeyBudget {
            amount: "10.000000000001".parse().unwrap(),
            currency: "CNY".into(),
            period: BudgetPeriod::Month,
        }),
        on_disconnect: Some(OnDisconnect::WHOLE),
        expires_ms: Some(4_102_444_800_123),
    };
    let asked = new.clone();
    let key = made(&here, new).await;
    let secret = key.secret.expose_secret();
    assert!(secret.starts_with(&format!("lyss_{}_", key.id)));
    let KeyAnswer::Valid(record) = ring.verify_or_refresh(secret).await else {
        panic!("a key that was made a moment ago is found");
    };
    assert_eq!(*record.id, key.id);
    assert_eq!(record.settings(), asked, "everything is kept");
    assert!((crate::session::now_ms() - record.created_ms).abs() < 60_000);
    let principal = record.principal();
    assert!(principal.is_admin() && principal.api_key_id.as_deref() == Some(&key.id));

    let plain = made(&here, NewKey::default()).await;
    until("an idle instance learns of a key", SECOND, || {
        name(&ring.verify(plain.secret.expose_secret())) == "valid"
    })
    .await;

    here.revoke(&key.id).await.unwrap();
    until("a revoked key is refused everywhere", SECOND, || {
        name(&ring.verify(secret)) == "invalid"
    })
    .await;
    assert_eq!(name(&ring.verify_or_refresh(secret).await), "invalid");
    here.revoke(&key.id).await.unwrap();
    let error = here.revoke("nobody").await.unwrap_err();
    assert_eq!(error.code(), "not_found");

    let ended = NewKey {
        expires_ms: Some(1_600_000_000_000),
        ..NewKey::default()
    };
    let ended = made(&here, ended).await;
    let answer = ring.verify_or_refresh(ended.secret.expose_secret()).await;
    assert_eq!(name(&answer), "expired");

    let listed = there.list().await.unwrap();
    let ids: Vec<_> = listed.iter().map(|record| &*record.id).collect();
    assert_eq!(ids.len(), 3);
    assert!(
        [&key, &plain, &ended]
            .iter()
            .all(|key| ids.contains(&key.id.as_str()))
    );
    let revoked = listed.iter().find(|record| *record.id == *key.id).unwrap();
    assert!(revoked.revoked_ms.is_some());

    for (new, member) in [
        (
            NewKey {
                rpm: Some(0),
                ..NewKey::default()
            },
            "rpm",
        ),
        (
            NewKey {
                tpm: Some(u64::MAX),
                ..NewKey::default()
            },
            "tpm",
        ),
        (
            NewKey {
                user_id: Some(String::new()),
                ..NewKey::default()
            },
            "user_id",
        ),
        (
            NewKey {
                name: "a\0".into(),
                ..NewKey::default()
            },
            "name",
        ),
        (
            NewKey {
                models: Some(vec![String::new()]),
                ..NewKey::default()
            },
            "models",
        ),
    ] {
        let error = here.create(new).await.unwrap_err();
        assert_eq!(
            (error.code(), error.param()),
            ("invalid_value", Some(member))
        );
    }
    assert_only_hashes(&database, &[&key, &plain, &ended]).await;
}

/// K5: what lies in the table does not contain a secret, nor open anything.
async fn assert_only_hashes(database: &Database, keys: &[&CreatedKey]) {
    let rows: Vec<String> = match database.pool {
        Pool::Postgres(ref pool) => sqlx::query_scalar("SELECT api_keys::text FROM api_keys")
            .fetch_all(pool)
            .await
            .unwrap(),
        Pool::Sqlite(ref pool) => sqlx::query_scalar(
            "SELECT concat(id, hex(hash), hex(previous_hash), user_id, name, models) FROM api_keys",
        )
        .fetch_all(pool)
        .await
        .unwrap(),
    };
    assert_eq!(rows.len(), keys.len());
    for key in keys {
        let secret = &key.secret.expose_secret()[18..];
        assert!(rows.iter().any(|row| row.contains(&key.id)));
        assert!(!rows.iter().any(|row| row.contains(secret)));
    }
}

#[tokio::test]
async fn keys_live_and_die_on_postgres() {
    keys_live_and_die(testing::postgres().await).await;
}

#[tokio::test]
async fn keys_live_and_die_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    keys_live_and_die(testing::sqlite(directory.path()).await).await;
}

/// X6: nothing that merely resembles a key passes.
#[tokio::test]
async fn near_misses_are_invalid() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&testing::sqlite(directory.path()).await);
    let (one, two) = (
        made(&store, NewKey::default()).await,
        made(&store, NewKey::default()).await,
    );
    let ring = KeyRing::start(store, RingTimes::default()).await;
    let key = one.secret.expose_secret();
    let other = two.secret.expose_secret();
    assert_eq!(name(&ring.verify(key)), "valid");
    let last = if key.ends_with('a') { "b" } else { "a" };
    let cased: String = key
        .chars()
        .map(|c| {
            if c.is_lowercase() {
                c.to_ascii_uppercase()
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect();
    let misses = [
        format!("{}{last}", &key[..60]),
        format!("{}{}", &key[..20], &other[20..]),
        format!("{}{}", &key[..18], &other[18..]),
        format!("{}{}", &other[..18], &key[18..]),
        key.replacen('s', "\u{455}", 1),
        format!("{}\u{430}", &key[..60]),
        format!("{key} "),
        format!(" {key}"),
        format!("{key}\n"),
        format!("{key}\0"),
        format!("{}\0{}", &key[..30], &key[31..]),
        key.replacen("lyss_", "sk-", 1),
        key.replacen("lyss_", "LYSS_", 1),
        key[5..].to_owned(),
        key[..60].to_owned(),
        format!("{key}a"),
        format!("{key}{key}"),
        cased,
        one.id.clone(),
        format!("lyss_{}_", one.id),
        format!("lyss_{}_{}", one.id, "0".repeat(43)),
        "lyss__".into(),
        String::new(),
        "a".repeat(1 << 20),
    ];
    for miss in misses {
        assert_eq!(name(&ring.verify(&miss)), "invalid", "{miss:.80}");
        assert_eq!(
            name(&ring.verify_or_refresh(&miss).await),
            "invalid",
            "{miss:.80}"
        );
    }
    assert_eq!(name(&ring.verify_or_refresh(key).await), "valid");
    let foreign = KeyHasher::new(&[8; 32]).unwrap();
    assert_ne!(
        foreign.hash(key),
        ring.hasher.hash(key),
        "another pepper, another hash"
    );
}

/// D2: with the database away a known key stays good, an unknown one is unknown, and nothing is called invalid that may
/// be good.
#[tokio::test]
async fn an_outage_is_no_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let store = store(&database);
    let known = made(&store, NewKey::default()).await;
    let revoked = made(&store, NewKey::default()).await;
    store.revoke(&revoked.id).await.unwrap();
    let times = RingTimes {
        poll: Duration::from_millis(20),
        fresh: Duration::from_millis(300),
        max_age: Duration::from_millis(1500),
        ..RingTimes::default()
    };
    let ring = KeyRing::start(store.clone(), times).await;
    let unseen = format!("lyss_{}_{}", "0".repeat(12), "0".repeat(43));
    let (known, revoked) = (known.secret.expose_secret(), revoked.secret.expose_secret());
    assert_eq!(name(&ring.verify(&unseen)), "invalid");
    database.close().await;
    assert_eq!(
        name(&ring.verify_or_refresh(&unseen).await),
        "unknown",
        "it may have been made just now"
    );
    let begin = std::time::Instant::now();
    assert_eq!(name(&ring.verify_or_refresh(known).await), "valid");
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "a known key does not wait"
    );
    sleep(Duration::from_millis(400)).await;
    assert_eq!(name(&ring.verify(&unseen)), "unknown");
    assert_eq!(name(&ring.verify(known)), "valid");
    assert_eq!(name(&ring.verify(revoked)), "invalid", "revoked is revoked");
    assert_eq!(name(&ring.verify("x")), "invalid", "never a key");
    until("the oldest age is reached", 2 * SECOND, || {
        name(&ring.verify(known)) == "unknown"
    })
    .await;
    assert_eq!(name(&ring.verify(revoked)), "invalid");
}

#[tokio::test]
async fn a_start_without_the_database_knows_nothing_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late.db");
    // Without its tables the database answers every question with an error.
    let database = Database::open(DatabaseSource::Sqlite(path), 2).unwrap();
    let store = store(&database);
    let ring = KeyRing::start(store.clone(), RingTimes::default()).await;
    let unseen = format!("lyss_{}_{}", "0".repeat(12), "0".repeat(43));
    assert_eq!(name(&ring.verify(&unseen)), "unknown");
    assert_eq!(name(&ring.verify_or_refresh(&unseen).await), "unknown");
    database.migrate().await.unwrap();
    let key = made(&store, NewKey::default()).await;
    until("the ring recovers", SECOND, || {
        name(&ring.verify(key.secret.expose_secret())) == "valid"
    })
    .await;
    assert_eq!(name(&ring.verify(&unseen)), "invalid");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_few_looks() {
    let directory = tempfile::tempdir().unwrap();
    let ring = KeyRing::start(
        store(&testing::sqlite(directory.path()).await),
        RingTimes::default(),
    )
    .await;
    let before = ring.begun.load(Ordering::SeqCst);
    let begin = std::time::Instant::now();
    let flood = (0..2000).map(|n| {
        let ring = ring.clone();
        async move {
            ring.verify_or_refresh(&format!("lyss_{n:012}_{}", "0".repeat(43)))
                .await
        }
    });
    for answer in futures::future::join_all(flood).await {
        assert!(matches!(answer, KeyAnswer::Invalid | KeyAnswer::Unknown));
    }
    let looks = u128::from(ring.begun.load(Ordering::SeqCst) - before);
    assert!(
        looks <= begin.elapsed().as_millis() / 100 + 2,
        "{looks} looks"
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_refuses_only_its_own_key() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let store = store(&database);
    let (good, bad) = (
        made(&store, NewKey::default()).await,
        made(&store, NewKey::default()).await,
    );
    let Pool::Sqlite(ref pool) = database.pool else {
        panic!()
    };
    sqlx::query("UPDATE api_keys SET models = '{}' WHERE id = $1")
        .bind(&bad.id)
        .execute(pool)
        .await
        .unwrap();
    let ring = KeyRing::start(store, RingTimes::default()).await;
    assert_eq!(name(&ring.verify(good.secret.expose_secret())), "valid");
    assert_eq!(name(&ring.verify(bad.secret.expose_secret())), "invalid");
}
