//! Bicubic resampling with antialiasing, equal to Pillow's bit for bit.
//!
//! Cubic convolution (Keys 1981, a = −0.5) whose support grows with the
//! reduction; two passes, each rounded to 8 bits, weights in 22-bit fixed point.

use std::ops::Range;

use image::RgbImage;

const CHANNELS: usize = 3;
/// Fraction bits of a weight: a sum of 8-bit values needs 8, overshoot and sign 2 more of the 32.
const PRECISION: u32 = 32 - 8 - 2;

/// A part of a resized picture.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The whole resized picture, in pixels.
    pub width: usize,
    pub height: usize,
    /// What is wanted of it.
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// Resizes and cuts: only what the part needs is computed, so that the cost of a very long picture
/// is that of the part. Returns rows × columns × 3 bytes.
pub(super) fn resize(picture: &RgbImage, part: &Part) -> Vec<u8> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let across = taps(width, part.width, part.columns.clone());
    let down = taps(height, part.height, part.rows.clone());
    let needed = Grid::cut(picture, &across, &down);
    // Each pass rounds, so that the order shows; Pillow 13 takes columns first where that is much cheaper.
    let resized = if height > 2 * width && part.height < height {
        needed.down(&down).across(&across)
    } else {
        needed.across(&across).down(&down)
    };
    resized.bytes
}

/// Pixels, row after row.
struct Grid {
    /// In bytes.
    width: usize,
    bytes: Vec<u8>,
}

impl Grid {
    /// The source pixels that taps reach.
    fn cut(picture: &RgbImage, across: &[Taps], down: &[Taps]) -> Self {
        let (columns, rows) = (reach(across), reach(down));
        let line = picture.width() as usize * CHANNELS;
        let rows = picture.as_raw()[rows.start * line..rows.end * line].chunks_exact(line);
        let columns = columns.start * CHANNELS..columns.end * CHANNELS;
        let parts: Vec<&[u8]> = rows.map(|row| &row[columns.clone()]).collect();
        Self { width: columns.len(), bytes: parts.concat() }
    }

    fn across(&self, across: &[Taps]) -> Self {
        let (first, width) = (reach(across).start, across.len() * CHANNELS);
        let mut bytes = vec![0; self.bytes.len() / self.width * width];
        for (row, out) in self.bytes.chunks_exact(self.width).zip(bytes.chunks_exact_mut(width)) {
            for (taps, pixel) in across.iter().zip(out.chunks_exact_mut(CHANNELS)) {
                let near = row[(taps.start - first) * CHANNELS..].chunks_exact(CHANNELS);
                pixel.copy_from_slice(&weighted(taps, near));
            }
        }
        Self { width, bytes }
    }

    fn down(&self, down: &[Taps]) -> Self {
        let first = reach(down).start;
        let mut bytes = vec![0; down.len() * self.width];
        for (taps, out) in down.iter().zip(bytes.chunks_exact_mut(self.width)) {
            for (column, pixel) in out.chunks_exact_mut(CHANNELS).enumerate() {
                let top = (taps.start - first) * self.width + column * CHANNELS;
                let near = self.bytes[top..].chunks(self.width).map(|row| &row[..CHANNELS]);
                pixel.copy_from_slice(&weighted(taps, near));
            }
        }
        Self { width: self.width, bytes }
    }
}

/// The source pixels of an axis that taps reach.
fn reach(taps: &[Taps]) -> Range<usize> {
    let start = taps.first().map_or(0, |taps| taps.start);
    let end = taps.iter().map(|taps| taps.start + taps.weights.len()).max().unwrap_or(0);
    start..end
}

/// Which source pixels make a target pixel, and how much each counts.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

fn weighted<'a>(taps: &Taps, near: impl Iterator<Item = &'a [u8]>) -> [u8; CHANNELS] {
    let mut sums = [1i32 << (PRECISION - 1); CHANNELS];
    for (weight, pixel) in taps.weights.iter().zip(near) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(*value);
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

/// The taps of the target pixels `wanted`, along an axis of `source` pixels scaled to `target`.
fn taps(source: usize, target: usize, wanted: Range<usize>) -> Vec<Taps> {
    let scale = source as f64 / target as f64;
    // Reducing widens the filter; enlarging does not narrow it.
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    wanted
        .map(|pixel| {
            let centre = (pixel as f64 + 0.5) * scale;
            // The cast cuts negative values to 0.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let weights: Vec<f64> =
                (start..end).map(|near| cubic((near as f64 - centre + 0.5) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            Taps { start, weights: weights.iter().map(|weight| fixed(weight / sum)).collect() }
        })
        .collect()
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Rounds half away from zero.
fn fixed(weight: f64) -> i32 {
    (weight * f64::from(1u32 << PRECISION)).round() as i32
}
