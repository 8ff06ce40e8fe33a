//! What a backend is asked, and whether it declines.

use super::{
    AskRequest, PassageUse, Use,
    context::{Block, blocks},
    reading::Reading,
};
use crate::{
    models::{GenerateRequest, Generator, Message, ModelError},
    rag::{Rag, prompts::PromptPassage},
};

/// What a backend is given of the passages.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub context: Vec<PassageUse>,
    pub prompt: Vec<Message>,
}

impl Plan {
    /// Passages that the backend reads.
    pub(super) fn passages(&self) -> usize {
        self.context.iter().filter(|passage| matches!(passage.outcome, Use::Used | Use::Merged(_))).count()
    }
}

/// The request for one backend: as many passages, best first, as fit its context.
pub(super) fn plan(
    rag: &Rag,
    asked: &AskRequest,
    reading: &Reading,
    backend: &dyn Generator,
) -> Result<(GenerateRequest, Plan), ModelError> {
    let (writing, limit) = (&asked.writing, rag.catalog.ask.max_answer_tokens);
    let max_tokens = writing.max_tokens.map_or(limit, |wanted| wanted.min(limit));
    let room = backend.context_tokens().saturating_sub(max_tokens + CHAT_TOKENS);
    let texts = reading.shown();
    let frame = tokens(backend, &render(rag, asked, &[], backend)?);
    let mut for_passages = room.saturating_sub(frame);
    loop {
        let mut context = reading.fit(&texts, for_passages, |text| backend.count_tokens(text));
        let blocks = blocks(&reading.sources, &texts, &mut context);
        if blocks.is_empty() {
            return Err(ModelError::Unfit {
                model: backend.name().to_owned(),
                reason: format!(
                    "one passage and the question do not fit its {} tokens",
                    backend.context_tokens()
                ),
            });
        }
        let prompt = render(rag, asked, &blocks, backend)?;
        // Tokens of joined texts are not always the sum of theirs.
        let over = tokens(backend, &prompt).saturating_sub(room);
        if over == 0 {
            let request = GenerateRequest {
                messages: prompt.clone(),
                max_tokens,
                temperature: writing.temperature.unwrap_or(0.0),
                top_p: writing.top_p,
                seed: writing.seed,
                stop: writing.stop.clone(),
            };
            return Ok((request, Plan { context, prompt }));
        }
        for_passages = for_passages.saturating_sub(over);
    }
}

fn render(
    rag: &Rag,
    asked: &AskRequest,
    blocks: &[Block],
    backend: &dyn Generator,
) -> Result<Vec<Message>, ModelError> {
    let passages: Vec<PromptPassage<'_>> = blocks
        .iter()
        .map(|block| PromptPassage { number: block.n, title: block.title.as_deref(), text: &block.text })
        .collect();
    let failed = |error: crate::rag::RagError| ModelError::Failed {
        model: backend.name().to_owned(),
        reason: error.to_string(),
    };
    rag.prompts.answer(&asked.question, &passages, asked.writing.style.as_deref()).map_err(failed)
}

fn tokens(backend: &dyn Generator, prompt: &[Message]) -> usize {
    prompt.iter().map(|message| backend.count_tokens(&message.text)).sum()
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
