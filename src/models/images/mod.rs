//! Pictures: from a file to the numbers that an image model reads.
//!
//! Absent here: candle, the model. What is read, how large it may be and how it
//! is scaled is the same for every image model.

mod jpeg;
mod preprocess;
mod resample;
#[cfg(test)]
mod tests;

use std::{
    io::Cursor,
    sync::{Mutex, PoisonError},
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

pub use preprocess::{BadPreprocessor, Preprocessor};

/// Most pixels of a picture; its header is asked before anything is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Larger ones are decoded one at a time, so that many of them do not fill the memory together.
const LARGE_PIXELS: u64 = 8_000_000;
/// Memory that decoding one picture may take, in bytes: 4 channels of 16 bits.
const MAX_MEMORY: u64 = 8 * MAX_PIXELS;

static LARGE: Mutex<()> = Mutex::new(());

/// Why a file is not taken as a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPicture {
    #[error("is empty")]
    NoBytes,
    #[error("is not a picture; send the bytes of a PNG, JPEG, WebP or GIF file")]
    NoPicture,
    #[error("is text, not a picture; send the bytes of a PNG, JPEG, WebP or GIF file")]
    Text,
    #[error("is a drawing in SVG; render it and send a PNG")]
    Svg,
    #[error("is a picture in a format that is not read ({0}); send PNG, JPEG, WebP or GIF")]
    Format(&'static str),
    #[error("is {0} by {1} pixels: a side of 0 shows nothing")]
    NoPixels(u32, u32),
    #[error("is {0} by {1} pixels, more than {MAX_PIXELS} in all; scale it down")]
    TooLarge(u32, u32),
    #[error("ends before its picture does; the file was cut off")]
    CutOff,
    #[error("cannot be decoded: {0}")]
    Broken(String),
}

/// The media type of a picture that [`decode`] reads, told from its first bytes.
pub fn media_type(file: &[u8]) -> Result<&'static str, BadPicture> {
    format(file).map(|format| format.to_mime_type())
}

/// Decodes a PNG, JPEG, WebP or GIF file (its first frame) to 8-bit RGB.
///
/// The picture is turned as its EXIF orientation says. Transparency is dropped,
/// not blended, palettes are looked up, grey becomes three equal channels and
/// of 16 bits the upper 8 are kept, as the reference (Pillow's
/// `convert("RGB")`) does except with 16-bit grey, which it clips to white.
/// Colour profiles are not applied.
///
/// Fails on what is not such a file, on broken and cut-off ones, and on more
/// than [`MAX_PIXELS`] by the header's word. Blocks.
pub fn decode(file: &[u8]) -> Result<RgbImage, BadPicture> {
    // A decoder that panics on a malicious file has a defect; the file is refused all the same.
    std::panic::catch_unwind(|| read(file))
        .unwrap_or_else(|_| Err(BadPicture::Broken("its decoder gave up".into())))
}

fn read(file: &[u8]) -> Result<RgbImage, BadPicture> {
    let format = format(file)?;
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| broken(&error))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(BadPicture::NoPixels(width, height));
    }
    if pixels > MAX_PIXELS {
        return Err(BadPicture::TooLarge(width, height));
    }
    // The decoder of the crate paints what is missing of a JPEG grey and reports nothing.
    if format == ImageFormat::Jpeg && !jpeg::is_complete(file) {
        return Err(BadPicture::CutOff);
    }
    let orientation = decoder.orientation().map_err(|error| broken(&error))?;
    let _turn = (pixels > LARGE_PIXELS).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    let exact = if format == ImageFormat::Jpeg { jpeg::decode(file)? } else { None };
    let mut picture = match exact {
        Some(picture) => DynamicImage::ImageRgb8(picture),
        None => DynamicImage::from_decoder(decoder).map_err(|error| broken(&error))?,
    };
    picture.apply_orientation(orientation);
    Ok(to_rgb8(picture))
}

fn format(file: &[u8]) -> Result<ImageFormat, BadPicture> {
    match image::guess_format(file) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif)) => {
            Ok(format)
        }
        Ok(other) => Err(BadPicture::Format(other.to_mime_type())),
        Err(_) => Err(explain_unknown(file)),
    }
}

fn explain_unknown(file: &[u8]) -> BadPicture {
    if file.is_empty() {
        return BadPicture::NoBytes;
    }
    let start = &file[..file.len().min(1024)];
    // A character cut in two at the end is still text.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return BadPicture::NoPicture,
    };
    if text.contains("<svg") {
        BadPicture::Svg
    } else if text.contains('\0') {
        BadPicture::NoPicture
    } else {
        BadPicture::Text
    }
}

fn broken(error: &ImageError) -> BadPicture {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => BadPicture::CutOff,
        ImageError::Limits(_) => BadPicture::Broken(format!("decoding it takes over {MAX_MEMORY} bytes")),
        other => BadPicture::Broken(other.to_string()),
    }
}

fn to_rgb8(picture: DynamicImage) -> RgbImage {
    match picture {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let deep = picture.into_rgb16();
            let (width, height) = deep.dimensions();
            let bytes = deep.into_raw().into_iter().map(|value| (value >> 8) as u8).collect();
            RgbImage::from_raw(width, height, bytes).unwrap_or_default()
        }
        other => other.into_rgb8(),
    }
}
