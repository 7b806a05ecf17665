//! Processes that die: their requests still make one row each.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::database::{DatabaseSource, testing};

/// Where a child process keeps its spool; set only in children.
const SPOOL: &str = "LYSS_TEST_CRASH_SPOOL";
/// The SQLite file of the child.
const FILE: &str = "LYSS_TEST_CRASH_FILE";
/// The PostgreSQL database of the child, instead of a file.
const URL: &str = "LYSS_TEST_CRASH_URL";
const THREADS: usize = 4;

/// What the parent test re-executes; by itself it does nothing.
#[test]
fn crash_child() {
    let Some(root) = std::env::var_os(SPOOL) else {
        return;
    };
    let source = match std::env::var(URL) {
        Ok(url) => DatabaseSource::PostgresUrl(url.into()),
        Err(_) => DatabaseSource::Sqlite(std::env::var_os(FILE).unwrap().into()),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let database = Database::open(source, 4).unwrap();
    let small = LedgerOptions {
        segment_bytes: 64 << 10,
        ..options(Path::new(&root))
    };
    let ledger = std::sync::Arc::new(Ledger::open(small, Some(database)).unwrap());
    for _ in 0..THREADS {
        let ledger = ledger.clone();
        std::thread::spawn(move || {
            loop {
                let row = intent();
                let entry = ledger.begin(&row).unwrap();
                // One write a line: what the parent has read, was acknowledged.
                let say = |word: &str| {
                    let line = format!("#{word} {}\n", row.request_id);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                };
                say("begun");
                std::thread::sleep(Duration::from_micros(fastrand::u64(0..3_000)));
                entry.settle(&settled(&row));
                say("settled");
            }
        });
    }
    // Until the parent kills this process.
    loop {
        std::thread::park();
    }
}

fn child(root: &Path, database: (&str, &str)) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "billing::tests::crash::crash_child",
            "--nocapture",
        ])
        .args(["--test-threads", "1"])
        .env(SPOOL, root)
        .env(database.0, database.1)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child has said until it died: begun ids, settled ids.
fn said(text: &[u8]) -> (Vec<String>, Vec<String>) {
    let (mut begun, mut settled) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(text).lines() {
        // The test harness writes on the same line before the first one.
        let Some((_, line)) = line.split_once('#') else {
            continue;
        };
        match line.split_once(' ') {
            Some(("begun", id)) if id.len() == 36 => begun.push(id.to_owned()),
            Some(("settled", id)) if id.len() == 36 => settled.push(id.to_owned()),
            _ => {}
        }
    }
    (begun, settled)
}

/// Reads what a child says until it is dead.
fn listen(child: &mut Child) -> std::thread::JoinHandle<Vec<u8>> {
    let mut stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        text
    })
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn survives_kills(database: Database, place: (&str, &str), kills: usize) {
    let root = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let (mut begun, mut settled) = (Vec::new(), Vec::new());
    for round in 0..kills {
        // Each child also adopts what the one before has left.
        let mut child = child(root.path(), place);
        let text = listen(&mut child);
        let pause = Duration::from_millis(80 + fastrand::u64(0..200));
        tokio::time::sleep(pause).await;
        kill(&mut child);
        let (b, s) = said(&text.join().unwrap());
        begun.extend(b);
        settled.extend(s);
        if round % 5 == 0 {
            // To be replayed a second time at the end.
            for dir in directories(root.path()) {
                let copy = copies.path().join(uuid::Uuid::now_v7().to_string());
                std::fs::create_dir(&copy).unwrap();
                for file in std::fs::read_dir(&dir).unwrap() {
                    let file = file.unwrap();
                    std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
                }
            }
        }
    }
    let check = async |root: &Path| {
        let ledger = Ledger::open(options(root), Some(database.clone())).unwrap();
        eventually("all dead directories are adopted", async || {
            directories(root).len() == 1
        })
        .await;
        assert!(ledger.close(LONG).await);
        let rows = rows(&database).await;
        let count = |id: &str, status: &str| {
            rows.get(&(id.to_owned(), status.to_owned()))
                .copied()
                .unwrap_or(0)
        };
        let done: std::collections::HashSet<_> = settled.iter().collect();
        for id in &begun {
            let (success, aborted) = (count(id, "success"), count(id, "aborted"));
            assert_eq!(success + aborted, 1, "{id} has one row");
            // Between the settle's return and the line's writing the process may have died.
            assert!(success == 1 || !done.contains(id), "{id} was acknowledged");
        }
        assert!(
            rows.values().all(|count| *count == 1),
            "no row is there twice"
        );
        rows.len()
    };
    let first = check(root.path()).await;
    assert!(!directories(copies.path()).is_empty());
    assert_eq!(
        check(copies.path()).await,
        first,
        "a second replay changes nothing"
    );
    assert!(
        settled.len() > kills * 20,
        "the children did work: {}",
        settled.len()
    );
    assert!(begun.len() - settled.len() >= kills, "some died in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_and_double_nothing_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let file = directory.path().join("lyss.db");
    survives_kills(database, (FILE, file.to_str().unwrap()), 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_and_double_nothing_on_postgres() {
    use secrecy::ExposeSecret;
    let url = testing::new_postgres_url().await;
    let database = Database::open(DatabaseSource::PostgresUrl(url.clone()), 4).unwrap();
    database.migrate().await.unwrap();
    survives_kills(database, (URL, url.expose_secret()), 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_a_living_process_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let root = tempfile::tempdir().unwrap();
    let file = directory.path().join("lyss.db");
    let place = (FILE, file.to_str().unwrap());
    let (mut living, mut dying) = (child(root.path(), place), child(root.path(), place));
    let text = listen(&mut living);
    eventually("both have begun", async || {
        directories(root.path()).len() == 2
    })
    .await;
    kill(&mut dying);
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    eventually("the dead one's is adopted", async || {
        directories(root.path()).len() == 2
    })
    .await;
    kill(&mut living);
    let settled_late = said(&text.join().unwrap()).1;
    assert!(!settled_late.is_empty());
    assert_eq!(
        directories(root.path()).len(),
        2,
        "its own, and the one just killed"
    );
    ledger.close(LONG).await;
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    eventually("the second is adopted", async || {
        directories(root.path()).len() == 1
    })
    .await;
    assert!(ledger.close(LONG).await);
    let rows = rows(&database).await;
    for id in settled_late {
        assert_eq!(rows.get(&(id, "success".into())), Some(&1));
    }
    assert!(rows.values().all(|count| *count == 1));
}

#[tokio::test]
async fn of_several_intents_the_last_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let (root, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    let row = intent();
    let entry = ledger.begin(&row).unwrap();
    let known = LogRow {
        input_tokens: 5,
        ..row.clone()
    };
    entry.amend(&known).unwrap();
    // What a process that dies now leaves behind.
    let copy = left.path().join(uuid::Uuid::now_v7().to_string());
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&directories(root.path())[0]).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let heir = Ledger::open(options(left.path()), Some(database.clone())).unwrap();
    eventually("it is adopted", async || {
        directories(left.path()).len() == 1
    })
    .await;
    assert!(heir.close(LONG).await);
    let Pool::Sqlite(pool) = &database.pool else {
        panic!("it is SQLite");
    };
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT status, input_tokens FROM request_logs")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(rows, [("aborted".to_owned(), 5)]);
    entry.settle(&settled(&row));
}
