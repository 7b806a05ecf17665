//! Counters in Redis: one script reserves of all counters of a request, one settles.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `{lyss:budget}:epoch` | hash | which counting of the log the counters come from (`epoch.rs`) |
//! | `{lyss:budget}:waiting` | hash | instances that have yet to tell what they have reserved, while it is counted |
//! | `{lyss:budget}:open` | hash | request → what it holds, `[[counter, amount], …]` |
//! | `{lyss:budget}:c:<epoch>:<counter>` | hash | `s` spent, `r` reserved, in 1e-9 of the currency |
//!
//! One hash tag, since one script reaches all of them: in a cluster they are on one node. Redis is a working copy: what is
//! not there is counted from the request log, exactly, whatever was lost.

mod epoch;
mod scripts;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    epoch::{Epoch, Seen},
    scripts::Scripts,
};
use super::{
    counter::Counter,
    database::spent,
    store::{Amounts, Asked, Balance, BudgetStore, LastAnswer, Open, Outcome, Page, Settlement},
};
use crate::{
    billing::Ledger,
    database::Database,
    error::{Error, ErrorKind, Result},
    price::Exchange,
    redis::{Failure, RedisHandle},
    session::now_ms,
    types::RequestId,
};

/// How long after its end a period is kept, in milliseconds: its last requests end in it.
pub(super) const KEPT_MS: i64 = 2 * 86_400_000;
/// How long a counter without an end is kept after its last use, in milliseconds.
const UNUSED_MS: i64 = 7 * 86_400_000;
/// Open reservations that a sweep looks at.
const OPEN_AT_ONCE: usize = 1000;

/// A [`BudgetStore`] in Redis, over the request log in the database.
pub(crate) struct RedisBudgetStore(Arc<Shared>);

struct Shared {
    redis: RedisHandle,
    database: Database,
    keys: Keys,
    scripts: Scripts,
    /// This instance, as the others see it.
    instance: String,
    epoch: watch::Sender<Epoch>,
    seen: tokio::sync::Mutex<Seen>,
    /// One more than how often Redis had not answered when the epoch was last read.
    looked: AtomicU64,
    granted: Mutex<Granted>,
    /// One counter is begun at a time: what it takes is a query of the log.
    beginning: tokio::sync::Mutex<()>,
    answer: LastAnswer,
}

/// What this instance has reserved.
#[derive(Debug, Default)]
struct Granted {
    /// The epoch whose reservations these are: what was granted in one before came too late to be told.
    epoch: Arc<str>,
    /// The epoch in which they have been told.
    told: Arc<str>,
    open: HashMap<RequestId, Amounts>,
    /// Whether there are some that the store has not granted, since it was away.
    unchecked: bool,
}

/// What a script says.
type Said = Vec<String>;

impl RedisBudgetStore {
    /// A store on a Redis.
    pub fn new(redis: RedisHandle, database: Database) -> Self {
        Self::tagged(redis, database, "lyss:budget")
    }

    /// A store whose keys have a hash tag of their own.
    pub(super) fn tagged(redis: RedisHandle, database: Database, tag: &str) -> Self {
        Self(Arc::new(Shared {
            redis,
            database,
            keys: Keys::new(tag),
            scripts: Scripts::new(),
            instance: uuid::Uuid::new_v4().simple().to_string(),
            epoch: watch::Sender::default(),
            seen: tokio::sync::Mutex::default(),
            looked: AtomicU64::new(0),
            granted: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            answer: LastAnswer::default(),
        }))
    }

    /// Refuses a Redis that removes counters when its memory is full. One that is away is looked at when it is back.
    ///
    /// # Errors
    /// `invalid_value`.
    pub async fn check_policy(redis: &RedisHandle) -> Result<()> {
        match redis.info().await {
            Ok(Some(info)) if epoch::evicts(&info) => {
                Err(Error::invalid("data.redis", epoch::EVICTS))
            }
            _ => Ok(()),
        }
    }

    /// Begins a counter that is not there. Goes on when the request that needs it does not wait so long.
    async fn begin(
        &self,
        epoch: &Epoch,
        counter: Arc<Counter>,
        exchange: &Arc<Exchange>,
    ) -> Result<()> {
        let (shared, epoch, exchange) = (Arc::clone(&self.0), epoch.clone(), Arc::clone(exchange));
        let begun = tokio::spawn(async move { shared.begin(&epoch, &counter, &exchange).await });
        begun.await.unwrap_or_else(|error| Err(unreadable(error)))
    }
}

impl Shared {
    async fn begin(&self, epoch: &Epoch, counter: &Counter, exchange: &Exchange) -> Result<()> {
        let _one = self.beginning.lock().await;
        let name = counter.key();
        let mut exists = ::redis::cmd("HEXISTS");
        exists.arg(self.keys.counter(epoch, &name)).arg("s");
        if self.redis.command::<bool>(&exists).await.map_err(away)? {
            return Ok(());
        }
        let mut open = ::redis::cmd("HKEYS");
        open.arg(&*self.keys.open);
        let open: Vec<String> = self.redis.command(&open).await.map_err(away)?;
        let open: Vec<RequestId> = open.iter().filter_map(|id| RequestId::parse(id)).collect();
        let spent = spent(&self.database, counter, exchange, &open).await?;
        let until = match counter.span.end_ms {
            Some(end) => end.saturating_add(KEPT_MS),
            None => now_ms().saturating_add(UNUSED_MS),
        };
        let mut call = self.scripts.begin.prepare_invoke();
        call.key(&*self.keys.epoch)
            .key(&*self.keys.open)
            .key(self.keys.counter(epoch, &name))
            .arg(&*epoch.id)
            .arg(name)
            .arg(spent)
            .arg(until);
        self.say(&call, 0).await.map(drop)
    }

    async fn say(&self, call: &::redis::ScriptInvocation<'_>, payload: usize) -> Result<Said> {
        self.redis.script(call, payload).await.map_err(away)
    }

    /// Notes that a reservation was granted; `false` if its epoch is over, and it was not told in the next.
    fn note(&self, epoch: &Epoch, asked: &Asked<'_>) -> bool {
        let mut granted = self.granted.lock();
        if granted.epoch != epoch.id {
            return false;
        }
        let amounts = asked
            .claims
            .iter()
            .map(|claim| (Arc::clone(&claim.key), claim.amount));
        granted.open.insert(asked.id, amounts.collect());
        true
    }
}

#[async_trait]
impl BudgetStore for RedisBudgetStore {
    async fn reserve(&self, asked: Asked<'_>) -> Result<Outcome> {
        let shared = &self.0;
        loop {
            let epoch = shared.ready().await?;
            let mut call = shared.scripts.reserve.prepare_invoke();
            call.key(&*shared.keys.epoch).key(&*shared.keys.open);
            call.arg(&*epoch.id)
                .arg(asked.id.to_string())
                .arg(UNUSED_MS);
            for claim in asked.claims {
                call.key(shared.keys.counter(&epoch, &claim.key));
                call.arg(&*claim.key).arg(claim.limit).arg(claim.amount);
            }
            let said = shared.say(&call, 0).await?;
            shared.answer.note();
            match word(&said) {
                "granted" if shared.note(&epoch, &asked) => return Ok(Outcome::Granted),
                "granted" => {}
                "short" => {
                    let left = said.iter().skip(1).map(|left| left.parse().ok());
                    let left: Option<Vec<i64>> = left.collect();
                    return left
                        .map(Outcome::Short)
                        .ok_or_else(|| unreadable("what is left"));
                }
                "unknown" => {
                    let claim = number(&said).and_then(|at| asked.claims.get(at));
                    let claim = claim.ok_or_else(|| unreadable("which counter"))?;
                    self.begin(&epoch, Arc::clone(&claim.counter), asked.exchange)
                        .await?;
                }
                _ => shared.doubt(&epoch),
            }
        }
    }

    fn answered_since(&self, time: Instant) -> bool {
        self.0.answer.is_since(time)
    }

    fn reserved_unchecked(&self, asked: Asked<'_>) {
        let mut granted = self.0.granted.lock();
        granted.unchecked = true;
        let amounts = asked
            .claims
            .iter()
            .map(|claim| (Arc::clone(&claim.key), claim.amount));
        granted.open.insert(asked.id, amounts.collect());
    }

    fn dropped(&self, id: &RequestId) {
        self.0.granted.lock().open.remove(id);
    }

    async fn settle(&self, settlements: &[Settlement], exchange: &Arc<Exchange>) -> Result<()> {
        let shared = &self.0;
        let mut counters: Vec<&Arc<str>> = settlements
            .iter()
            .flat_map(|settlement| settlement.charges.iter().map(|(key, _)| key))
            .collect();
        counters.sort_unstable();
        counters.dedup();
        let over = now_ms() - KEPT_MS;
        loop {
            let epoch = shared.ready().await?;
            let mut call = shared.scripts.settle.prepare_invoke();
            call.key(&*shared.keys.epoch).key(&*shared.keys.open);
            call.arg(&*epoch.id).arg(counters.len());
            for key in &counters {
                let end = Counter::parse(key).and_then(|counter| counter.span.end_ms);
                call.key(shared.keys.counter(&epoch, key));
                call.arg(&***key)
                    .arg(u8::from(end.is_some_and(|end| end < over)));
            }
            for settlement in settlements {
                call.arg(settlement.id.to_string())
                    .arg(settlement.charges.len());
                for (key, charge) in settlement.charges.iter() {
                    let at = counters.binary_search(&key).map_or(0, |at| at + 1);
                    call.arg(at).arg(*charge);
                }
            }
            let said = shared.say(&call, 0).await?;
            match word(&said) {
                "ok" => break,
                "unknown" => {
                    let key = number(&said).and_then(|at| counters.get(at));
                    let counter = key.and_then(|key| Counter::parse(key));
                    let counter = counter.ok_or_else(|| unreadable("which counter"))?;
                    self.begin(&epoch, Arc::new(counter), exchange).await?;
                }
                _ => shared.doubt(&epoch),
            }
        }
        let mut granted = shared.granted.lock();
        for settlement in settlements {
            granted.open.remove(&settlement.id);
        }
        Ok(())
    }

    async fn open_before(&self, unix_ms: i64, from: Option<&str>) -> Result<Page> {
        let mut open = Vec::new();
        let mut seen = 0;
        let mut cursor: u64 = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        loop {
            let mut scan = ::redis::cmd("HSCAN");
            scan.arg(&*self.0.keys.open)
                .arg(cursor)
                .arg("COUNT")
                .arg(500);
            let (next, entries): (u64, Vec<(String, String)>) =
                self.0.redis.command(&scan).await.map_err(away)?;
            seen += entries.len();
            for (id, held) in entries {
                let Some(id) = RequestId::parse(&id).filter(|id| id.unix_ms() < unix_ms) else {
                    continue;
                };
                let held: Vec<(String, String)> =
                    serde_json::from_str(&held).map_err(unreadable)?;
                let amounts = held
                    .into_iter()
                    .map(|(key, amount)| (key.into(), amount.parse().unwrap_or(0)))
                    .collect();
                open.push(Open { id, amounts });
            }
            cursor = next;
            if cursor == 0 || seen >= OPEN_AT_ONCE {
                let next = (cursor != 0).then(|| cursor.to_string());
                return Ok(Page { open, next });
            }
        }
    }

    async fn balances(&self, counters: &[Arc<str>]) -> Result<Vec<Option<Balance>>> {
        let epoch = self.0.ready().await?;
        let mut balances = Vec::with_capacity(counters.len());
        for key in counters {
            let mut get = ::redis::cmd("HMGET");
            get.arg(self.0.keys.counter(&epoch, key)).arg("s").arg("r");
            let (spent, reserved): (Option<i64>, Option<i64>) =
                self.0.redis.command(&get).await.map_err(away)?;
            balances.push(spent.map(|spent| Balance {
                spent,
                reserved: reserved.unwrap_or(0),
            }));
        }
        Ok(balances)
    }

    async fn keep(&self, ledger: &Ledger) -> Result<()> {
        // While it is counted, too: unless the log cannot be had, that takes a moment.
        self.0.keep(ledger).await?;
        self.0.answer.note();
        Ok(())
    }
}

/// The names of the keys, with their hash tag.
#[derive(Debug, Clone)]
struct Keys {
    epoch: String,
    waiting: String,
    open: String,
    counters: String,
}

impl Keys {
    fn new(tag: &str) -> Self {
        let key = |name: &str| format!("{{{tag}}}:{name}");
        Self {
            epoch: key("epoch"),
            waiting: key("waiting"),
            open: key("open"),
            counters: key("c"),
        }
    }

    fn counter(&self, epoch: &Epoch, name: &str) -> String {
        format!("{}:{}:{name}", self.counters, epoch.id)
    }
}

fn word(said: &Said) -> &str {
    said.first().map_or("", String::as_str)
}

/// The index that a script counts from 1.
fn number(said: &Said) -> Option<usize> {
    said.get(1)?.parse::<usize>().ok()?.checked_sub(1)
}

fn away(failure: Failure) -> Error {
    failure.into_error(
        ErrorKind::BudgetStoreUnavailable,
        "redis, which keeps the counters of budgets, does not answer",
    )
}

fn unreadable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        ErrorKind::BudgetStoreUnavailable,
        "redis has something about budgets that cannot be read",
    )
    .with_source(cause)
}
