//! Scans: coefficients from entropy-coded data (T.81, annexes F.2 and G.2).

use super::{
    BadPicture,
    bits::{BitReader, HuffmanTable},
    broken,
    frame::Frame,
};

/// The place of each coefficient of the zigzag sequence in its block.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

pub(super) struct Scan {
    /// Component, and the identifiers of its DC and AC tables.
    pub components: Vec<(usize, usize, usize)>,
    /// First and last coefficient.
    band: (usize, usize),
    /// Bits below the highest that is read; and whether higher ones were read before.
    low: u32,
    refines: bool,
    progressive: bool,
}

type Tables = [[Option<HuffmanTable>; 4]; 2];

impl Scan {
    pub fn parse(segment: &[u8], frame: &Frame) -> Result<Self, BadPicture> {
        let short = || broken("a short scan header");
        let count = usize::from(*segment.first().ok_or_else(short)?);
        let parts = segment.get(1..1 + 2 * count).ok_or_else(short)?;
        let component = |part: &[u8]| {
            let index = frame.components.iter().position(|component| component.id == part[0]);
            let index = index.ok_or_else(|| broken("a scan of an unknown component"))?;
            Ok((index, usize::from(part[1] >> 4 & 3), usize::from(part[1] & 3)))
        };
        let components = parts.chunks(2).map(component).collect::<Result<Vec<_>, BadPicture>>()?;
        let tail = segment.get(1 + 2 * count..4 + 2 * count).ok_or_else(short)?;
        let progressive = frame.progressive;
        let (band, low, refines) = match progressive {
            true => {
                ((usize::from(tail[0]), usize::from(tail[1])), u32::from(tail[2] & 15), tail[2] >> 4 != 0)
            }
            false => ((0, 63), 0, false),
        };
        let one_kind = !progressive || (band.0 == 0) == (band.1 == 0);
        let lone = band.0 == 0 || components.len() == 1;
        if components.is_empty() || band.0 > band.1 || band.1 > 63 || low > 13 || !one_kind || !lone {
            return Err(broken("a scan that makes no sense"));
        }
        Ok(Self { components, band, low, refines, progressive })
    }

    /// Reads the scan's data into the frame; returns what follows it.
    pub fn read<'a>(
        &self,
        data: &'a [u8],
        frame: &mut Frame,
        tables: &Tables,
        restart_interval: usize,
    ) -> Result<&'a [u8], BadPicture> {
        let mut state = State { bits: BitReader::new(data), predictions: [0; 4], run: 0 };
        let lone = self.components.len() == 1;
        // A lone component's units are its blocks, without those that only fill.
        let (across, down) = match self.components[0] {
            (index, _, _) if lone => {
                let component = &frame.components[index];
                (component.width.div_ceil(8), component.height.div_ceil(8))
            }
            _ => frame.units,
        };
        for unit in 0..across * down {
            if restart_interval > 0 && unit > 0 && unit % restart_interval == 0 {
                state.bits.restart()?;
                (state.predictions, state.run) = ([0; 4], 0);
            }
            let (x, y) = (unit % across, unit / across);
            for &(index, dc, ac) in &self.components {
                let component = &mut frame.components[index];
                let (wide, high) = if lone { (1, 1) } else { component.sampling };
                for block in 0..wide * high {
                    let (x, y) = (x * wide + block % wide, y * high + block / wide);
                    let coefficients = &mut component.blocks[y * component.stride + x];
                    let tables = (tables[0][dc].as_ref(), tables[1][ac].as_ref());
                    self.read_block(&mut state, index, tables, coefficients)?;
                }
            }
            if x + 1 == across {
                state.bits.check()?;
            }
        }
        Ok(state.bits.rest())
    }

    fn read_block(
        &self,
        state: &mut State<'_>,
        index: usize,
        (dc, ac): (Option<&HuffmanTable>, Option<&HuffmanTable>),
        block: &mut [i16; 64],
    ) -> Result<(), BadPicture> {
        let missing = || broken("a scan without its Huffman table");
        if self.band.0 == 0 {
            if self.refines {
                block[0] |= (state.bits.bits(1) << self.low) as i16;
            } else {
                let length = u32::from(state.bits.symbol(dc.ok_or_else(missing)?)?);
                if length > 15 {
                    return Err(broken("a difference that is too large"));
                }
                let prediction = &mut state.predictions[index];
                *prediction = prediction.wrapping_add(state.bits.signed(length));
                block[0] = (*prediction << self.low) as i16;
            }
        }
        match (self.progressive, self.band.1) {
            (true, 0) => Ok(()),
            (true, _) if self.refines => self.refine(state, ac.ok_or_else(missing)?, block),
            (true, _) => self.first(state, ac.ok_or_else(missing)?, block),
            (false, _) => sequential(&mut state.bits, ac.ok_or_else(missing)?, block),
        }
    }

    /// Coefficients of a band, their higher bits.
    fn first(
        &self,
        state: &mut State<'_>,
        table: &HuffmanTable,
        block: &mut [i16; 64],
    ) -> Result<(), BadPicture> {
        if state.run > 0 {
            state.run -= 1;
            return Ok(());
        }
        let mut at = self.band.0;
        while at <= self.band.1 {
            let symbol = state.bits.symbol(table)?;
            let (zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if length == 0 && zeros < 15 {
                state.run = (1 << zeros) - 1 + state.bits.bits(zeros as u32);
                break;
            }
            at += zeros;
            if length > 0 {
                *place(block, at)? = (state.bits.signed(length) << self.low) as i16;
            }
            at += 1;
        }
        Ok(())
    }

    /// One more bit of a band's coefficients.
    fn refine(
        &self,
        state: &mut State<'_>,
        table: &HuffmanTable,
        block: &mut [i16; 64],
    ) -> Result<(), BadPicture> {
        let bit = 1i16 << self.low;
        let mut at = self.band.0;
        while state.run == 0 && at <= self.band.1 {
            let symbol = state.bits.symbol(table)?;
            let (mut zeros, length) = (usize::from(symbol >> 4), symbol & 15);
            let new = match length {
                0 if zeros < 15 => {
                    state.run = (1 << zeros) + state.bits.bits(zeros as u32);
                    break;
                }
                0 => 0,
                _ if state.bits.bits(1) == 1 => bit,
                _ => -bit,
            };
            // Known coefficients on the way get their bit; `zeros` unknown ones are passed over.
            while at <= self.band.1 {
                let coefficient = place(block, at)?;
                at += 1;
                if *coefficient != 0 {
                    correct(&mut state.bits, coefficient, bit);
                } else if zeros == 0 {
                    *coefficient = new;
                    break;
                } else {
                    zeros -= 1;
                }
            }
        }
        if state.run > 0 {
            for at in at..=self.band.1 {
                let coefficient = place(block, at)?;
                if *coefficient != 0 {
                    correct(&mut state.bits, coefficient, bit);
                }
            }
            state.run -= 1;
        }
        Ok(())
    }
}

struct State<'a> {
    bits: BitReader<'a>,
    /// The last DC value of each component.
    predictions: [i32; 4],
    /// Blocks that have nothing more in this band.
    run: i32,
}

fn sequential(
    bits: &mut BitReader<'_>,
    table: &HuffmanTable,
    block: &mut [i16; 64],
) -> Result<(), BadPicture> {
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(table)?;
        let (zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if length == 0 && zeros < 15 {
            break;
        }
        at += zeros;
        if length > 0 {
            *place(block, at)? = bits.signed(length) as i16;
        }
        at += 1;
    }
    Ok(())
}

fn correct(bits: &mut BitReader<'_>, coefficient: &mut i16, bit: i16) {
    if bits.bits(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
    }
}

fn place(block: &mut [i16; 64], at: usize) -> Result<&mut i16, BadPicture> {
    let natural = ZIGZAG.get(at).ok_or_else(|| broken("a coefficient beyond its block"))?;
    Ok(&mut block[usize::from(*natural)])
}
