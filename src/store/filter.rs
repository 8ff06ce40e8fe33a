//! Conditions on metadata, as SQL with every key and value a parameter.
//!
//! The SQL is usable in any statement that names `tenant_passages` as `p`. Equality is
//! written as containment, which the GIN index on `metadata` serves; an order
//! comparison is served by the index of a declared field (see `indexes`).

use serde_json::{Map, Value};
use tokio_postgres::types::{Json, ToSql, Type};

/// A condition on a passage's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The metadata contains this object (`jsonb @>`).
    Contains(Map<String, Value>),
    /// The value of a key compares so. Values of different JSON types never do.
    Compare {
        key: String,
        comparison: Comparison,
        value: Value,
    },
    /// The value of a key is one of these.
    In {
        key: String,
        values: Vec<Value>,
    },
    /// The key is there, whatever its value.
    Exists(String),
    Not(Box<Filter>),
    And(Vec<Filter>),
    Or(Vec<Filter>),
}

/// An order comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    fn operator(self) -> &'static str {
        match self {
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }
}

/// Parameters of a statement that is put together; owns its values.
#[derive(Default)]
pub(super) struct Parameters {
    values: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
}

impl Parameters {
    /// Adds a value and returns its placeholder.
    pub(super) fn add(&mut self, value: impl ToSql + Sync + Send + 'static, sql_type: Type) -> String {
        self.values.push((Box::new(value), sql_type));
        format!("${}", self.values.len())
    }

    pub(super) fn as_slice(&self) -> Vec<super::Parameter<'_>> {
        self.values.iter().map(|(value, sql_type)| (&**value as _, sql_type.clone())).collect()
    }
}

impl Filter {
    /// A boolean SQL expression over `p.metadata`. NULL means no, as in a WHERE; `Not` minds that.
    pub(super) fn to_sql(&self, parameters: &mut Parameters) -> String {
        match self {
            Filter::Contains(object) => contains(object.clone(), parameters),
            Filter::Compare { key, comparison, value } => {
                let json_type = if value.is_number() { "number" } else { "string" };
                let key = parameters.add(key.clone(), Type::TEXT);
                let value = parameters.add(Json(value.clone()), Type::JSONB);
                let operator = comparison.operator();
                // The first half alone is what an index answers; JSON orders values of all types.
                format!(
                    "(p.metadata -> {key} {operator} {value} AND jsonb_typeof(p.metadata -> {key}) = '{json_type}')"
                )
            }
            Filter::In { key, values } => {
                let parts: Vec<_> = values.iter().map(|value| equals(key, value, parameters)).collect();
                joined(parts, " OR ", "false")
            }
            Filter::Exists(key) => {
                let key = parameters.add(key.clone(), Type::TEXT);
                format!("p.metadata ? {key}")
            }
            Filter::Not(inner) => format!("({}) IS NOT TRUE", inner.to_sql(parameters)),
            Filter::And(parts) => joined(all(parts, parameters), " AND ", "true"),
            Filter::Or(parts) => joined(all(parts, parameters), " OR ", "false"),
        }
    }

    /// Whether an index answers it, so that few matches are found without reading all rows.
    /// `fields` are the keys with an index of their own.
    pub(super) fn is_indexed(&self, fields: &[String]) -> bool {
        match self {
            Filter::Contains(_) | Filter::In { .. } => true,
            Filter::Compare { key, .. } => fields.contains(key),
            Filter::Exists(_) | Filter::Not(_) => false,
            Filter::And(parts) => parts.iter().any(|part| part.is_indexed(fields)),
            Filter::Or(parts) => parts.iter().all(|part| part.is_indexed(fields)),
        }
    }
}

fn contains(object: Map<String, Value>, parameters: &mut Parameters) -> String {
    format!("p.metadata @> {}", parameters.add(Json(Value::Object(object)), Type::JSONB))
}

/// Containment is equality for texts, numbers, booleans and null; an array or object may hold more.
fn equals(key: &str, value: &Value, parameters: &mut Parameters) -> String {
    let object = contains(Map::from_iter([(key.to_owned(), value.clone())]), parameters);
    if !value.is_array() && !value.is_object() {
        return object;
    }
    let key = parameters.add(key.to_owned(), Type::TEXT);
    let value = parameters.add(Json(value.clone()), Type::JSONB);
    format!("({object} AND p.metadata -> {key} = {value})")
}

fn all(parts: &[Filter], parameters: &mut Parameters) -> Vec<String> {
    parts.iter().map(|part| part.to_sql(parameters)).collect()
}

fn joined(parts: Vec<String>, word: &str, empty: &str) -> String {
    if parts.is_empty() { empty.to_owned() } else { format!("({})", parts.join(word)) }
}
