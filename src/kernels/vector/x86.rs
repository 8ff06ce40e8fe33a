//! AVX-512 and AVX2.

use std::arch::x86_64::*;

use super::Vector;

/// The second bfloat16 of a lane.
const HIGH_HALF: i32 = 0xffff_0000_u32.cast_signed();
/// Bytes 0 and 2 of a lane.
const EVEN_BYTES: i32 = 0x00ff_00ff;

/// `EXTENDED`: with the extension that its kernel names.
#[derive(Clone, Copy)]
pub struct Avx512<const EXTENDED: bool>(__m512);

// SAFETY of every `unsafe` below: the type is used only inside `dispatch`, after its
// instructions were found.
impl<const EXTENDED: bool> Vector for Avx512<EXTENDED> {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn scale(self, exponent: Self) -> Self {
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(exponent.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), power)))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn peak(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    fn dot_bf16(self, weights: Self, sum: Self) -> Self {
        unsafe {
            if EXTENDED {
                let (x, weights) = (bf16(self.0), bf16(weights.0));
                return Self(_mm512_dpbf16_ps(sum.0, x, weights));
            }
            let low = |pair| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pair)));
            let high = |pair| {
                let mask = _mm512_set1_epi32(HIGH_HALF);
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pair), mask))
            };
            let sum = _mm512_fmadd_ps(low(self.0), low(weights.0), sum.0);
            Self(_mm512_fmadd_ps(high(self.0), high(weights.0), sum))
        }
    }
    #[inline(always)]
    fn dot_bytes(self, weights: Self, sum: Self) -> Self {
        unsafe {
            let (x, weights) = (_mm512_castps_si512(self.0), _mm512_castps_si512(weights.0));
            let sum = _mm512_castps_si512(sum.0);
            if EXTENDED {
                return Self(_mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, x, weights)));
            }
            let even = _mm512_and_si512(x, _mm512_set1_epi32(EVEN_BYTES));
            let odd = _mm512_srli_epi16::<8>(x);
            let even_weights = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(weights));
            let odd_weights = _mm512_srai_epi16::<8>(weights);
            let products = _mm512_madd_epi16(even, even_weights);
            let products = _mm512_add_epi32(products, _mm512_madd_epi16(odd, odd_weights));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(sum, products)))
        }
    }
    #[inline(always)]
    fn from_integers(self) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(self.0)) })
    }
}

#[derive(Clone, Copy)]
pub struct Avx2(__m256);

// SAFETY: as above.
impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn scale(self, exponent: Self) -> Self {
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent.0));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), power)))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        lanes(self).iter().sum()
    }
    #[inline(always)]
    fn peak(self) -> f32 {
        lanes(self).into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn dot_bf16(self, weights: Self, sum: Self) -> Self {
        unsafe {
            let low = |pair| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pair)));
            let high = |pair| _mm256_and_ps(pair, _mm256_castsi256_ps(_mm256_set1_epi32(HIGH_HALF)));
            let sum = _mm256_fmadd_ps(low(self.0), low(weights.0), sum.0);
            Self(_mm256_fmadd_ps(high(self.0), high(weights.0), sum))
        }
    }
    #[inline(always)]
    fn dot_bytes(self, weights: Self, sum: Self) -> Self {
        // Not `maddubs`, which saturates: two products of bytes do not fit into 16 bits.
        unsafe {
            let (x, weights) = (_mm256_castps_si256(self.0), _mm256_castps_si256(weights.0));
            let even = _mm256_and_si256(x, _mm256_set1_epi32(EVEN_BYTES));
            let odd = _mm256_srli_epi16::<8>(x);
            let even_weights = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights));
            let odd_weights = _mm256_srai_epi16::<8>(weights);
            let products = _mm256_madd_epi16(even, even_weights);
            let products = _mm256_add_epi32(products, _mm256_madd_epi16(odd, odd_weights));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum.0), products)))
        }
    }
    #[inline(always)]
    fn from_integers(self) -> Self {
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(self.0)) })
    }
}

#[inline(always)]
fn lanes(vector: Avx2) -> [f32; 8] {
    let mut lanes = [0.0; 8];
    // SAFETY: there is room for eight.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    lanes
}

#[inline(always)]
fn bf16(pairs: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes in which every pattern is valid.
    unsafe { std::mem::transmute(pairs) }
}
