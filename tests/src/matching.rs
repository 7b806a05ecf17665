//! Comparing an answer with what a case expects of it.

use serde_json::Value;

/// Whether `actual` has everything that `expected` names; the path of the first difference otherwise.
///
/// Objects may have more members than expected, arrays may not have more elements. Instead of a value may stand
/// `"$any"` (anything but null), `"$absent"`, `{"$contains": "text"}` for a string or a serialised value, and
/// `{"$excludes": "text"}`.
pub fn matches(expected: &Value, actual: &Value) -> Result<(), String> {
    at("", expected, actual)
}

fn at(path: &str, expected: &Value, actual: &Value) -> Result<(), String> {
    let differ = || Err(format!("{path}: expected {expected}, got {actual}"));
    match expected {
        Value::String(any) if any == "$any" => {
            if actual.is_null() {
                differ()
            } else {
                Ok(())
            }
        }
        Value::String(absent) if absent == "$absent" => {
            if actual.is_null() {
                Ok(())
            } else {
                differ()
            }
        }
        Value::Object(map) => {
            if let Some(text) = map.get("$contains").and_then(Value::as_str) {
                return if shown(actual).contains(text) {
                    Ok(())
                } else {
                    differ()
                };
            }
            if let Some(text) = map.get("$excludes").and_then(Value::as_str) {
                return if shown(actual).contains(text) {
                    differ()
                } else {
                    Ok(())
                };
            }
            if !actual.is_object() {
                return differ();
            }
            map.iter().try_for_each(|(key, value)| {
                at(
                    &format!("{path}/{key}"),
                    value,
                    actual.get(key).unwrap_or(&Value::Null),
                )
            })
        }
        Value::Array(list) => match actual.as_array() {
            Some(got) if got.len() == list.len() => {
                list.iter()
                    .zip(got)
                    .enumerate()
                    .try_for_each(|(index, (expected, actual))| {
                        at(&format!("{path}/{index}"), expected, actual)
                    })
            }
            _ => differ(),
        },
        _ if expected == actual => Ok(()),
        _ => differ(),
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_differences_and_only_those() {
        let actual = json!({"a": 1, "b": [{"c": "hello"}], "d": null});
        assert!(matches(&json!({"a": 1, "b": [{"c": {"$contains": "ell"}}], "d": "$absent", "e": "$absent"}), &actual).is_ok());
        assert!(matches(&json!({"a": "$any"}), &actual).is_ok());
        for wrong in [
            json!({"a": 2}),
            json!({"b": []}),
            json!({"b": [{"c": {"$excludes": "ell"}}]}),
            json!({"d": "$any"}),
            json!({"a": "$absent"}),
        ] {
            assert!(matches(&wrong, &actual).is_err(), "{wrong}");
        }
    }
}
