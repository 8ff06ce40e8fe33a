//! Entropy-coded data: bits and Huffman codes (T.81, annexes C and F.2.2).

use super::{BadPicture, broken};

/// Codes up to this long are looked up at once.
const FAST: u32 = 9;

pub(super) struct HuffmanTable {
    /// By the next `FAST` bits: length and symbol; length 0: the code is longer.
    fast: Box<[(u8, u8); 1 << FAST]>,
    /// By length: one more than the largest code, aligned to 16 bits, and what to add to get the symbol's place.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// `counts` are numbers of codes by length, from 1. None: there are more codes than bits allow.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut fast = Box::new([(0, 0); 1 << FAST]);
        let mut limits = [(0, 0); 17];
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            let offset = place as i32 - code as i32;
            for _ in 0..count {
                if length <= FAST {
                    let first = (code << (FAST - length)) as usize;
                    let codes = fast.get_mut(first..first + (1 << (FAST - length)))?;
                    codes.fill((length as u8, symbols[place]));
                }
                (code, place) = (code + 1, place + 1);
            }
            if code > 1 << length {
                return None;
            }
            limits[length as usize] = (code << (16 - length), offset);
            code <<= 1;
        }
        Some(Self { fast, limits, symbols: symbols.to_vec() })
    }
}

/// Reads bits until a marker; after it come zeros, which only a broken file needs many of.
pub(super) struct BitReader<'a> {
    rest: &'a [u8],
    buffer: u64,
    /// Bits in the buffer.
    count: u32,
    /// Bits that were made up.
    missing: u32,
}

impl<'a> BitReader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data, buffer: 0, count: 0, missing: 0 }
    }

    /// What follows the data, from a marker on.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Skips to the restart marker and past it.
    pub fn restart(&mut self) -> Result<(), BadPicture> {
        self.check()?;
        let rest = match self.rest {
            [0xFF, 0xD0..=0xD7, rest @ ..] => rest,
            _ => return Err(broken("a restart marker is missing")),
        };
        *self = Self::new(rest);
        Ok(())
    }

    /// Fails where the data ended before what was read of it.
    pub fn check(&self) -> Result<(), BadPicture> {
        if self.missing > self.count { Err(broken("the data of a scan ends too early")) } else { Ok(()) }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match self.rest {
                [0xFF, 0x00, rest @ ..] => {
                    self.rest = rest;
                    0xFF
                }
                // A marker, which stays.
                [0xFF, ..] | [] => {
                    self.missing += 8;
                    0
                }
                [byte, rest @ ..] => {
                    self.rest = rest;
                    *byte
                }
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            self.fill();
        }
        (self.buffer >> (self.count - count)) as u32 & ((1 << count) - 1)
    }

    /// The next `count` bits, at most 16.
    pub fn bits(&mut self, count: u32) -> i32 {
        let bits = self.peek(count);
        self.count -= count;
        bits as i32
    }

    /// A value of `count` bits with its sign (T.81, F.12).
    pub fn signed(&mut self, count: u32) -> i32 {
        if count == 0 {
            return 0;
        }
        let bits = self.bits(count);
        if bits < 1 << (count - 1) { bits - (1 << count) + 1 } else { bits }
    }

    pub fn symbol(&mut self, table: &HuffmanTable) -> Result<u8, BadPicture> {
        let next = self.peek(16);
        let (length, symbol) = table.fast[(next >> (16 - FAST)) as usize];
        if length > 0 {
            self.count -= u32::from(length);
            return Ok(symbol);
        }
        let longer = (FAST + 1..=16).find(|length| next < table.limits[*length as usize].0);
        let Some(length) = longer else { return Err(broken("a code that is none")) };
        self.count -= length;
        let place = (next >> (16 - length)) as i32 + table.limits[length as usize].1;
        let symbol = usize::try_from(place).ok().and_then(|place| table.symbols.get(place));
        symbol.copied().ok_or_else(|| broken("a code that is none"))
    }
}
