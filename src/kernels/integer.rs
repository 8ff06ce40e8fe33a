//! Products of small integers, sixteen outputs at a time.

/// Integer instructions that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegerIsa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Vnni,
    Avx2,
    Portable,
}

impl IntegerIsa {
    /// The fastest that this processor has.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self(Set::Portable))
    }

    /// All that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Set::Vnni, Set::Avx2, Set::Portable].into_iter().filter(|set| set.is_available()).map(Self)
    }

    /// Runs `kernel` compiled for these instructions.
    #[inline]
    pub(crate) fn dispatch<K: IntegerKernel>(self, kernel: K) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn vnni<K: IntegerKernel>(kernel: K) {
            kernel.run::<x86::Vnni>();
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<K: IntegerKernel>(kernel: K) {
            kernel.run::<x86::Avx2>();
        }
        match self.0 {
            // SAFETY: `available` has found the instructions, and an `IntegerIsa` comes from
            // nowhere else.
            #[cfg(target_arch = "x86_64")]
            Set::Vnni => unsafe { vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2(kernel) },
            _ => kernel.run::<Portable>(),
        }
    }
}

impl Set {
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Set::Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Set::Vnni | Set::Avx2 => false,
            Set::Portable => true,
        }
    }
}

/// A computation that is written once over [`Sixteen`].
pub(crate) trait IntegerKernel {
    /// Must be `#[inline(always)]`, and all it calls, as with `Kernel`.
    fn run<S: Sixteen>(self);
}

/// Bits of a weight.
pub(crate) trait Width {
    /// Weights are 0 to 15, two of them in a byte; else 0 to 255, one in a byte.
    const HALF: bool;
}

/// Sixteen outputs. A step of an output is four inputs: 64 bytes of weights in all.
///
/// # Safety
/// The methods that take pointers read or write 64 bytes there (`halves`: 32). The type is used
/// only inside `dispatch`, after its instructions were found.
pub(crate) trait Sixteen {
    type Bytes: Copy;
    type Ints: Copy;
    type Floats: Copy;
    /// What [`Sixteen::dot`] leaves away from every weight of eight bits.
    const OFFSET: i32;

    unsafe fn bytes(from: *const u8) -> Self::Bytes;
    /// Low and high half of each byte.
    unsafe fn nibbles(from: *const u8) -> [Self::Bytes; 2];
    unsafe fn ints(value: i32) -> Self::Ints;
    /// Adds, for each output, the products of its four weights with the four signed bytes of `x`,
    /// none of which is −128.
    unsafe fn dot<W: Width>(sum: Self::Ints, weights: Self::Bytes, x: i32) -> Self::Ints;
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;
    unsafe fn splat(value: f32) -> Self::Floats;
    unsafe fn load(from: *const f32) -> Self::Floats;
    unsafe fn store(to: *mut f32, floats: Self::Floats);
    /// Numbers of 16 bits, IEEE's.
    unsafe fn halves(from: *const u16) -> Self::Floats;
    unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b + c`
    unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Sixteen, Width};

    pub struct Vnni;

    // SAFETY of every `unsafe` below: the trait's conditions.
    impl Sixteen for Vnni {
        type Bytes = __m512i;
        type Ints = __m512i;
        type Floats = __m512;
        /// The instruction takes weights without a sign.
        const OFFSET: i32 = 0;

        #[inline(always)]
        unsafe fn bytes(from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn nibbles(from: *const u8) -> [__m512i; 2] {
            unsafe {
                let (both, mask) = (_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15));
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                [_mm512_and_si512(both, mask), high]
            }
        }
        #[inline(always)]
        unsafe fn ints(value: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn dot<W: Width>(sum: __m512i, weights: __m512i, x: i32) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn to_floats(ints: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(ints) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, floats: __m512) {
            unsafe { _mm512_storeu_ps(to, floats) }
        }
        #[inline(always)]
        unsafe fn halves(from: *const u16) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    pub struct Avx2;

    /// Both halves of sixteen, by one operation.
    macro_rules! both {
        (|$half:ident| $value:expr) => {
            [
                {
                    let $half = 0;
                    $value
                },
                {
                    let $half = 1;
                    $value
                },
            ]
        };
    }

    // SAFETY of every `unsafe` below: the trait's conditions.
    impl Sixteen for Avx2 {
        type Bytes = [__m256i; 2];
        type Ints = [__m256i; 2];
        type Floats = [__m256; 2];
        /// A product without a sign would overflow the 16 bits in which pairs are summed.
        const OFFSET: i32 = 128;

        #[inline(always)]
        unsafe fn bytes(from: *const u8) -> Self::Bytes {
            unsafe { both!(|half| _mm256_loadu_si256(from.add(32 * half).cast())) }
        }
        #[inline(always)]
        unsafe fn nibbles(from: *const u8) -> [Self::Bytes; 2] {
            unsafe {
                let (bytes, mask) = (Self::bytes(from), _mm256_set1_epi8(15));
                [
                    both!(|half| _mm256_and_si256(bytes[half], mask)),
                    both!(|half| _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[half]), mask)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn ints(value: i32) -> Self::Ints {
            unsafe { [_mm256_set1_epi32(value); 2] }
        }
        #[inline(always)]
        unsafe fn dot<W: Width>(sum: Self::Ints, weights: Self::Bytes, x: i32) -> Self::Ints {
            unsafe {
                let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
                both!(|half| {
                    let pairs = if W::HALF {
                        _mm256_maddubs_epi16(weights[half], x)
                    } else {
                        let weights = _mm256_xor_si256(weights[half], _mm256_set1_epi8(-128));
                        _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights))
                    };
                    _mm256_add_epi32(sum[half], _mm256_madd_epi16(pairs, ones))
                })
            }
        }
        #[inline(always)]
        unsafe fn to_floats(ints: Self::Ints) -> Self::Floats {
            unsafe { both!(|half| _mm256_cvtepi32_ps(ints[half])) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::Floats {
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::Floats {
            unsafe { both!(|half| _mm256_loadu_ps(from.add(8 * half))) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, floats: Self::Floats) {
            unsafe {
                _mm256_storeu_ps(to, floats[0]);
                _mm256_storeu_ps(to.add(8), floats[1]);
            }
        }
        #[inline(always)]
        unsafe fn halves(from: *const u16) -> Self::Floats {
            unsafe { both!(|half| _mm256_cvtph_ps(_mm_loadu_si128(from.add(8 * half).cast()))) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            unsafe { both!(|half| _mm256_add_ps(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            unsafe { both!(|half| _mm256_mul_ps(a[half], b[half])) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            unsafe { both!(|half| _mm256_fmadd_ps(a[half], b[half], c[half])) }
        }
    }
}

/// Plain code.
pub(crate) struct Portable;

impl Sixteen for Portable {
    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Floats = [f32; 16];
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> [u8; 64] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [[u8; 64]; 2] {
        // SAFETY: the caller's.
        let both = unsafe { Self::bytes(from) };
        [both.map(|byte| byte & 15), both.map(|byte| byte >> 4)]
    }
    #[inline(always)]
    unsafe fn ints(value: i32) -> [i32; 16] {
        [value; 16]
    }
    #[inline(always)]
    unsafe fn dot<W: Width>(mut sum: [i32; 16], weights: [u8; 64], x: i32) -> [i32; 16] {
        let x = x.to_le_bytes();
        for (sum, weights) in sum.iter_mut().zip(weights.chunks_exact(4)) {
            *sum += weights.iter().zip(x).map(|(&w, x)| i32::from(w) * i32::from(x as i8)).sum::<i32>();
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_floats(ints: [i32; 16]) -> [f32; 16] {
        ints.map(|int| int as f32)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 16] {
        [value; 16]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 16] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, floats: [f32; 16]) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(floats) }
    }
    #[inline(always)]
    unsafe fn halves(from: *const u16) -> [f32; 16] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u16; 16]>().read_unaligned() }.map(crate::half::to_f32)
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
}
