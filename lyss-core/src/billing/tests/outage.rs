//! The database goes away under load, and comes back.

use std::process::Command;

use super::*;
use crate::database::DatabaseSource;

/// A PostgreSQL of the test's own, since it is stopped.
struct Server(tempfile::TempDir);

impl Server {
    fn run(&self, command: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/services/postgres.sh");
        let output = Command::new(script)
            .args([command.as_ref(), self.0.path().as_os_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_stops_no_request_and_loses_no_row() {
    let server = Server(tempfile::tempdir().unwrap());
    let url = server.run("start");
    let database = Database::open(DatabaseSource::PostgresUrl(url.into()), 4).unwrap();
    database.migrate().await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let ledger =
        std::sync::Arc::new(Ledger::open(options(root.path()), Some(database.clone())).unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let load = tokio::spawn({
        let (ledger, stop) = (ledger.clone(), stop.clone());
        async move {
            let (mut ids, mut slowest) = (Vec::new(), Duration::ZERO);
            while !stop.is_cancelled() {
                let row = intent();
                let start = Instant::now();
                ledger.begin(&row).unwrap().settle(&settled(&row));
                slowest = slowest.max(start.elapsed());
                ids.push(row.request_id);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (ids, slowest)
        }
    });
    let pause = async |time: u64| tokio::time::sleep(Duration::from_millis(time)).await;
    pause(500).await;
    server.run("stop");
    pause(1_500).await;
    assert!(ledger.stats().waiting_records > 300, "rows wait on disk");
    assert!(database.ping().await.is_err());
    server.run("up");
    pause(300).await;
    stop.cancel();
    let (ids, slowest) = load.await.unwrap();
    assert!(ledger.flush(LONG).await, "{:?}", ledger.stats());
    let rows = rows(&database).await;
    assert_eq!(ledger.stats().dead_letters, 0);
    assert_eq!(rows.len(), ids.len());
    for id in ids {
        assert_eq!(rows.get(&(id, "success".into())), Some(&1));
    }
    assert!(
        slowest < Duration::from_secs(1),
        "no request waited: {slowest:?}"
    );
    assert!(ledger.close(LONG).await);
}
