//! Prompts that were read lately, so that one with the same beginning is not read again.

use ragway_kernels::KeyValues;

/// Tokens and the keys and values that the model has of them.
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub memory: KeyValues,
    last_used: u64,
}

/// A fixed number of sequences.
pub struct Sequences {
    kept: Vec<Sequence>,
    uses: u64,
}

impl Sequences {
    /// At least one memory; they have the same shape.
    pub fn new(memories: Vec<KeyValues>) -> Self {
        let sequence = |memory| Sequence { tokens: Vec::new(), memory, last_used: 0 };
        Self { kept: memories.into_iter().map(sequence).collect(), uses: 0 }
    }

    /// A sequence that holds as much of the beginning of `prompt` as any kept one does, but not
    /// its last token, whose logits are wanted; and nothing else.
    ///
    /// A sequence that the prompt does not just go on with is left as it is, and its beginning
    /// copied over the one that was not used for longest: so a question on its own does not push
    /// out a conversation with the same instructions. `None` where nothing is kept at all.
    pub fn begin(&mut self, prompt: &[u32]) -> Option<&mut Sequence> {
        self.uses += 1;
        let shared = |sequence: &Sequence| shared(&sequence.tokens, prompt);
        let (nearest, shared) = (self.kept.iter().map(shared).enumerate())
            .max_by_key(|(index, shared)| (*shared, std::cmp::Reverse(*index)))?;
        let lost = self.kept[nearest].tokens.len() - shared;
        let (oldest, _) = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.last_used)?;
        let index = if 4 * lost <= shared { nearest } else { oldest };
        if let Ok([to, from]) = self.kept.get_disjoint_mut([index, nearest]) {
            to.memory.copy_from(&from.memory, shared);
            to.tokens.clone_from(&from.tokens);
        }
        let sequence = &mut self.kept[index];
        sequence.tokens.truncate(shared);
        sequence.last_used = self.uses;
        Some(sequence)
    }
}

fn shared(tokens: &[u32], prompt: &[u32]) -> usize {
    let most = prompt.len().saturating_sub(1);
    tokens.iter().zip(&prompt[..most]).take_while(|(kept, wanted)| kept == wanted).count()
}

#[cfg(test)]
mod tests {
    use ragway_kernels::CausalAttention;

    use super::*;

    fn sequences(count: usize) -> Sequences {
        let attention = CausalAttention::new(1, 1, 32, 32, 10_000.0);
        Sequences::new((0..count).map(|_| attention.memory(1, 32)).collect())
    }

    /// Begins with `prompt`, then reads the rest of it; how much was there already.
    fn read(sequences: &mut Sequences, prompt: &[u32]) -> usize {
        let sequence = sequences.begin(prompt).unwrap();
        let there = sequence.tokens.len();
        assert_eq!(sequence.tokens, prompt[..there]);
        sequence.tokens = prompt.to_vec();
        there
    }

    #[test]
    fn a_common_beginning_is_there_and_the_last_token_is_not() {
        let mut sequences = sequences(1);
        assert_eq!(read(&mut sequences, &[1, 2, 3, 4]), 0);
        assert_eq!(read(&mut sequences, &[1, 2, 3, 4]), 3);
        assert_eq!(read(&mut sequences, &[1, 2, 3, 4, 5, 6]), 4);
        assert_eq!(read(&mut sequences, &[1, 2, 9, 4, 5, 6]), 2);
        assert_eq!(read(&mut sequences, &[7, 2, 9]), 0);
        assert_eq!(read(&mut sequences, &[7]), 0);
        assert!(Sequences::new(Vec::new()).begin(&[1]).is_none());
    }

    #[test]
    fn a_long_sequence_survives_a_short_one_with_the_same_beginning() {
        let mut sequences = sequences(2);
        let long: Vec<u32> = (0..30).collect();
        assert_eq!(read(&mut sequences, &long), 0);
        assert_eq!(read(&mut sequences, &[0, 1, 2, 3, 99, 98]), 4, "copied");
        assert_eq!(read(&mut sequences, &long), 29, "still there");
        assert_eq!(read(&mut sequences, &[0, 1, 2, 3, 99, 97, 5]), 5);
        // What is not like any takes the place of the one that was not used for longest.
        assert_eq!(read(&mut sequences, &long), 29);
        assert_eq!(read(&mut sequences, &[50, 51]), 0);
        assert_eq!(read(&mut sequences, &long), 29);
        assert_eq!(read(&mut sequences, &[50, 51, 52]), 2);
    }
}
