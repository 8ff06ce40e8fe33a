//! The directory and the tensors it points to.

use std::collections::BTreeMap;

use half::f16;

use super::{FormatError, reader::Reader};
use crate::models::candle::bert::weights::BlockQ4_0;

/// Bytes of a Q4_0 block: a 16-bit scale and 32 half bytes.
const BLOCK_BYTES: usize = 18;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    Q4,
}

struct Place {
    kind: Kind,
    elements: usize,
    start: usize,
    bytes: usize,
}

/// Where each tensor of the file lies.
pub struct Directory<'a> {
    file: &'a [u8],
    places: BTreeMap<&'a str, Place>,
}

impl<'a> Directory<'a> {
    /// Reads the directory of `file` at `reader`; it must have `count` tensors.
    pub fn read(file: &'a [u8], reader: &mut Reader<'a>, count: usize) -> Result<Self, FormatError> {
        let found = reader.count(count, "the number of tensors")?;
        if found != count {
            return Err(FormatError(format!("it has {found} tensors, its header asks for {count}")));
        }
        let mut places = BTreeMap::new();
        // Tensors that shared bytes could ask for more memory than a file of this size may.
        let mut total = 0;
        for _ in 0..count {
            let (name, place) = Place::read(reader)?;
            total += place.bytes;
            let end = place.start.checked_add(place.bytes).filter(|end| *end <= file.len());
            if end.is_none() || total > file.len() {
                return Err(FormatError(format!("tensor `{name}` reaches beyond the file")));
            }
            if places.insert(name, place).is_some() {
                return Err(FormatError(format!("tensor `{name}` is there twice")));
            }
        }
        Ok(Self { file, places })
    }

    /// A tensor of `elements` weights, unpacked where it is in blocks.
    pub fn weights(&self, name: &str, elements: usize) -> Result<Vec<f32>, FormatError> {
        let (kind, bytes) = self.find(name, elements)?;
        let values: Vec<f32> = match kind {
            Kind::F32 => {
                let (numbers, _) = bytes.as_chunks::<4>();
                numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
            }
            Kind::Q4 => {
                let mut values = vec![0.0; elements];
                let numbers = values.chunks_exact_mut(BlockQ4_0::NUMBERS);
                blocks(bytes).zip(numbers).for_each(|(block, numbers)| block.read(numbers));
                values
            }
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(FormatError(format!("tensor `{name}` has a weight that is no number")));
        }
        Ok(values)
    }

    /// A matrix whose rows are whole Q4_0 blocks, left as they are.
    pub fn table(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<BlockQ4_0>, FormatError> {
        let (kind, bytes) = self.find(name, rows * columns)?;
        if kind != Kind::Q4 || !columns.is_multiple_of(BlockQ4_0::NUMBERS) {
            return Err(FormatError(format!("tensor `{name}` is not in Q4_0 blocks by row")));
        }
        let blocks: Vec<BlockQ4_0> = blocks(bytes).collect();
        if !blocks.iter().all(|block| block.scale.is_finite()) {
            return Err(FormatError(format!("tensor `{name}` has a scale that is no number")));
        }
        Ok(blocks)
    }

    fn find(&self, name: &str, elements: usize) -> Result<(Kind, &'a [u8]), FormatError> {
        let place =
            self.places.get(name).ok_or_else(|| FormatError(format!("tensor `{name}` is missing")))?;
        if place.elements != elements {
            let found = place.elements;
            return Err(FormatError(format!(
                "tensor `{name}` has {found} weights, its header asks for {elements}"
            )));
        }
        // Directory::read has checked that the place lies within the file.
        Ok((place.kind, self.file.get(place.start..place.start + place.bytes).unwrap_or_default()))
    }
}

fn blocks(bytes: &[u8]) -> impl Iterator<Item = BlockQ4_0> {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    blocks.iter().map(|block| {
        let mut nibbles = [0; BlockQ4_0::NUMBERS / 2];
        nibbles.copy_from_slice(&block[2..]);
        BlockQ4_0 { scale: f16::from_le_bytes([block[0], block[1]]), nibbles }
    })
}

impl Place {
    fn read<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, Self), FormatError> {
        const WHAT: &str = "the directory of tensors";
        let length = usize::from(reader.u16(WHAT)?);
        let name = std::str::from_utf8(reader.bytes(length, WHAT)?)
            .map_err(|_| FormatError("the name of a tensor is not UTF-8".into()))?;
        let kind = match reader.u8(WHAT)? {
            0 => Kind::F32,
            1 => Kind::Q4,
            other => return Err(FormatError(format!("tensor `{name}` is of the unknown type {other}"))),
        };
        let elements = reader.u32(WHAT)? as usize;
        let [start, bytes] = [reader.u64(WHAT)?, reader.u64(WHAT)?].map(usize::try_from);
        let expected = match kind {
            Kind::F32 => Some(elements * 4),
            Kind::Q4 => elements
                .is_multiple_of(BlockQ4_0::NUMBERS)
                .then_some(elements / BlockQ4_0::NUMBERS * BLOCK_BYTES),
        };
        match (start, bytes) {
            (Ok(start), Ok(bytes)) if expected == Some(bytes) => {
                Ok((name, Self { kind, elements, start, bytes }))
            }
            _ => Err(FormatError(format!("tensor `{name}` has a length that does not fit its weights"))),
        }
    }
}
