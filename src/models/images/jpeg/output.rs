//! From coefficients to pixels: planes of samples, coarse ones enlarged, colours converted.

use image::RgbImage;

use super::{
    BadPicture, broken,
    frame::{Component, Frame},
    transform::samples,
};

/// The picture of a frame whose scans were all read. `rgb`: its components are red, green and blue.
pub(super) fn picture(frame: Frame, rgb: bool) -> Result<RgbImage, BadPicture> {
    let (width, height) = (frame.width, frame.height);
    // One after the other, so that each gives its coefficients back.
    let planes = frame.components.into_iter().map(Plane::new).collect::<Result<Vec<_>, _>>()?;
    let mut pixels = vec![0; 3 * width * height];
    let mut lines = vec![Vec::with_capacity(width + 4); planes.len()];
    for (y, out) in pixels.chunks_exact_mut(3 * width).enumerate() {
        for (plane, line) in planes.iter().zip(&mut lines) {
            plane.enlarged(y, line);
        }
        match lines.as_slice() {
            [grey] => out.chunks_exact_mut(3).zip(grey).for_each(|(pixel, grey)| pixel.fill(*grey)),
            [first, second, third] => {
                let values = first.iter().zip(second).zip(third);
                for (pixel, ((first, second), third)) in out.chunks_exact_mut(3).zip(values) {
                    let values = [*first, *second, *third];
                    pixel.copy_from_slice(&if rgb { values } else { from_ycc(values) });
                }
            }
            _ => return Err(broken("an odd number of components")),
        }
    }
    let size = (width as u32, height as u32);
    RgbImage::from_raw(size.0, size.1, pixels).ok_or_else(|| broken("a wrong size"))
}

/// JFIF's colours, in 16-bit fixed point.
fn from_ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Samples of a component.
struct Plane {
    samples: Vec<u8>,
    width: usize,
    height: usize,
    stride: usize,
    stretch: (usize, usize),
}

impl Plane {
    fn new(component: Component) -> Result<Self, BadPicture> {
        let quantization =
            component.quantization.ok_or_else(|| broken("a component without scan or quantization table"))?;
        let stride = 8 * component.stride;
        let mut plane = vec![0; 64 * component.blocks.len()];
        let rows = component.blocks.chunks_exact(component.stride);
        for (blocks, out) in rows.zip(plane.chunks_exact_mut(8 * stride)) {
            for (x, block) in blocks.iter().enumerate() {
                for (line, row) in
                    samples(block, &quantization).chunks_exact(8).zip(out.chunks_exact_mut(stride))
                {
                    row[8 * x..8 * x + 8].copy_from_slice(line);
                }
            }
        }
        let Component { width, height, stretch, .. } = component;
        Ok(Self { samples: plane, width, height, stride, stretch })
    }

    /// Row `y` of the full size; the line may be a little longer than the picture is wide.
    ///
    /// Halved chroma is enlarged by a triangle filter, ¾ of the nearer and ¼ of the farther sample,
    /// with libjpeg's alternating rounding; other ratios by repetition.
    fn enlarged(&self, y: usize, line: &mut Vec<u8>) {
        line.clear();
        // The filter across needs three samples.
        let filtered = self.width > 2;
        match self.stretch {
            (2, 1) if filtered => across(self.row(y), line),
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                let rows = self.row(y / 2).iter().zip(self.row(self.farther(y)));
                line.extend(
                    rows.map(|(near, far)| ((3 * u16::from(*near) + u16::from(*far) + bias) >> 2) as u8),
                );
            }
            (2, 2) if filtered => {
                let rows = self.row(y / 2).iter().zip(self.row(self.farther(y)));
                let sums: Vec<u16> = rows.map(|(near, far)| 3 * u16::from(*near) + u16::from(*far)).collect();
                across_sums(&sums, line);
            }
            (wide, high) => {
                line.extend(self.row(y / high).iter().flat_map(|sample| std::iter::repeat_n(*sample, wide)));
            }
        }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..y * self.stride + self.width]
    }

    /// Of the two rows that a full-size row lies between, the one farther away; the edge is repeated.
    fn farther(&self, y: usize) -> usize {
        let near = y / 2;
        if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) }
    }
}

fn across(row: &[u8], line: &mut Vec<u8>) {
    let last = row.len() - 1;
    for (x, sample) in row.iter().enumerate() {
        let near = 3 * u16::from(*sample);
        let left = if x == 0 { *sample } else { ((near + u16::from(row[x - 1]) + 1) >> 2) as u8 };
        let right = if x == last { *sample } else { ((near + u16::from(row[x + 1]) + 2) >> 2) as u8 };
        line.extend([left, right]);
    }
}

/// The same for sums of two rows, which are four times as large.
fn across_sums(sums: &[u16], line: &mut Vec<u8>) {
    let last = sums.len() - 1;
    for (x, sum) in sums.iter().enumerate() {
        let left = if x == 0 { *sum } else { sums[x - 1] };
        let right = if x == last { *sum } else { sums[x + 1] };
        line.extend([(3 * sum + left + 8) >> 4, (3 * sum + right + 7) >> 4].map(|value| value as u8));
    }
}
