//! Matrix products of quantised weights with activations of eight bits.
//!
//! Weights and activations are quantised in blocks of 32 inputs, as in GGUF files: a weight is
//! `scale · q + minimum`, an activation `scale · q`. Products are summed as integers within a
//! block and as floats over blocks, in an order that does not depend on how many rows are
//! computed together: a row's result is the same to the last bit alone and among others.

use crate::{
    crew::{Crew, Split},
    half,
    integer::{IntegerKernel, Sixteen, Width},
};

/// Inputs that share a scale.
pub const BLOCK: usize = 32;
/// Outputs that are packed together.
const PANEL: usize = 16;
/// Inputs that one instruction takes of each output.
const STEP: usize = 4;
const STEPS: usize = BLOCK / STEP;
/// Rows that are computed together at most.
const TILE: usize = 12;

/// How a GGUF file holds a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// Four bits: `scale · (q − 8)`.
    Q4_0,
    /// Four bits: `scale · q + minimum`.
    Q4_1,
    /// Eight bits with a sign: `scale · q`.
    Q8_0,
}

impl BlockFormat {
    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockFormat::Q4_0 => 2 + BLOCK / 2,
            BlockFormat::Q4_1 => 4 + BLOCK / 2,
            BlockFormat::Q8_0 => 2 + BLOCK,
        }
    }

    fn has_four_bits(self) -> bool {
        self != BlockFormat::Q8_0
    }

    fn read(self, bytes: &[u8]) -> Block {
        let half_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let scale = half_at(0);
        match self {
            BlockFormat::Q4_0 => {
                let minimum = half::from_f32(-8.0 * half::to_f32(scale));
                Block { scale, minimum, weights: nibbles(&bytes[2..]) }
            }
            BlockFormat::Q4_1 => Block { scale, minimum: half_at(2), weights: nibbles(&bytes[4..]) },
            BlockFormat::Q8_0 => {
                Block { scale, minimum: 0, weights: std::array::from_fn(|at| bytes[2 + at] ^ 0x80) }
            }
        }
    }
}

/// The low halves of 16 bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|at| if at < 16 { bytes[at] & 15 } else { bytes[at - 16] >> 4 })
}

/// Weights without a sign: 0 to 15, or 0 to 255 with 128 as zero.
struct Block {
    scale: u16,
    minimum: u16,
    weights: [u8; BLOCK],
}

impl Block {
    /// Eight bits.
    fn nearest(numbers: &[f32]) -> Self {
        let largest = numbers.iter().fold(0.0, |largest: f32, number| largest.max(number.abs()));
        let scale = half::from_f32(largest / 127.0);
        let inverse = match half::to_f32(scale) {
            0.0 => 0.0,
            scale => 1.0 / scale,
        };
        let weights = std::array::from_fn(|at| {
            ((numbers[at] * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8) ^ 0x80
        });
        Self { scale, minimum: 0, weights }
    }
}

/// Bytes that begin at a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Weights `[outputs, inputs]` as the products take them: panels of 16 outputs, in each the
/// blocks of inputs, in each the steps of four inputs, 64 bytes a step (32 with four bits: low
/// halves are one step, high halves the next).
pub struct QuantizedMatrix {
    inputs: usize,
    outputs: usize,
    four_bits: bool,
    weights: Vec<Line>,
    /// `[panels, blocks, 16]`
    scales: Vec<u16>,
    /// As `scales`; of four bits alone.
    minima: Vec<u16>,
    /// `[panels, 16]`
    bias: Option<Vec<f32>>,
}

impl QuantizedMatrix {
    /// Of a GGUF file's blocks: `[outputs, inputs / 32]` row-major.
    pub fn from_blocks(format: BlockFormat, blocks: &[u8], inputs: usize) -> Self {
        let row = inputs / BLOCK * format.bytes();
        assert!(row > 0 && blocks.len().is_multiple_of(row), "{} bytes in rows of {row}", blocks.len());
        let mut matrix = Self::zeros(inputs, blocks.len() / row, format.has_four_bits());
        for (index, bytes) in blocks.chunks_exact(format.bytes()).enumerate() {
            matrix.put(index, &format.read(bytes));
        }
        matrix
    }

    /// Of `[outputs, inputs]` row-major, rounded to eight bits.
    pub fn from_numbers(numbers: &[f32], inputs: usize) -> Self {
        assert!(inputs > 0 && numbers.len().is_multiple_of(inputs), "rows of {inputs}");
        let mut matrix = Self::zeros(inputs, numbers.len() / inputs, false);
        for (index, numbers) in numbers.chunks_exact(BLOCK).enumerate() {
            matrix.put(index, &Block::nearest(numbers));
        }
        matrix
    }

    /// The same with a bias `[outputs]`.
    pub fn with_bias(mut self, bias: &[f32]) -> Self {
        assert_eq!(bias.len(), self.outputs, "a bias for each output");
        let mut padded = bias.to_vec();
        padded.resize(self.panels() * PANEL, 0.0);
        self.bias = Some(padded);
        self
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The weights of `output`, into `row` `[inputs]`.
    pub fn read_row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.outputs && row.len() == self.inputs, "output {output}");
        let (panel, lane) = (output / PANEL, output % PANEL);
        for (block, numbers) in row.chunks_exact_mut(BLOCK).enumerate() {
            let block = panel * self.blocks() + block;
            let scale = half::to_f32(self.scales[block * PANEL + lane]);
            let lines = &self.weights[block * self.lines()..][..self.lines()];
            for (at, number) in numbers.iter_mut().enumerate() {
                let (step, byte) = (at / STEP, lane * STEP + at % STEP);
                *number = if self.four_bits {
                    let weight = lines[step / 2].0[byte] >> (step % 2 * 4) & 15;
                    scale * f32::from(weight) + half::to_f32(self.minima[block * PANEL + lane])
                } else {
                    scale * (f32::from(lines[step].0[byte]) - 128.0)
                };
            }
        }
    }

    /// `x` `[rows, inputs]` times the weights, and the bias, into `out` `[rows, outputs]`.
    pub fn multiply(&self, crew: &mut Crew, x: &QuantizedRows, ending: Ending, out: &mut [f32]) {
        assert_eq!(x.width, self.inputs, "inputs of a row");
        assert_eq!(out.len(), x.rows * self.outputs, "{} rows of {}", x.rows, self.outputs);
        let (isa, out) = (crew.integers(), Split::new(out));
        crew.share(self.panels(), 2, &|panels| {
            for panel in panels {
                let product = Product { matrix: self, x, panel, ending, out };
                match self.four_bits {
                    true => isa.dispatch(Typed::<Four>(product, Four)),
                    false => isa.dispatch(Typed::<Eight>(product, Eight)),
                }
            }
        });
    }

    fn zeros(inputs: usize, outputs: usize, four_bits: bool) -> Self {
        assert!(inputs.is_multiple_of(BLOCK), "{inputs} inputs are no multiple of {BLOCK}");
        let blocks = outputs.div_ceil(PANEL) * (inputs / BLOCK);
        let mut matrix = Self {
            inputs,
            outputs,
            four_bits,
            weights: Vec::new(),
            scales: vec![0; blocks * PANEL],
            minima: vec![0; if four_bits { blocks * PANEL } else { 0 }],
            bias: None,
        };
        matrix.weights = vec![Line([0; 64]); blocks * matrix.lines()];
        matrix
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Lines of a block of a panel.
    fn lines(&self) -> usize {
        if self.four_bits { STEPS / 2 } else { STEPS }
    }

    /// Places the block with this index in `[outputs, blocks]`.
    fn put(&mut self, index: usize, block: &Block) {
        let (output, at) = (index / self.blocks(), index % self.blocks());
        let (panel, lane) = (output / PANEL, output % PANEL);
        let place = panel * self.blocks() + at;
        let lines = self.lines();
        let lines = &mut self.weights[place * lines..][..lines];
        for (step, weights) in block.weights.chunks_exact(STEP).enumerate() {
            for (byte, &weight) in (lane * STEP..).zip(weights) {
                if self.four_bits {
                    lines[step / 2].0[byte] |= weight << (step % 2 * 4);
                } else {
                    lines[step].0[byte] = weight;
                }
            }
        }
        self.scales[place * PANEL + lane] = block.scale;
        if self.four_bits {
            self.minima[place * PANEL + lane] = block.minimum;
        }
    }
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// `out = x·Wᵀ + b`
    Store,
    /// `out = out + x·Wᵀ + b`
    Add,
}

/// Activations `[rows, width]` in eight bits; made by [`crate::quantize`].
#[derive(Default)]
pub struct QuantizedRows {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// −127 to 127, `[rows, width]`.
    pub(crate) numbers: Vec<i8>,
    pub(crate) blocks: Vec<RowBlock>,
}

/// What 32 numbers of a row have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowBlock {
    pub scale: f32,
    /// Sum of the numbers.
    pub sum: i32,
}

impl QuantizedRows {
    pub fn rows(&self) -> usize {
        self.rows
    }
}

struct Product<'a> {
    matrix: &'a QuantizedMatrix,
    x: &'a QuantizedRows,
    panel: usize,
    ending: Ending,
    out: Split<'a, f32>,
}

struct Four;
struct Eight;
impl Width for Four {
    const HALF: bool = true;
}
impl Width for Eight {
    const HALF: bool = false;
}

/// A product with weights of a width.
struct Typed<'a, W>(Product<'a>, W);

impl<W: Width> IntegerKernel for Typed<'_, W> {
    #[inline(always)]
    fn run<S: Sixteen>(self) {
        let product = self.0;
        let mut first = 0;
        while first < product.x.rows {
            let rows = (product.x.rows - first).min(TILE);
            macro_rules! match_rows {
                ($($rows:literal)*) => {
                    match rows {
                        // SAFETY: the rows are there, and the instructions, since this is
                        // called by `dispatch` alone.
                        $($rows => unsafe { product.tile::<S, W, $rows>(first) },)*
                        _ => unreachable!("a tile of {rows} rows"),
                    }
                };
            }
            match_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
            first += rows;
        }
    }
}

impl Product<'_> {
    /// # Safety
    /// `x` has `ROWS` rows from `first` on; the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn tile<S: Sixteen, W: Width, const ROWS: usize>(&self, first: usize) {
        let Self { matrix, x, panel, .. } = *self;
        let blocks = matrix.blocks();
        let start = panel * blocks;
        let weights = matrix.weights[start * matrix.lines()..].as_ptr().cast::<u8>();
        let scales = matrix.scales[start * PANEL..].as_ptr();
        let minima = matrix.minima.as_ptr();
        let numbers = x.numbers[first * x.width..(first + ROWS) * x.width].as_ptr();
        let shared = x.blocks[first * blocks..(first + ROWS) * blocks].as_ptr();
        // SAFETY: all of it lies inside the slices above: a matrix has `lines` lines, 16 scales
        // and, of four bits, 16 minima for each block of a panel.
        unsafe {
            let mut sums = [S::splat(0.0); ROWS];
            for block in 0..blocks {
                let steps = steps::<S, W>(weights, block);
                let scale = S::halves(scales.add(block * PANEL));
                let minimum = W::HALF.then(|| S::halves(minima.add((start + block) * PANEL)));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let shared = *shared.add(row * blocks + block);
                    let x = numbers.add(row * blocks * BLOCK + block * BLOCK).cast::<i32>();
                    let zero = if W::HALF { 0 } else { (S::OFFSET - 128) * shared.sum };
                    let mut ints = S::ints(zero);
                    for (step, weights) in steps.into_iter().enumerate() {
                        ints = S::dot::<W>(ints, weights, x.add(step).read_unaligned());
                    }
                    let product = S::mul(S::to_floats(ints), S::splat(shared.scale));
                    *sum = S::mul_add(product, scale, *sum);
                    if let Some(minimum) = minimum {
                        *sum = S::mul_add(minimum, S::splat(shared.scale * shared.sum as f32), *sum);
                    }
                }
            }
            for (row, sum) in (first..).zip(sums) {
                self.finish::<S>(row, sum);
            }
        }
    }

    /// Ends the panel's product with a row.
    ///
    /// # Safety
    /// As of [`Product::tile`].
    #[inline(always)]
    unsafe fn finish<S: Sixteen>(&self, row: usize, mut sum: S::Floats) {
        let Self { matrix, panel, ending, out, .. } = *self;
        let column = panel * PANEL;
        let width = PANEL.min(matrix.outputs - column);
        let start = row * matrix.outputs + column;
        // SAFETY: no other part of the work has this panel, whose columns these are; a last panel
        // that is not full goes by way of a full one.
        unsafe {
            let out = out.slice(start..start + width);
            if let Some(bias) = &matrix.bias {
                sum = S::add(sum, S::load(bias[column..column + PANEL].as_ptr()));
            }
            let mut whole = [0.0; PANEL];
            let target = if width == PANEL { out.as_mut_ptr() } else { whole.as_mut_ptr() };
            if ending == Ending::Add {
                if width < PANEL {
                    whole[..width].copy_from_slice(out);
                }
                sum = S::add(sum, S::load(target));
            }
            S::store(target, sum);
            if width < PANEL {
                out.copy_from_slice(&whole[..width]);
            }
        }
    }
}

/// The weights of a block, step by step.
///
/// # Safety
/// The panel that begins at `weights` has the block.
#[inline(always)]
unsafe fn steps<S: Sixteen, W: Width>(weights: *const u8, block: usize) -> [S::Bytes; STEPS] {
    // SAFETY: the caller's.
    unsafe {
        if W::HALF {
            let at = |line: usize| S::nibbles(weights.add((block * STEPS / 2 + line) * 64));
            let ([a, b], [c, d], [e, f], [g, h]) = (at(0), at(1), at(2), at(3));
            [a, b, c, d, e, f, g, h]
        } else {
            let at = |step: usize| S::bytes(weights.add((block * STEPS + step) * 64));
            [at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)]
        }
    }
}
