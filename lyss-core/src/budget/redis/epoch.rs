//! Counting anew what Redis has lost.
//!
//! An epoch is one counting of the request log. It is over when Redis was emptied, when another server answers (a
//! restart or a replica that took over may have lost the last moments), or when calls went on without being counted.
//! The next begins with `counting`: every instance writes its finished rows to the log and tells what it has reserved
//! and not settled; nothing is granted meanwhile. Once all have, the epoch is `ready`, and each counter begins, when it is
//! first asked for, with what the log says of requests that are not open: so each is counted once.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use super::{Amounts, Shared, unreadable, word};
use crate::{
    billing::Ledger,
    error::{Error, ErrorKind, Result},
    types::RequestId,
};

/// How old an epoch must be before anything is granted: every instance looks several times meanwhile.
const NOTICED_MS: u64 = 1000;
/// An instance that said it would tell, and has not been heard for so long, is dead.
const DEAD_MS: u64 = 10_000;
/// How long finished rows may take to the log; then it is tried again.
const FLUSH: Duration = Duration::from_secs(1);
/// Reservations that are told at once.
const TOLD_AT_ONCE: usize = 500;

pub(super) const EVICTS: &str = "redis removes keys when its memory is full, counters of budgets among them: set `maxmemory-policy noeviction`, \
     or `maxmemory 0`";

/// Which counting, and whether it may be used.
#[derive(Debug, Clone, Default)]
pub(super) struct Epoch {
    pub id: Arc<str>,
    pub ready: bool,
}

/// The server that was asked last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How often Redis had not answered by then.
    interruptions: Option<u64>,
    run: String,
}

impl Shared {
    /// The epoch, once it is ready; who waits for it sets how long.
    pub async fn ready(&self) -> Result<Epoch> {
        // The connection may lead elsewhere since it was last looked at, or nowhere.
        let looked = || self.looked.load(Acquire) == self.redis.interruptions() + 1;
        if !looked() {
            let mut seen = self.seen.lock().await;
            // Others may have waited for the same.
            if !looked() {
                self.look(&mut seen).await?;
            }
        }
        let mut changes = self.epoch.subscribe();
        let epoch = changes.wait_for(|epoch| epoch.ready).await;
        epoch.map(|epoch| epoch.clone()).map_err(unreadable)
    }

    /// Notes that Redis does not know an epoch any more, or not yet.
    pub fn doubt(&self, epoch: &Epoch) {
        self.epoch.send_if_modified(|known| {
            let same = known.ready && known.id == epoch.id;
            known.ready &= !same;
            same
        });
    }

    /// Looks which epoch it is; begins one if there is none.
    async fn look(&self, seen: &mut Seen) -> Result<(Epoch, bool)> {
        let interruptions = self.redis.interruptions();
        if seen.interruptions != Some(interruptions) {
            let info = self.redis.info().await.map_err(super::away)?;
            let info = info.unwrap_or_default();
            if evicts(&info) {
                tracing::error!("{EVICTS}");
                return Err(Error::new(ErrorKind::BudgetStoreUnavailable, EVICTS));
            }
            // The nodes of a cluster are not one server; and each instance may see others of them.
            seen.run = match self.redis.is_cluster() {
                true => String::new(),
                false => field(&info, "run_id").unwrap_or_default().to_owned(),
            };
            seen.interruptions = Some(interruptions);
        }
        let told = Arc::clone(&self.granted.lock().told);
        let mut call = self.scripts.join.prepare_invoke();
        call.key(&*self.keys.epoch)
            .key(&*self.keys.waiting)
            .key(&*self.keys.open);
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        call.arg(&*told)
            .arg(&self.instance)
            .arg(fresh.get(..12))
            .arg(&seen.run);
        let said = self.say(&call, 0).await?;
        let [state, id] = said.as_slice() else {
            return Err(unreadable("the epoch"));
        };
        let counting = state == "counting";
        let epoch = Epoch {
            id: id.as_str().into(),
            ready: state == "ready" && *id == *told,
        };
        self.known(&epoch);
        self.looked.store(interruptions + 1, Release);
        Ok((epoch, counting))
    }

    fn known(&self, epoch: &Epoch) {
        self.epoch.send_if_modified(|known| {
            let changed = known.id != epoch.id || known.ready != epoch.ready;
            known.clone_from(epoch);
            changed
        });
    }

    /// Looks which epoch it is, tells what this instance has reserved if that is new, and opens the epoch when all have.
    pub async fn keep(&self, ledger: &Ledger) -> Result<()> {
        let (epoch, mut counting) = {
            let mut seen = self.seen.lock().await;
            self.look(&mut seen).await?
        };
        if !counting && self.granted.lock().unchecked {
            return self.end(&epoch).await;
        }
        if self.granted.lock().told != epoch.id {
            let open = {
                let mut granted = self.granted.lock();
                granted.epoch = Arc::clone(&epoch.id);
                granted.unchecked = false;
                granted.open.clone()
            };
            // What is settled by now is in no list: it must be in the log before anybody reads that.
            if !ledger.flush(FLUSH).await {
                return Err(Error::new(
                    ErrorKind::BudgetStoreUnavailable,
                    "the counters of budgets are to be counted anew, and the log does not have every row yet",
                ));
            }
            if !self.tell(&epoch, open.into_iter().collect()).await? {
                return Ok(());
            }
            self.granted.lock().told = Arc::clone(&epoch.id);
            if !counting {
                self.known(&Epoch {
                    ready: true,
                    ..epoch.clone()
                });
            }
        }
        if counting {
            counting = self.open_up(&epoch).await?;
            if !counting {
                tracing::info!(
                    epoch = &*epoch.id,
                    "budgets are counted from the request log"
                );
            }
        }
        Ok(())
    }

    /// Ends an epoch: calls went on while Redis was away, and are in the log or running.
    async fn end(&self, epoch: &Epoch) -> Result<()> {
        const END: &str = "if redis.call('HGET', KEYS[1], 'id') == ARGV[1] then redis.call('DEL', KEYS[1]) end return {'ok'}";
        let script = ::redis::Script::new(END);
        let mut call = script.prepare_invoke();
        call.key(&*self.keys.epoch).arg(&*epoch.id);
        self.say(&call, 0).await?;
        self.doubt(epoch);
        tracing::warn!(
            "calls went on without their budgets while redis was away; they are counted from the log now"
        );
        Ok(())
    }

    /// Tells what this instance has reserved; whether it is still this epoch.
    async fn tell(&self, epoch: &Epoch, open: Vec<(RequestId, Amounts)>) -> Result<bool> {
        let last = open.len().div_ceil(TOLD_AT_ONCE).max(1) - 1;
        for at in 0..=last {
            let part = open.iter().skip(at * TOLD_AT_ONCE).take(TOLD_AT_ONCE);
            let mut counters: Vec<&Arc<str>> = part
                .clone()
                .flat_map(|(_, amounts)| amounts.iter().map(|(key, _)| key))
                .collect();
            counters.sort_unstable();
            counters.dedup();
            let mut call = self.scripts.tell.prepare_invoke();
            call.key(&*self.keys.epoch)
                .key(&*self.keys.waiting)
                .key(&*self.keys.open);
            call.arg(&*epoch.id)
                .arg(&self.instance)
                .arg(u8::from(at == last))
                .arg(counters.len());
            for name in counters {
                call.key(self.keys.counter(epoch, name)).arg(&**name);
            }
            let mut payload = 0;
            for (id, amounts) in part {
                let held: Vec<(&str, String)> = amounts
                    .iter()
                    .map(|(key, amount)| (&**key, amount.to_string()))
                    .collect();
                let held = serde_json::to_string(&held).map_err(unreadable)?;
                payload += held.len();
                call.arg(id.to_string()).arg(held);
            }
            if word(&self.say(&call, payload).await?) != "ok" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the epoch ready, if every instance has told; whether it still is not.
    async fn open_up(&self, epoch: &Epoch) -> Result<bool> {
        let mut call = self.scripts.open_up.prepare_invoke();
        call.key(&*self.keys.epoch).key(&*self.keys.waiting);
        call.arg(&*epoch.id).arg(NOTICED_MS).arg(DEAD_MS);
        let said = self.say(&call, 0).await?;
        let ready = word(&said) == "ready";
        if ready {
            self.known(&Epoch {
                ready,
                ..epoch.clone()
            });
        }
        Ok(!ready)
    }
}

/// Whether a server removes keys when its memory is full.
pub(super) fn evicts(info: &str) -> bool {
    let lines = || info.lines().map(str::trim_end);
    let policies = lines().filter_map(|line| line.strip_prefix("maxmemory_policy:"));
    let bounded = lines()
        .filter_map(|line| line.strip_prefix("maxmemory:"))
        .any(|bytes| bytes != "0");
    bounded && policies.into_iter().any(|policy| policy != "noeviction")
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bounded_memory_with_a_policy_evicts() {
        let info = |memory: &str, policy: &str| {
            format!(
                "# Memory\r\nmaxmemory:{memory}\r\nmaxmemory_human:0B\r\nmaxmemory_policy:{policy}\r\n"
            )
        };
        assert!(evicts(&info("1000", "allkeys-lru")));
        assert!(evicts(&info("1000", "volatile-ttl")));
        assert!(!evicts(&info("1000", "noeviction")));
        assert!(!evicts(&info("0", "allkeys-lru")));
        assert!(!evicts(""), "a server that may not be asked");
    }
}
