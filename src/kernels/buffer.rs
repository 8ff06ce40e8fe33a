//! Memory of the kernels.

use std::slice;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

/// Numbers that begin at a cache line, or the 32-bit words that other numbers are packed into.
#[derive(Default)]
pub struct Buffer {
    lines: Vec<Line>,
    length: usize,
}

impl Buffer {
    /// `length` zeros.
    pub fn zeros(length: usize) -> Self {
        Self { lines: vec![Line([0.0; LINE]); length.div_ceil(LINE)], length }
    }

    /// Makes room for `length` numbers, whose values are unspecified.
    pub fn resize(&mut self, length: usize) {
        self.lines.resize(length.div_ceil(LINE), Line([0.0; LINE]));
        self.length = length;
    }

    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `length` initialised numbers, laid out without gaps.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }

    /// The same memory as numbers of 16 bits, two in the place of one.
    pub(crate) fn as_mut_halves(&mut self) -> &mut [u16] {
        // SAFETY: as above; every pattern of bits is a number, and the alignment is less.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 2 * self.length) }
    }

    /// The same memory as bytes, four in the place of one number.
    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 4 * self.length) }
    }
}
