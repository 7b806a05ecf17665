//! What an answer waits for.

use futures::future::join_all;

use super::*;
use crate::{ErrorKind, config::Durability, database::testing};

fn ledger(root: &Path, database: &Database, durability: Durability) -> Ledger {
    let options = LedgerOptions {
        durability,
        ..options(root)
    };
    Ledger::open(options, Some(database.clone())).unwrap()
}

/// When it has been waited, the row is there: no matter who else ends at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_database_the_row_is_there() {
    let root = tempfile::tempdir().unwrap();
    let database = testing::sqlite(root.path()).await;
    let ledger = ledger(&root.path().join("spool"), &database, Durability::Database);
    let calls = (0..200).map(|_| async {
        let intent = intent();
        let entry = ledger.begin(&intent).unwrap();
        ledger.begun().await.unwrap();
        tokio::task::yield_now().await;
        entry.settle(&settled(&intent));
        ledger.kept().await.unwrap();
        let row = database.request(&intent.request_id, None).await;
        assert_eq!(row.unwrap().status, Status::Success);
    });
    join_all(calls).await;
    assert!(ledger.close(LONG).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_database_an_answer_does_not_come_without_it() {
    let root = tempfile::tempdir().unwrap();
    let database = testing::sqlite(root.path()).await;
    let ledger = ledger(&root.path().join("spool"), &database, Durability::Database);
    let intent = intent();
    let entry = ledger.begin(&intent).unwrap();
    database.close().await;
    entry.settle(&settled(&intent));
    let error = ledger.kept().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
    assert!(!error.should_retry(), "it is charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_disk_one_sync_serves_many() {
    let root = tempfile::tempdir().unwrap();
    let database = testing::sqlite(root.path()).await;
    let ledger = ledger(&root.path().join("spool"), &database, Durability::Disk);
    let began = Instant::now();
    let calls = (0..500).map(|_| async {
        let intent = intent();
        let entry = ledger.begin(&intent).unwrap();
        ledger.begun().await.unwrap();
        entry.settle(&settled(&intent));
        ledger.kept().await.unwrap();
    });
    join_all(calls).await;
    // A thousand syncs one after another take longer on any disk.
    println!("500 requests, each synced twice: {:?}", began.elapsed());
    assert!(ledger.close(LONG).await);
    let all = rows(&database).await;
    assert_eq!(all.len(), 500);
}
