//! One list from passages found by their vectors and passages found by their words.

use std::collections::HashMap;

use uuid::Uuid;

use crate::store::{FoundPassage, LexicalMatches};

/// How much the words count: a passage about every word of the query counts as much as one that
/// is so much nearer to it (in units of the way from `min_similarity` to 1).
const WORDS: f32 = 1.0;

/// Joins both lists by weighted scores, best first, and gives each passage its scores.
///
/// `floor` is the similarity of what has nothing to do with the query, which depends on the model.
pub(super) fn fuse(dense: Vec<FoundPassage>, lexical: LexicalMatches, floor: f32) -> Vec<FoundPassage> {
    let mut fused: HashMap<Uuid, FoundPassage> = HashMap::new();
    for (mut passage, score) in lexical.passages {
        passage.scores.lexical = Some(score);
        fused.insert(passage.id, passage);
    }
    for mut passage in dense {
        passage.scores.lexical = fused.get(&passage.id).and_then(|same| same.scores.lexical);
        passage.scores.dense = Some(passage.similarity);
        fused.insert(passage.id, passage);
    }
    let mut passages: Vec<_> = fused.into_values().collect();
    for passage in &mut passages {
        let near = (passage.similarity - floor) / (1.0 - floor).max(f32::EPSILON);
        let words = passage.scores.lexical.unwrap_or_default() / lexical.bound.max(f32::EPSILON);
        passage.scores.fused = Some(near + WORDS * words);
    }
    passages.sort_by(|a, b| {
        b.scores
            .fused
            .unwrap_or_default()
            .total_cmp(&a.scores.fused.unwrap_or_default())
            .then(a.id.cmp(&b.id))
    });
    passages
}
