//! A door into the gateway, as the runner of the cases sees it, and the runner.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lyss_mock_provider::{Outcome, Rule};
use serde_json::{Value, json};

use crate::{
    case::{Case, Step},
    matching::matches,
    world::Surroundings,
};

/// A way to call the gateway.
///
/// The outcome of a step is one JSON object, the same through every door:
/// `{"status", "body", "provider", "upstream_model", "session_id", "context", "attempts", "request_id"}` for an answer, and
/// `"replayed": true` for one that was given before; for a stream what [`streamed`] says of it; for a failure
/// `{"status", "error": {"code", "type", "param", "message"}, "should_retry"}`.
#[async_trait]
pub trait Door: Send + Sync {
    /// Makes one call.
    async fn call(&self, surroundings: &Surroundings, step: &Step) -> Value;

    /// Closes the door, and ends the engine behind it.
    async fn close(self: Box<Self>);
}

/// What opens doors of one kind.
#[async_trait]
pub trait Doorway: Send + Sync {
    /// Starts an engine in the surroundings, here or in another process, and opens the door to it.
    async fn open(&self, surroundings: &Surroundings) -> Box<dyn Door>;
}

/// How many cases run at once.
const AT_ONCE: usize = 4;

/// The longest that a case may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often, every 50 ms, the log is read for rows that are still to come.
const LOOKS: usize = 100;

/// Runs every case through a door, fails with all that went wrong, and makes sure that none was left out.
pub async fn run_all(doorway: &dyn Doorway) {
    let cases = crate::case::all();
    let outcomes: Vec<(&str, Option<String>)> = futures::stream::iter(&cases)
        .map(|case| async move {
            // A case whose world breaks is one failure, and the others run all the same.
            let running = AssertUnwindSafe(run(doorway, case)).catch_unwind();
            let failure = match tokio::time::timeout(PATIENCE, running).await {
                Ok(Ok(outcome)) => outcome.err(),
                Ok(Err(panic)) => {
                    let text = panic.downcast_ref::<String>();
                    Some(format!(
                        "{}: {}",
                        case.id,
                        text.map_or("a panic", String::as_str)
                    ))
                }
                Err(_) => Some(format!("{}: not done after {PATIENCE:?}", case.id)),
            };
            (case.id.as_str(), failure)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let ran: BTreeSet<String> = outcomes.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(ran, crate::case::ids(), "every case, and no other");
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|(_, failure)| failure)
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// Runs one case through a door; what went wrong, if anything did.
async fn run(doorway: &dyn Doorway, case: &Case) -> Result<(), String> {
    let surroundings = Surroundings::prepare(&case.config, &case.keys).await;
    for (mock, scripts) in [
        (&surroundings.openai, &case.upstream),
        (&surroundings.backup, &case.backup),
    ] {
        for script in scripts {
            // Not for the engine's own look at the models.
            let path = Some("/v1/chat/completions".to_owned());
            mock.rule(Rule {
                path,
                times: Some(1),
                script: script.clone(),
                ..Rule::default()
            });
        }
    }
    if let Some(statements) = &case.sql {
        surroundings.store().execute(statements).await;
    }
    let door = doorway.open(&surroundings).await;
    let outcome = steps(door.as_ref(), &surroundings, case).await;
    door.close().await;
    outcome
}

async fn steps(door: &dyn Door, surroundings: &Surroundings, case: &Case) -> Result<(), String> {
    let mut last = String::new();
    for (index, step) in case.steps.iter().enumerate() {
        let step = Step {
            id: step.id.replace("$last", &last),
            ..step.clone()
        };
        if let Some(statements) = &step.sql {
            surroundings.store().execute(statements).await;
        }
        if let Some(count) = step.after_rows {
            rows(door, surroundings, count).await;
        }
        let outcome = door.call(surroundings, &step).await;
        if let Some(id) = outcome["request_id"].as_str() {
            last = id.to_owned();
        }
        matches(&step.expect, &outcome)
            .map_err(|error| format!("{}, step {index}: {error}\n  {outcome}", case.id))?;
    }
    if let Some(expected) = &case.rows {
        let got = rows(door, surroundings, expected.len()).await;
        matches(&Value::from(expected.clone()), &Value::from(got))
            .map_err(|error| format!("{}, rows: {error}", case.id))?;
    }
    for (name, mock, expected) in [
        ("received", &surroundings.openai, &case.received),
        (
            "backup_received",
            &surroundings.backup,
            &case.backup_received,
        ),
    ] {
        if let Some(expected) = expected {
            let got: Vec<Value> = mock
                .requests()
                .iter()
                .filter(|request| request.method == "POST")
                .map(|request| serde_json::from_slice(&request.body).unwrap_or(Value::Null))
                .collect();
            matches(&Value::from(expected.clone()), &Value::from(got))
                .map_err(|error| format!("{}, {name}: {error}", case.id))?;
        }
    }
    if let Some(expected) = &case.outcomes {
        let got = outcomes(surroundings).await;
        if got != *expected {
            return Err(format!(
                "{}, outcomes: expected {expected:?}, got {got:?}",
                case.id
            ));
        }
    }
    Ok(())
}

/// How the calls ended as the first provider saw them, once all have.
async fn outcomes(surroundings: &Surroundings) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..LOOKS {
        let ledger = surroundings.openai.ledger();
        outcomes = ledger
            .iter()
            .filter(|entry| entry.path.ends_with("/completions"))
            .map(|entry| entry.outcome)
            .collect();
        if !outcomes.contains(&Outcome::Open) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outcomes
}

/// The rows of the log, oldest first, once there are `count` of them: read through the door, with the admin key.
async fn rows(door: &dyn Door, surroundings: &Surroundings, count: usize) -> Vec<Value> {
    let step = Step {
        call: "requests".to_owned(),
        key: "admin".to_owned(),
        ..Step::default()
    };
    let mut rows = Vec::new();
    for _ in 0..LOOKS {
        let outcome = door.call(surroundings, &step).await;
        rows = outcome["body"]["data"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if rows.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rows.reverse();
    rows
}

/// The outcome of a stream from its events, each a chunk or `{"error": {…}}`: `"text"`, `"finish_reason"`, `"usage"`,
/// `"chunks"`, `"done"` (it came to its proper end), `"error"` if it ended so, and `"open"` if its end was not waited for.
pub fn streamed(events: Vec<Value>, done: bool, open: bool) -> Value {
    let (errors, chunks): (Vec<Value>, Vec<Value>) = events
        .into_iter()
        .partition(|event| event["error"].is_object());
    assert!(errors.len() < 2, "one error ends a stream");
    let error = errors
        .first()
        .map_or(Value::Null, |event| event["error"].clone());
    let choice = |chunk: &Value| chunk["choices"].get(0).cloned().unwrap_or(Value::Null);
    let text: String = chunks
        .iter()
        .filter_map(|chunk| {
            choice(chunk)["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    let finish = chunks
        .iter()
        .map(|chunk| choice(chunk)["finish_reason"].clone())
        .find(|reason| !reason.is_null());
    let usage = chunks
        .iter()
        .map(|chunk| chunk["usage"].clone())
        .find(|usage| !usage.is_null());
    json!({
        "status": 200,
        "text": text,
        "finish_reason": finish,
        "usage": usage,
        "empty_choices": chunks.iter().filter(|chunk| chunk["choices"].as_array().is_some_and(Vec::is_empty)).count(),
        "usage_members": chunks.iter().filter(|chunk| chunk.get("usage").is_some()).count(),
        "chunks": chunks.len(),
        "error": error,
        "done": done,
        "open": open,
    })
}
