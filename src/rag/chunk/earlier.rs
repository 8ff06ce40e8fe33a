//! Passages of an earlier version of a text, to be found again in the new one.

use std::collections::{HashMap, HashSet};

use super::pieces::head_length;

/// Bytes of a passage's beginning by which it is looked up; shorter passages are not.
const KEY: usize = 32;
/// Passages that are compared where more begin alike: looking one up takes no longer in any text.
const MAX_ALIKE: usize = 8;

/// The passages that a document was cut into before it was changed.
#[derive(Debug, Default)]
pub struct Earlier(HashMap<[u8; KEY], Vec<Passage>>);

#[derive(Debug)]
struct Passage {
    /// Of the table that it goes on with.
    head: Option<String>,
    body: String,
}

impl Earlier {
    pub fn new<'a>(passages: impl Iterator<Item = &'a str>) -> Self {
        let mut earlier = Self::default();
        let mut seen = HashSet::new();
        for text in passages.filter(|text| seen.insert(*text)) {
            // A head may stand there itself, or be repeated.
            if let Some(length) = head_length(text).filter(|length| *length + 1 < text.len()) {
                earlier.add(Some(&text[..length]), &text[length + 1..]);
            }
            earlier.add(None, text);
        }
        earlier
    }

    fn add(&mut self, head: Option<&str>, body: &str) {
        let Some(key) = body.as_bytes().first_chunk() else { return };
        let alike = self.0.entry(*key).or_default();
        if alike.len() < MAX_ALIKE {
            alike.push(Passage { head: head.map(str::to_owned), body: body.to_owned() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lengths in bytes of the passages that `text` begins with, without the head of their table.
    pub(super) fn that_begin(&self, head: Option<&str>, text: &str) -> impl Iterator<Item = usize> {
        let alike = text.as_bytes().first_chunk().and_then(|key| self.0.get(key));
        alike
            .into_iter()
            .flatten()
            .filter(move |passage| passage.head.as_deref() == head && text.starts_with(&passage.body))
            .map(|passage| passage.body.len())
    }
}
