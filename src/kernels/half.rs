//! Numbers of 16 bits as IEEE 754 has them.

/// Exact for every finite number.
#[inline(always)]
pub(crate) fn to_f32(half: u16) -> f32 {
    /// Brings the exponent from a bias of 15 to one of 127, subnormal numbers included.
    const SHIFT: f32 = f32::from_bits((127 + 112) << 23); // 2¹¹²
    let half = u32::from(half);
    let magnitude = f32::from_bits((half & 0x7fff) << 13) * SHIFT;
    f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
}

/// Rounded to the nearest, ties to even; what is too large becomes the largest finite number.
#[inline(always)]
pub(crate) fn from_f32(number: f32) -> u16 {
    const LARGEST: u32 = 0x7bff;
    const SMALLEST_NORMAL: f32 = f32::from_bits((127 - 14) << 23); // 2⁻¹⁴
    let (sign, magnitude) = (number.to_bits() >> 16 & 0x8000, number.to_bits() & 0x7fff_ffff);
    let bits = if f32::from_bits(magnitude) < SMALLEST_NORMAL {
        // Adding ½ leaves the number in units of 2⁻²⁴ in the low bits, rounded by the hardware.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        ((magnitude - (112 << 23) + 0xfff + odd) >> 13).min(LARGEST)
    };
    (sign | bits) as u16
}
