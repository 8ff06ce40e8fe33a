//! The directory and the tensors it points to.

use std::collections::BTreeMap;

use half::f16;

use super::{FormatError, reader::Reader};

/// Weights of a Q4_0 block.
pub const BLOCK_WEIGHTS: usize = 32;
/// Bytes of a Q4_0 block: a 16-bit scale and 32 half bytes.
const BLOCK_BYTES: usize = 18;

/// 32-bit weights, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A matrix that stays in Q4_0 blocks, 4.5 bits a weight.
#[derive(Debug, Clone)]
pub struct Q4Table {
    rows: usize,
    columns: usize,
    blocks: Vec<u8>,
}

impl Q4Table {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The blocks of all rows, `columns / 32 * 18` bytes a row.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    /// The weights of one row; `None` beyond the last.
    pub fn row(&self, index: usize) -> Option<Vec<f32>> {
        let length = self.columns / BLOCK_WEIGHTS * BLOCK_BYTES;
        let start = index.checked_mul(length)?;
        self.blocks.get(start..start + length).map(dequantize)
    }

    /// All rows as 32-bit weights.
    pub fn dequantized(&self) -> Weights {
        Weights { shape: vec![self.rows, self.columns], values: dequantize(&self.blocks) }
    }
}

/// Weights of Q4_0 blocks, as ggml defines them: half byte `q` of a block with scale `d` is
/// `(q - 8) * d`; the low halves are the first 16 weights, the high halves the last 16.
fn dequantize(blocks: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; blocks.len() / BLOCK_BYTES * BLOCK_WEIGHTS];
    for (block, weights) in blocks.chunks_exact(BLOCK_BYTES).zip(values.chunks_exact_mut(BLOCK_WEIGHTS)) {
        let scale = f32::from(f16::from_le_bytes([block[0], block[1]]));
        let (low, high) = weights.split_at_mut(BLOCK_WEIGHTS / 2);
        for ((byte, low), high) in block[2..].iter().zip(low).zip(high) {
            *low = (f32::from(byte & 15) - 8.0) * scale;
            *high = (f32::from(byte >> 4) - 8.0) * scale;
        }
    }
    values
}

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

    /// A tensor of 32-bit weights.
    pub fn weights(&self, name: &str, shape: &[usize]) -> Result<Weights, FormatError> {
        let (place, bytes) = self.find(name, shape)?;
        let values = match place.kind {
            Kind::F32 => {
                let (numbers, _) = bytes.as_chunks::<4>();
                numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
            }
            Kind::Q4 => dequantize(bytes),
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(FormatError(format!("tensor `{name}` has a weight that is no number")));
        }
        Ok(Weights { shape: shape.to_vec(), values })
    }

    /// A matrix of Q4_0 blocks whose rows are whole blocks.
    pub fn table(&self, name: &str, rows: usize, columns: usize) -> Result<Q4Table, FormatError> {
        let (place, bytes) = self.find(name, &[rows, columns])?;
        if place.kind != Kind::Q4 || !columns.is_multiple_of(BLOCK_WEIGHTS) {
            return Err(FormatError(format!("tensor `{name}` is not in Q4_0 blocks by row")));
        }
        let scales = bytes.chunks_exact(BLOCK_BYTES).map(|block| f16::from_le_bytes([block[0], block[1]]));
        if !scales.into_iter().all(f16::is_finite) {
            return Err(FormatError(format!("tensor `{name}` has a scale that is no number")));
        }
        Ok(Q4Table { rows, columns, blocks: bytes.to_vec() })
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Place, &'a [u8]), FormatError> {
        let place =
            self.places.get(name).ok_or_else(|| FormatError(format!("tensor `{name}` is missing")))?;
        if place.elements != shape.iter().product::<usize>() {
            let elements = place.elements;
            return Err(FormatError(format!(
                "tensor `{name}` has {elements} weights, its header asks for {shape:?}"
            )));
        }
        // Directory::read has checked that the place lies within the file.
        Ok((place, self.file.get(place.start..place.start + place.bytes).unwrap_or_default()))
    }
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
            Kind::Q4 => {
                elements.is_multiple_of(BLOCK_WEIGHTS).then_some(elements / BLOCK_WEIGHTS * BLOCK_BYTES)
            }
        };
        match (start, bytes) {
            (Ok(start), Ok(bytes)) if expected == Some(bytes) => {
                Ok((name, Self { kind, elements, start, bytes }))
            }
            _ => Err(FormatError(format!("tensor `{name}` has a length that does not fit its weights"))),
        }
    }
}
