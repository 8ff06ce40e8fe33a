//! Scaling, cutting and normalising, as `CLIPImageProcessor` of transformers does.

use image::RgbImage;
use serde::Deserialize;

use super::resample::{Part, resize};

/// Mean and standard deviation of the pictures that OpenAI's CLIP was trained on, by channel.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Pillow's number of the bicubic filter.
const BICUBIC: u8 = 3;

/// How pictures become a model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// The shorter side is scaled to this, in pixels.
    shortest_edge: usize,
    /// Then a square of this side is cut from the middle.
    edge: usize,
    mean: [f32; 3],
    std: [f32; 3],
}

/// A `preprocessor_config.json` that asks for something else.
#[derive(Debug, thiserror::Error)]
pub enum BadPreprocessor {
    #[error("preprocessor_config.json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("preprocessor_config.json: {0} is not supported")]
    Unsupported(&'static str),
    #[error("preprocessor_config.json: the model reads squares of {model} pixels, not of {cut}")]
    Edge { model: usize, cut: usize },
}

impl Preprocessor {
    /// OpenAI's values, for a model that reads squares of `edge` pixels.
    pub fn clip(edge: usize) -> Self {
        Self { shortest_edge: edge, edge, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// What `preprocessor_config.json` says; what it leaves out is as [`Preprocessor::clip`].
    pub fn parse(json: &[u8], edge: usize) -> Result<Self, BadPreprocessor> {
        let file: File = serde_json::from_slice(json)?;
        if !(file.do_resize && file.do_center_crop && file.do_rescale && file.do_normalize) {
            return Err(BadPreprocessor::Unsupported("leaving out a step"));
        }
        if file.resample != BICUBIC {
            return Err(BadPreprocessor::Unsupported("a filter other than bicubic"));
        }
        if (file.rescale_factor - 1.0 / 255.0).abs() > 1e-9 {
            return Err(BadPreprocessor::Unsupported("a rescale_factor other than 1/255"));
        }
        let shortest_edge = file.size.map_or(Ok(edge), Side::shortest)?;
        let cut = file.crop_size.map_or(Ok(edge), Side::square)?;
        if cut != edge {
            return Err(BadPreprocessor::Edge { model: edge, cut });
        }
        if shortest_edge < cut {
            return Err(BadPreprocessor::Unsupported("a crop_size larger than size"));
        }
        Ok(Self { shortest_edge, edge, mean: file.image_mean, std: file.image_std })
    }

    /// Side of the square that [`Preprocessor::pixels`] gives.
    pub fn edge(&self) -> usize {
        self.edge
    }

    /// Values of 3 channels × `edge` rows × `edge` columns. CPU work: a few milliseconds a megapixel.
    pub fn pixels(&self, picture: &RgbImage) -> Vec<f32> {
        let bytes = self.scaled(picture);
        let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| self.table(channel));
        let channel =
            |channel: usize| bytes.iter().skip(channel).step_by(3).map(move |value| (channel, value));
        (0..3).flat_map(channel).map(|(channel, value)| tables[channel][usize::from(*value)]).collect()
    }

    /// The square as 8-bit values: `edge` rows × `edge` columns × 3 channels.
    pub fn scaled(&self, picture: &RgbImage) -> Vec<u8> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let scale = |side: usize| self.shortest_edge * side / width.min(height);
        let (width, height) = (scale(width), scale(height));
        let (left, top) = ((width - self.edge) / 2, (height - self.edge) / 2);
        resize(picture, &Part { width, height, columns: left..left + self.edge, rows: top..top + self.edge })
    }

    fn table(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[channel], self.std[channel]);
        std::array::from_fn(|value| ((value as f64 / 255.0) as f32 - mean) / std)
    }
}

/// `preprocessor_config.json`, as far as it changes values.
#[derive(Deserialize)]
#[serde(default)]
struct File {
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
    resample: u8,
    rescale_factor: f64,
    size: Option<Side>,
    crop_size: Option<Side>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for File {
    fn default() -> Self {
        Self {
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            resample: BICUBIC,
            rescale_factor: 1.0 / 255.0,
            size: None,
            crop_size: None,
            image_mean: CLIP_MEAN,
            image_std: CLIP_STD,
        }
    }
}

/// A size as the versions of the file write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Side {
    Number(usize),
    Shortest { shortest_edge: usize },
    Both { height: usize, width: usize },
}

impl Side {
    fn shortest(self) -> Result<usize, BadPreprocessor> {
        match self {
            Side::Number(side) | Side::Shortest { shortest_edge: side } => Ok(side),
            Side::Both { .. } => Err(BadPreprocessor::Unsupported("a size of height and width")),
        }
    }

    fn square(self) -> Result<usize, BadPreprocessor> {
        match self {
            Side::Number(side) => Ok(side),
            Side::Both { height, width } if height == width => Ok(height),
            Side::Both { .. } | Side::Shortest { .. } => {
                Err(BadPreprocessor::Unsupported("a crop_size that is no square"))
            }
        }
    }
}
