//! ragway's engine, and candle's own BERT, for `run.py`: commands on standard input, one JSON a line,
//! answers on standard output.
#![expect(clippy::print_stdout, reason = "it answers on standard output")]

use std::{
    io::{self, BufRead, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{Device, Tensor};
use ragway::{
    config::{Pooling, Precision},
    models::candle::bert::{
        encoder::Encoder,
        stock::StockEncoder,
        weights::{BertConfig, BertWeights},
    },
};
use serde::{Deserialize, de::IntoDeserializer};
use serde_json::json;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
enum Command {
    /// Ids of the texts that the others name by index.
    Texts { ids: Vec<Vec<u32>> },
    /// Embeds all texts in calls of `batch` texts; 0: in one call.
    All { batch: usize },
    /// Embeds one text.
    One { index: usize },
    /// Vectors of the last `all`.
    Vectors,
    /// GFLOP/s of candle's matrix product.
    Peak,
}

enum Model {
    Ragway(Box<Encoder>),
    Candle(Box<StockEncoder>),
}

fn main() -> Result<()> {
    ragway::app::size_thread_pools();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, folder] = arguments.as_slice() else {
        bail!("usage: engine f32|bf16|int8|candle MODEL_FOLDER")
    };
    let model = Model::load(kind, Path::new(folder))?;
    println!("{}", json!({"threads": rayon::current_num_threads()}));
    let (mut texts, mut vectors) = (Vec::new(), Vec::new());
    for line in io::stdin().lock().lines() {
        let started = Instant::now();
        let answer = match serde_json::from_str(&line?).context("a command")? {
            Command::Texts { ids } => {
                texts = ids;
                json!({})
            }
            Command::All { batch } => {
                vectors = model.all(&texts, batch)?;
                json!({"seconds": started.elapsed().as_secs_f64()})
            }
            Command::One { index } => {
                model.embed(&[&texts[index]])?;
                json!({"seconds": started.elapsed().as_secs_f64()})
            }
            Command::Vectors => json!({"vectors": vectors}),
            Command::Peak => json!({"gflops": peak()?}),
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

impl Model {
    fn load(kind: &str, folder: &Path) -> Result<Self> {
        Ok(match kind {
            "candle" => {
                let stock = StockEncoder::load(folder, Device::Cpu).map_err(anyhow::Error::msg)?;
                Model::Candle(Box::new(stock))
            }
            precision => {
                let precision = Precision::deserialize(precision.into_deserializer())
                    .map_err(|error: serde::de::value::Error| anyhow!("engine `{precision}`: {error}"))?;
                let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
                let file = std::fs::read(folder.join("model.safetensors"))?;
                let weights = BertWeights::from_safetensors(file, &config)?;
                let encoder = Encoder::new(&config, weights, precision).map_err(anyhow::Error::msg)?;
                Model::Ragway(Box::new(encoder))
            }
        })
    }

    /// Batches of texts of like length, which only the padded model needs.
    fn all(&self, texts: &[Vec<u32>], batch: usize) -> Result<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        if matches!(self, Model::Candle(_)) {
            order.sort_by_key(|&index| texts[index].len());
        }
        let mut vectors = vec![Vec::new(); texts.len()];
        for batch in order.chunks(if batch == 0 { texts.len() } else { batch }) {
            let ids: Vec<&[u32]> = batch.iter().map(|&index| texts[index].as_slice()).collect();
            for (&index, vector) in batch.iter().zip(self.embed(&ids)?) {
                vectors[index] = vector;
            }
        }
        Ok(vectors)
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        match self {
            Model::Ragway(encoder) => Ok(encoder.encode(texts, Pooling::Mean, true)?),
            Model::Candle(model) => Ok(model.pass(texts, Pooling::Mean, true)?),
        }
    }
}

/// The best of 20 products of 2048×384×1536.
fn peak() -> candle_core::Result<f64> {
    let a = Tensor::randn(0f32, 1.0, (2048, 384), &Device::Cpu)?;
    let b = Tensor::randn(0f32, 1.0, (384, 1536), &Device::Cpu)?;
    let mut best = f64::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        a.matmul(&b)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2e-9 * 2048.0 * 384.0 * 1536.0 / best)
}
