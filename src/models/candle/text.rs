//! Texts as the in-process encoders read them: token ids, cut to a limit.

use std::{sync::Arc, thread};

use futures_util::future::try_join_all;
use tokenizers::Tokenizer;
use tokio::task::spawn_blocking;

use crate::models::Token;

/// Texts that one thread tokenises at least: a few take less time than waking another.
const TEXTS_A_THREAD: usize = 32;

/// Texts of so many bytes altogether are tokenised where they are: handing them over takes longer.
const BYTES_INLINE: usize = 512;

/// Cuts texts to what a model reads.
pub(super) struct TextTokenizer {
    inner: Tokenizer,
    pub(super) max_tokens: usize,
}

/// Token ids of one text.
pub(super) struct Tokenized {
    pub(super) ids: Vec<u32>,
    pub(super) truncated: bool,
}

pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl TextTokenizer {
    pub(super) fn new(mut inner: Tokenizer, max_tokens: usize) -> Result<Self, AnyError> {
        // The file of a published model often carries the limits of its training.
        inner.with_truncation(None)?;
        inner.with_padding(None);
        Ok(Self { inner, max_tokens })
    }

    /// Tokens of a text, special ones excluded.
    pub(super) fn count(&self, text: &str) -> usize {
        // The tokenizers of these models fail on no text: they have an unknown token or every byte.
        self.inner.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }

    /// The tokens with where they stand in the text.
    pub(super) fn tokens(&self, text: &str, special: bool) -> Result<Vec<Token>, AnyError> {
        let encoding = self.inner.encode_char_offsets(text, special)?;
        let token = |index: usize| Token {
            id: encoding.get_ids()[index],
            text: encoding.get_tokens()[index].clone(),
            special: encoding.get_special_tokens_mask()[index] == 1,
            start: encoding.get_offsets()[index].0,
            stop: encoding.get_offsets()[index].1,
        };
        Ok((0..encoding.len()).map(token).collect())
    }

    /// More than a little is done on tokio's blocking threads and not on rayon's pool, where a
    /// forward pass would have to wait for it.
    pub(super) async fn tokenize_all(
        self: &Arc<Self>,
        mut texts: Vec<String>,
    ) -> Result<Vec<Tokenized>, AnyError> {
        if texts.iter().map(String::len).sum::<usize>() <= BYTES_INLINE {
            return texts.iter().map(|text| self.tokenize(text)).collect();
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = texts.len().div_ceil(threads).max(TEXTS_A_THREAD);
        let mut parts = Vec::new();
        while !texts.is_empty() {
            let rest = texts.split_off(share.min(texts.len()));
            let part = std::mem::replace(&mut texts, rest);
            let tokenizer = Arc::clone(self);
            let work =
                move || part.iter().map(|text| tokenizer.tokenize(text)).collect::<Result<Vec<_>, _>>();
            parts.push(async { spawn_blocking(work).await? });
        }
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    /// Begin … end, the middle cut where it is too long, as the reference does.
    fn tokenize(&self, text: &str) -> Result<Tokenized, AnyError> {
        let mut ids = self.inner.encode_fast(text, true)?.get_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated && let Some(&end) = ids.last() {
            ids.truncate(self.max_tokens - 1);
            ids.push(end);
        }
        Ok(Tokenized { ids, truncated })
    }
}
