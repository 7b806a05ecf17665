//! Never over, whoever races.

use std::collections::HashMap;

use proptest::{prelude::*, strategy::ValueTree};
use tokio::task::JoinSet;

use super::{stores::Pair, *};

pub(super) async fn a_thousand_callers_never_spend_more(pair: Pair) {
    const BUDGETS: &str =
        "{ user: u, amount: 10, period: month }, { total: true, amount: 100, period: total }";
    let instances = [instance(&pair.one, BUDGETS), instance(&pair.two, BUDGETS)];
    let mut callers = JoinSet::new();
    for caller in 0..1000_usize {
        let budgets = Arc::clone(&instances[caller % 2]);
        callers.spawn(async move {
            let id = RequestId::new();
            let applying = budgets.applying(&spender("u"), id.unix_ms());
            // The patience of a request is for a store that is there for it; a thousand at once share two cores.
            let book = applying.book.clone().unwrap();
            let request = Request {
                id,
                bounds: &applying.bounds,
                book: &book,
                currency: "USD",
            };
            match budgets.grant(&request, usd("0.1"), usd("0.1")).await {
                Ok(granted) => {
                    let parts = applying.bounds.iter().map(|bound| Part {
                        counter: Arc::clone(&bound.counter),
                        key: Arc::clone(&bound.key),
                    });
                    let held = Held {
                        id,
                        currency: "USD".into(),
                        parts: parts.collect(),
                        book: Arc::clone(&book),
                        settling: Arc::clone(&budgets.settling),
                        store: Arc::clone(&budgets.store),
                        metrics: BudgetMetrics::default(),
                        unchecked: false,
                    };
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
                    Reservation::held(granted, held).settle(granted);
                    1
                }
                Err(error) => {
                    assert_eq!(error.kind(), crate::ErrorKind::BudgetExceeded, "{error:?}");
                    0
                }
            }
        });
    }
    let admitted: usize = callers.join_all().await.into_iter().sum();
    assert_eq!(admitted, 100);
    for budgets in &instances {
        assert!(budgets.settled(Duration::from_secs(10)).await);
    }
    assert_eq!(balance(&instances[0], "u").await, (usd("10"), usd("0")));
}

/// What a caller does.
#[derive(Debug, Clone)]
enum Step {
    /// Asks for so much, and at least for so much.
    Reserve(u8, i64, i64),
    /// Settles the oldest of a user's reservations: with so many hundredths of it.
    Settle(u8, i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reserve = (0_u8..3, 1_i64..600, 1_i64..600)
        .prop_map(|(user, a, b)| Step::Reserve(user, a.max(b), a.min(b)));
    let settle = (0_u8..3, 0_i64..130).prop_map(|(user, part)| Step::Settle(user, part));
    proptest::collection::vec(prop_oneof![reserve, settle], 1..30)
}

/// The model: a user's counter and everybody's.
#[derive(Default)]
struct Model {
    spent: HashMap<u8, i64>,
    open: HashMap<u8, Vec<i64>>,
}

impl Model {
    fn used(&self, user: u8) -> i64 {
        self.spent.get(&user).unwrap_or(&0)
            + self.open.get(&user).into_iter().flatten().sum::<i64>()
    }

    fn left(&self, user: u8) -> i64 {
        let all: i64 = (0..3).map(|user| self.used(user)).sum();
        (1000 - self.used(user)).min(2000 - all)
    }
}

pub(super) async fn any_sequence_is_as_the_model_says(pair: Pair) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for case in 0..12 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        replay(&pair, case, &steps).await;
    }
}

async fn replay(pair: &Pair, case: usize, steps: &[Step]) {
    // In 1e-9; each case has users, and a currency for the total, of its own.
    let currency = format!(
        "A{}{}",
        char::from(b'A' + (case / 26) as u8),
        char::from(b'A' + (case % 26) as u8)
    );
    let budgets = format!(
        "{{ user: '*', amount: 0.000001, currency: {currency}, period: total }}, {{ total: true, amount: 0.000002, currency: {currency}, period: total }}"
    );
    let instances = [instance(&pair.one, &budgets), instance(&pair.two, &budgets)];
    let mut model = Model::default();
    let mut held: HashMap<u8, Vec<Reservation>> = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        let budgets = &instances[at % 2];
        match step {
            Step::Reserve(user, asked, least) => {
                let id = RequestId::new();
                let applying = budgets.applying(&spender(&format!("{case}.{user}")), id.unix_ms());
                let outcome = budgets
                    .reserve(id, applying, &currency, pico(*asked), pico(*least))
                    .await;
                let left = model.left(*user);
                match outcome {
                    Ok(reservation) => {
                        assert!(left >= *least, "{steps:?} at {at}");
                        assert_eq!(
                            reservation.granted(),
                            pico(left.min(*asked)),
                            "{steps:?} at {at}"
                        );
                        model.open.entry(*user).or_default().push(left.min(*asked));
                        held.entry(*user).or_default().push(reservation);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), crate::ErrorKind::BudgetExceeded, "{error:?}");
                        assert!(left < *least, "{steps:?} at {at}: {error}");
                    }
                }
            }
            Step::Settle(user, hundredths) => {
                let open = model.open.entry(*user).or_default();
                if open.is_empty() {
                    continue;
                }
                let charge = open.remove(0) * hundredths / 100;
                *model.spent.entry(*user).or_default() += charge;
                held.get_mut(user).unwrap().remove(0).settle(pico(charge));
                for instance in &instances {
                    assert!(instance.settled(Duration::from_secs(5)).await);
                }
            }
        }
    }
}
