//! Attention over packed sequences.

use std::ops::Range;

use crate::{
    activation::exp2_vector,
    buffer::Buffer,
    matmul::{Floats, Operands, PANEL, Sink, tile, tile_rows},
    team::{Columns, Team},
    vector::{Kernel, Vector},
};

/// Multi-head self-attention of sequences that lie one after the other.
///
/// Every token sees all tokens of its own sequence, and no other.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Heads of a token's state.
    pub heads: usize,
    /// Numbers of a head, a multiple of 32.
    pub head_width: usize,
}

/// Memory that one thread's attention works in.
#[derive(Default)]
pub struct AttentionScratch {
    keys: Buffer,
    scores: Buffer,
}

impl Attention {
    /// `qkv` is `[tokens, 3 · width]`: query, key and value of each token, `width` being all heads
    /// together. `lengths` are those of the sequences. Writes `out` `[tokens, width]`. A team works
    /// in the first of `scratch`, one a thread.
    ///
    /// The query must already be scaled by `log2(e) / √head_width`, so that a weight is
    /// `2^(q·k)`: see [`Attention::query_scale`].
    pub fn run(
        &self,
        team: Team,
        qkv: &[f32],
        lengths: &[usize],
        out: &mut [f32],
        scratch: &mut Vec<AttentionScratch>,
    ) {
        let width = self.heads * self.head_width;
        let tokens: usize = lengths.iter().sum();
        let out = Columns::new(out, width);
        assert!(self.head_width.is_multiple_of(PANEL), "heads of {} numbers", self.head_width);
        assert!(qkv.len() == tokens * 3 * width && out.rows == tokens, "{tokens} tokens");
        let threads = team.threads.clamp(1, self.heads);
        if scratch.len() < threads {
            scratch.resize_with(threads, AttentionScratch::default);
        }
        Team::split(&mut scratch[..threads], self.heads, &|scratch, heads| {
            team.isa.dispatch(Run { attention: *self, qkv, lengths, heads, out, scratch });
        });
    }

    /// What the query's weights and bias are multiplied with.
    pub fn query_scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.head_width as f32).sqrt()
    }
}

struct Run<'a> {
    attention: Attention,
    qkv: &'a [f32],
    lengths: &'a [usize],
    heads: Range<usize>,
    out: Columns<'a>,
    scratch: &'a mut AttentionScratch,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Attention { heads, head_width } = self.attention;
        let width = heads * head_width;
        let mut first = 0;
        for &length in self.lengths {
            let padded = length.next_multiple_of(PANEL);
            self.scratch.keys.resize(padded * head_width);
            self.scratch.scores.resize(tile_rows::<V, Floats>() * padded);
            for head in self.heads.clone() {
                let column = head * head_width;
                let sequence = Sequence {
                    qkv: &self.qkv[first * 3 * width + column..],
                    // SAFETY: the first token of the sequence and the head's column are inside `out`.
                    out: unsafe { self.out.start.add(first * width + column) },
                    width,
                    head_width,
                    length,
                    padded,
                };
                sequence.transpose_keys(self.scratch.keys.as_mut_slice());
                // SAFETY: the buffers were sized for this sequence above.
                unsafe {
                    sequence.attend::<V>(self.scratch.keys.as_slice(), self.scratch.scores.as_mut_slice());
                }
            }
            first += length;
        }
    }
}

/// One head of one sequence.
struct Sequence<'a> {
    /// Begins at the head's query of the first token.
    qkv: &'a [f32],
    /// Begins at the head's result for the first token.
    out: *mut f32,
    width: usize,
    head_width: usize,
    length: usize,
    padded: usize,
}

impl Sequence<'_> {
    /// Keys as panels: 32 tokens side by side for each number of the head; zeros past the end.
    #[inline(always)]
    fn transpose_keys(&self, keys: &mut [f32]) {
        let Self { width, head_width, length, .. } = *self;
        for (index, panel) in keys.chunks_exact_mut(head_width * PANEL).enumerate() {
            let first = index * PANEL;
            let tokens = PANEL.min(length - first);
            for token in 0..tokens {
                let start = (first + token) * 3 * width + width;
                let key = &self.qkv[start..start + head_width];
                for (number, &key) in key.iter().enumerate() {
                    panel[number * PANEL + token] = key;
                }
            }
            if tokens < PANEL {
                for row in panel.chunks_exact_mut(PANEL) {
                    row[tokens..].fill(0.0);
                }
            }
        }
    }

    /// # Safety
    /// `keys` is `[padded / 32, head_width, 32]`, `scores` `[tile_rows, padded]`.
    #[inline(always)]
    unsafe fn attend<V: Vector>(&self, keys: &[f32], scores: &mut [f32]) {
        let Self { width, head_width, length, padded, .. } = *self;
        let mut first = 0;
        while first < length {
            let rows = (length - first).min(tile_rows::<V, Floats>());
            // SAFETY: query, keys and values of these tokens are inside `qkv`, and the rows of the
            // result inside `out`.
            unsafe {
                for (index, panel) in keys.chunks_exact(head_width * PANEL).enumerate() {
                    let operands = Operands {
                        a: self.qkv.as_ptr().add(first * 3 * width),
                        a_stride: 3 * width,
                        b: panel.as_ptr(),
                        b_stride: PANEL,
                        depth: head_width,
                    };
                    let sink = Scores { to: scores.as_mut_ptr().add(index * PANEL), stride: padded };
                    tile::<V, Floats, _>(rows, &operands, &sink);
                }
                let mut scales = [0.0; 12];
                for (row, scale) in scores.chunks_exact_mut(padded).take(rows).zip(&mut scales) {
                    *scale = 1.0 / powers::<V>(row, length);
                }
                for column in (0..head_width).step_by(PANEL) {
                    let operands = Operands {
                        a: scores.as_ptr(),
                        a_stride: padded,
                        b: self.qkv.as_ptr().add(2 * width + column),
                        b_stride: 3 * width,
                        depth: length,
                    };
                    let sink =
                        Scaled { to: self.out.add(first * width + column), stride: width, scales: &scales };
                    tile::<V, Floats, _>(rows, &operands, &sink);
                }
            }
            first += rows;
        }
    }
}

/// Turns the first `length` scores into `2^(score − largest)` and returns their sum.
#[inline(always)]
pub(crate) fn powers<V: Vector>(scores: &mut [f32], length: usize) -> f32 {
    let end = length.next_multiple_of(V::LANES);
    // Scores past the end must neither be the largest nor count.
    scores[length..end].fill(-1e30);
    let scores = &mut scores[..end];
    let mut largest = V::splat(-1e30);
    for at in (0..end).step_by(V::LANES) {
        // SAFETY: `end` is a multiple of the lanes.
        largest = largest.max(unsafe { V::load(scores.as_ptr().add(at)) });
    }
    let largest = V::splat(largest.peak());
    let mut sum = V::splat(0.0);
    for at in (0..end).step_by(V::LANES) {
        // SAFETY: as above.
        unsafe {
            let at = scores.as_mut_ptr().add(at);
            let power = exp2_vector(V::load(at).sub(largest));
            power.store(at);
            sum = sum.add(power);
        }
    }
    sum.sum()
}

struct Scores {
    to: *mut f32,
    stride: usize,
}

impl Sink for Scores {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        // SAFETY: the caller's.
        unsafe { sum.store(self.to.add(row * self.stride + column)) }
    }
}

struct Scaled<'a> {
    to: *mut f32,
    stride: usize,
    scales: &'a [f32; 12],
}

impl Sink for Scaled<'_> {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        // SAFETY: the caller's.
        unsafe { sum.mul(V::splat(self.scales[row])).store(self.to.add(row * self.stride + column)) }
    }
}
