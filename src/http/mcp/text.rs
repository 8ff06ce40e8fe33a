//! Results as a model reads them. The same is in the structured content, with everything else.

use std::fmt::Write;

use crate::http::{ask::AskResponse, collections::CollectionList, search::SearchResponse};

/// The passages by number, each with where it comes from.
pub fn passages(found: &SearchResponse) -> String {
    if found.results.is_empty() {
        return "No passage is similar enough. Ask in other words, or lower `threshold`.".to_owned();
    }
    let passages = found.results.iter().enumerate().map(|(index, passage)| {
        let name = passage.title.as_deref().unwrap_or("untitled");
        let heading = passage.heading.as_deref().filter(|heading| *heading != name);
        let heading = heading.map(|heading| format!(" › {heading}")).unwrap_or_default();
        let source = passage.source.as_deref().map(|source| format!(", {source}")).unwrap_or_default();
        format!(
            "[{}] {name}{heading} (document {}{source}, similarity {:.2})\n{}",
            index + 1,
            passage.document_id,
            passage.similarity,
            passage.content.trim()
        )
    });
    let failed = found.rerank.as_ref().and_then(|rerank| rerank.error.as_ref());
    let failed = failed.map(|error| format!("Note: not reranked: {error}"));
    failed.into_iter().chain(passages).collect::<Vec<_>>().join("\n\n")
}

/// The answer, then its numbered sources with the words that support it.
pub fn answer(answer: &AskResponse) -> String {
    let mut text = answer.answer.clone();
    if !answer.citations.is_empty() {
        text.push_str("\n\nSources:");
    }
    for citation in &answer.citations {
        let name = citation.title.as_deref().unwrap_or("untitled");
        let source = citation.source.as_deref().map(|source| format!(", {source}")).unwrap_or_default();
        let (n, quote, document) = (citation.n, &citation.quote, citation.document_id);
        // Writing to a string cannot fail.
        let _ = write!(text, "\n[{n}] {name} (document {document}{source}): “{quote}”");
    }
    for note in &answer.notes {
        let _ = write!(text, "\n\nNote: {note}");
    }
    text
}

/// A line a collection.
pub fn collections(list: &CollectionList) -> String {
    let lines = list.collections.iter().map(|collection| {
        format!(
            "{}: {} documents, {} passages, embedded by {}",
            collection.name, collection.documents, collection.passages, collection.model
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
