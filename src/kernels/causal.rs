//! Attention of a decoder: each token sees itself and those before it.

use std::{cell::RefCell, ops::Range};

use crate::{
    attention::powers,
    buffer::Buffer,
    crew::{Crew, Split},
    half,
    matmul::{Floats, Operands, PANEL, Sink, tile, tile_rows},
    vector::{Kernel, Vector},
};

/// Values that are widened together: 16 KB with heads of 64.
const STRETCH: usize = 2 * PANEL;

/// The shape of a decoder's attention, with rotary positions.
///
/// Query heads share the heads of keys and values in groups. A head's numbers are rotated in
/// pairs of `i` and `i + head_width / 2`.
pub struct CausalAttention {
    heads: usize,
    key_heads: usize,
    head_width: usize,
    /// Cosines and then sines of a position, `[positions, head_width]`.
    rotations: Vec<f32>,
}

impl CausalAttention {
    /// For sequences of up to `positions`; `base` is that of the angles. `head_width` is a
    /// multiple of 32, `heads` one of `key_heads`.
    pub fn new(heads: usize, key_heads: usize, head_width: usize, positions: usize, base: f64) -> Self {
        assert!(head_width.is_multiple_of(PANEL), "heads of {head_width} numbers");
        assert!(key_heads > 0 && heads.is_multiple_of(key_heads), "{heads} heads on {key_heads}");
        let half = head_width / 2;
        let mut rotations = Vec::with_capacity(positions * head_width);
        for position in 0..positions {
            let angle = |i: usize| position as f64 * base.powf(-(i as f64) / half as f64);
            rotations.extend((0..half).map(|i| angle(i).cos() as f32));
            rotations.extend((0..half).map(|i| angle(i).sin() as f32));
        }
        Self { heads, key_heads, head_width, rotations }
    }

    /// Numbers of a token's queries, keys and values together.
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.key_heads) * self.head_width
    }

    /// Memory for `layers` of sequences of up to `tokens`.
    pub fn memory(&self, layers: usize, tokens: usize) -> KeyValues {
        let tokens = tokens.next_multiple_of(PANEL);
        let numbers = layers * self.key_heads * tokens * self.head_width;
        let (keys, values) = (vec![0; numbers], vec![0; numbers]);
        KeyValues { layers, head_width: self.head_width, tokens, keys, values }
    }

    /// Puts the keys and values of the tokens from `position` on into `memory` and attends to all
    /// up to each.
    ///
    /// `qkv` is `[tokens, row]`, `out` `[tokens, heads · head_width]`. What stood in this layer
    /// before `position` counts, what stood after is overwritten or not seen.
    pub fn run(
        &self,
        crew: &mut Crew,
        qkv: &[f32],
        memory: &mut KeyValues,
        layer: usize,
        position: usize,
        out: &mut [f32],
    ) {
        let tokens = qkv.len() / self.row();
        let end = position + tokens;
        assert!(end <= memory.tokens && end * self.head_width <= self.rotations.len(), "{end} tokens");
        assert!(layer < memory.layers && out.len() == tokens * self.heads * self.head_width, "{layer}");
        let numbers = memory.keys.len() / memory.layers;
        let layer = layer * numbers..(layer + 1) * numbers;
        let stored = Stored { attention: self, qkv, position, capacity: memory.tokens };
        let isa = crew.isa();
        let keys = Split::new(&mut memory.keys[layer.clone()]);
        let values = Split::new(&mut memory.values[layer.clone()]);
        crew.share(tokens, 16, &|tokens| isa.dispatch(Append { stored, tokens, keys, values }));
        let (keys, values) = (&memory.keys[layer.clone()], &memory.values[layer]);
        let group = self.heads / self.key_heads;
        let (rows, out) = (tokens * group, Split::new(out));
        let tiles = rows.div_ceil(LEAST_ROWS);
        crew.share(self.key_heads * tiles, 1, &|parts| {
            SCRATCH.with_borrow_mut(|scratch| {
                for part in parts {
                    let (head, tile) = (part / tiles, part % tiles);
                    let rows = tile * LEAST_ROWS..rows.min((tile + 1) * LEAST_ROWS);
                    isa.dispatch(Attend { stored, keys, values, head, rows, out, scratch });
                }
            });
        });
    }
}

/// Rows that are done together on every instruction set.
const LEAST_ROWS: usize = 12;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that a thread's attention works in.
#[derive(Default)]
struct Scratch {
    queries: Buffer,
    scores: Buffer,
    wide: Buffer,
    sums: Buffer,
}

/// Keys and values of one sequence in all layers, in 16 bits.
pub struct KeyValues {
    layers: usize,
    head_width: usize,
    /// A multiple of 32.
    tokens: usize,
    /// `[layers, heads, tokens / 32, head_width, 32]`
    keys: Vec<u16>,
    /// `[layers, heads, tokens, head_width]`
    values: Vec<u16>,
}

impl KeyValues {
    /// Makes the first `tokens` those of `other`, which has the same shape.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) {
        let shape = |memory: &Self| (memory.layers, memory.head_width, memory.tokens, memory.keys.len());
        assert_eq!(shape(self), shape(other), "memories of one model");
        // Whole panels; what follows `tokens` in the last one is overwritten before it is seen.
        let tokens = tokens.next_multiple_of(PANEL).min(self.tokens);
        let (whole, part) = (self.tokens * self.head_width, tokens * self.head_width);
        for (to, from) in [(&mut self.keys, &other.keys), (&mut self.values, &other.values)] {
            for (to, from) in to.chunks_exact_mut(whole).zip(from.chunks_exact(whole)) {
                to[..part].copy_from_slice(&from[..part]);
            }
        }
    }
}

/// New tokens and where they go.
#[derive(Clone, Copy)]
struct Stored<'a> {
    attention: &'a CausalAttention,
    qkv: &'a [f32],
    position: usize,
    /// Tokens that the memory has room for.
    capacity: usize,
}

impl Stored<'_> {
    /// A head of a token's row: queries first, then keys, then values.
    #[inline(always)]
    fn head(&self, token: usize, head: usize) -> &[f32] {
        let width = self.attention.head_width;
        &self.qkv[token * self.attention.row() + head * width..][..width]
    }

    /// Turns a head of a token by its position and scales it.
    #[inline(always)]
    fn rotate(&self, token: usize, head: usize, scale: f32, mut put: impl FnMut(usize, f32)) {
        let (width, half) = (self.attention.head_width, self.attention.head_width / 2);
        let rotation = &self.attention.rotations[(self.position + token) * width..][..width];
        let (cosines, sines) = rotation.split_at(half);
        let (left, right) = self.head(token, head).split_at(half);
        for i in 0..half {
            put(i, (left[i] * cosines[i] - right[i] * sines[i]) * scale);
            put(i + half, (left[i] * sines[i] + right[i] * cosines[i]) * scale);
        }
    }
}

/// Puts keys and values of tokens into the memory.
struct Append<'a> {
    stored: Stored<'a>,
    tokens: Range<usize>,
    keys: Split<'a, u16>,
    values: Split<'a, u16>,
}

impl Kernel for Append<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { stored, tokens, keys, values } = self;
        let CausalAttention { heads, key_heads, head_width, .. } = *stored.attention;
        for token in tokens {
            let at = stored.position + token;
            for head in 0..key_heads {
                let start = head * stored.capacity * head_width;
                let panel = start + at / PANEL * PANEL * head_width + at % PANEL;
                stored.rotate(token, heads + head, 1.0, |number, key| {
                    let place = panel + number * PANEL;
                    // SAFETY: the places of a token are those of no other.
                    let key_at = unsafe { keys.slice(place..place + 1) };
                    key_at[0] = half::from_f32(key);
                });
                let start = start + at * head_width;
                // SAFETY: as above.
                let to = unsafe { values.slice(start..start + head_width) };
                for (to, value) in to.iter_mut().zip(stored.head(token, heads + key_heads + head)) {
                    *to = half::from_f32(*value);
                }
            }
        }
    }
}

/// Rows of one head of keys: its queries of the first token, of the second and so on.
struct Attend<'a> {
    stored: Stored<'a>,
    /// Of the layer.
    keys: &'a [u16],
    values: &'a [u16],
    head: usize,
    rows: Range<usize>,
    out: Split<'a, f32>,
    scratch: &'a mut Scratch,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let rows = self.rows.clone();
        for first in rows.clone().step_by(tile_rows::<V, Floats>()) {
            self.attend::<V>(first, tile_rows::<V, Floats>().min(rows.end - first));
        }
    }
}

impl Attend<'_> {
    /// Token and head of queries of a row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.stored.attention.heads / self.stored.attention.key_heads;
        (row / group, self.head * group + row % group)
    }

    /// How many tokens a row sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> usize {
        self.stored.position + self.place(row).0 + 1
    }

    #[inline(always)]
    fn attend<V: Vector>(&mut self, first: usize, rows: usize) {
        let width = self.stored.attention.head_width;
        let longest = self.seen(first + rows - 1);
        let padded = longest.next_multiple_of(PANEL);
        self.scratch.queries.resize(rows * width);
        self.scratch.scores.resize(rows * padded);
        self.scratch.wide.resize(STRETCH * width);
        self.scratch.sums.resize(rows * width);
        self.rotate_queries(first, rows);
        self.score::<V>(rows, padded);

        let mut scales = [0.0; LEAST_ROWS];
        let rows_of_scores = self.scratch.scores.as_mut_slice().chunks_exact_mut(padded);
        let group = self.stored.attention.heads / self.stored.attention.key_heads;
        for (row, (scores, scale)) in (first..).zip(rows_of_scores.zip(&mut scales)) {
            let seen = self.stored.position + row / group + 1;
            *scale = 1.0 / powers::<V>(scores, seen);
            scores[seen..].fill(0.0);
        }
        self.sum_values::<V>(rows, padded, longest);
        #[expect(clippy::needless_range_loop, reason = "a row is a place in several buffers")]
        for row in 0..rows {
            let (token, head) = self.place(first + row);
            let start = (token * self.stored.attention.heads + head) * width;
            // SAFETY: a head of a token is one row of one part of the work.
            let out = unsafe { self.out.slice(start..start + width) };
            let sums = &self.scratch.sums.as_slice()[row * width..(row + 1) * width];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * scales[row];
            }
        }
    }

    #[inline(always)]
    fn rotate_queries(&mut self, first: usize, rows: usize) {
        let width = self.stored.attention.head_width;
        // A weight is 2^(q·k).
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        for row in 0..rows {
            let (token, head) = self.place(first + row);
            let query = &mut self.scratch.queries.as_mut_slice()[row * width..(row + 1) * width];
            self.stored.rotate(token, head, scale, |number, turned| query[number] = turned);
        }
    }

    /// Products of the queries with all keys, panel by panel.
    #[inline(always)]
    fn score<V: Vector>(&mut self, rows: usize, padded: usize) {
        let width = self.stored.attention.head_width;
        let start = self.head * self.stored.capacity * width;
        let keys = &self.keys[start..start + padded * width];
        let Scratch { queries, scores, wide, .. } = &mut *self.scratch;
        let wide = &mut wide.as_mut_slice()[..width * PANEL];
        for (panel, keys) in keys.chunks_exact(width * PANEL).enumerate() {
            widen(keys, wide);
            let operands = Operands {
                a: queries.as_slice().as_ptr(),
                a_stride: width,
                b: wide.as_ptr(),
                b_stride: PANEL,
                depth: width,
            };
            // SAFETY: the buffers were sized for these rows, this panel and this width.
            unsafe {
                let to = scores.as_mut_slice().as_mut_ptr().add(panel * PANEL);
                tile::<V, Floats, _>(rows, &operands, &Store { to, stride: padded });
            }
        }
    }

    /// Sums of the values, weighted with the scores, stretch by stretch.
    #[inline(always)]
    fn sum_values<V: Vector>(&mut self, rows: usize, padded: usize, longest: usize) {
        let width = self.stored.attention.head_width;
        let start = self.head * self.stored.capacity * width;
        let values = &self.values[start..start + longest * width];
        let Scratch { scores, wide, sums, .. } = &mut *self.scratch;
        sums.as_mut_slice().fill(0.0);
        for (stretch, values) in values.chunks(STRETCH * width).enumerate() {
            let wide = &mut wide.as_mut_slice()[..values.len()];
            widen(values, wide);
            for column in (0..width).step_by(PANEL) {
                // SAFETY: as in `score`; the scores have a column for each value.
                unsafe {
                    let operands = Operands {
                        a: scores.as_slice().as_ptr().add(stretch * STRETCH),
                        a_stride: padded,
                        b: wide.as_ptr().add(column),
                        b_stride: width,
                        depth: values.len() / width,
                    };
                    let to = sums.as_mut_slice().as_mut_ptr().add(column);
                    tile::<V, Floats, _>(rows, &operands, &Accumulate { to, stride: width });
                }
            }
        }
    }
}

#[inline(always)]
fn widen(halves: &[u16], wide: &mut [f32]) {
    for (wide, half) in wide.iter_mut().zip(halves) {
        *wide = half::to_f32(*half);
    }
}

struct Store {
    to: *mut f32,
    stride: usize,
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        // SAFETY: the caller's.
        unsafe { sum.store(self.to.add(row * self.stride + column)) }
    }
}

struct Accumulate {
    to: *mut f32,
    stride: usize,
}

impl Sink for Accumulate {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.to.add(row * self.stride + column);
            sum.add(V::load(to)).store(to);
        }
    }
}
