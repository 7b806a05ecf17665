//! Every promise on every store.

use super::*;
use crate::{
    billing::LedgerOptions,
    budget::{database::DatabaseBudgetStore, redis::RedisBudgetStore},
    redis::{RedisHandle, RedisSource},
};

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

/// Two instances over one Redis, each with its ledger; the keys have a tag of their own.
pub(super) struct Instances {
    pub pair: Pair,
    pub redis: RedisHandle,
    pub tag: String,
    pub ledgers: [Arc<Ledger>; 2],
}

pub(super) fn redis_source() -> RedisSource {
    let url = std::env::var("LYSS_TEST_REDIS")
        .expect("LYSS_TEST_REDIS is not set: run `make test`, or start tests/services/redis.sh");
    let (scheme, addr) = url.split_once("://").expect("redis://host:port/");
    RedisSource {
        addr: addr.trim_end_matches('/').to_owned(),
        tls: scheme == "rediss",
        // The machine that runs the tests is busy: the promises are not about speed.
        command_timeout: Duration::from_secs(5),
        ..RedisSource::default()
    }
}

pub(super) async fn instances(source: RedisSource) -> Instances {
    let directory = tempfile::tempdir().unwrap();
    let database = testing::sqlite(directory.path()).await;
    let tag = format!("lyss:budget:{}", uuid::Uuid::new_v4().simple());
    let mut stores = Vec::new();
    let mut ledgers = Vec::new();
    for _ in 0..2 {
        // Each instance has a connection of its own.
        let redis = RedisHandle::connect(source.clone()).await.unwrap();
        let store = RedisBudgetStore::tagged(redis, database.clone(), &tag);
        let store = Arc::new(store) as Arc<dyn BudgetStore>;
        let options = LedgerOptions::new(directory.path().join("spool"), 1 << 26);
        let ledger = Arc::new(Ledger::open(options, Some(database.clone())).unwrap());
        let (kept, keeper) = (Arc::clone(&ledger), Arc::clone(&store));
        tokio::spawn(async move {
            loop {
                let _ = keeper.keep(&kept).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        stores.push(store);
        ledgers.push(ledger);
    }
    for store in &stores {
        store.balances(&[]).await.unwrap();
    }
    let redis = RedisHandle::connect(source).await.unwrap();
    Instances {
        pair: Pair {
            two: stores.pop().unwrap(),
            one: stores.pop().unwrap(),
            database,
            _directory: Some(directory),
        },
        redis,
        tag,
        ledgers: ledgers.try_into().ok().unwrap(),
    }
}

async fn redis() -> Pair {
    instances(redis_source()).await.pair
}

async fn cluster() -> Pair {
    let nodes = std::env::var("LYSS_TEST_REDIS_CLUSTER").expect(
        "LYSS_TEST_REDIS_CLUSTER is not set: run `make test`, or start one with tests/services/redis.sh cluster",
    );
    let source = RedisSource {
        cluster: nodes.split(',').map(str::to_owned).collect(),
        ..redis_source()
    };
    instances(source).await.pair
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
        #[cfg(feature = "redis")]
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::super::$group::$name(super::redis().await).await; })*
        }
        #[cfg(feature = "redis")]
        mod on_a_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::super::$group::$name(super::cluster().await).await; })*
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
    promises::what_leaves_the_log_stays_counted,
    promises::what_died_is_settled_by_its_row,
    promises::what_is_given_up_is_settled_by_its_row,
    outage::who_loses_to_others_does_not_go_on_unchecked,
    outage::who_asks_for_less_is_refused_once,
    outage::a_dead_instances_turn_comes_however_many_are_open,
    races::a_thousand_callers_never_spend_more,
    races::any_sequence_is_as_the_model_says,
}
