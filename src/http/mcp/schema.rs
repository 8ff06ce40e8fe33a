//! JSON Schemas of what the API describes already.
//!
//! OpenAPI 3.1 describes bodies in JSON Schema; only where parts are kept differs.

use rmcp::model::JsonObject;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The schema of a body with all that it refers to.
pub fn schema_of<T: ToSchema>() -> JsonObject {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let parts: Map<String, Value> = parts.into_iter().map(|(name, part)| (name, json(&part))).collect();
    let mut schema = json(&T::schema());
    if !parts.is_empty() {
        schema["$defs"] = Value::Object(parts);
    }
    match schema {
        Value::Object(schema) => schema,
        _ => JsonObject::default(),
    }
}

fn json(schema: &impl serde::Serialize) -> Value {
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    tidy(&mut schema);
    schema
}

/// Points to `$defs`, and leaves out examples: a model would take them for what is meant.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("example");
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/$defs/");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
