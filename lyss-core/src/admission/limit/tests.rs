#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use futures::future::join_all;

use super::*;
use crate::{
    admission::{KeyRecord, Scopes},
    config::LimitsConfig,
};

pub(super) fn user(name: &str) -> Subject {
    Subject::User(name.into())
}

pub(super) fn ask(subject: &Subject, limits: Limits, tokens: u64) -> Asking {
    Asking {
        subject: subject.clone(),
        limits,
        id: RequestId::new(),
        tokens,
    }
}

pub(super) fn rpm(limit: u64) -> Limits {
    Limits {
        rpm: Some(limit),
        ..Limits::default()
    }
}

pub(super) fn tpm(limit: u64) -> Limits {
    Limits {
        tpm: Some(limit),
        ..Limits::default()
    }
}

pub(super) fn concurrent(limit: u64) -> Limits {
    Limits {
        concurrent: Some(limit),
        ..Limits::default()
    }
}

/// Asks so many times at once, in turn at each instance; gives what was admitted.
pub(super) async fn race(
    instances: &[Arc<CallerLimits>],
    subject: &Subject,
    limits: Limits,
    tokens: u64,
    times: usize,
) -> Vec<Admitted> {
    let asked = instances.iter().cycle().take(times).map(|callers| {
        let (callers, asking) = (Arc::clone(callers), ask(subject, limits, tokens));
        tokio::spawn(async move { callers.admit(asking).await })
    });
    let answers = join_all(asked).await.into_iter();
    answers
        .filter_map(|answer| match answer.unwrap() {
            Ok((admitted, _)) => Some(admitted),
            Err(refused) => {
                assert_eq!(refused.error.kind(), ErrorKind::RateLimited);
                assert!(refused.error.retry_after().unwrap() > Duration::ZERO);
                None
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_to_one_request() {
    let here = [Arc::new(CallerLimits::local())];
    let (alice, bob) = (user("alice"), user("bob"));
    assert_eq!(race(&here, &alice, rpm(37), 0, 500).await.len(), 37);
    assert_eq!(race(&here, &bob, rpm(37), 0, 38).await.len(), 37);
    assert_eq!(race(&here, &alice, rpm(38), 0, 500).await.len(), 1);

    let key = Subject::Key("alice".into());
    let running = race(&here, &key, concurrent(5), 0, 100).await;
    assert_eq!(running.len(), 5, "a key of a user's name is another caller");
    drop(running);
    assert_eq!(race(&here, &key, concurrent(5), 0, 100).await.len(), 5);

    let tokens = user("tokens");
    assert_eq!(race(&here, &tokens, tpm(333), 10, 100).await.len(), 33);
}

#[tokio::test]
async fn tokens_are_corrected_at_the_end() {
    let here = Arc::new(CallerLimits::local());
    let alice = user("alice");
    let admit = async |tokens| here.admit(ask(&alice, tpm(300), tokens)).await;
    let left = |answer: &Result<(Admitted, RateStatus), Box<Refused>>| {
        let status = match answer {
            Ok((_, status)) => *status,
            Err(refused) => refused.status,
        };
        assert!(status.requests.is_none());
        status.tokens.unwrap().remaining
    };
    let mut first = admit(200).await;
    assert_eq!(left(&first), 100);
    let refused = admit(101).await;
    assert_eq!(left(&refused), 100);
    assert_eq!(refused.unwrap_err().limit, Some(Limit::Tokens));
    first.as_mut().unwrap().0.used(30);
    drop(first);
    let mut second = admit(100).await;
    assert_eq!(left(&second), 170);
    second.as_mut().unwrap().0.used(271);
    drop(second);
    let third = admit(1).await;
    assert_eq!(left(&third), 0);
    let error = third.unwrap_err().error;
    let pause = error.retry_after().unwrap();
    assert!((59..=61).contains(&pause.as_secs()), "{pause:?}");
    assert!(error.should_retry());
}

#[tokio::test]
async fn callers_that_are_idle_are_forgotten() {
    let here = Arc::new(CallerLimits::local());
    let mut kept = Vec::new();
    for n in 0..3 * SWEEP_LEAST {
        let subject = user(&n.to_string());
        let (admitted, _) = here.admit(ask(&subject, concurrent(1), 0)).await.unwrap();
        if n % 100 == 0 {
            kept.push(admitted);
        }
    }
    assert!(here.subjects.lock().all.len() <= SWEEP_LEAST + kept.len());
    for n in (0..3 * SWEEP_LEAST).step_by(100) {
        let subject = user(&n.to_string());
        let again = here.admit(ask(&subject, concurrent(1), 0)).await;
        assert_eq!(again.unwrap_err().limit, Some(Limit::Concurrent), "{n}");
    }
}

#[test]
fn a_key_with_a_limit_of_its_own_is_counted_by_itself() {
    let record = |rpm| KeyRecord {
        id: "id".into(),
        user_id: Some("alice".into()),
        name: String::new(),
        admin: false,
        scopes: Scopes::CALLER,
        models: None,
        rpm,
        tpm: None,
        concurrent: None,
        budget: None,
        on_disconnect: None,
        expires_ms: None,
        revoked_ms: None,
        created_ms: 0,
        previous: None,
        revision: 1,
        hash: [0; 32],
    };
    let defaults = LimitsConfig {
        rpm: Some(60),
        tpm: Some(1000),
        concurrent: None,
    };
    let plain = Arc::new(record(None)).principal();
    let (subject, of) = Limits::of(&plain, &defaults).unwrap();
    assert_eq!((subject, of.rpm), (user("alice"), Some(60)));
    assert_eq!(Limits::of(&plain, &LimitsConfig::default()), None);

    let own = Arc::new(record(Some(7))).principal();
    let (subject, of) = Limits::of(&own, &defaults).unwrap();
    assert_eq!(subject, Subject::Key("id".into()));
    assert_eq!((of.rpm, of.tpm, of.concurrent), (Some(7), Some(1000), None));
}
