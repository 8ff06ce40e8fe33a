//! The frame: sizes and components (T.81, annexes A.1, A.2 and B.2.2).

use super::{BadPicture, broken};

pub(super) struct Frame {
    pub width: usize,
    pub height: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Minimum coded units across and down, when all components are interleaved.
    pub units: (usize, usize),
}

pub(super) struct Component {
    pub id: u8,
    pub quantization_id: usize,
    /// In zigzag order; set by the component's first scan.
    pub quantization: Option<[u16; 64]>,
    /// Blocks of a unit across and down.
    pub sampling: (usize, usize),
    /// Full-size pixels that one sample stands for, across and down.
    pub stretch: (usize, usize),
    /// Samples that show something.
    pub width: usize,
    pub height: usize,
    /// Blocks of a row, those that only fill a unit included.
    pub stride: usize,
    /// Coefficients of each block, in natural order.
    pub blocks: Vec<[i16; 64]>,
}

impl Frame {
    /// Parses a start of frame. None: a kind that is not read here.
    pub fn parse(segment: &[u8], progressive: bool) -> Result<Option<Self>, BadPicture> {
        let [precision, h1, h0, w1, w0, count, parts @ ..] = segment else {
            return Err(broken("a short frame header"));
        };
        let height = usize::from(u16::from_be_bytes([*h1, *h0]));
        let width = usize::from(u16::from_be_bytes([*w1, *w0]));
        if *precision != 8 || !matches!(count, 1 | 3) || width == 0 || height == 0 {
            return Ok(None);
        }
        let parts = parts.get(..3 * usize::from(*count)).ok_or_else(|| broken("a short frame header"))?;
        let sampling = |part: &[u8]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        let samplings: Vec<_> = parts.chunks(3).map(sampling).collect();
        let largest = samplings.iter().fold((1, 1), |most, one| (most.0.max(one.0), most.1.max(one.1)));
        let fits = |(across, down): &(usize, usize)| {
            (1..=4).contains(across)
                && (1..=4).contains(down)
                && largest.0 % across == 0
                && largest.1 % down == 0
        };
        if !samplings.iter().all(fits) {
            return Ok(None);
        }
        let units = (width.div_ceil(8 * largest.0), height.div_ceil(8 * largest.1));
        let component = |(part, sampling): (&[u8], &(usize, usize))| {
            let stride = units.0 * sampling.0;
            Component {
                id: part[0],
                quantization_id: usize::from(part[2] & 3),
                quantization: None,
                sampling: *sampling,
                stretch: (largest.0 / sampling.0, largest.1 / sampling.1),
                width: (width * sampling.0).div_ceil(largest.0),
                height: (height * sampling.1).div_ceil(largest.1),
                stride,
                blocks: vec![[0; 64]; stride * units.1 * sampling.1],
            }
        };
        let components = parts.chunks(3).zip(&samplings).map(component).collect();
        Ok(Some(Self { width, height, progressive, components, units }))
    }
}
