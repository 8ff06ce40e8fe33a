//! GFLOP/s (10⁹ multiplications and additions a second) of the packed product by precision, shape
//! and instruction set, on one thread and on two: a measure, not a test.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints")]

use std::time::Instant;

use ragway_kernels::{Buffer, Epilogue, Inputs, Isa, PackedMatrix, Precision, Team};

const SHAPES: [(usize, usize, usize); 5] =
    [(2048, 384, 1536), (128, 384, 1536), (128, 1536, 384), (10, 384, 1536), (10, 1536, 384)];

fn main() {
    for isa in Isa::available() {
        println!("{isa:?}");
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for (rows, inputs, outputs) in SHAPES {
                let weights = vec![0.01; inputs * outputs];
                let matrix = PackedMatrix::new(precision, &weights, &vec![0.0; outputs], inputs);
                let rate = |epilogue, threads| rate(&matrix, rows, epilogue, isa, threads);
                let (store, gelu) = (rate(Epilogue::Store, 1), rate(Epilogue::Gelu, 1));
                println!(
                    "  {precision:?} {rows}×{inputs}×{outputs}: {store:.0}, with GELU {gelu:.0}, two threads {:.0}",
                    rate(Epilogue::Store, 2)
                );
            }
        }
    }
}

/// Of `threads` threads that each compute the whole product, together.
fn rate(matrix: &PackedMatrix, rows: usize, epilogue: Epilogue, isa: Isa, threads: usize) -> f64 {
    let work = || {
        let (x, mut out) = (vec![0.5; rows * matrix.inputs()], Buffer::zeros(rows * matrix.outputs()));
        let (mut inputs, mut best, start) = (Inputs::default(), f64::MAX, Instant::now());
        while start.elapsed().as_secs_f64() < 0.1 {
            let started = Instant::now();
            matrix.multiply(Team::alone(isa), &x, epilogue, out.as_mut_slice(), &mut inputs);
            best = best.min(started.elapsed().as_secs_f64());
        }
        2e-9 * (rows * matrix.inputs() * matrix.outputs()) as f64 / best
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    })
}
