//! What an archive is for: Redis loses, the process dies, the database is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use super::*;
use crate::{
    database::{Database, DatabaseSource, testing},
    redis::{RedisHandle, RedisSource},
    session::{
        SharedSessionStore,
        database::{Kept, StoredTurn},
    },
    spool::{Outbox, Topics},
    testing::conformance::session_store::{self as promises, fresh_key, turn},
};

const HOUR: Duration = Duration::from_secs(3600);

/// An archived store on a Redis database of this test's own, which it may empty.
struct Rig {
    redis: RedisHandle,
    database: Database,
    spool: tempfile::TempDir,
}

impl Rig {
    async fn new(db: i64) -> Self {
        Self::on(db, testing::postgres().await).await
    }

    async fn on(db: i64, database: Database) -> Self {
        let url =
            std::env::var("LYSS_TEST_REDIS").expect("LYSS_TEST_REDIS is not set: run `make test`");
        let (_, addr) = url.split_once("://").expect("redis://host:port/");
        let source = RedisSource {
            addr: addr.trim_end_matches('/').to_owned(),
            db,
            command_timeout: Duration::from_secs(5),
            ..RedisSource::default()
        };
        let rig = Self {
            redis: RedisHandle::connect(source).await.unwrap(),
            database,
            spool: tempfile::tempdir().unwrap(),
        };
        rig.flush().await;
        rig
    }

    async fn command(&self, args: &[&str]) {
        let mut command = ::redis::cmd(args[0]);
        command.arg(&args[1..]);
        self.redis
            .command::<::redis::Value>(&command)
            .await
            .unwrap();
    }

    async fn flush(&self) {
        self.command(&["FLUSHDB"]).await;
    }

    fn live(&self, ttl: Duration) -> RedisSessionStore {
        RedisSessionStore::new(self.redis.clone(), ttl)
    }

    fn archive(&self, ttl: Duration) -> DatabaseSessionStore {
        DatabaseSessionStore::new(self.database.clone(), ttl)
    }

    fn outbox(&self, at: &Path) -> Arc<Outbox> {
        Topics::new(at.to_owned(), 64 << 20).open(TOPIC).unwrap().0
    }

    fn store(&self, ttl: Duration) -> ArchivedSessionStore {
        let outbox = self.outbox(self.spool.path());
        let (store, task) = ArchivedSessionStore::new(self.live(ttl), self.archive(ttl), outbox);
        tokio::spawn(task);
        store
    }
}

async fn appended(store: &ArchivedSessionStore, key: &SessionKey, texts: &[&str], expected: u64) {
    let stored = store.append(key, &turn(texts), expected).await.unwrap();
    assert_eq!(stored, Appended::At(expected + 1));
}

async fn loaded(store: &ArchivedSessionStore, key: &SessionKey) -> LoadedSession {
    store
        .load(key)
        .await
        .unwrap()
        .expect("the session is there")
}

fn ticket() -> Ticket {
    Ticket {
        request_id: RequestId::new(),
        instance: "one".into(),
        first: true,
        wait: true,
        lease: Duration::from_secs(60),
        queue_max: 9,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises() {
    let rig = Rig::new(1).await;
    let make = async |ttl| {
        // Whatever is missing is asked for.
        rig.command(&[
            "HSET",
            "lyss:epoch",
            "lost",
            "9999999999999",
            "run",
            "x",
            "moved",
            "0",
        ])
        .await;
        Arc::new(rig.store(ttl)) as SharedSessionStore
    };
    promises::run_all(make).await;
    promises::turns(make).await;
}

async fn goes_on_after_a_loss(rig: Rig) {
    let store = rig.store(HOUR);
    let (key, other) = (fresh_key("s"), fresh_key("s"));
    let metadata = serde_json::json!({"a": [1.5, "ä"]}).as_object().cloned();
    store.create(&key, metadata).await.unwrap();
    let mut first = turn(&["q \u{1F600}", "{ \"a\" : 1.0 }"]);
    first.system = Some("[1]".into());
    store.append(&key, &first, 0).await.unwrap();
    appended(&store, &key, &["x", "y", "z"], 1).await;
    // Longer than a record may be.
    let long = "l".repeat(1_500_000);
    appended(&store, &key, &[&long, "end"], 2).await;
    let prefix = Prefix {
        version: 1,
        upto: 2,
        covered_tokens: 20,
        summary: Some("sum".into()),
        summary_tokens: 3,
    };
    assert!(
        store
            .compress(&key, &prefix, RequestId::new())
            .await
            .unwrap()
    );
    let before = loaded(&store, &key).await;
    assert_eq!((before.version, before.messages.len()), (3, 5));
    let all = store.messages(&key, 0, 99).await.unwrap().unwrap();
    store.settled(&key).await.unwrap();

    rig.flush().await;
    assert_eq!(loaded(&store, &key).await, before);
    rig.flush().await;
    assert_eq!(store.messages(&key, 0, 99).await.unwrap().unwrap(), all);
    rig.flush().await;
    let listed = store.list(&key.user_id, None, 9).await.unwrap();
    assert_eq!(listed.sessions, std::slice::from_ref(&before.session));
    let begun = store.begin_turn(&key, &ticket()).await.unwrap();
    assert_eq!(begun, Begun::Granted(Some(Box::new(before))));
    appended(&store, &key, &["more"], 3).await;
    // Under a turn, and before anything was told.
    let turning = ticket();
    store.begin_turn(&key, &turning).await.unwrap();
    rig.flush().await;
    appended(&store, &key, &["under"], 4).await;
    let after = store.messages(&key, 7, 99).await.unwrap().unwrap();
    let texts: Vec<_> = after
        .messages
        .iter()
        .map(|message| &message.json[..])
        .collect();
    assert_eq!(texts, [&b"more"[..], b"under"]);
    assert_eq!(
        store.get(&other).await.unwrap(),
        None,
        "nothing comes from nowhere"
    );

    // Deleted is deleted, whatever is lost then.
    assert!(store.delete(&key).await.unwrap());
    rig.flush().await;
    assert_eq!(store.get(&key).await.unwrap(), None);
    appended(&store, &key, &["anew"], 0).await;
    store.settled(&key).await.unwrap();
    rig.flush().await;
    assert_eq!(loaded(&store, &key).await.messages.len(), 1);
    // The archive still has it for a moment, and only there: it is deleted all the same.
    rig.flush().await;
    assert!(store.delete(&key).await.unwrap());
    assert_eq!(store.load(&key).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_a_loss_with_postgres() {
    goes_on_after_a_loss(Rig::new(2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_a_loss_with_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    goes_on_after_a_loss(Rig::on(3, testing::sqlite(directory.path()).await).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_left_is_archived_by_the_next() {
    let rig = Rig::new(4).await;
    let key = fresh_key("s");
    {
        // Its task never runs: it dies with everything in its outbox.
        let outbox = rig.outbox(rig.spool.path());
        let (dying, _) = ArchivedSessionStore::new(rig.live(HOUR), rig.archive(HOUR), outbox);
        for version in 0..3 {
            appended(&dying, &key, &["q", "a"], version).await;
        }
    }
    assert!(rig.archive(HOUR).fetch(&key).await.unwrap().is_none());
    rig.flush().await;
    rig.command(&[
        "HSET",
        "lyss:epoch",
        "lost",
        "9999999999999",
        "run",
        "x",
        "moved",
        "0",
    ])
    .await;
    let next = rig.store(HOUR);
    assert_eq!(
        loaded(&next, &key).await.version,
        3,
        "told before it is asked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_before_the_archive_is_archived_with_its_next_turn() {
    let rig = Rig::new(7).await;
    let (alone, key) = (rig.live(HOUR), fresh_key("s"));
    let mut first = turn(&["q", "a"]);
    first.system = Some("[1]".into());
    alone.append(&key, &first, 0).await.unwrap();
    alone.append(&key, &turn(&["r", "b"]), 1).await.unwrap();
    let store = rig.store(HOUR);
    appended(&store, &key, &["s", "c"], 2).await;
    let before = loaded(&store, &key).await;
    store.settled(&key).await.unwrap();
    rig.flush().await;
    assert_eq!(loaded(&store, &key).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_in_redis_is_brought_up_to_date() {
    let rig = Rig::new(5).await;
    let store = rig.store(HOUR);
    let (key, deleted) = (fresh_key("s"), fresh_key("s"));
    for key in [&key, &deleted] {
        appended(&store, key, &["q", "a"], 0).await;
    }
    let old = [loaded(&store, &key).await, loaded(&store, &deleted).await];
    appended(&store, &key, &["q", "b"], 1).await;
    appended(&store, &key, &["q", "c"], 2).await;
    store.delete(&deleted).await.unwrap();
    let new = loaded(&store, &key).await;
    store.settled(&key).await.unwrap();

    // As a replica that was behind has it, and has taken over.
    rig.flush().await;
    for (key, old) in [&key, &deleted].into_iter().zip(&old) {
        let put = rig.live(HOUR).restore(key, old, Some("r"), None).await;
        assert!(put.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    rig.command(&[
        "HSET",
        "lyss:epoch",
        "lost",
        "0",
        "run",
        "another",
        "moved",
        "0",
    ])
    .await;
    store.memory.may_have_lost().await.unwrap();
    assert_eq!(loaded(&store, &key).await, new);
    let begun = store.begin_turn(&deleted, &ticket()).await.unwrap();
    assert_eq!(begun, Begun::Granted(None));
    appended(&store, &key, &["q", "d"], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_asked_only_when_something_may_be_lost() {
    let away = DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/lyss".into());
    let rig = Rig::on(6, Database::open(away, 1).unwrap()).await;
    rig.command(&["HSET", "lyss:epoch", "lost", "0", "run", "x", "moved", "0"])
        .await;
    let store = rig.store(Duration::from_millis(50));
    store.pending.started();
    let key = fresh_key("s");
    store.memory.may_have_lost().await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let begun = store.begin_turn(&key, &ticket()).await.unwrap();
    assert_eq!(
        begun,
        Begun::Granted(None),
        "longer ago than a session lives"
    );
    appended(&store, &key, &["a"], 0).await;

    rig.command(&["HSET", "lyss:epoch", "lost", "9999999999999"])
        .await;
    let unknown = store.begin_turn(&fresh_key("s"), &ticket()).await;
    assert_eq!(
        unknown.unwrap_err().kind(),
        ErrorKind::SessionStoreUnavailable,
        "it may be there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_come_in_any_order_and_twice() {
    let archive = DatabaseSessionStore::new(testing::postgres().await, HOUR);
    let key = fresh_key("s");
    let created = super::super::now_ms();
    let keep = async |version: u64, after: Option<&str>, text: &'static str| {
        let request = version.to_string();
        let told = StoredTurn {
            created_ms: created,
            used_ms: created + 1,
            version,
            request: &request,
            after,
            message_count: version * 2,
            token_count: version,
            history: "h",
            system: Some(text.as_bytes()),
            messages: &[(text.into(), 1), ("a".into(), 1)],
        };
        archive.keep_turn(&key, &told).await.unwrap()
    };
    assert_eq!(keep(3, Some("2"), "three").await, Kept::First);
    let gap = archive.fetch(&key).await.map(|_| ()).unwrap_err();
    assert_eq!(gap.kind(), ErrorKind::SessionStoreUnavailable);
    assert_eq!(keep(1, None, "one").await, Kept::Yes);
    assert_eq!(keep(2, Some("1"), "two").await, Kept::Yes);
    for (version, text) in [(1, "one"), (3, "three"), (2, "two")] {
        assert_eq!(keep(version, None, text).await, Kept::Yes, "again");
    }
    assert_eq!(keep(2, Some("1"), "else").await, Kept::Forked);
    assert_eq!(keep(4, Some("x"), "four").await, Kept::Forked);
    let archived = archive.fetch(&key).await.unwrap().unwrap();
    assert_eq!(
        (archived.session.version, archived.session.messages.len()),
        (3, 6)
    );
    assert_eq!(archived.session.system.as_deref(), Some(&b"three"[..]));
    assert_eq!(archived.last_request.as_deref(), Some("3"));

    assert!(archive.keep_deletion(&key, created).await.unwrap());
    assert_eq!(keep(4, Some("3"), "four").await, Kept::Obsolete);
    assert!(archive.fetch(&key).await.unwrap().is_none());
}
