//! Vectors of the instruction sets.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::portable::Portable;
#[cfg(target_arch = "x86_64")]
use self::x86::{Avx2, Avx512};

/// Instructions that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa {
    set: Set,
    /// Of [`Set::Avx512`]; in the order of [`Extension`].
    extensions: [bool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Avx512,
    Avx2,
    Portable,
}

/// Instructions beside AVX-512 that add up products of short numbers. Without them the same is
/// computed in several steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Pairs of bfloat16 (`avx512_bf16`).
    Bf16,
    /// Fours of bytes (`avx512_vnni`).
    Vnni,
}

impl Isa {
    /// The widest that this processor has.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self { set: Set::Portable, extensions: [false; 2] })
    }

    /// All that this processor has, the widest first: each extension of a set also left away.
    pub fn available() -> impl Iterator<Item = Self> {
        let all = [Set::Avx512, Set::Avx2, Set::Portable].map(|set| (set, set.extensions()));
        all.into_iter().filter(|(set, _)| set.is_available()).flat_map(|(set, extensions)| {
            let plain = [false; 2];
            let extended = (extensions != plain).then_some(extensions);
            extended.into_iter().chain([plain]).map(move |extensions| Self { set, extensions })
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn has(self, extension: Extension) -> bool {
        self.extensions[extension as usize]
    }
}

impl Set {
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Set::Avx512 | Set::Avx2 => false,
            Set::Portable => true,
        }
    }

    fn extensions(self) -> [bool; 2] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => [is_x86_feature_detected!("avx512bf16"), is_x86_feature_detected!("avx512vnni")],
            _ => [false; 2],
        }
    }
}

/// A computation that is written once over [`Vector`].
pub trait Kernel {
    type Output;
    /// The instructions beside the set's own that it is faster with.
    const EXTENSION: Option<Extension> = None;

    /// Must be `#[inline(always)]`, and all it calls: only so is the code generated inside the
    /// function that has the target feature.
    fn run<V: Vector>(self) -> Self::Output;
}

impl Isa {
    /// Runs `kernel` compiled for these instructions.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        fn avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512<true>>()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn avx512_vnni<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512<true>>()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512<false>>()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx2>()
        }
        match (self.set, K::EXTENSION) {
            // SAFETY: `available` has found the instructions, and an `Isa` comes from nowhere else.
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, Some(Extension::Bf16)) if self.has(Extension::Bf16) => unsafe {
                avx512_bf16(kernel)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, Some(Extension::Vnni)) if self.has(Extension::Vnni) => unsafe {
                avx512_vnni(kernel)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, _) => unsafe { avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Set::Avx2, _) => unsafe { avx2(kernel) },
            _ => kernel.run::<Portable>(),
        }
    }
}

/// A register of numbers. All operations are lane by lane unless they say otherwise.
pub trait Vector: Copy {
    const LANES: usize;

    fn splat(value: f32) -> Self;
    /// # Safety
    /// `LANES` numbers can be read at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `LANES` numbers can be written at `to`.
    unsafe fn store(self, to: *mut f32);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// `self × factor + term`, rounded once where the hardware can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// `self × 2ⁿ` where `n` stands in the low bits of `exponent`, as adding 1.5 × 2²³ leaves it.
    fn scale(self, exponent: Self) -> Self;
    /// Sum over the lanes.
    fn sum(self) -> f32;
    /// Largest of the lanes.
    fn peak(self) -> f32;
    /// The lanes hold two bfloat16 each: `sum + low · low + high · high`.
    fn dot_bf16(self, weights: Self, sum: Self) -> Self;
    /// The lanes hold four bytes each, here without and in `weights` with a sign, in `sum` a 32-bit
    /// integer: `sum +` their four products, without saturation.
    fn dot_bytes(self, weights: Self, sum: Self) -> Self;
    /// The lanes hold 32-bit integers: these as numbers.
    #[expect(clippy::wrong_self_convention, reason = "from lanes of integers to lanes of floats")]
    fn from_integers(self) -> Self;
}
