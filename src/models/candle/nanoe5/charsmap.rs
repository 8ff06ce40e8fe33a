//! A map of characters in SentencePiece's compiled form.
//!
//! [`Precompiled`] is the one normaliser of `tokenizers` that holds such a map,
//! and the one that published XLM-R tokenizers use. Its form is the length of a
//! trie, the trie as a double array of 32-bit units (darts-clone's), and the
//! replacements, each ended by a zero byte.
//!
//! A unit holds in bits 0–7 the byte that leads to it, in bit 8 whether a key
//! ends there, from bit 10 on the exclusive-or of its own place with the base
//! of its children. The child for byte `b` stands at `base ^ b`, the value of a
//! key at `base` itself, marked by bit 31.

use std::collections::BTreeMap;

use tokenizers::normalizers::Precompiled;

use super::FormatError;

/// Places that the children of one unit take.
const BLOCK: usize = 256;
/// Offsets from here on would need darts-clone's extended form.
const LARGEST_OFFSET: usize = 1 << 21;
const KEY_ENDS: u32 = 1 << 8;
const IS_VALUE: u32 = 1 << 31;

/// The normaliser that puts each character's replacement in its place; an empty one deletes it.
///
/// Fails on U+0000, which the form cannot hold, and on more characters than it can address.
pub fn compile(map: &BTreeMap<char, String>) -> Result<Precompiled, FormatError> {
    let mut trie = Trie::default();
    let mut replacements = Vec::new();
    for (from, to) in map {
        if *from == '\0' || to.contains('\0') {
            return Err(FormatError("its normaliser maps U+0000".into()));
        }
        trie.insert(*from, replacements.len());
        replacements.extend_from_slice(to.as_bytes());
        replacements.push(0);
    }
    let units = trie.units()?;
    let mut compiled = Vec::with_capacity(4 + units.len() * 4 + replacements.len());
    let length = u32::try_from(units.len() * 4).map_err(|_| too_large())?;
    compiled.extend_from_slice(&length.to_le_bytes());
    units.iter().for_each(|unit| compiled.extend_from_slice(&unit.to_le_bytes()));
    compiled.extend_from_slice(&replacements);
    Precompiled::from(&compiled).map_err(|error| FormatError(error.to_string()))
}

fn too_large() -> FormatError {
    FormatError("its normaliser has too many characters".into())
}

/// The bytes of all keys but the last byte of each, and apart from them the keys' ends.
///
/// No character's UTF-8 begins another's, so a unit has either children or a value.
#[derive(Default)]
struct Trie {
    /// Beginning of a key → number of its block; the empty one is block 0.
    blocks: BTreeMap<Vec<u8>, usize>,
    /// (beginning, last byte, where its replacement starts)
    ends: Vec<(Vec<u8>, u8, usize)>,
}

impl Trie {
    fn insert(&mut self, key: char, value: usize) {
        let mut buffer = [0; 4];
        let bytes = key.encode_utf8(&mut buffer).as_bytes();
        for length in 0..bytes.len() {
            let next = self.blocks.len();
            self.blocks.entry(bytes[..length].to_vec()).or_insert(next);
        }
        if let Some((last, start)) = bytes.split_last() {
            self.ends.push((start.to_vec(), *last, value));
        }
    }

    /// One block for the children of each beginning, then one place for each value: every base
    /// is used once, so that no unit is taken for another's child.
    fn units(&self) -> Result<Vec<u32>, FormatError> {
        let values = self.blocks.len().max(1) * BLOCK;
        // Readers look up to one block beyond a base.
        let mut units = vec![0; (values + self.ends.len()).next_multiple_of(BLOCK)];
        if units.len() >= LARGEST_OFFSET {
            return Err(too_large());
        }
        let base = |start: &[u8]| self.blocks.get(start).map_or(0, |block| block * BLOCK);
        for start in self.blocks.keys() {
            if let Some((last, parent)) = start.split_last() {
                let place = base(parent) ^ usize::from(*last);
                units[place] = unit(*last, place ^ base(start))?;
            }
        }
        for (index, (start, last, value)) in self.ends.iter().enumerate() {
            let place = base(start) ^ usize::from(*last);
            let end = values + index;
            units[place] = unit(*last, place ^ end)? | KEY_ENDS;
            units[end] = u32::try_from(*value).map_err(|_| too_large())? | IS_VALUE;
        }
        Ok(units)
    }
}

fn unit(byte: u8, offset: usize) -> Result<u32, FormatError> {
    let offset = u32::try_from(offset).map_err(|_| too_large())?;
    Ok(u32::from(byte) | offset << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalize(map: &[(char, &str)], text: &str) -> String {
        let map = map.iter().map(|(from, to)| (*from, (*to).to_owned())).collect();
        compile(&map).unwrap().normalize_string(text)
    }

    #[test]
    fn characters_of_every_length_are_replaced_and_deleted() {
        let map = [('\t', " "), ('ß', "ss"), ('ﬁ', "fi"), ('\u{ff21}', "A"), ('𝐀', "A"), ('\u{7f}', "")];
        assert_eq!(normalize(&map, "a\tb straße ﬁn Ａ𝐀\u{7f}!"), "a b strasse fin AA!");
    }

    #[test]
    fn characters_near_a_mapped_one_stay() {
        let map = [('ﬁ', "fi"), ('½', "1⁄2")];
        let text = "ﬀﬂﭏ¼¾ aé漢🚀\u{10ffff}";
        assert_eq!(normalize(&map, text), text);
        assert_eq!(normalize(&[], text), text);
    }

    #[test]
    fn every_character_of_a_large_map_is_found_and_no_other() {
        let mapped = |c: char| u32::from(c).is_multiple_of(7) && c != '\0';
        let every = || (0..0x2_0000).filter_map(char::from_u32);
        let map = every().filter(|c| mapped(*c)).map(|c| (c, format!("<{:x}>", u32::from(c)))).collect();
        let compiled = compile(&map).unwrap();
        for c in every().filter(|c| *c != '\0') {
            let expected = mapped(c).then(|| format!("<{:x}>", u32::from(c)));
            assert_eq!(compiled.transform(&c.to_string()), expected.as_deref(), "{c:?}");
        }
    }

    #[test]
    fn what_the_form_cannot_hold_is_an_error() {
        for (from, to) in [('\0', "a"), ('a', "\0")] {
            assert!(compile(&[(from, to.to_owned())].into()).is_err());
        }
    }
}
