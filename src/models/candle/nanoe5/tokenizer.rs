//! The file's vocabulary and normaliser as a tokenizer.

use std::collections::BTreeMap;

use tokenizers::{
    AddedToken, Tokenizer,
    models::unigram::Unigram,
    normalizers::{NFC, Replace, Sequence, Strip, replace::ReplacePattern},
    pre_tokenizers::metaspace::{Metaspace, PrependScheme},
    processors::roberta::RobertaProcessing,
};

use super::{FormatError, charsmap, reader::Reader};

/// Code points that exist at all.
const CODE_POINTS: usize = 0x11_0000;

/// Pieces with their scores; a piece's place is its token id.
pub struct Vocabulary {
    pieces: Vec<(String, f64)>,
    begin: usize,
    end: usize,
    padding: usize,
    unknown: usize,
}

impl Vocabulary {
    /// Reads the section; there may be at most `most` pieces.
    pub fn read(reader: &mut Reader<'_>, most: usize) -> Result<Self, FormatError> {
        const WHAT: &str = "the vocabulary";
        let count = reader.count(most, "the number of pieces")?;
        let last = count.checked_sub(1).ok_or_else(|| FormatError("its vocabulary is empty".into()))?;
        let mut special = || reader.count(last, "the id of a special piece");
        let (begin, end, padding, unknown) = (special()?, special()?, special()?, special()?);
        let length = usize::try_from(reader.u64(WHAT)?).unwrap_or(usize::MAX);
        // Read as bytes first: nothing is allocated for a count that the file does not hold.
        let (offsets, _) = reader.bytes((count + 1) * 4, WHAT)?.as_chunks::<4>();
        let (scores, _) = reader.bytes(count * 4, WHAT)?.as_chunks::<4>();
        let blob = reader.bytes(length, WHAT)?;
        let mut pieces = Vec::with_capacity(count);
        for (bounds, score) in offsets.windows(2).zip(scores) {
            let [from, to] = [bounds[0], bounds[1]].map(|offset| u32::from_le_bytes(offset) as usize);
            let piece = blob.get(from..to).and_then(|piece| std::str::from_utf8(piece).ok());
            let score = f32::from_le_bytes(*score);
            match piece {
                Some(piece) if !piece.is_empty() && score.is_finite() => {
                    pieces.push((piece.to_owned(), f64::from(score)));
                }
                _ => return Err(FormatError(format!("piece {} of its vocabulary is damaged", pieces.len()))),
            }
        }
        Ok(Self { pieces, begin, end, padding, unknown })
    }

    fn special(&self, id: usize) -> (String, u32) {
        let piece = self.pieces.get(id).map(|(piece, _)| piece.clone());
        (piece.unwrap_or_default(), u32::try_from(id).unwrap_or(u32::MAX))
    }

    /// The special pieces; of the mask, which is the last, also the space before belongs to it.
    fn special_tokens(&self) -> Vec<AddedToken> {
        let token = |id: usize| AddedToken::from(self.special(id).0, true);
        let mask = token(self.pieces.len() - 1).lstrip(true);
        vec![token(self.begin), token(self.padding), token(self.end), token(self.unknown), mask]
    }
}

/// Reads the section of replacements: each character with what stands for it, which may be nothing.
pub fn read_replacements(reader: &mut Reader<'_>) -> Result<BTreeMap<char, String>, FormatError> {
    const WHAT: &str = "the normaliser";
    let wrong = || FormatError("its normaliser is damaged".into());
    let count = reader.count(CODE_POINTS, WHAT)?;
    let length = reader.u32(WHAT)? as usize;
    let mut section = Reader::new(reader.bytes(length, WHAT)?);
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let from = char::from_u32(section.u32(WHAT)?).ok_or_else(wrong)?;
        let characters = section.u8(WHAT)?;
        let to = (0..characters).map(|_| char::from_u32(section.u32(WHAT)?).ok_or_else(wrong));
        map.insert(from, to.collect::<Result<String, _>>()?);
    }
    if map.len() == count && section.position() == length { Ok(map) } else { Err(wrong()) }
}

/// The tokenizer of XLM-R: Unigram over normalised text, `<s> … </s>`.
///
/// SentencePiece's `nmt_nfkc` composes sequences of characters too, which the
/// file's map of single ones leaves out: composing (NFC) after the map comes to
/// the same. Spaces are removed at the ends and collapsed within.
pub fn build(
    vocabulary: Vocabulary,
    replacements: &BTreeMap<char, String>,
) -> Result<Tokenizer, FormatError> {
    let failed = |error: tokenizers::Error| FormatError(format!("it makes no tokenizer: {error}"));
    let spaces = Replace::new(ReplacePattern::Regex(" {2,}".into()), " ").map_err(failed)?;
    let normalizer = Sequence::new(vec![
        charsmap::compile(replacements)?.into(),
        NFC.into(),
        Strip::new(true, true).into(),
        spaces.into(),
    ]);
    let [begin, end] = [vocabulary.begin, vocabulary.end].map(|id| vocabulary.special(id));
    let special = vocabulary.special_tokens();
    let model = Unigram::from(vocabulary.pieces, Some(vocabulary.unknown), false).map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)));
    tokenizer.with_post_processor(Some(RobertaProcessing::new(end, begin).trim_offsets(false)));
    tokenizer.add_special_tokens(special).map_err(failed)?;
    Ok(tokenizer)
}
