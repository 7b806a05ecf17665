#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use proptest::prelude::*;

use super::*;

fn fault(text: &str) -> Fault {
    RawObject::parse(Bytes::copy_from_slice(text.as_bytes()))
        .unwrap_err()
        .fault
}

#[test]
fn refuses_what_is_not_json_and_says_why() {
    assert!(matches!(fault(r#"{"a":NaN}"#), Fault::Syntax(_)));
    assert!(matches!(fault(r#"{"a":1} x"#), Fault::Syntax(_)));
    assert!(matches!(fault(r#"{"a":01}"#), Fault::Syntax(_)));
    assert!(matches!(fault(r#"{"a":1.}"#), Fault::Syntax(_)));
    assert!(matches!(fault(r#"{"a":1,}"#), Fault::Syntax(_)));
    assert!(matches!(fault(r#"{"a":"x"#), Fault::Syntax(_)));
    assert!(matches!(fault(""), Fault::Syntax(_)));
    assert_eq!(fault("[1]"), Fault::NotAnObject);
    assert_eq!(fault("{\"a\":\"\u{1}\"}"), Fault::ControlCharacter);
    assert_eq!(fault(r#"{"a":"\ud800"}"#), Fault::LoneSurrogate);
    assert_eq!(fault(r#"{"a":"\udc00\ud800"}"#), Fault::LoneSurrogate);
    assert_eq!(fault(r#"{"a":"\ud800\u0041"}"#), Fault::LoneSurrogate);
    assert_eq!(
        RawObject::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"))
            .unwrap_err()
            .fault,
        Fault::Utf8
    );
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(fault(&deep), Fault::Depth);
}

#[test]
fn a_key_twice_is_refused_however_it_is_written() {
    assert_eq!(
        fault(r#"{"model":1,"model":2}"#),
        Fault::DuplicateKey("model".into())
    );
    assert_eq!(
        fault(r#"{"model":1,"mod\u0065l":2}"#),
        Fault::DuplicateKey("model".into())
    );
    let many: String = (0..100).map(|i| format!("\"k{i}\":1,")).collect();
    assert_eq!(
        fault(&format!("{{{many}\"k7\":1}}")),
        Fault::DuplicateKey("k7".into())
    );
}

#[test]
fn edits_leave_every_other_byte_alone() {
    let text = r#"{ "model" : "a", "session_id":"s", "seed": 12345678901234567890 , "x":"\u00e9\/", "y":[1.0e5]}"#;
    let mut object = RawObject::parse(text.into()).unwrap();
    assert_eq!(object.to_bytes(), text);
    object.set_str("model", "b");
    assert!(object.remove("session_id"));
    object.set("stream_options", &b"{\"include_usage\":true}"[..]);
    assert_eq!(
        object.to_bytes(),
        r#"{"model":"b","seed": 12345678901234567890 , "x":"\u00e9\/", "y":[1.0e5],"stream_options":{"include_usage":true}}"#
    );
    assert_eq!(object.get("seed").unwrap().text(), "12345678901234567890");
    assert_eq!(object.get("x").unwrap().as_str().unwrap(), "é/");
}

#[test]
fn a_large_value_is_not_copied() {
    let text: Bytes = format!(
        "{{\"model\":\"a\",\"messages\":\"{}\"}}",
        "x".repeat(100_000)
    )
    .into();
    let mut object = RawObject::parse(text.clone()).unwrap();
    object.set_str("model", "b");
    let segments = object.to_segments();
    let large = segments
        .0
        .iter()
        .find(|segment| segment.len() > 100_000)
        .unwrap();
    let range = text.as_ptr() as usize..text.as_ptr() as usize + text.len();
    assert!(range.contains(&(large.as_ptr() as usize)));
}

#[test]
fn members_are_bounded_where_they_are_read() {
    let object = |count: usize| {
        let keys: Vec<String> = (0..count).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", keys.join(","))
    };
    assert_eq!(
        RawObject::parse(object(MAX_MEMBERS).into()).unwrap().len(),
        MAX_MEMBERS
    );
    assert_eq!(fault(&object(1_000_000)), Fault::Members);
    // Inside, where nobody reads them, they are the provider's business.
    let inner = format!("{{\"logit_bias\":{}}}", object(100_000));
    assert!(RawObject::parse(inner.into()).is_ok());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn round_trips_any_object(map in prop::collection::btree_map(any::<String>(), json(), 0..8), pretty: bool) {
        let value = serde_json::Value::Object(map.into_iter().collect());
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut object = RawObject::parse(text.clone().into()).unwrap();
        prop_assert_eq!(object.to_bytes(), text);
        for (key, expected) in value.as_object().unwrap() {
            let found: serde_json::Value = object.get(key).unwrap().decode().unwrap();
            prop_assert_eq!(&found, expected);
        }
        // Every edit gives the JSON that a map with the same edit gives.
        let mut map = value.as_object().unwrap().clone();
        if let Some(key) = map.keys().nth(map.len() / 2).cloned() {
            object.remove(&key);
            map.remove(&key);
        }
        object.set("added", &b"[1]"[..]);
        map.insert("added".into(), serde_json::json!([1]));
        let after: serde_json::Value = serde_json::from_slice(&object.to_bytes()).unwrap();
        prop_assert_eq!(after, serde_json::Value::Object(map));
    }

    #[test]
    fn agrees_with_serde_json_on_what_is_json(text in r#"[\{\}\[\]",:0-9eE.+\- tfnrualse\\]{0,40}"#) {
        let ours = RawObject::parse(text.clone().into());
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match ours {
            Ok(_) => prop_assert!(theirs.is_ok_and(|value| value.is_object())),
            Err(RawError { fault: Fault::Syntax(_), .. }) => prop_assert!(theirs.is_err()),
            Err(_) => {}
        }
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RawObject::parse(bytes.into());
    }
}
