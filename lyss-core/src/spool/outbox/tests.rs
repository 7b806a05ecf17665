//! The outbox on real files: nothing is lost, whatever the destination does or the process dies of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashMap, sync::atomic::AtomicUsize};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;

/// What a destination answers to a record.
type Answer = Box<dyn Fn(&str, usize) -> Result<(), Failure> + Send + Sync>;

/// A destination that keeps what it took, and answers as told; lanes are the records' first bytes.
struct Destination {
    answer: Answer,
    taken: Mutex<Vec<String>>,
    tries: Mutex<HashMap<String, usize>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Destination {
    fn new(
        answer: impl Fn(&str, usize) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            answer: Box::new(answer),
            taken: Mutex::default(),
            tries: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().clone()
    }
}

#[async_trait]
impl Consumer for Destination {
    fn lane(&self, record: &[u8]) -> u64 {
        record.first().copied().unwrap_or(0).into()
    }

    async fn handle(&self, record: &[u8]) -> Result<(), Failure> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let record = String::from_utf8(record.to_vec()).unwrap();
        let tries = {
            let mut tries = self.tries.lock();
            let tries = tries.entry(record.clone()).or_default();
            *tries += 1;
            *tries
        };
        (self.answer)(&record, tries)?;
        self.taken.lock().push(record);
        Ok(())
    }
}

fn options() -> OutboxOptions {
    OutboxOptions {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        segment_bytes: 200,
        ..OutboxOptions::new(1 << 20)
    }
}

fn start(outbox: &Outbox, destination: &Arc<Destination>) -> JoinHandle<()> {
    tokio::spawn(outbox.consume(Arc::clone(destination) as Arc<dyn Consumer>))
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn push(outbox: &Outbox, records: impl IntoIterator<Item = String>) {
    for record in records {
        outbox.push(record.as_bytes()).unwrap();
    }
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:03}")).collect()
}

/// Ends the loop as a killed process does: without a word.
async fn kill(outbox: Outbox, task: JoinHandle<()>) {
    task.abort();
    let _ = task.await;
    drop(outbox);
}

#[tokio::test]
async fn records_arrive_in_order_of_their_lane_and_leave_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), "t", options()).unwrap();
    let destination = Destination::new(|_, _| Ok(()));
    let task = start(&outbox, &destination);
    push(&outbox, (0..100).map(|n| format!("{}{n:03}", n % 4)));
    assert!(outbox.stats().waiting > 0);
    eventually("all handed on", || outbox.stats().waiting == 0).await;
    let taken = destination.taken();
    assert_eq!(taken.len(), 100);
    for lane in ["0", "1", "2", "3"] {
        let own: Vec<_> = taken.iter().filter(|r| r.starts_with(lane)).collect();
        assert!(own.is_sorted() && own.len() == 25, "{own:?}");
    }
    assert!(
        destination.most_at_once.load(Ordering::SeqCst) > 1,
        "lanes do not wait for each other"
    );
    eventually("no text stays on disk", || outbox.stats().bytes == 0).await;
    outbox.close(Duration::from_secs(5)).await;
    assert!(matches!(outbox.push(b"late"), Err(AppendError::Closed)));
    task.abort();
    outbox.remove_if_empty();
    assert_eq!(std::fs::read_dir(root.path().join("t")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_outage_loses_nothing_and_uses_up_no_tries() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), "t", options()).unwrap();
    let away = Arc::new(AtomicBool::new(true));
    let destination = Destination::new({
        let away = Arc::clone(&away);
        move |_, _| match away.load(Ordering::SeqCst) {
            true => Err(Failure::Away {
                reason: "away".into(),
                after: None,
            }),
            false => Ok(()),
        }
    });
    let task = start(&outbox, &destination);
    push(&outbox, numbered("a", 20));
    eventually("more failures than tries", || outbox.stats().failures > 12).await;
    let started = Instant::now();
    outbox.close(Duration::from_secs(30)).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "a destination that is away is not waited for"
    );
    away.store(false, Ordering::SeqCst);
    eventually("all handed on", || outbox.stats().waiting == 0).await;
    assert_eq!(destination.taken(), numbered("a", 20));
    assert_eq!(outbox.stats().set_aside, 0);
    task.abort();
}

#[tokio::test]
async fn a_poisonous_record_is_set_aside_and_the_others_go_on() {
    let root = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(root.path(), "t", options()).unwrap();
    let destination = Destination::new(|record, _| match record {
        "a001" => Err(Failure::Failed("cannot be digested".into())),
        "a003" => Err(Failure::Refused("never".into())),
        _ => Ok(()),
    });
    let task = start(&outbox, &destination);
    push(&outbox, numbered("a", 5));
    eventually("all done", || outbox.stats().waiting == 0).await;
    assert_eq!(destination.taken(), ["a000", "a002", "a004"]);
    assert_eq!(destination.tries.lock()["a001"], 6);
    assert_eq!(destination.tries.lock()["a003"], 1);
    assert_eq!(outbox.stats().set_aside, 2);
    let aside = std::fs::read_to_string(root.path().join("t").join(SET_ASIDE_FILE)).unwrap();
    assert!(
        aside.contains("cannot be digested") && aside.contains("a003"),
        "{aside}"
    );
    task.abort();
}

#[tokio::test]
async fn what_a_dead_process_left_is_handed_on_from_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let dead = Outbox::open(root.path(), "t", options()).unwrap();
    // Takes the first forty, then nothing.
    let destination = Destination::new(|record, _| match record < "a040" {
        true => Ok(()),
        false => Err(Failure::Away {
            reason: "away".into(),
            after: None,
        }),
    });
    let task = start(&dead, &destination);
    push(&dead, numbered("a", 100));
    eventually("forty are handed on", || destination.taken().len() == 40).await;
    eventually("the next one fails", || dead.stats().failures > 0).await;
    kill(dead, task).await;

    let outbox = Outbox::open(root.path(), "t", options()).unwrap();
    push(&outbox, numbered("b", 3));
    let next = Destination::new(|_, _| Ok(()));
    let task = start(&outbox, &next);
    eventually("all handed on", || next.taken().len() >= 63).await;
    let expected = [&numbered("a", 100)[40..], &numbered("b", 3)].concat();
    assert_eq!(
        next.taken(),
        expected,
        "none twice, none lost, the older ones first"
    );
    eventually("the dead one's directory is gone", || {
        std::fs::read_dir(root.path().join("t")).unwrap().count() == 1
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn a_full_outbox_drops_and_counts_and_topics_do_not_share_their_room() {
    let root = tempfile::tempdir().unwrap();
    let small = OutboxOptions {
        max_bytes: 1_000,
        ..options()
    };
    let full = Outbox::open(root.path(), "full", small.clone()).unwrap();
    let other = Outbox::open(root.path(), "other", small).unwrap();
    let record = [b'a'; 100];
    let taken = (0..20).filter(|_| full.push(&record).is_ok()).count();
    assert_eq!(taken, 8, "of 900 bytes, each with its header");
    assert!(matches!(full.push(&record), Err(AppendError::Full)));
    assert_eq!(full.stats().dropped, 13);
    assert_eq!(full.stats().waiting, 8);
    other.push(&record).unwrap();
    // Room comes back once something is handed on.
    let destination = Destination::new(|_, _| Ok(()));
    let task = start(&full, &destination);
    eventually("room again", || full.push(&record).is_ok()).await;
    task.abort();
    let too_long = vec![b'a'; frame::MAX_RECORD + 1];
    assert!(matches!(other.push(&too_long), Err(AppendError::Io(_))));
}

#[tokio::test]
async fn damage_and_a_torn_end_cost_what_they_hit() {
    let root = tempfile::tempdir().unwrap();
    let dead = Outbox::open(root.path(), "t", options()).unwrap();
    push(&dead, numbered("a", 40));
    let dir = dead.0.spool.dir().to_owned();
    let segments = dead.0.spool.snapshot().segments;
    assert!(segments.len() > 2, "the damage must leave something");
    drop(dead);
    // The first segment is damaged from its second record on, the last one ends in half a record.
    let first = super::super::segment_path(&dir, 0);
    let mut bytes = std::fs::read(&first).unwrap();
    let in_first = bytes.len() / 12;
    bytes[12 + 9] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let (last, _) = segments.last_key_value().unwrap();
    let last = super::super::segment_path(&dir, *last);
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() - 3]).unwrap();

    let outbox = Outbox::open(root.path(), "t", options()).unwrap();
    let destination = Destination::new(|_, _| Ok(()));
    let task = start(&outbox, &destination);
    let mut expected = numbered("a", 40);
    expected.pop();
    expected.drain(1..in_first);
    eventually("the rest arrives", || destination.taken() == expected).await;
    assert_eq!(outbox.stats().dropped, 1);
    task.abort();
}

#[test]
fn a_position_that_cannot_be_believed_is_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut note = reader::Note::new(dir.path());
    assert_eq!(note.read(), (0, 0));
    note.write((3, 1_000)).unwrap();
    note.write((4, 7)).unwrap();
    assert_eq!(reader::Note::new(dir.path()).read(), (4, 7));
    let path = dir.path().join("position");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(note.read(), (0, 0));
}
