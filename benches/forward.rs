//! The forward pass of the embedding engine against its floor: `cargo bench --bench forward`.
//!
//! Prints useful GFLOP/s (tokens × the products that a token takes part in; attention, which grows
//! with the length, is not counted), as a share of the best matrix product measured between the
//! runs, and the latency of one short query. Weights: `all-MiniLM-L6-v2` in `target/test-cache`
//! (or `RAGWAY_TEST_CACHE`).
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use ragway::{
    config::{Pooling, Precision},
    models::candle::bert::{
        encoder::Encoder,
        stock::StockEncoder,
        weights::{BertConfig, BertWeights},
    },
};
use ragway_kernels::{Buffer, Epilogue, Inputs, Isa, PackedMatrix, Team};

/// Multiplications and additions of one token in the products of the layers.
const MFLOP_A_TOKEN: f64 = 21.23;
const TURNS: usize = 7;

fn main() -> Result<()> {
    ragway::app::size_thread_pools();
    let cache = std::env::var("RAGWAY_TEST_CACHE").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("test-cache"),
        PathBuf::from,
    );
    let folder = cache.join("models").join("all-MiniLM-L6-v2");
    let load = |precision| {
        load(&folder, precision).with_context(|| format!("{}: run `cargo test` once", folder.display()))
    };
    let encoder = load(Precision::F32)?;
    let (bf16, int8) = (load(Precision::Bf16)?, load(Precision::Int8)?);
    let stock = load_stock(&folder, Device::Cpu)?;
    let texts = texts();
    let ids: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let tokens: usize = ids.iter().map(|text| text.len()).sum();
    println!("{} texts, {tokens} tokens, {} threads", ids.len(), rayon::current_num_threads());

    let (mut gemm, mut own, mut padded) = (vec![], vec![], vec![]);
    let (mut packed, mut in_bf16, mut in_int8) = (vec![], vec![], vec![]);
    let encode = |encoder: &Encoder| seconds(|| encoder.encode(&ids, Pooling::Mean, true).map(drop));
    for _ in 0..TURNS {
        gemm.push(candle_product()?);
        own.push(own_product());
        packed.push(encode(&encoder)?);
        in_bf16.push(encode(&bf16)?);
        in_int8.push(encode(&int8)?);
        padded.push(seconds(|| stock.encode(&ids, Pooling::Mean, true).map(drop))?);
    }
    let peak = gemm.iter().chain(&own).copied().fold(0.0, f64::max);
    println!("2048×384×1536 GFLOP/s: candle's gemm {:.0}, packed {:.0}", most(&gemm), most(&own));
    for (name, times) in [
        ("packed", &packed),
        ("packed, bf16", &in_bf16),
        ("packed, int8", &in_int8),
        ("candle, padded, sorted, batches of 8", &padded),
    ] {
        let best = least(times);
        let gflops = tokens as f64 * MFLOP_A_TOKEN / 1e3 / best;
        println!(
            "{name:40} best {best:.3} s, {:6.0} texts/s, {gflops:6.1} GFLOP/s = {:.2} of the best product",
            ids.len() as f64 / best,
            gflops / peak
        );
    }
    for length in [5, 10, 20, 50, 128, 256] {
        let text: &[u32] = &ids.concat()[..length];
        print!("one text of {length:3} tokens, P50/P95 ms:");
        for (name, encoder) in [("f32", &encoder), ("bf16", &bf16), ("int8", &int8)] {
            let mut times = Vec::new();
            for _ in 0..200 {
                times.push(seconds(|| encoder.encode(&[text], Pooling::Mean, true).map(drop))? * 1e3);
            }
            times.sort_by(f64::total_cmp);
            print!("  {name} {:.2}/{:.2}", times[100], times[190]);
        }
        println!();
    }
    match StockEncoder::gpu() {
        Ok(device) => compare_with_gpu(&encoder, &load_stock(&folder, device)?, &ids)?,
        Err(reason) => println!("no figures of a GPU: {reason}"),
    }
    Ok(())
}

/// 1,000 texts on both, the second of two passes: the first loads the GPU's kernels.
fn compare_with_gpu(cpu: &Encoder, gpu: &StockEncoder, texts: &[&[u32]]) -> Result<()> {
    let texts: Vec<&[u32]> = texts.iter().copied().cycle().take(1000).collect();
    for _ in 0..2 {
        let on_cpu = seconds(|| cpu.encode(&texts, Pooling::Mean, true).map(drop))?;
        let on_gpu = seconds(|| gpu.encode(&texts, Pooling::Mean, true).map(drop))?;
        println!("1,000 texts: packed on the CPU {on_cpu:.3} s, candle on the GPU {on_gpu:.3} s");
    }
    Ok(())
}

/// Ids as a mixture of questions and passages has them: 6 to 250 tokens, 46 on average.
fn texts() -> Vec<Vec<u32>> {
    let mut state = 7u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let mut text = || {
        let length = if random(2) == 0 { 6 + random(12) } else { 12 + random(20) + random(12) * random(12) };
        (0..length).map(|_| 1000 + random(28_000) as u32).collect()
    };
    (0..563).map(|_| text()).collect()
}

fn load(folder: &Path, precision: Precision) -> Result<Encoder> {
    let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let weights = BertWeights::from_safetensors(std::fs::read(folder.join("model.safetensors"))?, &config)?;
    Encoder::new(&config, weights, precision).map_err(anyhow::Error::msg)
}

fn load_stock(folder: &Path, device: Device) -> Result<StockEncoder> {
    StockEncoder::load(folder, device).map_err(anyhow::Error::from_boxed)
}

/// GFLOP/s of candle's matrix product.
fn candle_product() -> Result<f64> {
    let a = Tensor::randn(0f32, 1.0, (2048, 384), &Device::Cpu)?;
    let b = Tensor::randn(0f32, 1.0, (384, 1536), &Device::Cpu)?;
    let times = (0..10).map(|_| seconds(|| a.matmul(&b).map(drop))).collect::<Result<Vec<_>, _>>()?;
    Ok(2e-9 * 2048.0 * 384.0 * 1536.0 / least(&times))
}

/// GFLOP/s of the packed product, split among the threads.
fn own_product() -> f64 {
    let matrix =
        PackedMatrix::new(ragway_kernels::Precision::F32, &vec![0.01; 384 * 1536], &vec![0.0; 1536], 384);
    let team = Team { isa: Isa::best(), threads: rayon::current_num_threads() };
    let (x, mut out) = (vec![0.5; 2048 * 384], Buffer::zeros(2048 * 1536));
    let (mut best, mut inputs) = (f64::MAX, Inputs::default());
    for _ in 0..10 {
        let started = Instant::now();
        matrix.multiply(team, &x, Epilogue::Store, out.as_mut_slice(), &mut inputs);
        best = best.min(started.elapsed().as_secs_f64());
    }
    2e-9 * 2048.0 * 384.0 * 1536.0 / best
}

fn seconds<E>(work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
