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

#[cfg(test)]
mod tests {
    use super::{super::test_source, *};
    use crate::rag::sentences::sentences;

    const WORDS: &[&str] = &[
        "ferry",
        "Fähre",
        "渡轮",
        "🚲",
        "e\u{301}t",
        "שלום",
        "3.5",
        "“so”",
        "नमस्ते",
        "a\u{200d}b",
        "👩‍🚀",
        "ß",
    ];
    const ENDS: &[&str] = &[". ", "! ", "。", "?\n", ".\n\n", " … "];

    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    fn text(state: &mut u64) -> String {
        let mut text = String::from("\u{a0}");
        for _ in 0..2 + random(state, 5) {
            let words: Vec<&str> =
                (0..1 + random(state, 6)).map(|_| WORDS[random(state, WORDS.len())]).collect();
            text.push_str(&words.join(" "));
            text.push_str(ENDS[random(state, ENDS.len())]);
        }
        text
    }

    fn slice(text: &str, range: &Range<usize>) -> String {
        text.chars().skip(range.start).take(range.len()).collect()
    }

    #[tokio::test]
    async fn places_of_sentences_and_quotes_hold_in_every_script() {
        let mut state = 42;
        for _ in 0..500 {
            let sources: Vec<_> = (1..4).map(|n| test_source(n, &text(&mut state))).collect();
            let (events, mut receiver) = mpsc::channel(256);
            let mut draft = Draft::new(events);
            let mut written = Vec::new();
            for _ in 0..1 + random(&mut state, 5) {
                let supports: Vec<(Support, bool)> = (0..1 + random(&mut state, 2))
                    .map(|_| {
                        let passage = random(&mut state, sources.len());
                        let ranges = sentences(&sources[passage].passage.content);
                        let quote = ranges[random(&mut state, ranges.len())].clone();
                        (Support { passage, quote, coverage: 1.0 }, false)
                    })
                    .collect();
                let sentence = text(&mut state).trim().to_owned();
                let separator = ["", " ", "\n"][random(&mut state, 3)];
                assert!(draft.write(separator, &sentence, &supports, &sources).await.is_ok());
                written.extend(supports.iter().map(|_| sentence.clone()));
            }
            let (mut streamed, mut cited) = (String::new(), 0);
            drop(draft.events);
            while let Some(event) = receiver.recv().await {
                match event.unwrap() {
                    AskEvent::Delta(delta) => streamed.push_str(&delta),
                    AskEvent::Citation(citation) => {
                        assert_eq!(slice(&streamed, &citation.sentence), written[cited]);
                        let content = &sources[citation.n - 1].passage.content;
                        assert_eq!(slice(content, &citation.place), citation.quote);
                        assert!(!citation.quote.is_empty());
                        assert_eq!(citation, draft.citations[cited]);
                        cited += 1;
                    }
                    other => unreachable!("{other:?}"),
                }
            }
            assert_eq!((streamed, cited), (draft.text, written.len()));
        }
    }
}
