//! JPEG, decoded to the very values that libjpeg-turbo gives.
//!
//! The standard (ITU-T T.81) leaves a decoder some freedom in the inverse
//! transform and all of it in how coarse colour is enlarged. The reference
//! preprocessing reads JPEG with libjpeg-turbo, so vectors are only the same
//! where both choose alike: its accurate integer transform, its triangle filter
//! for chroma, its 16-bit colour conversion.
//!
//! Grey and three-channel Huffman files, sequential and progressive, are read
//! here; the rest (CMYK, 12 bits, arithmetic coding) is left to the `image` crate.

mod bits;
mod complete;
mod frame;
mod output;
mod scan;
mod transform;

use image::RgbImage;

use super::BadPicture;
use bits::HuffmanTable;
use frame::Frame;
use scan::Scan;

pub(super) use complete::is_complete;

/// Scans of a progressive file at most; encoders write about ten, and each may cost a pass over the picture.
const MAX_SCANS: usize = 100;

/// Decodes a file whose size was judged; none: it is of a kind that is not read here.
///
/// The picture is not turned.
pub(super) fn decode(file: &[u8]) -> Result<Option<RgbImage>, BadPicture> {
    let mut decoder = Decoder { rest: file, ..Decoder::default() };
    decoder.run()
}

fn broken(what: &str) -> BadPicture {
    BadPicture::Broken(format!("Format error decoding Jpeg: {what}"))
}

/// What the segments read so far have set.
#[derive(Default)]
struct Decoder<'a> {
    rest: &'a [u8],
    frame: Option<Frame>,
    /// By class (DC, AC) and identifier.
    huffman: [[Option<HuffmanTable>; 4]; 2],
    /// In zigzag order.
    quantization: [Option<[u16; 64]>; 4],
    restart_interval: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    scans: usize,
}

impl Decoder<'_> {
    fn run(&mut self) -> Result<Option<RgbImage>, BadPicture> {
        loop {
            let marker = self.marker()?;
            match marker {
                0xD8 | 0x01 | 0xD0..=0xD7 => continue,
                0xD9 => return self.finish(),
                _ => {}
            }
            let segment = self.segment()?;
            match marker {
                0xC0..=0xC2 => {
                    if self.frame.is_some() {
                        return Err(broken("two frames"));
                    }
                    match Frame::parse(segment, marker == 0xC2)? {
                        Some(frame) => self.frame = Some(frame),
                        None => return Ok(None),
                    }
                }
                0xC4 => self.read_huffman(segment)?,
                0xC3 | 0xC5..=0xCF => return Ok(None),
                0xDA => self.read_scan(segment)?,
                0xDB => self.read_quantization(segment)?,
                0xDD => {
                    let interval = segment.first_chunk().ok_or_else(|| broken("a short DRI segment"))?;
                    self.restart_interval = usize::from(u16::from_be_bytes(*interval));
                }
                0xE0 => self.jfif |= segment.starts_with(b"JFIF\0"),
                0xEE if segment.starts_with(b"Adobe") => self.adobe_transform = segment.get(11).copied(),
                _ => {}
            }
        }
    }

    /// The next marker; bytes before it are skipped, as libjpeg does.
    fn marker(&mut self) -> Result<u8, BadPicture> {
        loop {
            let at = self.rest.iter().position(|byte| *byte == 0xFF).ok_or(BadPicture::CutOff)?;
            let filled = self.rest[at..].iter().position(|byte| *byte != 0xFF).ok_or(BadPicture::CutOff)?;
            let marker = self.rest[at + filled];
            self.rest = &self.rest[at + filled + 1..];
            if marker != 0 {
                return Ok(marker);
            }
        }
    }

    fn segment<'b>(&mut self) -> Result<&'b [u8], BadPicture>
    where
        Self: 'b,
    {
        let length = self.rest.first_chunk().ok_or(BadPicture::CutOff)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let segment = self.rest.get(2..length.max(2)).ok_or(BadPicture::CutOff)?;
        self.rest = &self.rest[length.max(2)..];
        Ok(segment)
    }

    fn read_huffman(&mut self, mut segment: &[u8]) -> Result<(), BadPicture> {
        let short = || broken("a short DHT segment");
        while let Some((&kind, rest)) = segment.split_first() {
            let counts = rest.first_chunk::<16>().ok_or_else(short)?;
            let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let symbols = rest.get(16..16 + total).ok_or_else(short)?;
            let (class, id) = (usize::from(kind >> 4), usize::from(kind & 15));
            let table = HuffmanTable::new(counts, symbols).ok_or_else(|| broken("a bad Huffman table"))?;
            let place = self.huffman.get_mut(class).and_then(|tables| tables.get_mut(id));
            *place.ok_or_else(|| broken("a Huffman table of an unknown kind"))? = Some(table);
            segment = &rest[16 + total..];
        }
        Ok(())
    }

    fn read_quantization(&mut self, mut segment: &[u8]) -> Result<(), BadPicture> {
        let short = || broken("a short DQT segment");
        while let Some((&kind, rest)) = segment.split_first() {
            let wide = kind >> 4 != 0;
            let bytes = rest.get(..if wide { 128 } else { 64 }).ok_or_else(short)?;
            let value = |index: usize| match wide {
                true => u16::from_be_bytes([bytes[2 * index], bytes[2 * index + 1]]),
                false => u16::from(bytes[index]),
            };
            let place = self.quantization.get_mut(usize::from(kind & 15));
            *place.ok_or_else(|| broken("a quantization table of an unknown kind"))? =
                Some(std::array::from_fn(value));
            segment = &rest[bytes.len()..];
        }
        Ok(())
    }

    fn read_scan(&mut self, segment: &[u8]) -> Result<(), BadPicture> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(broken("too many scans"));
        }
        let frame = self.frame.as_mut().ok_or_else(|| broken("a scan before its frame"))?;
        let scan = Scan::parse(segment, frame)?;
        for &(component, _, _) in &scan.components {
            // A table may be replaced between scans: a component keeps the one of its first.
            let component = &mut frame.components[component];
            if component.quantization.is_none() {
                component.quantization = self.quantization[component.quantization_id];
            }
        }
        self.rest = scan.read(self.rest, frame, &self.huffman, self.restart_interval)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<RgbImage>, BadPicture> {
        let frame = self.frame.take().ok_or_else(|| broken("no frame"))?;
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        let rgb = match (self.jfif, self.adobe_transform) {
            (true, _) => false,
            (false, Some(transform)) => transform == 0,
            (false, None) => ids == *b"RGB",
        };
        output::picture(frame, rgb).map(Some)
    }
}
