//! The filter language as the API document describes it; [`crate::rag::filters`] parses it.

use std::borrow::Cow;

use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Array, Object, Ref, RefOr, Schema,
        schema::{AnyOfBuilder, ObjectBuilder, Type},
    },
};

/// A condition on metadata, in the API document only.
pub(super) struct FilterSchema;

const DESCRIPTION: &str = "A condition on metadata. A plain object is containment: \
    `{\"language\": \"en\"}` finds what has at least these keys and values. With `type` it is a condition on one key, \
    or a combination of conditions. At most 64 conditions, 256 values and 16 levels.";
const CONDITION: &str = "A condition on one key. `eq`, `ne`, `in`, `nin` compare any value (`in`, `nin` take an array); \
    `gt`, `gte`, `lt`, `lte` numbers with numbers and texts with texts; `contains`: the array under the key holds the \
    value, or each of several; `exists` (with `value` false: does not) looks for the key. \
    `ne` and `nin` also find what lacks the key.";

impl PartialSchema for FilterSchema {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(
                ObjectBuilder::new().description(Some("Containment.")).examples([json!({"language": "en"})]),
            )
            .item(condition())
            .item(
                typed(&["and", "or"], "All of `filters`, or one of them.")
                    .property("filters", Array::new(this()))
                    .required("filters"),
            )
            .item(
                typed(&["not"], "What `filter` does not find.").property("filter", this()).required("filter"),
            )
            .description(Some(DESCRIPTION))
            .examples([json!({})])
            .into()
    }
}

impl ToSchema for FilterSchema {
    fn name() -> Cow<'static, str> {
        "Filter".into()
    }
}

fn condition() -> ObjectBuilder {
    let operators = ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "exists"];
    typed(&operators, CONDITION)
        .property("key", Object::with_type(Type::String))
        .required("key")
        .property("value", Schema::default())
        .examples([json!({"type": "gte", "key": "year", "value": 2025})])
}

fn typed(operators: &[&str], description: &str) -> ObjectBuilder {
    let kind = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(operators.iter().copied()));
    ObjectBuilder::new().description(Some(description)).property("type", kind).required("type")
}

fn this() -> Ref {
    Ref::from_schema_name(FilterSchema::name())
}
