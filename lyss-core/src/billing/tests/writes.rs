//! What is written lands once, soon, and whatever else happens to the files.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::{
    billing::{
        reader::{Reader, Row},
        record::{Kind, encode, parse_whole},
        sink,
    },
    database::testing,
    spool::segment_path,
};

async fn lands_once_and_soon(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    let begun = intent();
    let entry = ledger.begin(&begun).unwrap();
    assert_eq!(ledger.stats().open, 1);
    let rejected = LogRow {
        status: Status::Rejected,
        ..intent()
    };
    ledger.record(&rejected).unwrap();
    entry.settle(&settled(&begun));
    let settled_at = Instant::now();
    let mut seen = None;
    while seen.is_none() {
        seen = database.request(&begun.request_id, None).await.ok();
    }
    let took = settled_at.elapsed();
    assert!(took < Duration::from_secs(2), "visible after {took:?}");
    assert_eq!(seen.unwrap(), settled(&begun));
    eventually("all drained", async || ledger.stats().waiting_records == 0).await;
    assert_eq!(
        database.request(&rejected.request_id, None).await.unwrap(),
        rejected
    );
    eventually("the spool is empty", async || {
        let stats = ledger.stats();
        let empty = LedgerStats {
            max_bytes: stats.max_bytes,
            ..LedgerStats::default()
        };
        stats == empty
    })
    .await;

    // After it was emptied, the same file goes on.
    for _ in 0..1_000 {
        let row = intent();
        ledger.begin(&row).unwrap().settle(&settled(&row));
    }
    assert!(ledger.close(LONG).await);
    assert_eq!(rows(&database).await.values().sum::<i64>(), 1_002);
    assert_eq!(directories(root.path()), Vec::<PathBuf>::new());
    assert_eq!(
        ledger.begin(&intent()).err().unwrap().code(),
        "shutting_down"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_lands_once_and_soon_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    lands_once_and_soon(testing::sqlite(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_lands_once_and_soon_on_postgres() {
    lands_once_and_soon(testing::postgres().await).await;
}

/// Rows that the database cannot take, each for another reason.
fn poison(entry: usize) -> LogRow {
    let row = settled(&intent());
    match entry {
        0 => LogRow {
            input_tokens: u64::MAX,
            ..row
        },
        1 => LogRow {
            attempts: 1,
            output_tokens: i64::MAX as u64 + 1,
            ..row
        },
        _ => LogRow {
            latency_ms: u64::MAX - 1,
            ..row
        },
    }
}

async fn poison_goes_to_the_dead_letters(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
    let mut good = Vec::new();
    for number in 0..600 {
        let row = settled(&LogRow {
            user_id: "nul\0".into(),
            ..intent()
        });
        good.push(row.request_id.clone());
        ledger.record(&row).unwrap();
        if number % 200 == 100 {
            ledger.record(&poison(number / 200)).unwrap();
        }
    }
    assert!(ledger.flush(LONG).await);
    let rows = rows(&database).await;
    assert_eq!(rows.len(), 600);
    for id in good {
        assert_eq!(rows.get(&(id, "success".into())), Some(&1));
    }
    assert_eq!(ledger.stats().dead_letters, 3);
    let letters = std::fs::read_to_string(root.path().join("dead_letter.jsonl")).unwrap();
    assert_eq!(letters.lines().count(), 3);
    for line in letters.lines() {
        let letter: serde_json::Value = serde_json::from_str(line).unwrap();
        let row: LogRow = serde_json::from_str(letter["row"].as_str().unwrap()).unwrap();
        assert_eq!(row.model_name, "gpt");
        assert!(!letter["reason"].as_str().unwrap().is_empty());
    }
    assert!(ledger.close(LONG).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letters_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    poison_goes_to_the_dead_letters(testing::sqlite(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letters_on_postgres() {
    poison_goes_to_the_dead_letters(testing::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_go_when_they_are_drained_but_not_below_an_open_request() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let root = tempfile::tempdir().unwrap();
    let small = LedgerOptions {
        segment_bytes: 4_096,
        ..options(root.path())
    };
    let ledger = Ledger::open(small, Some(database.clone())).unwrap();
    let long = intent();
    let open = ledger.begin(&long).unwrap();
    for _ in 0..200 {
        let row = intent();
        ledger.begin(&row).unwrap().settle(&settled(&row));
    }
    assert!(ledger.flush(LONG).await);
    let segments = || {
        std::fs::read_dir(&directories(root.path())[0])
            .unwrap()
            .count()
            - 1
    };
    assert_eq!(
        segments(),
        2,
        "the first, which is pinned, and the current one"
    );
    assert!(segment_path(&directories(root.path())[0], 0).exists());
    open.settle(&settled(&long));
    eventually("nothing is left", async || ledger.stats().bytes == 0).await;
    assert_eq!(segments(), 1);
    assert!(ledger.close(LONG).await);
    assert_eq!(rows(&database).await.len(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_new_requests_and_lets_running_ones_finish() {
    // A database that never answers: nothing is drained.
    let gone = crate::database::DatabaseSource::PostgresUrl("postgres://lyss@127.0.0.1:1/x".into());
    let gone = Database::open(gone, 1).unwrap();
    let root = tempfile::tempdir().unwrap();
    let tight = LedgerOptions::new(root.path(), 100_000);
    let ledger = Ledger::open(tight, Some(gone)).unwrap();
    let mut running = Vec::new();
    let refusal = loop {
        let row = intent();
        match ledger.begin(&row) {
            Ok(entry) => running.push((row, entry)),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code(), "billing_spool_full");
    assert!(refusal.should_retry());
    assert_eq!(
        ledger.record(&settled(&intent())).unwrap_err().code(),
        "billing_spool_full"
    );
    let bytes = ledger.stats().bytes;
    assert!((85_000..=90_000).contains(&bytes), "{bytes}");
    let count = running.len();
    for (row, entry) in running {
        entry.settle(&settled(&row));
    }
    let stats = ledger.stats();
    assert!(
        stats.bytes > 95_000 && stats.bytes <= 100_000,
        "the reserve is used: {stats:?}"
    );
    assert_eq!(stats.open, 0);
    assert_eq!(
        stats.waiting_records, count as u64,
        "the rest waits in memory"
    );
    assert!(!ledger.close(Duration::from_millis(50)).await);
    assert_eq!(
        directories(root.path()).len(),
        1,
        "kept for the next process"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_kept_in_memory_are_drained_and_their_segments_go() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let root = tempfile::tempdir().unwrap();
    let tight = LedgerOptions {
        segment_bytes: 10_000,
        ..LedgerOptions::new(root.path(), 100_000)
    };
    let ledger = Ledger::open(tight, Some(database.clone())).unwrap();
    let mut running = Vec::new();
    while let Ok(entry) = {
        let row = intent();
        ledger.begin(&row).map(|entry| (row, entry))
    } {
        running.push(entry);
    }
    let count = running.len() as i64;
    for (row, entry) in running {
        entry.settle(&settled(&row));
    }
    eventually("nothing is left", async || {
        let stats = ledger.stats();
        stats.bytes == 0 && stats.waiting_records == 0 && stats.open == 0
    })
    .await;
    let rows = rows(&database).await;
    assert!(rows.keys().all(|(_, status)| status == "success"));
    assert_eq!(rows.values().sum::<i64>(), count);
    assert!(ledger.begin(&intent()).is_ok(), "there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_row_lands_once_across_the_month_border() {
    let database = testing::postgres_without_months().await;
    let mut bytes = *uuid::Uuid::now_v7().as_bytes();
    let last_month = "2026-10-31T23:59:59.999Z"
        .parse::<jiff::Timestamp>()
        .unwrap();
    bytes[..6].copy_from_slice(&last_month.as_millisecond().to_be_bytes()[2..]);
    let id = RequestId::from_bytes(bytes);
    let row = settled(&LogRow::new(id, Purpose::Chat, "gpt", false));
    assert_eq!(row.created_at, "2026-10-31T23:59:59.999Z");
    let root = tempfile::tempdir().unwrap();
    for now in ["2026-10-31T23:59:59Z", "2026-11-01T00:00:05Z"] {
        let now = now.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        database.ensure_partitions(now).await.unwrap();
        let ledger = Ledger::open(options(root.path()), Some(database.clone())).unwrap();
        ledger.record(&row).unwrap();
        assert!(ledger.close(LONG).await);
    }
    assert_eq!(rows(&database).await.values().sum::<i64>(), 1);
    assert_eq!(database.request(&row.request_id, None).await.unwrap(), row);
}

#[tokio::test(flavor = "multi_thread")]
async fn months_made_under_load_lose_no_row() {
    let database = testing::postgres_without_months().await;
    let root = tempfile::tempdir().unwrap();
    let letters = root.path().join("letters");
    let writers = (0..4).map(|_| {
        let (database, letters) = (database.clone(), letters.clone());
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..150 {
                let row = settled(&intent());
                let record = encode(Kind::Settle, &row).unwrap();
                let record = parse_whole(&record).unwrap();
                let written = sink::write(&database, &letters, &[Row::of(&record)]).await;
                assert_eq!(written, 0);
                ids.push(row.request_id);
            }
            ids
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let now = intent().created_at.parse::<jiff::Timestamp>().unwrap();
    let made = database
        .ensure_partitions(now.as_millisecond())
        .await
        .unwrap();
    assert_eq!(made.len(), 3);
    let ids = futures::future::join_all(writers)
        .await
        .into_iter()
        .flat_map(Result::unwrap);
    let rows = rows(&database).await;
    assert_eq!(rows.len(), 600);
    for id in ids {
        assert_eq!(rows.get(&(id, "success".into())), Some(&1));
    }
}

#[tokio::test]
async fn without_a_database_requests_go_on_and_nothing_is_written() {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(&root.path().join("spool")), None).unwrap();
    let entry = ledger.begin(&intent()).unwrap();
    assert_eq!(ledger.stats().open, 1);
    entry.settle(&settled(&intent()));
    assert_eq!(ledger.stats(), LedgerStats::default());
    assert!(ledger.close(LONG).await);
    assert!(!root.path().join("spool").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn the_spool_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let root = directory.path().join("spool");
    let ledger = Ledger::open(options(&root), Some(database)).unwrap();
    let entry = ledger.begin(&intent()).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    let own = &directories(&root)[0];
    assert_eq!(mode(own), 0o700);
    for file in std::fs::read_dir(own).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    drop(entry);
    assert_eq!(ledger.stats().open, 1, "an unsettled request stays open");
    assert!(!ledger.close(LONG).await);
    assert_eq!(directories(&root).len(), 1, "and its intent stays on disk");
}

/// Reads a segment that holds these bytes.
fn read(bytes: &[u8]) -> (Vec<Row>, usize, usize) {
    let directory = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(segment_path(directory.path(), 0)).unwrap();
    file.write_all(bytes).unwrap();
    let segments = [(0, bytes.len() as u64)].into();
    let mut reader = Reader::new(directory.path().to_owned(), true);
    let (mut rows, mut damaged) = (Vec::new(), 0);
    loop {
        let batch = reader.read(&segments).unwrap();
        if batch.rows.is_empty() && batch.damaged.is_empty() {
            return (rows, damaged, reader.take_open().len());
        }
        rows.extend(batch.rows);
        damaged += batch.damaged.len();
    }
}

#[test]
fn a_tail_torn_at_any_byte_costs_the_torn_record_only() {
    let whole: Vec<_> = (0..3)
        .map(|_| {
            let row = intent();
            let mut bytes = encode(Kind::Intent, &row).unwrap();
            bytes.extend(encode(Kind::Settle, &settled(&row)).unwrap());
            bytes
        })
        .collect();
    let kept = whole.concat();
    let last = encode(Kind::Settle, &settled(&intent())).unwrap();
    for cut in 0..last.len() {
        let bytes = [&kept[..], &last[..cut]].concat();
        assert_eq!(read(&bytes), (read(&kept).0, 0, 0), "cut at {cut}");
    }
    assert_eq!(read(&[&kept[..], &last[..]].concat()).0.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_in_the_middle_is_reported_and_what_precedes_it_is_kept(
        before in 0..1_200_usize,
        after in 1..20_usize,
        noise in proptest::collection::vec(any::<u8>(), 8..64),
    ) {
        let record = || encode(Kind::Settle, &settled(&intent())).unwrap();
        let mut damaged = record();
        let length = damaged.len();
        for (byte, noise) in damaged.iter_mut().skip(20).zip(&noise) {
            *byte = !*noise;
        }
        prop_assert_eq!(damaged.len(), length);
        let mut bytes = (0..before).flat_map(|_| record()).collect::<Vec<_>>();
        bytes.extend(&damaged);
        bytes.extend((0..after).flat_map(|_| record()));
        let (rows, skipped, _) = read(&bytes);
        prop_assert_eq!((rows.len(), skipped), (before, 1));
    }
}

/// Not a check, a measure: what a request pays on its own thread.
#[tokio::test(flavor = "multi_thread")]
async fn measure_begin_and_settle() {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(options(root.path()), Some(database)).unwrap();
    const COUNT: u32 = 2_000;
    let start = Instant::now();
    for _ in 0..COUNT {
        let row = intent();
        ledger.begin(&row).unwrap().settle(&settled(&row));
    }
    println!(
        "begin + settle: {:?} each (debug build, rows included)",
        start.elapsed() / COUNT
    );
    assert!(ledger.close(LONG).await);
    println!("with the drain: {:?} each", start.elapsed() / COUNT);
}
