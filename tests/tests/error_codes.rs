//! Every code of the contract's table of errors is shown by a shared case, or it is said here why it cannot be.

use std::collections::{BTreeMap, BTreeSet};

use lyss_core::ErrorKind;
use lyss_tests::case;
use serde_json::Value;

/// Codes that no case shows, and where they are tested instead.
const ELSEWHERE: &[(ErrorKind, &str)] = &[
    (
        ErrorKind::BadHost,
        "a matter of the listener: lyss-http/tests/edge.rs",
    ),
    (
        ErrorKind::UnknownPath,
        "only HTTP has paths: lyss-http/tests/api.rs",
    ),
    (
        ErrorKind::MethodNotAllowed,
        "only HTTP has methods: lyss-http/tests/api.rs",
    ),
    (
        ErrorKind::UnsupportedMediaType,
        "only HTTP has content types: lyss-http/tests/api.rs",
    ),
    (
        ErrorKind::RequestTimeout,
        "a matter of the listener: lyss-http/tests/edge.rs",
    ),
    (
        ErrorKind::Internal,
        "a defect, which no case can order: lyss-http/tests/api.rs",
    ),
    (
        ErrorKind::ShuttingDown,
        "the door itself is closed then: tests/tests/drain.rs",
    ),
    (
        ErrorKind::ServiceUnreachable,
        "only a connection to a service has it: tests/tests/remote/faults.rs",
    ),
    (
        ErrorKind::BillingSpoolFull,
        "needs a megabyte of rows and no database: tests/tests/exhaustion.rs",
    ),
];

/// The codes that a value names, as `code` of an error or as `error_code` of a row.
fn codes(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(code) if name == "code" || name == "error_code" => {
                        found.insert(code.clone());
                    }
                    value => codes(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| codes(item, found)),
        _ => {}
    }
}

#[test]
fn every_code_has_a_case() {
    let mut shown = BTreeSet::new();
    for case in case::all() {
        for step in &case.steps {
            codes(&step.expect, &mut shown);
        }
        for row in case.rows.iter().flatten() {
            codes(row, &mut shown);
        }
    }
    let elsewhere: BTreeMap<&str, &str> = ELSEWHERE
        .iter()
        .map(|(kind, why)| (kind.code(), *why))
        .collect();
    let missing: Vec<&str> = ErrorKind::ALL
        .iter()
        .map(|kind| kind.code())
        .filter(|code| !shown.contains(*code) && !elsewhere.contains_key(code))
        .collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
    let needless: Vec<&&str> = elsewhere
        .keys()
        .filter(|code| shown.contains(**code))
        .collect();
    assert!(needless.is_empty(), "there is a case now: {needless:?}");
}
