//! The tools: what they take, and which use case each of them is.

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;

use super::{schema::schema_of, text};
use crate::{
    access::{Identity, Permission},
    http::{
        Gateway,
        access::require,
        ask::{self, AskBody, AskResponse},
        collections::{self, CollectionList},
        error::ApiError,
        reranking::RerankChoice,
        search::{self, SearchBody, SearchResponse, ten},
    },
    rag::Caller,
};

const SEARCH: &str = "search";
const ASK: &str = "ask";
const LIST_COLLECTIONS: &str = "list_collections";

/// What is searched for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SearchInput {
    /// What the passages should be about, as a question or in key words.
    query: String,
    /// Where to search, a name of `list_collections`; `default` if absent.
    collection: Option<String>,
    /// Passages at most, 1 to 1000.
    #[serde(default = "ten")]
    #[schema(default = 10, minimum = 1, maximum = 1000)]
    k: i64,
    /// Least cosine similarity, -1 to 1, of passages that do not hold words of the query; what suits the
    /// collection's model if absent.
    threshold: Option<f32>,
    /// Only passages of documents with such metadata: an object is containment, as {"language": "en"};
    /// {"type": "gte", "key": "year", "value": 2024} compares (eq, ne, gt, gte, lt, lte, in, nin, contains,
    /// exists), {"type": "and", "filters": []} (or "or") joins, {"type": "not", "filter": {}} negates.
    #[schema(value_type = Option<Object>)]
    filters: Option<Value>,
    /// Whether a reranker, where one is set up, reads the best passages again to order them: slower and better.
    #[serde(default)]
    rerank: bool,
}

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskInput {
    /// A whole question that can be understood alone.
    question: String,
    /// Whose documents to read, a name of `list_collections`; `default` if absent.
    collection: Option<String>,
    /// Passages to read, 1 to 50.
    #[schema(minimum = 1, maximum = 50)]
    k: Option<i64>,
    /// As in `search`.
    #[schema(value_type = Option<Object>)]
    filters: Option<Value>,
    /// The backend that writes the answer, or `extractive` to quote the documents; what is set up if absent.
    model: Option<String>,
}

/// Nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NoInput {}

impl From<SearchInput> for SearchBody {
    fn from(input: SearchInput) -> Self {
        let SearchInput { query, collection, k, threshold, filters, rerank } = input;
        Self {
            query: Some(query),
            image: None,
            k,
            mode: None,
            threshold,
            filters,
            collection,
            exact: false,
            explain: false,
            recall: false,
            rerank: Some(RerankChoice::Switch(rerank)),
        }
    }
}

impl From<AskInput> for AskBody {
    fn from(input: AskInput) -> Self {
        let AskInput { question, collection, k, filters, model } = input;
        Self { question, k, filters, model, collection, stream: false, explain: false, rerank: None }
    }
}

/// All tools, as clients list them.
pub fn all() -> Vec<Tool> {
    vec![
        tool::<AskInput, AskResponse>(
            ASK,
            "Ask the documents",
            "Answers a question from the stored documents. Each sentence of the answer names its source by a number \
             in brackets; sources come with the words that support it. Says so when the documents do not hold the answer.",
        ),
        tool::<SearchInput, SearchResponse>(
            SEARCH,
            "Search the documents",
            "Finds the passages of the stored documents that are nearest in meaning to a query or hold its words, best first.",
        ),
        tool::<NoInput, CollectionList>(
            LIST_COLLECTIONS,
            "List collections",
            "Lists the collections of documents that can be searched and asked.",
        ),
    ]
}

fn tool<In: ToSchema, Out: ToSchema>(name: &'static str, title: &str, description: &'static str) -> Tool {
    // Only stored documents are read, and nothing is changed.
    let annotations = ToolAnnotations::new().read_only(true).open_world(false);
    Tool::new(name, description, schema_of::<In>())
        .with_title(title)
        .with_raw_output_schema(schema_of::<Out>().into())
        .with_annotations(annotations)
}

/// Calls the tool of this name, which must be one of [`all`].
pub async fn call(
    identity: &Identity,
    gateway: &Gateway,
    name: &str,
    arguments: JsonObject,
) -> Result<CallToolResult, ApiError> {
    require(identity, &[if name == ASK { Permission::Ask } else { Permission::Search }])?;
    let caller = Caller::from(identity);
    match name {
        SEARCH => {
            let found = search::find(caller, gateway, read::<SearchInput>(arguments)?.into()).await?;
            result(text::passages(&found), &found)
        }
        ASK => {
            let answer = ask::answer(caller, gateway, read::<AskInput>(arguments)?.into()).await?;
            result(text::answer(&answer), &answer)
        }
        _ => {
            read::<NoInput>(arguments)?;
            let list = collections::all(caller, gateway).await?;
            result(text::collections(&list), &list)
        }
    }
}

/// An error of the tool, not of the protocol: a model that reads it can do better.
fn read<T: DeserializeOwned>(arguments: JsonObject) -> Result<T, ApiError> {
    serde_json::from_value(Value::Object(arguments))
        .map_err(|error| ApiError::invalid(format!("arguments: {error}")))
}

fn result(text: String, body: &impl Serialize) -> Result<CallToolResult, ApiError> {
    // By way of text: a number of 32 bits would else come with digits that the endpoints do not write.
    let structured = serde_json::to_string(body).and_then(|json| serde_json::from_str(&json));
    let structured = structured.map_err(|error| ApiError::internal(&error.to_string()))?;
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(structured);
    Ok(result)
}
