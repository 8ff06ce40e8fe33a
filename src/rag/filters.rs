//! The one parser of filters.
//!
//! A plain object is containment. `{type, key, value}` and
//! `{type: "and" | "or", filters}` are the typed form, OpenAI's grammar for
//! vector stores, with `not`, `exists` and `contains` added.

use serde_json::{Map, Value};

use super::RagError;
use crate::store::{Comparison, Filter};

/// Deepest nesting: of `and`, `or` and `not`, and of an object or array in a value.
pub const MAX_DEPTH: usize = 16;
/// Conditions of one filter.
pub const MAX_CONDITIONS: usize = 64;
/// Values in a filter, those in lists and objects counted.
pub const MAX_VALUES: usize = 256;

const OPERATORS: &str = "eq, ne, gt, gte, lt, lte, in, nin, contains, exists, and, or, not";

/// Parses a filter. `{}` is no condition.
///
/// An error names the place (`filters.filters[1]`) and says what is allowed there.
pub fn parse_filter(value: &Value) -> Result<Option<Filter>, RagError> {
    let mut parser = Parser { place: "filters".into(), conditions: 0, values: 0 };
    let Value::Object(object) = value else {
        return Err(parser.invalid("must be a JSON object such as {\"language\": \"en\"}"));
    };
    if object.is_empty() {
        return Ok(None);
    }
    if is_typed(object) {
        parser.typed(object, 1).map(Some)
    } else {
        parser.check_value(value, 0)?;
        Ok(Some(Filter::Contains(object.clone())))
    }
}

/// [`parse_filter`] for JSON as text.
pub fn parse_filter_text(text: &str) -> Result<Option<Filter>, RagError> {
    let value = serde_json::from_str(text)
        .map_err(|error| RagError::Invalid(format!("filters: not valid JSON: {error}")))?;
    parse_filter(&value)
}

/// A document may well have a metadata key `type`; the typed form has one of these too.
fn is_typed(object: &Map<String, Value>) -> bool {
    object.contains_key("type") && ["key", "filters", "filter"].iter().any(|key| object.contains_key(*key))
}

struct Parser {
    /// Where it is, in the words of an error.
    place: String,
    conditions: usize,
    values: usize,
}

impl Parser {
    fn typed(&mut self, object: &Map<String, Value>, depth: usize) -> Result<Filter, RagError> {
        self.conditions += 1;
        if depth > MAX_DEPTH {
            return Err(self.invalid(&format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        if self.conditions > MAX_CONDITIONS {
            return Err(
                self.invalid(&format!("is one condition more than the {MAX_CONDITIONS} that are taken"))
            );
        }
        let Some(operator) = object.get("type").and_then(Value::as_str) else {
            return Err(self.invalid(&format!("`type` must be one of {OPERATORS}")));
        };
        match operator {
            "and" => Ok(Filter::And(self.parts(object, depth)?)),
            "or" => Ok(Filter::Or(self.parts(object, depth)?)),
            "not" => {
                self.only_keys(operator, object, &["type", "filter"])?;
                let inner = self.part(object.get("filter"), ".filter", depth)?;
                Ok(Filter::Not(Box::new(inner)))
            }
            _ => self.condition(operator, object),
        }
    }

    fn parts(&mut self, object: &Map<String, Value>, depth: usize) -> Result<Vec<Filter>, RagError> {
        let Some(Value::Array(filters)) = object.get("filters") else {
            return Err(self.invalid("`and` and `or` need an array `filters`"));
        };
        self.only_keys("and` and `or", object, &["type", "filters"])?;
        if filters.is_empty() {
            return Err(self.invalid("`filters` is empty"));
        }
        let parts = filters.iter().enumerate();
        parts.map(|(n, part)| self.part(Some(part), &format!(".filters[{n}]"), depth)).collect()
    }

    /// A filter inside another one.
    fn part(&mut self, part: Option<&Value>, place: &str, depth: usize) -> Result<Filter, RagError> {
        let outer = self.place.len();
        self.place.push_str(place);
        let filter = match part {
            Some(Value::Object(part)) => self.typed(part, depth + 1)?,
            _ => return Err(self.invalid("must be an object with `type`")),
        };
        self.place.truncate(outer);
        Ok(filter)
    }

    fn condition(&mut self, operator: &str, object: &Map<String, Value>) -> Result<Filter, RagError> {
        if !OPERATORS.split(", ").any(|known| known == operator) {
            return Err(self.invalid(&format!("unknown operator `{operator}`; known are {OPERATORS}")));
        }
        self.only_keys(operator, object, &["type", "key", "value"])?;
        let Some(key) = object.get("key").and_then(Value::as_str) else {
            return Err(self.invalid(&format!("`{operator}` needs a text `key`")));
        };
        let key = key.to_owned();
        self.check_text(&key)?;
        let value = object.get("value").cloned();
        if operator == "exists" {
            return match value {
                None | Some(Value::Bool(true)) => Ok(Filter::Exists(key)),
                Some(Value::Bool(false)) => Ok(negated(Filter::Exists(key))),
                Some(_) => Err(self.invalid("`exists` takes true or false as `value`, or none")),
            };
        }
        let value = value.ok_or_else(|| self.invalid(&format!("`{operator}` needs a `value`")))?;
        self.check_value(&value, 0)?;
        match operator {
            "eq" => Ok(Filter::In { key, values: vec![value] }),
            "ne" => Ok(negated(Filter::In { key, values: vec![value] })),
            "in" => Ok(Filter::In { key, values: self.list(operator, value)? }),
            "nin" => Ok(negated(Filter::In { key, values: self.list(operator, value)? })),
            "contains" => self.held(key, value),
            "gt" => self.ordered(operator, key, Comparison::Greater, value),
            "gte" => self.ordered(operator, key, Comparison::GreaterOrEqual, value),
            "lt" => self.ordered(operator, key, Comparison::Less, value),
            _ => self.ordered(operator, key, Comparison::LessOrEqual, value),
        }
    }

    fn ordered(
        &self,
        operator: &str,
        key: String,
        comparison: Comparison,
        value: Value,
    ) -> Result<Filter, RagError> {
        match value {
            Value::Number(_) | Value::String(_) => Ok(Filter::Compare { key, comparison, value }),
            _ => Err(self.invalid(&format!("`{operator}` compares numbers and texts only"))),
        }
    }

    /// The array under `key` holds the value, or each of an array of values.
    fn held(&self, key: String, value: Value) -> Result<Filter, RagError> {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        if values.is_empty() || values.iter().any(|value| value.is_array() || value.is_object()) {
            return Err(self.invalid("`contains` takes a text, number or boolean, or an array of them"));
        }
        Ok(Filter::Contains(Map::from_iter([(key, Value::Array(values))])))
    }

    fn list(&self, operator: &str, value: Value) -> Result<Vec<Value>, RagError> {
        match value {
            Value::Array(values) => Ok(values),
            _ => Err(self.invalid(&format!("`{operator}` needs an array `value`"))),
        }
    }

    fn only_keys(&self, operator: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), RagError> {
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                let known = known.join("`, `");
                Err(self.invalid(&format!("unknown key `{key}`: `{operator}` takes `{known}`")))
            }
            None => Ok(()),
        }
    }

    fn check_value(&mut self, value: &Value, depth: usize) -> Result<(), RagError> {
        self.values += 1;
        if depth > MAX_DEPTH {
            return Err(self.invalid(&format!("a value is nested deeper than {MAX_DEPTH} levels")));
        }
        if self.values > MAX_VALUES {
            return Err(self.invalid(&format!("holds more than {MAX_VALUES} values in all")));
        }
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
            Value::String(text) => self.check_text(text),
            Value::Array(values) => values.iter().try_for_each(|value| self.check_value(value, depth + 1)),
            Value::Object(object) => object.iter().try_for_each(|(key, value)| {
                self.check_text(key)?;
                self.check_value(value, depth + 1)
            }),
        }
    }

    /// PostgreSQL's jsonb holds no NUL character.
    fn check_text(&self, text: &str) -> Result<(), RagError> {
        match text.contains('\0') {
            true => Err(self.invalid("a text holds the character NUL (\\u0000), which no metadata holds")),
            false => Ok(()),
        }
    }

    fn invalid(&self, message: &str) -> RagError {
        RagError::Invalid(format!("{}: {message}", self.place))
    }
}

fn negated(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: Value) -> String {
        parse_filter(&value).unwrap_err().to_string()
    }

    /// `innermost` inside this many `and`s or `not`s.
    fn nested(levels: usize, innermost: Value) -> Value {
        (0..levels).fold(innermost, |inner, level| match level % 2 {
            0 => json!({"type": "and", "filters": [inner]}),
            _ => json!({"type": "not", "filter": inner}),
        })
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
            {"type": "not", "filter": {"type": "exists", "key": "draft"}},
            {"type": "and", "filters": [{"type": "nin", "key": "lang", "value": ["de"]}]}]}))
        .unwrap();
        let Some(Filter::Or(parts)) = parsed else { panic!("not or") };
        assert!(matches!(&parts[0], Filter::Compare { comparison: Comparison::GreaterOrEqual, .. }));
        assert_eq!(parts[1], negated(Filter::Exists("draft".into())));
        assert!(matches!(&parts[2], Filter::And(inner) if matches!(inner[0], Filter::Not(_))));
    }

    #[test]
    fn every_known_operator_is_parsed() {
        for operator in OPERATORS.split(", ") {
            let condition = json!({"type": "eq", "key": "a", "value": 1});
            let filter = match operator {
                "and" | "or" => json!({"type": operator, "filters": [condition]}),
                "not" => json!({"type": operator, "filter": condition}),
                "in" | "nin" => json!({"type": operator, "key": "a", "value": [1]}),
                "exists" => json!({"type": operator, "key": "a"}),
                _ => json!({"type": operator, "key": "a", "value": 1}),
            };
            assert!(parse_filter(&filter).unwrap().is_some(), "{operator}");
        }
    }

    #[test]
    fn contains_is_about_the_values_of_an_array() {
        let parsed = |value: Value| parse_filter(&json!({"type": "contains", "key": "tags", "value": value}));
        let expected = |object: Value| Some(Filter::Contains(object.as_object().unwrap().clone()));
        assert_eq!(parsed(json!("a")).unwrap(), expected(json!({"tags": ["a"]})));
        assert_eq!(parsed(json!(["a", 2])).unwrap(), expected(json!({"tags": ["a", 2]})));
        assert!(parsed(json!([])).is_err() && parsed(json!({"a": 1})).is_err());
    }

    #[test]
    fn depth_and_number_are_limited() {
        let condition = json!({"type": "exists", "key": "a"});
        assert!(parse_filter(&nested(MAX_DEPTH - 1, condition.clone())).is_ok());
        assert!(message(nested(MAX_DEPTH, condition.clone())).contains("deeper than 16 levels"));
        // Values can be built that no parser of JSON would read.
        assert!(message(nested(1000, condition.clone())).contains("deeper than 16 levels"));
        let many = |count| json!({"type": "or", "filters": vec![condition.clone(); count]});
        assert!(parse_filter(&many(MAX_CONDITIONS - 1)).is_ok());
        assert!(
            message(many(MAX_CONDITIONS)).contains("filters.filters[63]: is one condition more than the 64")
        );
        let list = |count| json!({"type": "in", "key": "a", "value": vec![1; count]});
        assert!(parse_filter(&list(MAX_VALUES - 1)).is_ok());
        assert!(message(list(MAX_VALUES)).contains("more than 256 values"));
        let deep = (0..MAX_DEPTH).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(parse_filter(&deep).is_ok());
        assert!(message(json!({ "a": deep })).contains("nested deeper"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        assert!(message(json!([1])).contains("JSON object"));
        let told = message(json!({"type": "like", "key": "a", "value": "b"}));
        assert!(told.contains("unknown operator `like`; known are eq, ne,"), "{told}");
        let told = message(json!({"type": "and", "filters": [
            {"type": "exists", "key": "a"}, {"type": "not", "filter": {"type": "gt", "key": "a", "value": true}}]}));
        assert_eq!(told, "filters.filters[1].filter: `gt` compares numbers and texts only");
        assert!(message(json!({"type": "and", "filters": []})).contains("empty"));
        assert!(message(json!({"type": "and", "filters": [5]})).contains("filters[0]: must be an object"));
        assert!(message(json!({"type": "not", "filter": null})).contains("must be an object with `type`"));
        assert!(message(json!({"type": "and", "filters": [{"year": 1}]})).contains("`type` must be one of"));
        assert!(message(json!({"type": "in", "key": "a", "value": 1})).contains("array"));
        assert!(message(json!({"type": "exists", "key": "a", "value": 1})).contains("true or false"));
        assert!(message(json!({"type": "eq", "key": 5, "value": 1})).contains("text `key`"));
        assert!(message(json!({"type": "eq", "key": "a"})).contains("needs a `value`"));
        let told = message(json!({"type": "eq", "key": "a", "value": 1, "x": 2}));
        assert!(told.contains("unknown key `x`: `eq` takes `type`, `key`, `value`"), "{told}");
        assert!(message(json!({"a\u{0}": 1})).contains("NUL"));
        assert!(parse_filter_text("{\"a\":").unwrap_err().to_string().contains("not valid JSON"));
    }
}
