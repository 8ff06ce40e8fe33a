//! What becomes of the sums of a product.

use std::marker::PhantomData;

use super::{
    precision::{Arithmetic, Scales},
    tile::Sink,
};
use crate::{activation::gelu_vector, vector::Vector};

/// How a product of a tile ends: `value` is a vector of it with its bias, `old` what lies there.
pub(super) trait Finish {
    fn finish<V: Vector>(value: V, old: impl FnOnce() -> V) -> V;
}

pub(super) struct Store;
pub(super) struct Gelu;
pub(super) struct Add;

impl Finish for Store {
    #[inline(always)]
    fn finish<V: Vector>(value: V, _old: impl FnOnce() -> V) -> V {
        value
    }
}
impl Finish for Gelu {
    #[inline(always)]
    fn finish<V: Vector>(value: V, _old: impl FnOnce() -> V) -> V {
        gelu_vector(value)
    }
}
impl Finish for Add {
    #[inline(always)]
    fn finish<V: Vector>(value: V, old: impl FnOnce() -> V) -> V {
        value.add(old())
    }
}

/// The place in `out` of a tile, with what belongs to its rows and columns.
pub(super) struct FinishAt<A, F> {
    pub bias: *const f32,
    pub scales: Scales,
    pub out: *mut f32,
    pub stride: usize,
    pub finish: PhantomData<(A, F)>,
}

impl<A: Arithmetic, F: Finish> Sink for FinishAt<A, F> {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        // SAFETY: the caller's; bias and scales are of the rows and columns of the tile.
        unsafe {
            let to = self.out.add(row * self.stride + column);
            let value = A::number(sum, &self.scales, row, column).add(V::load(self.bias.add(column)));
            F::finish(value, || V::load(to)).store(to);
        }
    }
}
