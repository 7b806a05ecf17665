//! Whatever `RawObject` accepts, serde_json accepts too, and an edit changes only what it says.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lyss_core::types::RawObject;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(mut object) = RawObject::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    assert_eq!(object.to_bytes(), data, "an untouched object is its text");
    // serde_json refuses numbers beyond f64, which are JSON all the same.
    let Ok(mut expected) = serde_json::from_slice::<Map<String, Value>>(data) else {
        return;
    };
    let keys: Vec<String> = object.members().map(|(key, _)| key.into_owned()).collect();
    if let Some(key) = keys.get(keys.len() / 2) {
        assert!(object.remove(key));
        expected.remove(key);
    }
    object.set_str("added", "\"\u{e9}\n");
    expected.insert("added".into(), "\"\u{e9}\n".into());
    let edited: Map<String, Value> = serde_json::from_slice(&object.to_bytes()).unwrap();
    assert_eq!(edited, expected);
});
