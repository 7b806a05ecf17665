//! The windows that all instances share, in Redis.
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `lyss:rps:rule:<priority>.<model>.<provider>.<upstream>` | list | the times of the last starts, in microseconds |
//! | `lyss:rps:provider:<id>` | list | likewise |
//!
//! Names are in unpadded base64url. One script takes a place in both windows of a call or in none. In a cluster they
//! lie in different slots: there one is taken after the other, and the first given back when the second is full.

use std::time::Duration;

use ::redis::Script;
use tokio::time::timeout;

use super::{RateLimit, window::WINDOW};
use crate::redis::{Failure, RedisHandle};

/// How long a call may wait for a place; then this instance counts alone.
const PATIENCE: Duration = Duration::from_millis(50);

/// A sliding log for each limit.
#[derive(Debug)]
pub(super) struct SharedWindows {
    redis: RedisHandle,
    patience: Duration,
    take: Script,
}

/// What is known of a call's places.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// They are taken.
    Taken,
    /// None is: this window is full for so long.
    Full(&'a RateLimit, Duration),
    /// Redis did not answer in time.
    Nothing,
}

/// What Redis said.
enum Answer {
    /// The places are taken, at this time of Redis.
    Taken(i64),
    /// The window of this index has no place for so long.
    Full(usize, Duration),
}

impl SharedWindows {
    pub fn new(redis: RedisHandle) -> Self {
        Self {
            redis,
            patience: PATIENCE,
            take: Script::new(include_str!("take.lua")),
        }
    }

    /// Takes a place in each window or in none.
    pub async fn take<'a>(&self, limits: &[&'a RateLimit]) -> Told<'a> {
        let taking = async {
            if self.redis.is_cluster() {
                self.one_by_one(limits).await
            } else {
                self.together(limits).await
            }
        };
        match timeout(self.patience, taking).await {
            Ok(Ok(Answer::Taken(_))) => Told::Taken,
            Ok(Ok(Answer::Full(index, pause))) => limits
                .get(index)
                .map_or(Told::Nothing, |limit| Told::Full(limit, pause)),
            // A place that was taken and not heard of is free again after a window's length.
            Ok(Err(_)) | Err(_) => Told::Nothing,
        }
    }

    async fn together(&self, limits: &[&RateLimit]) -> Result<Answer, Failure> {
        let mut call = self.take.prepare_invoke();
        // A start may follow its place by as much as the answer may take: the window is longer by that, so that there
        // are never more than N starts in a second.
        call.arg((WINDOW + self.patience).as_micros() as u64);
        for limit in limits {
            call.key(key(limit)).arg(limit.limit);
        }
        let (full, number): (usize, i64) = self.redis.script(&call, 0).await?;
        Ok(match full.checked_sub(1) {
            None => Answer::Taken(number),
            Some(index) => Answer::Full(
                index,
                Duration::from_micros(u64::try_from(number).unwrap_or_default()),
            ),
        })
    }

    async fn one_by_one(&self, limits: &[&RateLimit]) -> Result<Answer, Failure> {
        let mut taken = Vec::with_capacity(limits.len());
        for (index, limit) in limits.iter().enumerate() {
            match self.together(&[*limit]).await? {
                Answer::Taken(at) => taken.push((limit, at)),
                Answer::Full(_, pause) => {
                    for (limit, at) in taken {
                        let mut remove = ::redis::cmd("LREM");
                        remove.arg(key(limit)).arg(-1).arg(at);
                        // If it fails, the place is free again after a window's length.
                        let _ = self.redis.command::<i64>(&remove).await;
                    }
                    return Ok(Answer::Full(index, pause));
                }
            }
        }
        Ok(Answer::Taken(taken.last().map_or(0, |(_, at)| *at)))
    }
}

fn key(limit: &RateLimit) -> String {
    format!("lyss:rps:{}", limit.name)
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
