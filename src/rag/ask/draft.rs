//! The answer as it is written: each piece goes to the caller at once.

use std::ops::Range;

use tokio::sync::mpsc;

use super::{AskEvent, Citation, NumberedPassage};
use crate::rag::{RagError, grounding::Support};

/// The caller went away: there is nobody to answer.
pub(super) struct CallerLeft;

/// What is written so far, and where it goes.
pub(super) struct Draft {
    events: mpsc::Sender<Result<AskEvent, RagError>>,
    pub text: String,
    /// Unicode code points of the text.
    characters: usize,
    pub citations: Vec<Citation>,
    pub notes: Vec<String>,
}

impl Draft {
    pub(super) fn new(events: mpsc::Sender<Result<AskEvent, RagError>>) -> Self {
        Self { events, text: String::new(), characters: 0, citations: Vec::new(), notes: Vec::new() }
    }

    /// Writes a sentence and cites what supports it; `attached` marks places that its writer did not cite.
    pub(super) async fn write(
        &mut self,
        separator: &str,
        sentence: &str,
        supports: &[(Support, bool)],
        sources: &[NumberedPassage],
    ) -> Result<(), CallerLeft> {
        let start = self.characters + separator.chars().count();
        let place = start..start + sentence.chars().count();
        let markers: String =
            supports.iter().map(|(support, _)| format!("[{}]", support.passage + 1)).collect();
        let blank = if markers.is_empty() { "" } else { " " };
        let delta = format!("{separator}{sentence}{blank}{markers}");
        self.characters += delta.chars().count();
        self.text.push_str(&delta);
        self.send(AskEvent::Delta(delta)).await?;
        for (support, attached) in supports {
            let Some(source) = sources.get(support.passage) else { continue };
            let citation = citation(source, support, place.clone(), *attached);
            self.citations.push(citation.clone());
            self.send(AskEvent::Citation(citation)).await?;
        }
        Ok(())
    }

    /// Says something of the answer, once.
    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    pub(super) async fn send(&self, event: AskEvent) -> Result<(), CallerLeft> {
        self.events.send(Ok(event)).await.map_err(|_| CallerLeft)
    }

    pub(super) async fn send_error(&self, error: RagError) -> Result<(), CallerLeft> {
        self.events.send(Err(error)).await.map_err(|_| CallerLeft)
    }

    /// Waits until there is nobody to answer.
    pub(super) fn caller_left(&self) -> impl Future<Output = ()> + use<> {
        let events = self.events.clone();
        async move { events.closed().await }
    }
}

fn citation(source: &NumberedPassage, support: &Support, sentence: Range<usize>, attached: bool) -> Citation {
    let passage = &source.passage;
    let words = &passage.content[support.quote.clone()];
    let quote = words.trim();
    let before = support.quote.start + words.len() - words.trim_start().len();
    let start = passage.content[..before].chars().count();
    Citation {
        n: source.n,
        sentence,
        document_id: passage.document_id,
        passage_id: passage.id,
        title: passage.title.clone(),
        source: passage.source.clone(),
        quote: quote.to_owned(),
        place: start..start + quote.chars().count(),
        similarity: passage.similarity,
        attached,
    }
}
