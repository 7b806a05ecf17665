//! Two instances on one Redis. A minute is not waited for: what Redis has noted is made older.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    super::{
        Asking, CallerLimits, Refused,
        tests::{ask, concurrent, race, rpm, tpm, user},
    },
    *,
};
use crate::redis::RedisSource;

/// The machine that runs the tests is busy.
const TEST_PATIENCE: Duration = Duration::from_millis(500);

fn single() -> RedisSource {
    let url = std::env::var("LYSS_TEST_REDIS").expect("LYSS_TEST_REDIS: run `make test`");
    let (_, addr) = url.split_once("://").expect("redis://host:port/");
    RedisSource {
        addr: addr.trim_end_matches('/').to_owned(),
        ..RedisSource::default()
    }
}

fn cluster() -> RedisSource {
    let nodes = std::env::var("LYSS_TEST_REDIS_CLUSTER").expect("LYSS_TEST_REDIS_CLUSTER");
    let address = |node: &str| {
        let node = node.trim().trim_start_matches("redis://");
        node.trim_end_matches('/').to_owned()
    };
    RedisSource {
        cluster: nodes.split(',').map(address).collect(),
        ..RedisSource::default()
    }
}

async fn instance(source: RedisSource) -> Arc<CallerLimits> {
    let source = RedisSource {
        command_timeout: TEST_PATIENCE,
        ..source
    };
    let redis = RedisHandle::connect(source).await.unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    Arc::new(CallerLimits::shared(redis, tasks))
}

async fn two(source: RedisSource) -> [Arc<CallerLimits>; 2] {
    [instance(source.clone()).await, instance(source).await]
}

fn anybody() -> Subject {
    user(&format!("{{}}ü {}", RequestId::new()))
}

fn limits(callers: &CallerLimits) -> &SharedLimits {
    &callers.shared.as_ref().unwrap().limits
}

/// Makes all that is noted of a caller older.
async fn age(callers: &CallerLimits, subject: &Subject, by: Duration) {
    let script = Script::new(
        "for _, key in ipairs({KEYS[1], KEYS[3]}) do
           local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
           for n = 1, #all, 2 do redis.call('ZADD', key, all[n + 1] - ARGV[1], all[n]) end
         end
         local all = redis.call('HGETALL', KEYS[2])
         redis.call('DEL', KEYS[2])
         for n = 1, #all, 2 do
           redis.call('HSET', KEYS[2], string.format('%.0f', all[n] - ARGV[1] / 1000), all[n + 1])
         end",
    );
    let Subject::User(user) = subject else {
        panic!("a user")
    };
    let user = URL_SAFE_NO_PAD.encode(&**user);
    let mut call = script.prepare_invoke();
    for part in ["requests", "tokens", "places"] {
        call.key(format!("lyss:limit:{{u.{user}}}:{part}"));
    }
    call.arg(by.as_millis() as u64);
    limits(callers).redis.script::<()>(&call, 0).await.unwrap();
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !check().await {
        assert!(Instant::now() < end, "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn status(callers: &Arc<CallerLimits>, asking: Asking) -> RateStatus {
    match callers.admit(asking).await {
        Ok((_, status)) => status,
        Err(refused) => refused.status,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_over_two_instances() {
    for source in [single(), cluster()] {
        let both = two(source).await;
        let caller = anybody();
        assert_eq!(race(&both, &caller, rpm(37), 0, 200).await.len(), 37);
        age(&both[0], &caller, Duration::from_millis(59_000)).await;
        assert_eq!(race(&both, &caller, rpm(40), 0, 200).await.len(), 3);
        let caller = anybody();
        assert_eq!(race(&both, &caller, tpm(333), 10, 200).await.len(), 33);
        let caller = anybody();
        let all = Limits {
            rpm: Some(50),
            tpm: Some(250),
            concurrent: Some(20),
        };
        let running = race(&both, &caller, all, 10, 200).await;
        assert_eq!(running.len(), 20);
        drop(running);
        // What is not used is given back: the limit of requests is the next.
        eventually("places come free", async || {
            limits(&both[0]).redis.ping().await.unwrap();
            let status = status(&both[1], ask(&caller, rpm(1), 0)).await;
            assert_eq!(status.requests.unwrap().remaining, 0);
            race(&both, &caller, concurrent(20), 0, 25).await.len() == 20
        })
        .await;
        assert_eq!(race(&both, &caller, all, 1, 200).await.len(), 20);
    }
}

/// Against the list of all starts, with time made to pass.
#[tokio::test]
async fn at_most_n_in_any_minute() {
    let here = instance(single()).await;
    let caller = anybody();
    let (limit, mut clock) = (5, Duration::ZERO);
    let mut taken: Vec<Duration> = Vec::new();
    let mut refusals = 0;
    for round in 0..120_u64 {
        let gap = Duration::from_millis(round * 7919 % 23 * 1000);
        age(&here, &caller, gap).await;
        // The window of this instance must not know better.
        here.subjects.lock().all.clear();
        clock += gap;
        let began = Instant::now();
        let answer = here.admit(ask(&caller, rpm(limit), 0)).await;
        clock += began.elapsed();
        let recent = |window: Duration| {
            let inside = taken.iter().filter(|at| clock - **at < window);
            inside.count() as u64
        };
        match answer {
            Ok((_, status)) => {
                let before = recent(Duration::from_secs(60));
                assert!(before < limit, "round {round}");
                taken.push(clock);
                let left = status.requests.unwrap();
                assert!(left.remaining < limit - before || before == 0);
                assert!(left.reset > Duration::from_secs(60));
            }
            Err(refused) => {
                refusals += 1;
                assert!(recent(Duration::from_secs(62)) >= limit, "round {round}");
                let wait = refused.error.retry_after().unwrap();
                let oldest = taken[taken.len() - limit as usize];
                let due = (oldest + Duration::from_secs(60)).saturating_sub(clock);
                assert!(wait >= due, "round {round}: {wait:?} before {due:?}");
                assert!(wait <= due + Duration::from_secs(2), "round {round}");
            }
        }
    }
    assert!(taken.len() > 20 && refusals > 20, "{refusals}");
}

#[tokio::test]
async fn tokens_are_corrected_for_all() {
    let [here, there] = two(single()).await;
    let caller = anybody();
    let left = async |callers: &Arc<CallerLimits>| {
        let status = status(callers, ask(&caller, tpm(300), 0)).await;
        status.tokens.unwrap().remaining
    };
    let (mut first, _) = here.admit(ask(&caller, tpm(300), 200)).await.unwrap();
    assert_eq!(left(&there).await, 100);
    first.used(30);
    drop(first);
    eventually("less is given back", async || left(&there).await == 270).await;
    let (mut second, _) = there.admit(ask(&caller, tpm(300), 10)).await.unwrap();
    second.used(271);
    drop(second);
    eventually("more is added", async || left(&here).await == 0).await;
    let refused = here.admit(ask(&caller, tpm(300), 1)).await.unwrap_err();
    let wait = refused.error.retry_after().unwrap().as_secs();
    assert!((59..=61).contains(&wait), "{wait}");
    age(&here, &caller, Duration::from_secs(62)).await;
    assert_eq!(left(&here).await, 300);
}

#[tokio::test]
async fn one_after_another_is_one_at_once() {
    let here = instance(single()).await;
    let caller = anybody();
    for _ in 0..300 {
        let admitted = here.admit(ask(&caller, concurrent(1), 0)).await;
        drop(admitted.expect("the one before has ended").0);
    }
}

#[tokio::test]
async fn places_of_a_dead_instance_come_free() {
    let [here, there] = two(single()).await;
    let caller = anybody();
    let (dead, _) = there.admit(ask(&caller, concurrent(1), 0)).await.unwrap();
    std::mem::forget(dead);
    assert!(here.admit(ask(&caller, concurrent(1), 0)).await.is_err());
    age(&here, &caller, LEASE - Duration::from_secs(5)).await;
    // One that lives says so.
    for (subject, open) in there.open() {
        limits(&there).renew(&subject, &open).await;
    }
    age(&here, &caller, LEASE - Duration::from_secs(5)).await;
    assert!(here.admit(ask(&caller, concurrent(1), 0)).await.is_err());
    age(&here, &caller, Duration::from_secs(6)).await;
    here.admit(ask(&caller, concurrent(1), 0)).await.unwrap();
}

#[tokio::test]
async fn running_requests_are_known_again_after_a_loss() {
    let [here, there] = two(single()).await;
    let caller = anybody();
    let running = race(std::slice::from_ref(&there), &caller, concurrent(3), 0, 3).await;
    assert_eq!(running.len(), 3);
    // As if everything had been flushed.
    age(&here, &caller, Duration::from_secs(3600)).await;
    for (subject, open) in there.open() {
        limits(&there).renew(&subject, &open).await;
    }
    assert!(here.admit(ask(&caller, concurrent(3), 0)).await.is_err());
}

#[tokio::test]
async fn a_place_that_nobody_hears_of_is_given_back() {
    let here = instance(single()).await;
    let caller = anybody();
    {
        let mut asking = std::pin::pin!(here.admit(ask(&caller, concurrent(1), 0)));
        let first = futures::poll!(asking.as_mut());
        assert!(first.is_pending(), "redis answers over the network");
    }
    eventually("the place is free", async || {
        here.admit(ask(&caller, concurrent(1), 0)).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_gives_out_its_share() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let here = instance(RedisSource {
        addr,
        dial_timeout: Duration::from_millis(100),
        ..RedisSource::default()
    })
    .await;
    here.shared.as_ref().unwrap().instances.store(3, Relaxed);
    assert!(!here.is_alone());
    let here = [here];
    let caller = anybody();
    assert_eq!(race(&here, &caller, rpm(10), 0, 50).await.len(), 3);
    assert_eq!(race(&here, &anybody(), tpm(100), 10, 50).await.len(), 3);
    assert_eq!(race(&here, &anybody(), tpm(100), 90, 50).await.len(), 1);
    assert_eq!(race(&here, &anybody(), concurrent(7), 0, 50).await.len(), 2);
    assert!(here[0].is_alone());
    assert_eq!(here[0].stats(), Some((200, 3)));
}

#[tokio::test]
async fn instances_are_counted() {
    let [here, there] = two(single()).await;
    limits(&here).present().await.unwrap();
    let seen = limits(&there).present().await.unwrap();
    // Other tests of this file may be there as well.
    assert!(seen >= 2, "{seen}");
}

#[tokio::test]
async fn a_full_window_is_asked_about_once() {
    let here = instance(single()).await;
    let caller = anybody();
    let asked = async || here.admit(ask(&caller, rpm(1), 0)).await;
    let _running = asked().await.unwrap();
    let Refused { error, status, .. } = *asked().await.unwrap_err();
    // If Redis were asked again, it would say yes.
    age(&here, &caller, Duration::from_secs(62)).await;
    let again = asked().await.unwrap_err();
    assert_eq!(again.error.message(), error.message());
    assert_eq!(again.status.requests.unwrap().remaining, 0);
    assert!(again.error.retry_after() <= error.retry_after());
    assert!(again.status.requests.unwrap().reset <= status.requests.unwrap().reset);
    here.admit(ask(&caller, rpm(2), 0))
        .await
        .expect("another limit");
}
