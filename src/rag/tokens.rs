//! Texts as their model's tokens.

use std::sync::Arc;

use super::{
    Rag, RagError,
    embed::{EmbedderChoice, check_texts},
};
use crate::models::{Embedder, ModelError, TextRole, Token};

/// Bytes of the texts of one request: their tokens take some hundred times the room.
const MOST_BYTES: usize = 2 << 20;

impl Rag {
    /// The tokens of each text; with the special ones that the model reads too where `special`.
    pub async fn tokenize(
        &self,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        special: bool,
    ) -> Result<Vec<Vec<Token>>, RagError> {
        self.check_size(&texts)?;
        let embedder = self.embedder(choice).await?;
        let tokens = move || texts.iter().map(|text| embedder.tokenize(text, special)).collect();
        let tokens: Result<_, ModelError> = tokio::task::spawn_blocking(tokens).await?;
        Ok(tokens?)
    }

    /// Cuts texts at their beginning, so that the model reads all that is left of them.
    pub async fn keep_ends(
        &self,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        role: TextRole,
    ) -> Result<Vec<String>, RagError> {
        self.check_size(&texts)?;
        let embedder = self.embedder(choice).await?;
        let entry = self.catalog.embedder(&embedder.space().model);
        let prefix = entry.map_or_else(String::new, |entry| role.prefix(&entry.prefixes).to_owned());
        let cut = move || {
            let room = room(&embedder, &prefix)?;
            texts.into_iter().map(|text| keep_end(&*embedder, text, room)).collect()
        };
        let texts: Result<_, ModelError> = tokio::task::spawn_blocking(cut).await?;
        Ok(texts?)
    }

    fn check_size(&self, texts: &[String]) -> Result<(), RagError> {
        check_texts(texts, self.catalog.http.max_texts)?;
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > MOST_BYTES {
            return Err(RagError::Invalid(format!(
                "texts: {bytes} bytes in one request, at most {MOST_BYTES} are split into tokens; send less at once"
            )));
        }
        Ok(())
    }
}

/// Tokens that are left for a text beside the special ones and the prefix.
fn room(embedder: &Arc<dyn Embedder>, prefix: &str) -> Result<usize, ModelError> {
    let taken = embedder.tokenize(prefix, true)?.len();
    Ok(embedder.max_tokens().saturating_sub(taken))
}

/// The longest end of `text` that begins with a token and has at most `room` of them.
fn keep_end(embedder: &dyn Embedder, text: String, room: usize) -> Result<String, ModelError> {
    let tokens = embedder.tokenize(&text, false)?;
    let Some(too_many) = tokens.len().checked_sub(room).filter(|too_many| *too_many > 0) else {
        return Ok(text);
    };
    // A word that is cut in two may have more tokens than its second half had within it.
    for first in &tokens[too_many..] {
        let end: String = text.chars().skip(first.start).collect();
        if embedder.count_tokens(&end) <= room {
            return Ok(end);
        }
    }
    Ok(text)
}
