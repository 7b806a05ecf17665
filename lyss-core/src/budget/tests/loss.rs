//! What Redis has lost is counted anew, before anything is granted.

use super::{
    promises::log,
    stores::{self, Instances},
    *,
};
use crate::{
    ErrorKind,
    types::{LogRow, Status, log::Purpose},
};

async fn lose(instances: &Instances) {
    let mut keys = ::redis::cmd("KEYS");
    keys.arg(format!("{{{}}}:*", instances.tag));
    let keys: Vec<String> = instances.redis.command(&keys).await.unwrap();
    assert!(!keys.is_empty());
    let mut delete = ::redis::cmd("DEL");
    delete.arg(keys);
    let _: i64 = instances.redis.command(&delete).await.unwrap();
}

/// Runs a request as the pipeline does: an intent, a reservation, and at the end its row and what it cost.
struct Call {
    entry: crate::billing::Entry,
    row: LogRow,
    reservation: Reservation,
}

async fn call(instances: &Instances, at: usize, budgets: &Budgets, asked: &str) -> Result<Call> {
    let id = RequestId::new();
    let applying = budgets.applying(&spender("u"), id.unix_ms());
    let reservation = budgets
        .reserve(id, applying, "USD", usd(asked), usd(asked))
        .await?;
    let mut row = LogRow::new(id, Purpose::Chat, "m", false);
    row.user_id = "u".into();
    row.currency = Some("USD".into());
    let entry = instances.ledgers[at].begin(&row)?;
    Ok(Call {
        entry,
        row,
        reservation,
    })
}

impl Call {
    fn end(mut self, charge: &str) {
        self.row.status = Status::Success;
        self.row.user_charge_pico = usd(charge).to_row().unwrap();
        self.entry.settle(&self.row);
        self.reservation.settle(usd(charge));
    }
}

const BUDGET: &str = "{ user: u, amount: 10, period: month }";

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_is_counted_from_the_log_and_from_what_runs() {
    let instances = stores::instances(stores::redis_source()).await;
    let budgets = [&instances.pair.one, &instances.pair.two].map(|store| instance(store, BUDGET));
    let mut running = Vec::new();
    for round in 0..3 {
        for (at, budgets) in budgets.iter().enumerate() {
            call(&instances, at, budgets, "1").await.unwrap().end("0.5");
            running.push(call(&instances, at, budgets, "0.5").await.unwrap());
        }
        // Some of what has just ended is in no counter yet, and not in the log.
        lose(&instances).await;
        let spent = usd(["1", "2", "3"][round]);
        let reserved = usd(["1", "2", "3"][round]);
        let too_much = Pico(usd("10").0 - spent.0 - reserved.0 + 1);
        let error = call(&instances, 0, &budgets[0], &too_much.to_string())
            .await
            .err()
            .expect("it is not covered");
        assert_eq!(error.kind(), ErrorKind::BudgetExceeded, "{error:?}");
        assert_eq!(
            balance(&budgets[1], "u").await,
            (spent, reserved),
            "round {round}"
        );
    }
    for (at, running) in running.into_iter().enumerate() {
        // One cost more than was reserved.
        running.end(if at == 0 { "0.75" } else { "0.25" });
    }
    for budgets in &budgets {
        assert!(budgets.settled(Duration::from_secs(5)).await);
    }
    assert_eq!(balance(&budgets[0], "u").await, (usd("5"), usd("0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_callers_never_spend_more_though_redis_is_emptied() {
    let instances = Arc::new(stores::instances(stores::redis_source()).await);
    let budgets = [&instances.pair.one, &instances.pair.two].map(|store| instance(store, BUDGET));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..60_usize {
        let (instances, budgets) = (Arc::clone(&instances), Arc::clone(&budgets[caller % 2]));
        callers.spawn(async move {
            let mut admitted = 0;
            for _ in 0..6 {
                if let Ok(call) = call(&instances, caller % 2, &budgets, "0.1").await {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
                    call.end("0.1");
                    admitted += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            admitted
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        lose(&instances).await;
    }
    let admitted: usize = callers.join_all().await.into_iter().sum();
    for budgets in &budgets {
        assert!(budgets.settled(Duration::from_secs(5)).await);
    }
    for ledger in &instances.ledgers {
        assert!(ledger.flush(Duration::from_secs(5)).await);
    }
    assert!(admitted <= 100, "{admitted} of 100");
    // What was reserved for a call that was refused since its answer got lost is settled by its row, which the
    // pipeline writes; here there is none.
    let (spent, _) = balance(&budgets[0], "u").await;
    assert_eq!(spent, Pico(usd("0.1").0 * admitted as i128));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_refuses_or_counts_later() {
    let instances = stores::instances(stores::redis_source()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let away = crate::redis::RedisHandle::connect(crate::redis::RedisSource {
        addr: format!("127.0.0.1:{port}"),
        dial_timeout: Duration::from_millis(100),
        ..Default::default()
    })
    .await
    .unwrap();
    let store = redis::RedisBudgetStore::new(away, instances.pair.database.clone());
    let store = Arc::new(store) as Arc<dyn BudgetStore>;
    let budgets = instance(&store, BUDGET);
    let begin = std::time::Instant::now();
    let error = reserve(&budgets, "u", "1", "1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BudgetStoreUnavailable);
    assert!(error.retry_after().is_some());
    assert!(
        begin.elapsed() < Duration::from_millis(500),
        "it is not waited for"
    );
    let mut open = config(BUDGET);
    open.billing.on_store_down = config::OnStoreDown::Open;
    budgets.configure(&open).unwrap();
    let reservation = reserve(&budgets, "u", "100", "1").await.unwrap();
    assert_eq!(reservation.granted(), usd("100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_on_without_redis_is_counted_when_it_is_back() {
    let instances = stores::instances(stores::redis_source()).await;
    let budgets = [&instances.pair.one, &instances.pair.two].map(|store| instance(store, BUDGET));
    call(&instances, 0, &budgets[0], "1")
        .await
        .unwrap()
        .end("1");
    // As if Redis had not answered: one call has ended, one is running.
    let unchecked = |asked: &'static str| {
        let id = RequestId::new();
        let applying = budgets[0].applying(&spender("u"), id.unix_ms());
        let book = applying.book.clone().unwrap();
        let request = Request {
            id,
            bounds: &applying.bounds,
            book: &book,
            currency: "USD",
        };
        let error = refusal::unavailable(None);
        budgets[0].go_on(&request, usd(asked), &error).unwrap();
        (id, Arc::clone(&applying.bounds[0].key))
    };
    let (ended, key) = unchecked("3");
    log(&instances.pair.database, ended, "u", usd("2"), "USD").await;
    let settlement = |id, charge: &str| store::Settlement {
        id,
        charges: [(Arc::clone(&key), nano(usd(charge)))].into(),
        source: store::Source::Unchecked,
    };
    budgets[0].settling.settle(settlement(ended, "2"));
    let (running, _) = unchecked("4");
    tokio::time::timeout(Duration::from_secs(8), async {
        while balance(&budgets[1], "u").await != (usd("3"), usd("4")) {
            // The counter begins anew when it is asked for.
            let _ = reserve(&budgets[1], "u", "9", "9").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("both are counted");
    budgets[0].settling.settle(settlement(running, "0.5"));
    assert!(budgets[0].settled(Duration::from_secs(5)).await);
    assert_eq!(balance(&budgets[1], "u").await, (usd("3.5"), usd("0")));
}
