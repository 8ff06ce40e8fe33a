//! What a backend is asked, and whether it declines.

use super::{AskRequest, NumberedPassage};
use crate::{
    models::{GenerateRequest, Generator, Message, ModelError},
    rag::{Rag, prompts::PromptPassage},
};

/// What a backend is given of the passages.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub passages: usize,
    pub prompt: Vec<Message>,
}

/// The request for one backend: as many passages, best first, as fit its context.
pub(super) fn plan(
    rag: &Rag,
    asked: &AskRequest,
    sources: &[NumberedPassage],
    backend: &dyn Generator,
) -> Result<(GenerateRequest, Plan), ModelError> {
    let (writing, limit) = (&asked.writing, rag.catalog.ask.max_answer_tokens);
    let max_tokens = writing.max_tokens.map_or(limit, |wanted| wanted.min(limit));
    let room = backend.context_tokens().saturating_sub(max_tokens + CHAT_TOKENS);
    let passages: Vec<PromptPassage<'_>> = sources
        .iter()
        .map(|source| PromptPassage {
            number: source.n,
            title: source.passage.title.as_deref(),
            text: &source.passage.content,
        })
        .collect();
    for count in (1..=passages.len()).rev() {
        let prompt =
            rag.prompts.answer(&asked.question, &passages[..count], writing.style.as_deref()).map_err(
                |error| ModelError::Failed { model: backend.name().to_owned(), reason: error.to_string() },
            )?;
        let tokens: usize = prompt.iter().map(|message| backend.count_tokens(&message.text)).sum();
        if tokens <= room {
            let request = GenerateRequest {
                messages: prompt.clone(),
                max_tokens,
                temperature: writing.temperature.unwrap_or(0.0),
                top_p: writing.top_p,
                seed: writing.seed,
                stop: writing.stop.clone(),
            };
            return Ok((request, Plan { passages: count, prompt }));
        }
    }
    Err(ModelError::Unfit {
        model: backend.name().to_owned(),
        reason: format!("one passage and the question do not fit its {} tokens", backend.context_tokens()),
    })
}

/// Tokens that a chat template adds around two messages, amply.
const CHAT_TOKENS: usize = 64;

/// Models vary the sentence that they are told to say.
pub(super) fn is_abstention(sentence: &str) -> bool {
    let plain: String =
        sentence.to_lowercase().replace('’', "'").chars().filter(|c| !"*\"“”".contains(*c)).collect();
    let known = [
        "the documents do not contain",
        "the documents don't contain",
        "the passages do not contain",
        "the passages don't contain",
        "i don't know",
        "i do not know",
    ];
    known.iter().any(|start| plain.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::is_abstention;
    use crate::rag::prompts::ABSTENTION;

    #[test]
    fn the_sentence_of_the_prompt_is_recognised_and_its_variants() {
        assert!(is_abstention(ABSTENTION));
        assert!(is_abstention("**The passages don’t contain** that."));
        assert!(!is_abstention("The documents contain three rules."));
    }
}
