//! A store that fails, one that is busy, and one whose answer gets lost.

use std::time::Instant;

use async_trait::async_trait;

use super::{
    promises::log,
    stores::{self, Pair},
    *,
};
use crate::{
    ErrorKind,
    budget::store::{Amounts, Balance, Page, Settlement, Source},
    price::Exchange,
};

const BUDGET: &str = "{ user: '*', amount: 9, period: total }";

/// What happens between the budgets and their store.
enum Between {
    /// The store does what it is asked, and its answer is lost.
    Loss,
    /// Somebody else takes a little of what is left.
    Rival,
}

struct Disturbed {
    store: Arc<dyn BudgetStore>,
    between: Between,
}

#[async_trait]
impl BudgetStore for Disturbed {
    async fn reserve(&self, asked: Asked<'_>) -> Result<Outcome> {
        let outcome = self.store.reserve(asked).await?;
        if matches!(self.between, Between::Loss) {
            return Err(refusal::unavailable(None));
        }
        let little = |claim: &Claim| Claim {
            amount: 1,
            ..claim.clone()
        };
        let rival = Asked {
            id: RequestId::new(),
            claims: &asked.claims.iter().map(little).collect::<Vec<_>>(),
            exchange: asked.exchange,
        };
        assert_eq!(self.store.reserve(rival).await?, Outcome::Granted);
        Ok(outcome)
    }

    async fn settle(&self, settlements: &[Settlement], exchange: &Arc<Exchange>) -> Result<()> {
        self.store.settle(settlements, exchange).await
    }

    fn answered_since(&self, time: Instant) -> bool {
        self.store.answered_since(time)
    }

    async fn open_before(&self, unix_ms: i64, from: Option<&str>) -> Result<Page> {
        self.store.open_before(unix_ms, from).await
    }

    async fn balances(&self, counters: &[Arc<str>]) -> Result<Vec<Option<Balance>>> {
        self.store.balances(counters).await
    }
}

/// An instance whose calls go on while the store is away.
fn open(store: &Arc<dyn BudgetStore>) -> Arc<Budgets> {
    let budgets = instance(store, BUDGET);
    let mut config = config(BUDGET);
    config.billing.on_store_down = config::OnStoreDown::Open;
    budgets.configure(&config).unwrap();
    budgets
}

fn disturbed(pair: &Pair, between: Between) -> Arc<Budgets> {
    let store = Arc::clone(&pair.one);
    open(&(Arc::new(Disturbed { store, between }) as Arc<dyn BudgetStore>))
}

async fn a_call_whose_reservation_got_lost_is_counted_once(pair: Pair) {
    let budgets = disturbed(&pair, Between::Loss);
    // The counter is there before: it does not begin with what the log says.
    let sound = open(&pair.two);
    let first = reserve(&sound, "u", "1", "1").await.unwrap();
    first.settle(Pico::ZERO);
    assert!(sound.settled(Duration::from_secs(5)).await);
    let id = RequestId::new();
    let applying = budgets.applying(&spender("u"), id.unix_ms());
    let reserved = budgets.reserve(id, applying, "USD", usd("2"), usd("2"));
    let reserved = reserved.await.expect("it goes on unchecked");
    assert_eq!(balance(&budgets, "u").await, (usd("0"), usd("2")));
    reserved.settle(usd("0.5"));
    assert!(budgets.settled(Duration::from_secs(5)).await);
    assert_eq!(balance(&budgets, "u").await, (usd("0.5"), usd("0")));
    log(&pair.database, id, "u", usd("0.5"), "USD").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(sound.sweep(&pair.database).await.unwrap(), 0);
    assert_eq!(balance(&budgets, "u").await, (usd("0.5"), usd("0")));
}

/// The settlement of a call that went on, its row and what the store has reserved all the same come in any order.
async fn however_it_comes_it_is_counted_once(pair: Pair) {
    let budgets = open(&pair.one);
    let first = reserve(&budgets, "u", "1", "1").await.unwrap();
    first.settle(Pico::ZERO);
    assert!(budgets.settled(Duration::from_secs(5)).await);
    let applying = budgets.applying(&spender("u"), RequestId::new().unix_ms());
    let (key, exchange) = (
        Arc::clone(&applying.bounds[0].key),
        Arc::<Exchange>::default(),
    );
    for (at, order) in ["rus", "rsu", "usrs", "uurs", "usr"].iter().enumerate() {
        let id = RequestId::new();
        let charges: Amounts = [(Arc::clone(&key), 500)].into();
        let mut settle_left = String::new();
        for step in order.chars().chain("us".chars()) {
            settle_left.push(step);
            match step {
                'r' => {
                    let claim = Claim {
                        counter: Arc::clone(&applying.bounds[0].counter),
                        key: Arc::clone(&key),
                        limit: nano(usd("9")),
                        amount: 2000,
                    };
                    let asked = Asked {
                        id,
                        claims: &[claim],
                        exchange: &exchange,
                    };
                    assert_eq!(pair.one.reserve(asked).await.unwrap(), Outcome::Granted);
                }
                // What is settled twice in one batch counts once, too.
                'u' | 's' => {
                    let source = match step {
                        'u' => Source::Unchecked,
                        _ => Source::Log,
                    };
                    let settlement = Settlement {
                        id,
                        charges: Arc::clone(&charges),
                        source,
                    };
                    let batch = [settlement.clone(), settlement];
                    pair.two.settle(&batch, &exchange).await.unwrap();
                }
                _ => unreachable!(),
            }
        }
        let (spent, reserved) = balance(&budgets, "u").await;
        let expected = pico(500 * (at as i64 + 1));
        assert_eq!((spent, reserved), (expected, Pico::ZERO), "{settle_left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_reservation_got_lost_is_counted_once_in_a_database() {
    a_call_whose_reservation_got_lost_is_counted_once(stores::sqlite().await).await;
    a_call_whose_reservation_got_lost_is_counted_once(stores::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_it_comes_it_is_counted_once_in_a_database() {
    however_it_comes_it_is_counted_once(stores::sqlite().await).await;
    however_it_comes_it_is_counted_once(stores::postgres().await).await;
}

pub(super) async fn who_loses_to_others_does_not_go_on_unchecked(pair: Pair) {
    let budgets = disturbed(&pair, Between::Rival);
    let refusal = budgets.reserve(
        RequestId::new(),
        budgets.applying(&spender("u"), RequestId::new().unix_ms()),
        "USD",
        usd("20"),
        usd("1"),
    );
    let error = refusal.await.expect_err("others are always faster");
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
    assert!(error.retry_after().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_others_is_busy_and_one_that_is_silent_is_away() {
    let pair = stores::postgres().await;
    let budgets = open(&pair.one);
    for user in ["u", "v"] {
        let first = reserve(&budgets, user, "1", "1").await.unwrap();
        first.settle(Pico::ZERO);
    }
    assert!(budgets.settled(Duration::from_secs(5)).await);
    let key = Arc::clone(
        &budgets
            .applying(&spender("u"), RequestId::new().unix_ms())
            .bounds[0]
            .key,
    );
    let Pool::Postgres(pool) = &pair.database.pool else {
        unreachable!()
    };
    let mut holds = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM budget_counters WHERE counter = $1 FOR UPDATE")
        .bind(&*key)
        .execute(&mut *holds)
        .await
        .unwrap();
    let (waits, others) = tokio::join!(reserve(&budgets, "u", "1", "1"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        reserve(&budgets, "v", "1", "1").await
    });
    others.expect("its counter is free").settle(Pico::ZERO);
    let error = waits.expect_err("the store is there: nothing goes on unchecked");
    assert_eq!(error.kind(), ErrorKind::BudgetStoreUnavailable, "{error:?}");
    assert!(budgets.settled(Duration::from_secs(5)).await);
    let unchecked = reserve(&budgets, "u", "100", "100").await;
    assert_eq!(unchecked.expect("it goes on").granted(), usd("100"));
    holds.rollback().await.unwrap();
}

pub(super) async fn who_asks_for_less_is_refused_once(pair: Pair) {
    let budgets = instance(&pair.one, BUDGET);
    let refused = || budgets.metrics.refusals("user");
    let id = RequestId::new();
    let applying = || budgets.applying(&spender("u"), id.unix_ms());
    let ask = |asked| budgets.try_reserve(id, applying(), "USD", usd(asked), usd(asked));
    let refusal = ask("20").await.expect_err("it is not covered");
    assert_eq!(refused(), 0);
    let _held = ask("8").await.expect("less is");
    assert_eq!(refused(), 0);
    assert_eq!(budgets.refused(refusal).kind(), ErrorKind::BudgetExceeded);
    assert_eq!(refused(), 1);
    let error = reserve(&budgets, "u", "2", "2").await.unwrap_err();
    assert_eq!((error.kind(), refused()), (ErrorKind::BudgetExceeded, 2));
}

/// More reservations are open than one sweep looks at.
pub(super) async fn a_dead_instances_turn_comes_however_many_are_open(pair: Pair) {
    const LIVE: usize = 1500;
    const DEAD: usize = 40;
    let budgets = instance(&pair.two, BUDGET);
    let first = reserve(&budgets, "u", "1", "1").await.unwrap();
    first.settle(Pico::ZERO);
    assert!(budgets.settled(Duration::from_secs(5)).await);
    let applying = budgets.applying(&spender("u"), RequestId::new().unix_ms());
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..4 {
        let (store, bound) = (Arc::clone(&pair.one), applying.bounds[0].clone());
        tasks.spawn(async move {
            let mut dead = Vec::new();
            for at in (part..LIVE + DEAD).step_by(4) {
                // All are old enough for a sweep, and the dead one's are the youngest.
                let mut bytes = *RequestId::new().as_bytes();
                let time = RequestId::from_bytes(bytes).unix_ms() - 60_000 + at as i64;
                bytes[..6].copy_from_slice(&time.to_be_bytes()[2..]);
                let id = RequestId::from_bytes(bytes);
                let claim = Claim {
                    counter: Arc::clone(&bound.counter),
                    key: Arc::clone(&bound.key),
                    limit: nano(usd("9")),
                    amount: 1000,
                };
                let asked = Asked {
                    id,
                    claims: &[claim],
                    exchange: &Arc::default(),
                };
                assert_eq!(store.reserve(asked).await.unwrap(), Outcome::Granted);
                if at >= LIVE {
                    dead.push(id);
                }
            }
            dead
        });
    }
    for id in tasks.join_all().await.into_iter().flatten() {
        log(&pair.database, id, "u", pico(100), "USD").await;
    }
    let mut settled = 0;
    for _ in 0..4 {
        settled += budgets.sweep(&pair.database).await.unwrap();
    }
    assert_eq!(settled, DEAD);
    let left = (pico(100 * DEAD as i64), pico(1000 * LIVE as i64));
    assert_eq!(balance(&budgets, "u").await, left);
    // And it begins again at the first.
    let mut seen = std::collections::HashSet::new();
    let mut from = None;
    for _ in 0..4 {
        let page = pair
            .one
            .open_before(i64::from(u32::MAX) * 1000, from.as_deref());
        let page = page.await.unwrap();
        seen.extend(page.open.iter().map(|open| open.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), from), (LIVE, None));
}
