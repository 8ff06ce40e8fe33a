//! The reference is transformers with Pillow; `tests/golden/make_clip.py` records it.

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{RgbImage, imageops};
use serde_json::Value;

use super::{BadPicture, Preprocessor, decode, jpeg, media_type};

fn golden(file: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)).unwrap()
}

struct Case {
    file: String,
    picture: RgbImage,
    edge: usize,
    /// Every `stride`th 8-bit value of the reference.
    expected: Vec<u8>,
    stride: usize,
}

impl Case {
    /// The largest distance from the reference, in 8-bit steps.
    fn error_of(&self, bytes: &[u8]) -> u8 {
        let sample = bytes.iter().step_by(self.stride);
        assert_eq!(sample.len(), self.expected.len());
        sample.zip(&self.expected).map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap()
    }
}

fn cases() -> Vec<Case> {
    let golden_file: Value = serde_json::from_slice(&golden("clip.json")).unwrap();
    let checkpoints = golden_file["checkpoints"].as_array().unwrap();
    let of = |checkpoint: &Value| -> Vec<Case> {
        let images = checkpoint["images"].as_array().unwrap().iter();
        images
            .map(|image| {
                let file = image["file"].as_str().unwrap().to_owned();
                Case {
                    picture: decode(&golden(&format!("clip/{file}"))).unwrap(),
                    edge: checkpoint["config"]["vision_config"]["image_size"].as_u64().unwrap() as usize,
                    expected: STANDARD.decode(image["pixels"].as_str().unwrap()).unwrap(),
                    stride: golden_file["stride"].as_u64().unwrap() as usize,
                    file,
                }
            })
            .collect()
    };
    checkpoints.iter().flat_map(of).collect()
}

#[test]
fn pixels_are_those_of_the_reference() {
    let cases = cases();
    assert_eq!(cases.len(), 36);
    let errors: Vec<_> = cases
        .iter()
        .map(|case| (case.file.as_str(), case.error_of(&Preprocessor::clip(case.edge).scaled(&case.picture))))
        .collect();
    // Another decoder reads CMYK; all else is equal to the bit.
    let allowed = |file: &str| u8::from(file == "cmyk.jpg");
    assert!(errors.iter().all(|(file, error)| *error <= allowed(file)), "{errors:?}");
}

#[test]
fn wrong_pixels_are_far_from_the_reference() {
    for case in cases()
        .iter()
        .filter(|case| !["column.png", "small.png", "odd.jpg", "halved.jpg"].contains(&case.file.as_str()))
    {
        let preprocessor = Preprocessor::clip(case.edge);
        let mut bgr = case.picture.clone();
        bgr.pixels_mut().for_each(|pixel| pixel.0.reverse());
        let (width, height) = case.picture.dimensions();
        let scale = |side: u32| (u64::from(side) * case.edge as u64 / u64::from(width.min(height))) as u32;
        let aliased =
            imageops::resize(&case.picture, scale(width), scale(height), imageops::FilterType::Nearest);
        let shifted = imageops::crop_imm(&case.picture, 0, 0, width - width / 20, height - height / 20);
        for wrong in [aliased, shifted.to_image()] {
            assert!(case.error_of(&preprocessor.scaled(&wrong)) > 8, "{}", case.file);
        }
        if !case.file.starts_with("grey") {
            assert!(case.error_of(&preprocessor.scaled(&bgr)) > 8, "{}", case.file);
        }
    }
}

#[test]
fn normalised_values_are_those_of_the_reference() {
    let white = RgbImage::from_pixel(2, 2, image::Rgb([255, 0, 128]));
    let pixels = Preprocessor::clip(4).pixels(&white);
    // (1 − 0.48145466) / 0.26862954 and so on, a channel after the other.
    for (channel, expected) in [(0, 1.930_336_2), (1, -1.752_097_3), (2, 0.339_948_8)] {
        let plane = &pixels[channel * 16..(channel + 1) * 16];
        assert!(plane.iter().all(|value: &f32| (value - expected).abs() < 1e-5), "{plane:?}");
    }
}

#[test]
fn what_is_no_picture_is_refused_with_what_to_do() {
    let refused = |file: &[u8]| decode(file).unwrap_err();
    assert_eq!(refused(b""), BadPicture::NoBytes);
    assert_eq!(refused("Où est le bac ?".as_bytes()), BadPicture::Text);
    assert_eq!(refused(b"<?xml version=\"1.0\"?>\n<svg xmlns=\"\"></svg>"), BadPicture::Svg);
    assert_eq!(refused(&[0x00, 0xFF, 0x13, 0x37]), BadPicture::NoPicture);
    assert_eq!(refused(b"BM\x3a\0\0\0\0\0\0\0"), BadPicture::Format("image/bmp"));
    assert_eq!(media_type(&golden("clip/animated.gif")), Ok("image/gif"));
    assert_eq!(media_type(&golden("clip/lossy.webp")), Ok("image/webp"));
    assert!(media_type(b"BM\x3a\0\0\0\0\0\0\0").is_err());
}

#[test]
fn cut_off_and_broken_files_are_refused() {
    for file in [
        "landscape.jpg",
        "portrait.jpg",
        "cmyk.jpg",
        "palette.png",
        "lossy.webp",
        "lossless.webp",
        "animated.gif",
    ] {
        let whole = golden(&format!("clip/{file}"));
        let frame = if file == "animated.gif" { whole.len() / 2 } else { whole.len() };
        for length in [frame / 3, frame * 4 / 5] {
            assert!(decode(&whole[..length]).is_err(), "{file} cut to {length} of {}", whole.len());
        }
        let mut broken = whole.clone();
        broken[16..].iter_mut().for_each(|byte| *byte ^= 0x5A);
        assert!(decode(&broken).is_err(), "{file}");
    }
    // A thumbnail's end is not the picture's.
    let mut thumbnailed = golden("clip/landscape.jpg");
    thumbnailed.splice(2..2, [0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9]);
    assert!(decode(&thumbnailed).is_ok());
    let length = thumbnailed.len() / 2;
    assert_eq!(decode(&thumbnailed[..length]).unwrap_err(), BadPicture::CutOff);
}

#[test]
fn sizes_are_judged_by_the_header() {
    let sized = |width: u32, height: u32| {
        let mut file = golden("clip/palette.png");
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let sum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&sum.to_be_bytes());
        decode(&file).unwrap_err()
    };
    assert_eq!(sized(100_000, 100_000), BadPicture::TooLarge(100_000, 100_000));
    assert_eq!(sized(64_001, 1000), BadPicture::TooLarge(64_001, 1000));
    // Its decoder refuses before the size can be asked.
    assert!(matches!(sized(u32::MAX >> 1, 3), BadPicture::Broken(_)));
    assert!(!matches!(sized(0, 0), BadPicture::TooLarge(..)));
    let mut gif = golden("clip/animated.gif");
    gif[6..10].fill(0);
    assert_eq!(decode(&gif).unwrap_err(), BadPicture::NoPixels(0, 0));
}

#[test]
fn a_very_long_picture_costs_what_its_middle_costs() {
    // Scaled whole it would have 224 × 4,480,000 pixels.
    for (width, height) in [(1, 20_000), (20_000, 1)] {
        let pixels =
            Preprocessor::clip(224).scaled(&RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7])));
        assert_eq!(pixels.len(), 224 * 224 * 3);
        assert!(pixels.chunks(3).all(|pixel| pixel == [9, 8, 7]));
    }
}

/// Not through [`decode`], which catches panics.
#[test]
fn damaged_jpeg_files_do_not_panic() {
    for file in ["odd.jpg", "halved.jpg"] {
        let whole = golden(&format!("clip/{file}"));
        // The size stays: it is judged before.
        let frame = whole.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0 | 0xC2])).unwrap();
        let size = frame..frame + 10;
        let mut random = 1u64;
        let mut refused = 0;
        for _ in 0..150 {
            let mut damaged = whole.clone();
            for _ in 0..3 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 33) as usize % damaged.len();
                if !size.contains(&at) {
                    damaged[at] = (random >> 24) as u8;
                }
            }
            refused += usize::from(jpeg::decode(&damaged).is_err());
            let length = (random >> 33) as usize % whole.len();
            assert!(!jpeg::decode(&whole[..length]).is_ok_and(|picture| picture.is_some()), "{length}");
        }
        assert!(refused > 20, "{refused}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}
