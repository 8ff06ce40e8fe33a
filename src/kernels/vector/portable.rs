//! Without instructions of a certain processor.

use super::Vector;

/// Plain code that a compiler turns into what the target has, NEON for example.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }
}

impl Vector for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight numbers.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for room for eight numbers.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // On x86 without FMA, `f32::mul_add` is a call for each number.
        if cfg!(target_arch = "aarch64") {
            Self(std::array::from_fn(|lane| self.0[lane].mul_add(factor.0[lane], term.0[lane])))
        } else {
            self.mul(factor).add(term)
        }
    }
    #[inline(always)]
    fn scale(self, exponent: Self) -> Self {
        self.zip(exponent, |a, n| f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23)))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    fn peak(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn dot_bf16(self, weights: Self, sum: Self) -> Self {
        let low = |pair: f32| f32::from_bits(pair.to_bits() << 16);
        let high = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
        Self(std::array::from_fn(|lane| {
            let (x, weight) = (self.0[lane], weights.0[lane]);
            sum.0[lane] + low(x) * low(weight) + high(x) * high(weight)
        }))
    }
    #[inline(always)]
    fn dot_bytes(self, weights: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            let (x, weights) = (self.0[lane].to_bits(), weights.0[lane].to_bits());
            let product = |at: u32| {
                let x = ((x >> at) & 0xff).cast_signed();
                x * ((weights << (24 - at)).cast_signed() >> 24)
            };
            let products = product(0) + product(8) + product(16) + product(24);
            f32::from_bits((sum.0[lane].to_bits().cast_signed() + products).cast_unsigned())
        }))
    }
    #[inline(always)]
    fn from_integers(self) -> Self {
        Self(self.0.map(|lane| lane.to_bits().cast_signed() as f32))
    }
}
