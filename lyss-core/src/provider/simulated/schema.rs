//! The smallest instance of a JSON schema, as far as structured outputs use the language.

use serde_json::{Map, Value};

/// Deeper schemas, and recursive ones, end in `null`.
const MAX_DEPTH: usize = 24;

/// The most values in one instance: a schema cannot ask for more.
const MAX_VALUES: usize = 10_000;

/// The smallest value that the schema admits; `null` where it says nothing.
pub(super) fn smallest(schema: &Value) -> Value {
    let mut left = MAX_VALUES;
    instance(schema, schema, 0, &mut left)
}

fn instance(schema: &Value, root: &Value, depth: usize, left: &mut usize) -> Value {
    if depth > MAX_DEPTH || *left == 0 {
        return Value::Null;
    }
    *left -= 1;
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let target = target.strip_prefix('#').and_then(|path| root.pointer(path));
        return target.map_or(Value::Null, |target| {
            instance(target, root, depth + 1, left)
        });
    }
    for combined in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(combined).and_then(|schemas| schemas.get(0)) {
            return instance(first, root, depth + 1, left);
        }
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_u64);
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None => schema.get("properties").map(|_| "object"),
    };
    match kind {
        Some("object") => {
            let mut object = Map::new();
            let required = schema.get("required").and_then(Value::as_array);
            for name in required.into_iter().flatten().filter_map(Value::as_str) {
                let member = schema.get("properties").and_then(|known| known.get(name));
                let value = instance(member.unwrap_or(&Value::Null), root, depth + 1, left);
                object.insert(name.to_owned(), value);
            }
            Value::Object(object)
        }
        Some("array") => {
            let count = number("minItems").unwrap_or(0).min(*left as u64);
            let item = schema.get("items").unwrap_or(&Value::Null);
            (0..count)
                .map(|_| instance(item, root, depth + 1, left))
                .collect()
        }
        Some("string") => {
            let length = number("minLength").unwrap_or(0).min(MAX_VALUES as u64) as usize;
            Value::String("x".repeat(length))
        }
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(0.into()),
        Some("boolean") => Value::Bool(false),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn instances_fit_their_schema() {
        let schema = json!({
            "type": "object",
            "required": ["name", "age", "kind", "tags", "next"],
            "properties": {
                "name": {"type": "string", "minLength": 2},
                "age": {"type": "integer", "minimum": 18},
                "kind": {"enum": ["a", "b"]},
                "tags": {"type": "array", "minItems": 2, "items": {"type": ["boolean", "null"]}},
                "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
                "optional": {"type": "string"}
            },
            "$defs": {"n": {"const": 7}}
        });
        let expected =
            json!({"name": "xx", "age": 18, "kind": "a", "tags": [false, false], "next": 7});
        assert_eq!(smallest(&schema), expected);
    }

    #[test]
    fn hostile_schemas_end() {
        let endless = json!({"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        assert!(smallest(&endless).to_string().len() < 1_000_000);
        let huge = json!({"type": "array", "minItems": u64::MAX, "items": {"type": "string", "minLength": 3}});
        assert!(smallest(&huge).to_string().len() < 100_000);
        assert_eq!(smallest(&json!({"$ref": "http://x"})), Value::Null);
    }
}
