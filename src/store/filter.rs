//! Conditions on metadata, as SQL with every key and value a parameter.

use serde_json::Value;
use tokio_postgres::types::{Json, ToSql, Type};

/// A condition on a passage's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The metadata contains this object (`jsonb @>`).
    Contains(serde_json::Map<String, Value>),
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
    /// A boolean SQL expression over `p.metadata`; never NULL.
    pub(super) fn to_sql(&self, parameters: &mut Parameters) -> String {
        match self {
            Filter::Contains(object) => {
                let object = parameters.add(Json(Value::Object(object.clone())), Type::JSONB);
                format!("p.metadata @> {object}")
            }
            Filter::Compare { key, comparison, value } => {
                let key = parameters.add(key.clone(), Type::TEXT);
                let value = parameters.add(Json(value.clone()), Type::JSONB);
                let operator = comparison.operator();
                format!(
                    "coalesce(jsonb_typeof(p.metadata -> {key}) = jsonb_typeof({value}) \
                     AND p.metadata -> {key} {operator} {value}, false)"
                )
            }
            Filter::In { key, values } => {
                let key = parameters.add(key.clone(), Type::TEXT);
                let values: Vec<_> = values.iter().cloned().map(Json).collect();
                let values = parameters.add(values, Type::JSONB_ARRAY);
                format!("coalesce(p.metadata -> {key} = ANY({values}), false)")
            }
            Filter::Not(inner) => format!("NOT ({})", inner.to_sql(parameters)),
            Filter::And(parts) => joined(parts, " AND ", "true", parameters),
            Filter::Or(parts) => joined(parts, " OR ", "false", parameters),
        }
    }
}

fn joined(parts: &[Filter], word: &str, empty: &str, parameters: &mut Parameters) -> String {
    if parts.is_empty() {
        return empty.to_owned();
    }
    let parts: Vec<_> = parts.iter().map(|part| part.to_sql(parameters)).collect();
    format!("({})", parts.join(word))
}
