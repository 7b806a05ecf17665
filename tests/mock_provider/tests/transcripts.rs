//! The mock's answers against the recorded ones, byte for byte, over raw sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod raw;

use std::path::Path;

use lyss_mock_provider::{MockProvider, Options, Script};
use serde_json::Value;

#[test]
fn every_scenario_answers_its_recorded_bytes() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/providers");
    let mut played = 0;
    for kind in ["openai", "dashscope"] {
        let mut scenarios: Vec<_> = std::fs::read_dir(root.join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        scenarios.sort();
        for folder in scenarios {
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            let meta: Value = serde_json::from_str(&read("meta.json").unwrap()).unwrap();
            if meta["mock"] == false {
                continue;
            }
            let script: Script = read("script.json")
                .map_or_else(Script::default, |text| serde_json::from_str(&text).unwrap());
            mock.push(script);
            let headers: Vec<(&str, &str)> = meta["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                .collect();
            let body = read("request.json").unwrap();
            let answer = raw::post(mock.addr(), meta["path"].as_str().unwrap(), &headers, &body);
            let expected = read("response.sse")
                .or_else(|| read("response.json"))
                .unwrap();
            assert_eq!(
                String::from_utf8(answer.body.clone()).unwrap(),
                expected,
                "{}",
                folder.display()
            );
            assert_eq!(
                u64::from(answer.status),
                meta["status"].as_u64().unwrap(),
                "{}",
                folder.display()
            );
            assert_eq!(
                answer.header("content-type"),
                meta["content_type"].as_str(),
                "{}",
                folder.display()
            );
            assert!(answer.complete, "{}", folder.display());
            played += 1;
        }
    }
    assert!(played >= 20, "only {played} scenarios were found");
}
