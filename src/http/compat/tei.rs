//! text-embeddings-inference: a server of one model, here that of the route `text-embedding`.

use actix_web::{get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{TeiError, TextInput, cut, errors::TeiErrorBody, length};
use crate::{
    config::TEXT_ROUTE,
    http::{Gateway, error::ApiError},
    models::{TextRole, Token, vectors::scale_to_one},
    rag::{Caller, embed::EmbedderChoice},
};

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiEmbedRequest {
    inputs: TextInput,
    #[serde(flatten)]
    reading: TeiReading,
    /// Vectors of length 1. `false` is refused where the model makes no others.
    #[schema(example = true, default = true)]
    normalize: Option<bool>,
    /// Length of the vectors: the model's own, or one of its `cut_dimensions` in models.toml.
    #[schema(example = 384)]
    dimensions: Option<usize>,
}

/// How texts are read.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct TeiReading {
    /// Cut texts longer than the model reads; otherwise they are refused.
    #[schema(example = false, default = false)]
    truncate: Option<bool>,
    /// The side that is cut.
    #[serde(default)]
    #[schema(example = "right")]
    truncation_direction: TruncationDirection,
    /// What the texts are: `query` or `passage`. Some models read the two differently.
    #[schema(example = "passage", default = "passage")]
    prompt_name: Option<String>,
}

/// A side of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TruncationDirection {
    #[serde(alias = "Left")]
    Left,
    #[default]
    #[serde(alias = "Right")]
    Right,
}

/// A sentence and those that it is compared with.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiSimilarityRequest {
    inputs: TeiSentences,
    parameters: Option<TeiReading>,
}

/// The sentences.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiSentences {
    #[schema(example = "When does the first ferry leave?")]
    source_sentence: String,
    #[schema(example = json!(["Departure of the earliest boat", "A bicycle costs 3 euros"]))]
    sentences: Vec<String>,
}

/// What the root takes: either task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "`inputs` must be a text, an array of texts, or `source_sentence` and `sentences`"
)]
pub enum TeiTask {
    Similarity(TeiSimilarityRequest),
    Embed(TeiEmbedRequest),
}

/// Vectors or similarities.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TeiResult {
    Similarities(Vec<f32>),
    Vectors(Vec<Vec<f32>>),
}

/// Texts to split into tokens.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiTokenizeRequest {
    inputs: TextInput,
    /// Also those that the model reads around a text.
    #[serde(default = "yes")]
    #[schema(example = true)]
    add_special_tokens: bool,
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiToken {
    #[schema(example = 2043)]
    id: u32,
    /// As it stands in the text; a special token as the vocabulary names it.
    #[schema(example = "When")]
    text: String,
    #[schema(example = false)]
    special: bool,
    /// Its first character in the text; a special token has none.
    #[schema(example = 0)]
    start: Option<usize>,
    /// The character after its last.
    #[schema(example = 4)]
    stop: Option<usize>,
}

/// The model and its limits.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiInfo {
    #[schema(example = "all-MiniLM-L6-v2")]
    model_id: String,
    /// First digits of the weights' SHA-256.
    #[schema(example = "53aa51172d14")]
    model_sha: Option<String>,
    #[schema(example = "float32")]
    model_dtype: String,
    model_type: TeiModelType,
    /// Tokens of one text, special ones included.
    #[schema(example = 256)]
    max_input_length: usize,
    /// Texts of one request.
    #[schema(example = 2048)]
    max_client_batch_size: usize,
    /// Whether too long texts are cut without `truncate`.
    #[schema(example = false)]
    auto_truncate: bool,
    #[schema(example = 4)]
    tokenization_workers: usize,
    /// ragway's.
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// What the model is for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TeiModelType {
    Embedding(TeiEmbeddingModel),
}

/// How it makes one vector of a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiEmbeddingModel {
    #[schema(example = "mean")]
    pooling: String,
}

/// Embed (TEI)
///
/// With the model of the route `text-embedding`. A text longer than it reads is refused unless
/// `truncate` is true.
#[utoipa::path(tag = "tei", operation_id = "tei_embed", request_body = TeiEmbedRequest, responses(
    (status = 200, description = "One vector a text", body = Vec<Vec<f32>>),
    (status = 400, description = "`inputs` is empty", body = TeiErrorBody),
    (status = 422, description = "Malformed JSON, an empty or too long text, too many texts", body = TeiErrorBody),
    (status = 424, description = "The model failed", body = TeiErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = TeiErrorBody),
    (status = 503, description = "The model is not loaded", body = TeiErrorBody),
))]
#[post("/embed")]
pub async fn embed(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<TeiEmbedRequest>, actix_web::Error>,
) -> Result<web::Json<Vec<Vec<f32>>>, TeiError> {
    Ok(web::Json(vectors(caller, &gateway, body?.into_inner()).await?))
}

/// Compare sentences (TEI)
///
/// Cosine similarity of a sentence to each of others.
#[utoipa::path(tag = "tei", operation_id = "tei_similarity", request_body = TeiSimilarityRequest, responses(
    (status = 200, description = "One similarity a sentence, −1 to 1", body = Vec<f32>),
    (status = 400, description = "`sentences` is empty", body = TeiErrorBody),
    (status = 422, description = "Malformed JSON, an empty or too long text, too many texts", body = TeiErrorBody),
    (status = 424, description = "The model failed", body = TeiErrorBody),
    (status = 429, description = "Too much work is queued", body = TeiErrorBody),
    (status = 503, description = "The model is not loaded", body = TeiErrorBody),
))]
#[post("/similarity")]
pub async fn similarity(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<TeiSimilarityRequest>, actix_web::Error>,
) -> Result<web::Json<Vec<f32>>, TeiError> {
    Ok(web::Json(similarities(caller, &gateway, body?.into_inner()).await?))
}

/// Embed or compare (TEI)
///
/// For clients that know only the server's URL: `/embed` or `/similarity`, whichever the body is for.
#[utoipa::path(tag = "tei", operation_id = "tei_root", request_body = TeiTask, responses(
    (status = 200, description = "Vectors or similarities", body = TeiResult),
    (status = 400, description = "`inputs` is empty", body = TeiErrorBody),
    (status = 422, description = "Malformed JSON, an empty or too long text, too many texts", body = TeiErrorBody),
    (status = 424, description = "The model failed", body = TeiErrorBody),
    (status = 429, description = "Too much work is queued", body = TeiErrorBody),
    (status = 503, description = "The model is not loaded", body = TeiErrorBody),
))]
#[post("/")]
pub async fn root(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<TeiTask>, actix_web::Error>,
) -> Result<web::Json<TeiResult>, TeiError> {
    Ok(web::Json(match body?.into_inner() {
        TeiTask::Similarity(request) => {
            TeiResult::Similarities(similarities(caller, &gateway, request).await?)
        }
        TeiTask::Embed(request) => TeiResult::Vectors(vectors(caller, &gateway, request).await?),
    }))
}

/// Split into tokens (TEI)
///
/// As the model of the route `text-embedding` reads the texts.
#[utoipa::path(tag = "tei", operation_id = "tei_tokenize", request_body = TeiTokenizeRequest, responses(
    (status = 200, description = "The tokens of each text", body = Vec<Vec<TeiToken>>),
    (status = 400, description = "`inputs` is empty", body = TeiErrorBody),
    (status = 422, description = "Malformed JSON, an empty text, too many texts", body = TeiErrorBody),
    (status = 424, description = "The model failed", body = TeiErrorBody),
))]
#[post("/tokenize")]
pub async fn tokenize(
    gateway: web::Data<Gateway>,
    body: Result<web::Json<TeiTokenizeRequest>, actix_web::Error>,
) -> Result<web::Json<Vec<Vec<TeiToken>>>, TeiError> {
    let request = body?.into_inner();
    let (choice, texts) = (text_route(), inputs(request.inputs)?);
    let work = gateway.rag.tokenize(&choice, texts.clone(), request.add_special_tokens);
    let tokens = gateway.within_time(work).await.map_err(about_inputs)?;
    let shown = |(tokens, text): (Vec<Token>, &String)| {
        let characters: Vec<char> = text.chars().collect();
        tokens.into_iter().map(|token| TeiToken::of(token, &characters)).collect()
    };
    Ok(web::Json(tokens.into_iter().zip(&texts).map(shown).collect()))
}

/// Show the model (TEI)
///
/// The model of the route `text-embedding` and its limits.
#[utoipa::path(tag = "tei", operation_id = "tei_info", responses(
    (status = 200, description = "The model", body = TeiInfo),
    (status = 503, description = "The model is not loaded", body = TeiErrorBody),
))]
#[get("/info")]
pub async fn info(gateway: web::Data<Gateway>) -> Result<web::Json<TeiInfo>, TeiError> {
    let embedder = gateway.rag.embedder(&text_route()).await?;
    let space = embedder.space();
    // A space's name: `model@weights:pooling:normalisation:precision[:prefix]`.
    let mut parts = space.id.strip_prefix(&format!("{}@", space.model)).unwrap_or_default().split(':');
    let weights = parts.next().filter(|weights| !weights.is_empty()).map(str::to_owned);
    let pooling = parts.next().unwrap_or_default().to_owned();
    let dtype = match parts.nth(1) {
        None | Some("fp32") => "float32".to_owned(),
        Some(other) => other.to_owned(),
    };
    Ok(web::Json(TeiInfo {
        model_id: space.model.clone(),
        model_sha: weights,
        model_dtype: dtype,
        model_type: TeiModelType::Embedding(TeiEmbeddingModel { pooling }),
        max_input_length: embedder.max_tokens(),
        max_client_batch_size: gateway.rag.catalog().http.max_texts,
        auto_truncate: false,
        tokenization_workers: std::thread::available_parallelism().map_or(1, usize::from),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

async fn vectors(
    caller: Caller,
    gateway: &Gateway,
    request: TeiEmbedRequest,
) -> Result<Vec<Vec<f32>>, TeiError> {
    let normalize = request.normalize.unwrap_or(true);
    let (catalog, space) = (gateway.rag.catalog(), gateway.rag.space(&text_route()).await?);
    let length = length(catalog, &space, request.dimensions)?;
    if !normalize && catalog.embedder(&space.model).is_some_and(|entry| entry.normalize) {
        let model = &space.model;
        let detail = format!("normalize: {model} makes vectors of length 1 only; leave `normalize` out");
        return Err(ApiError::invalid(detail).into());
    }
    let mut vectors = embed_texts(caller, gateway, inputs(request.inputs)?, &request.reading).await?;
    cut(&mut vectors, length);
    if normalize {
        vectors.iter_mut().for_each(|vector| scale_to_one(vector));
    }
    Ok(vectors)
}

async fn similarities(
    caller: Caller,
    gateway: &Gateway,
    request: TeiSimilarityRequest,
) -> Result<Vec<f32>, TeiError> {
    let TeiSentences { source_sentence, mut sentences } = request.inputs;
    if sentences.is_empty() {
        return Err(TeiError::empty("inputs.sentences"));
    }
    sentences.insert(0, source_sentence);
    let reading = request.parameters.unwrap_or_default();
    let mut vectors = embed_texts(caller, gateway, sentences, &reading).await?;
    vectors.iter_mut().for_each(|vector| scale_to_one(vector));
    let Some((source, others)) = vectors.split_first() else { return Ok(Vec::new()) };
    let cosine = |other: &Vec<f32>| other.iter().zip(source).map(|(a, b)| a * b).sum();
    Ok(others.iter().map(cosine).collect())
}

async fn embed_texts(
    caller: Caller,
    gateway: &Gateway,
    texts: Vec<String>,
    reading: &TeiReading,
) -> Result<Vec<Vec<f32>>, TeiError> {
    let (choice, role) = (text_route(), reading.role()?);
    let truncate = reading.truncate.unwrap_or(false);
    let work = async {
        let texts = match reading.truncation_direction {
            TruncationDirection::Left if truncate => gateway.rag.keep_ends(&choice, texts, role).await?,
            TruncationDirection::Left | TruncationDirection::Right => texts,
        };
        gateway.rag.embed(caller, &choice, texts, role).await
    };
    let embedded = gateway.within_time(work).await.map_err(about_inputs)?;
    match embedded.truncated.first() {
        Some(index) if !truncate => {
            let limit = gateway.rag.embedder(&choice).await?.max_tokens();
            Err(ApiError::invalid(format!(
                "inputs[{index}]: is longer than the {limit} tokens that {} reads; send less, or \
                 `truncate: true` to have it cut",
                embedded.space.model
            ))
            .into())
        }
        _ => Ok(embedded.vectors),
    }
}

fn text_route() -> EmbedderChoice {
    EmbedderChoice::Type(TEXT_ROUTE.to_owned())
}

fn inputs(inputs: TextInput) -> Result<Vec<String>, TeiError> {
    let texts = inputs.texts()?;
    if texts.is_empty() { Err(TeiError::empty("inputs")) } else { Ok(texts) }
}

fn about_inputs(error: ApiError) -> ApiError {
    error.renamed("texts", "inputs")
}

fn yes() -> bool {
    true
}

impl TeiReading {
    fn role(&self) -> Result<TextRole, ApiError> {
        match self.prompt_name.as_deref() {
            Some("query") => Ok(TextRole::Query),
            None | Some("passage" | "document") => Ok(TextRole::Passage),
            Some(other) => Err(ApiError::invalid(format!(
                "prompt_name: there is no prompt `{other}`; there are: query, passage"
            ))),
        }
    }
}

impl TeiToken {
    fn of(token: Token, text: &[char]) -> Self {
        let Token { id, special, start, stop, .. } = token;
        if special {
            return Self { id, text: token.text, special, start: None, stop: None };
        }
        let text = text.get(start..stop).map_or(token.text, |characters| characters.iter().collect());
        Self { id, text, special, start: Some(start), stop: Some(stop) }
    }
}
