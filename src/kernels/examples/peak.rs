//! GFLOP/s of the packed product on one thread and on two: a measure, not a test.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints")]

use std::time::Instant;

use ragway_kernels::{Buffer, Epilogue, Isa, PackedMatrix, Team};
fn main() {
    for isa in Isa::available() {
        for (rows, inputs, outputs) in [
            (2048, 384, 1536),
            (128, 384, 1536),
            (128, 384, 384),
            (128, 1536, 384),
            (60, 384, 1536),
            (10, 384, 1536),
            (10, 1536, 384),
        ] {
            let m = PackedMatrix::new(&vec![0.01; inputs * outputs], &vec![0.0; outputs], inputs);
            let x = vec![0.5f32; rows * inputs];
            for epi in [Epilogue::Store, Epilogue::Gelu] {
                for threads in [1, 2] {
                    let best = std::thread::scope(|s| {
                        let hs: Vec<_> = (0..threads)
                            .map(|_| {
                                s.spawn(|| {
                                    let mut out = Buffer::zeros(rows * outputs);
                                    let mut best = f64::MAX;
                                    let start = Instant::now();
                                    while start.elapsed().as_secs_f64() < 0.15 {
                                        let t = Instant::now();
                                        m.multiply(Team::alone(isa), &x, epi, out.as_mut_slice());
                                        best = best.min(t.elapsed().as_secs_f64());
                                    }
                                    best
                                })
                            })
                            .collect();
                        hs.into_iter()
                            .map(|h| 2e-9 * (rows * inputs * outputs) as f64 / h.join().unwrap())
                            .sum::<f64>()
                    });
                    print!("{isa:?} {rows}x{inputs}x{outputs} {epi:?} {threads}: {best:.1}   ");
                }
            }
            println!();
        }
    }
}
