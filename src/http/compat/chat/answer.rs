//! Answers that are made here: from the documents, or by a model in this process.

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, future, stream};
use uuid::Uuid;

use super::{
    body::Wanted,
    wire::{
        Annotation, End, Head, Piece, Pieces, RagwayExtension, RetrievalBody, SourceReference, UrlCitation,
    },
};
use crate::{
    http::{Gateway, compat::OpenAiError, shutdown::stopping},
    models::{GeneratedPart, Usage, router::Routed},
    rag::{
        Caller, RagError,
        ask::{Answer, AskEvent, Citation, Method, NumberedPassage},
        chat::{Chat, ChatRequest, LocalRequest, Made, RAG_MODEL, Standalone},
    },
    store::StoreError,
};

/// Answers the last question of a conversation from a collection; `base` is where ragway is reached.
pub(super) async fn from_documents(
    gateway: &Gateway,
    caller: Caller,
    body: &[u8],
    collection: Option<String>,
    base: &str,
) -> Result<HttpResponse, OpenAiError> {
    let most = gateway.rag.catalog().ask.max_answer_tokens;
    let Wanted { messages, writing, stream, include_usage, notes } = Wanted::of(body, most)?;
    let most_tokens = writing.max_tokens.unwrap_or(most);
    let head =
        Head::new(&collection.as_ref().map_or(RAG_MODEL.to_owned(), |name| format!("{RAG_MODEL}/{name}")));
    let request = ChatRequest { caller, collection, messages, writing };
    let chat = gateway.rag.chat(request).await.map_err(about_conversation)?;
    let pieces = pieces(chat, base.to_owned(), notes, most_tokens);
    respond(gateway, head, pieces, stream, include_usage).await
}

/// Lets a model in this process go on with the conversation.
pub(super) async fn from_local(
    gateway: &Gateway,
    caller: Caller,
    body: &[u8],
    model: &str,
) -> Result<HttpResponse, OpenAiError> {
    let most = gateway.rag.catalog().ask.max_answer_tokens;
    let Wanted { messages, writing, stream, include_usage, notes } = Wanted::of(body, most)?;
    let most_tokens = writing.max_tokens.unwrap_or(most);
    let request = LocalRequest { caller, model: model.to_owned(), messages, writing };
    let routed = gateway.rag.converse(request).await.map_err(about_conversation)?;
    let pieces = local_pieces(routed, notes, most_tokens);
    respond(gateway, Head::new(model), pieces, stream, include_usage).await
}

async fn respond(
    gateway: &Gateway,
    head: Head,
    pieces: Pieces,
    stream: bool,
    include_usage: bool,
) -> Result<HttpResponse, OpenAiError> {
    if stream {
        let pieces = gateway.shutdown.bound(pieces, Err(stopping().into()));
        return Ok(head.stream(pieces, include_usage));
    }
    Ok(HttpResponse::Ok().json(web::Json(head.whole(pieces).await?)))
}

fn about_conversation(error: RagError) -> OpenAiError {
    match error {
        // The collection is in the model's name.
        RagError::Store(StoreError::UnknownCollection(_)) => RagError::UnknownModel(error.to_string()).into(),
        RagError::Invalid(_) => OpenAiError::about(error.into(), "messages"),
        error => error.into(),
    }
}

fn pieces(chat: Chat, base: String, mut notes: Vec<String>, most_tokens: usize) -> Pieces {
    let Chat { question, notes: more, events } = chat;
    notes.extend(more);
    let mut state = (Some((question, notes)), Vec::new());
    let piece = move |event: Result<AskEvent, RagError>| {
        let (open, sources) = &mut state;
        future::ready(match event {
            Ok(AskEvent::Sources(found)) => {
                *sources = found;
                None
            }
            Ok(AskEvent::Delta(text)) => Some(Ok(Piece::Text(text))),
            Ok(AskEvent::Citation(citation)) => Some(Ok(Piece::Annotation(annotation(&citation, &base)))),
            Ok(AskEvent::Done(answer)) => open.take().map(|(question, notes)| {
                Ok(Piece::End(Box::new(end(*answer, question, notes, sources, &base, most_tokens))))
            }),
            Err(error) => Some(Err(error)),
        })
    };
    events.filter_map(piece).boxed()
}

fn end(
    answer: Answer,
    question: Standalone,
    mut notes: Vec<String>,
    sources: &[NumberedPassage],
    base: &str,
    most_tokens: usize,
) -> End {
    notes.extend(answer.notes);
    let rewritten_by = match question.made {
        Made::AsAsked => None,
        Made::Rewritten(_) => Some("model"),
        Made::Joined => Some("rule"),
    };
    let written = answer.usage.completion_tokens;
    End {
        usage: (answer.usage + question.usage).into(),
        finish_reason: finish_reason(answer.method == Method::Generated, written, most_tokens),
        ragway: RagwayExtension {
            model: answer.model,
            attempts: answer.attempts.into_iter().map(Into::into).collect(),
            notes,
            retrieval: Some(RetrievalBody {
                question: question.text,
                rewritten_by,
                answered: answer.method != Method::Abstained,
                method: answer.method.name(),
                citations: answer.citations.into_iter().map(Into::into).collect(),
                sources: sources.iter().map(|source| reference(source, base)).collect(),
            }),
        },
    }
}

fn local_pieces(routed: Routed<()>, notes: Vec<String>, most_tokens: usize) -> Pieces {
    let mut usage = Usage::default();
    let mut ragway = RagwayExtension {
        model: routed.backend,
        attempts: routed.attempts.into_iter().map(Into::into).collect(),
        notes,
        retrieval: None,
    };
    let parts = routed.stream.map(|part| part.map(Some)).chain(stream::iter([Ok(None)]));
    let piece = move |part| {
        future::ready(match part {
            Ok(Some(GeneratedPart::Text(text))) => Some(Ok(Piece::Text(text))),
            Ok(Some(GeneratedPart::Usage(used))) => {
                usage = used;
                None
            }
            Ok(None) => {
                let finish_reason = finish_reason(true, usage.completion_tokens, most_tokens);
                let ragway = std::mem::take(&mut ragway);
                Some(Ok(Piece::End(Box::new(End { usage: usage.into(), finish_reason, ragway }))))
            }
            Err(error) => Some(Err(RagError::from(error))),
        })
    };
    parts.filter_map(piece).boxed()
}

/// Backends do not tell why they stopped; one that wrote as much as it may was stopped.
fn finish_reason(generated: bool, written: usize, most: usize) -> &'static str {
    if generated && written >= most { "length" } else { "stop" }
}

fn annotation(citation: &Citation, base: &str) -> Annotation {
    let url = url(citation.source.as_deref(), citation.document_id, base);
    Annotation::of(UrlCitation {
        title: citation.title.clone().unwrap_or_else(|| url.clone()),
        url,
        start_index: citation.sentence.start,
        end_index: citation.sentence.end,
    })
}

fn reference(source: &NumberedPassage, base: &str) -> SourceReference {
    let passage = &source.passage;
    SourceReference {
        n: source.n,
        document_id: passage.document_id,
        passage_id: passage.id,
        title: passage.title.clone(),
        url: url(passage.source.as_deref(), passage.document_id, base),
        similarity: passage.similarity,
    }
}

/// Where the document was taken from when that is on the web, else where ragway shows it.
fn url(source: Option<&str>, document: Uuid, base: &str) -> String {
    let on_the_web = |source: &&str| {
        url::Url::parse(source).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    match source.filter(on_the_web) {
        Some(source) => source.to_owned(),
        None => format!("{base}/api/v1/documents/{document}"),
    }
}
