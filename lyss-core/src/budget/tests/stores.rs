//! Every promise on every store.

use super::*;
use crate::budget::database::DatabaseBudgetStore;

/// A fresh store: two adapters over the same counters, as two instances have, and the log below.
pub(super) struct Pair {
    pub one: Arc<dyn BudgetStore>,
    pub two: Arc<dyn BudgetStore>,
    pub database: Database,
    _directory: Option<tempfile::TempDir>,
}

fn over_database(database: Database, directory: Option<tempfile::TempDir>) -> Pair {
    let store = || Arc::new(DatabaseBudgetStore::new(database.clone())) as Arc<dyn BudgetStore>;
    Pair {
        one: store(),
        two: store(),
        database: database.clone(),
        _directory: directory,
    }
}

pub(super) async fn postgres() -> Pair {
    over_database(testing::postgres().await, None)
}

pub(super) async fn sqlite() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    over_database(testing::sqlite(directory.path()).await, Some(directory))
}

macro_rules! on_every_store {
    ($($group:ident::$name:ident),* $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::super::$group::$name(super::postgres().await).await; })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::super::$group::$name(super::sqlite().await).await; })*
        }
    };
}

on_every_store! {
    promises::the_life_of_a_reservation,
    promises::all_counters_or_none,
    promises::what_is_left_is_granted,
    promises::an_excess_blocks_the_next,
    promises::settling_twice_changes_nothing,
    promises::a_new_counter_begins_with_the_log,
    promises::other_currencies_are_converted,
    promises::what_is_open_is_listed,
    promises::what_died_is_settled_by_its_row,
    races::a_thousand_callers_never_spend_more,
    races::any_sequence_is_as_the_model_says,
}
