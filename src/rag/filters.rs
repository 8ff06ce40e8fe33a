//! The one parser of filters.
//!
//! A plain object is containment. `{type, key, value}` and
//! `{type: "and" | "or", filters}` are the typed form, OpenAI's grammar for
//! vector stores.

use serde_json::{Map, Value};

use super::RagError;
use crate::store::{Comparison, Filter};

/// Deepest nesting of `and` and `or`.
const MAX_DEPTH: usize = 8;
/// Conditions of one filter.
const MAX_CONDITIONS: usize = 64;

/// Parses a filter. `{}` is no condition.
pub fn parse_filter(value: &Value) -> Result<Option<Filter>, RagError> {
    let Value::Object(object) = value else {
        return Err(invalid("must be a JSON object such as {\"language\": \"en\"}"));
    };
    if object.is_empty() {
        return Ok(None);
    }
    refuse_nul(value)?;
    let mut conditions = 0;
    if is_typed(object) {
        typed(object, 0, &mut conditions).map(Some)
    } else {
        Ok(Some(Filter::Contains(object.clone())))
    }
}

/// A document may well have a metadata key `type`; the typed form also has `key` or `filters`.
fn is_typed(object: &Map<String, Value>) -> bool {
    object.contains_key("type") && (object.contains_key("filters") || object.contains_key("key"))
}

fn typed(object: &Map<String, Value>, depth: usize, conditions: &mut usize) -> Result<Filter, RagError> {
    *conditions += 1;
    if depth > MAX_DEPTH || *conditions > MAX_CONDITIONS {
        return Err(invalid(&format!(
            "more than {MAX_CONDITIONS} conditions or deeper than {MAX_DEPTH} levels"
        )));
    }
    let operator = object.get("type").and_then(Value::as_str).unwrap_or_default();
    match operator {
        "and" => Ok(Filter::And(parts(object, depth, conditions)?)),
        "or" => Ok(Filter::Or(parts(object, depth, conditions)?)),
        _ => comparison(operator, object),
    }
}

fn parts(object: &Map<String, Value>, depth: usize, conditions: &mut usize) -> Result<Vec<Filter>, RagError> {
    let Some(Value::Array(filters)) = object.get("filters") else {
        return Err(invalid("`and` and `or` need an array `filters`"));
    };
    only_keys(object, &["type", "filters"])?;
    if filters.is_empty() {
        return Err(invalid("`filters` is empty"));
    }
    filters
        .iter()
        .map(|part| match part {
            Value::Object(part) => typed(part, depth + 1, conditions),
            _ => Err(invalid("each of `filters` must be an object with `type`")),
        })
        .collect()
}

fn comparison(operator: &str, object: &Map<String, Value>) -> Result<Filter, RagError> {
    only_keys(object, &["type", "key", "value"])?;
    let key = object
        .get("key")
        .and_then(Value::as_str)
        .ok_or_else(|| invalid("a comparison needs a text `key`"))?
        .to_owned();
    let value = object.get("value").cloned().ok_or_else(|| invalid("a comparison needs a `value`"))?;
    let ordered = |comparison| match value {
        Value::Number(_) | Value::String(_) => {
            Ok(Filter::Compare { key: key.clone(), comparison, value: value.clone() })
        }
        _ => Err(invalid(&format!("`{operator}` compares numbers and texts only"))),
    };
    match operator {
        "eq" => Ok(Filter::In { key, values: vec![value] }),
        "ne" => Ok(Filter::Not(Box::new(Filter::In { key, values: vec![value] }))),
        "gt" => ordered(Comparison::Greater),
        "gte" => ordered(Comparison::GreaterOrEqual),
        "lt" => ordered(Comparison::Less),
        "lte" => ordered(Comparison::LessOrEqual),
        "in" => Ok(Filter::In { key, values: list(operator, value)? }),
        "nin" => Ok(Filter::Not(Box::new(Filter::In { key, values: list(operator, value)? }))),
        _ => Err(invalid(&format!(
            "unknown operator `{operator}`; known are eq, ne, gt, gte, lt, lte, in, nin, and, or"
        ))),
    }
}

fn list(operator: &str, value: Value) -> Result<Vec<Value>, RagError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(invalid(&format!("`{operator}` needs an array `value`"))),
    }
}

fn only_keys(object: &Map<String, Value>, known: &[&str]) -> Result<(), RagError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(invalid(&format!("unknown key `{key}` beside `type`"))),
        None => Ok(()),
    }
}

/// PostgreSQL's jsonb holds no NUL character.
pub(super) fn refuse_nul(value: &Value) -> Result<(), RagError> {
    let clean = |text: &str| {
        if text.contains('\0') {
            Err(RagError::Invalid("JSON texts must not hold the character NUL (\\u0000)".into()))
        } else {
            Ok(())
        }
    };
    match value {
        Value::String(text) => clean(text),
        Value::Array(values) => values.iter().try_for_each(refuse_nul),
        Value::Object(object) => {
            object.iter().try_for_each(|(key, value)| clean(key).and_then(|()| refuse_nul(value)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn invalid(message: &str) -> RagError {
    RagError::Invalid(format!("filters: {message}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: Value) -> String {
        parse_filter(&value).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_object_is_containment_even_with_a_key_named_type() {
        assert_eq!(parse_filter(&json!({})).unwrap(), None);
        let Some(Filter::Contains(object)) = parse_filter(&json!({"type": "invoice"})).unwrap() else {
            panic!("not containment")
        };
        assert_eq!(object["type"], "invoice");
    }

    #[test]
    fn the_typed_form_nests() {
        let parsed = parse_filter(&json!({"type": "or", "filters": [
            {"type": "gte", "key": "year", "value": 2020},
            {"type": "and", "filters": [{"type": "nin", "key": "lang", "value": ["de"]}]}]}))
        .unwrap();
        let Some(Filter::Or(parts)) = parsed else { panic!("not or") };
        assert!(matches!(&parts[0], Filter::Compare { comparison: Comparison::GreaterOrEqual, .. }));
        assert!(matches!(&parts[1], Filter::And(inner) if matches!(inner[0], Filter::Not(_))));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(message(json!([1])).contains("JSON object"));
        assert!(
            message(json!({"type": "like", "key": "a", "value": "b"})).contains("unknown operator `like`")
        );
        assert!(message(json!({"type": "and", "filters": []})).contains("empty"));
        assert!(message(json!({"type": "in", "key": "a", "value": 1})).contains("array"));
        assert!(message(json!({"type": "gt", "key": "a", "value": true})).contains("numbers and texts"));
        assert!(message(json!({"type": "eq", "key": "a", "value": 1, "x": 2})).contains("`x`"));
        assert!(message(json!({"a\u{0}": 1})).contains("NUL"));
    }
}
