//! Which vector index suits a collection, from its size alone.

use crate::store::{IndexKind, IndexSpec};

/// What is known of a collection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexFacts {
    pub passages: i64,
    pub dimension: usize,
    /// Vectors in the index that the space's collections share.
    pub shared_rows: f64,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexAdvice {
    /// `None`: the index of the space, or none where it has none.
    pub own: Option<IndexKind>,
    pub reason: String,
    /// Of the index on disk, about; a search is fast while it fits into memory.
    pub bytes: u64,
}

/// Up to here every vector is compared in a few dozen milliseconds.
const FEW: i64 = 20_000;
/// From here on the halved size counts more than the last bits of a float.
const MANY: i64 = 1_000_000;
/// An own index pays where the shared one is mostly about other collections.
const SMALL_SHARE: f64 = 0.25;

/// The advice for a collection.
pub fn advise(facts: &IndexFacts) -> IndexAdvice {
    let IndexFacts { passages, dimension, shared_rows } = *facts;
    let advice = |own: Option<IndexKind>, reason: String| {
        let kind = own.unwrap_or_else(|| IndexKind::shared(dimension));
        IndexAdvice { own, reason, bytes: estimated_bytes(&IndexSpec::new(kind), passages, dimension) }
    };
    if passages <= FEW {
        return advice(None, format!("up to {FEW} passages are compared one by one fast enough"));
    }
    if dimension > IndexKind::Halfvec.max_dimension() {
        let most = IndexKind::Halfvec.max_dimension();
        return advice(
            Some(IndexKind::Binary),
            format!(
                "over {most} dimensions only signs can be indexed; candidates are compared by whole vectors"
            ),
        );
    }
    if passages >= MANY && dimension <= IndexKind::Hnsw.max_dimension() {
        return advice(
            Some(IndexKind::Halfvec),
            "half the size of `hnsw`, and candidates are compared again by whole vectors".into(),
        );
    }
    let share = passages as f64 / shared_rows.max(1.0);
    if share < SMALL_SHARE {
        let percent = 100.0 * share;
        return advice(
            Some(IndexKind::shared(dimension)),
            format!("it is {percent:.0} % of the shared index, which would be searched past the rest"),
        );
    }
    advice(None, "most of the shared index is this collection".into())
}

/// Bytes on disk: the vectors, and `2 m` links of 6 bytes on the lowest layer, which has nearly
/// all of them. A page has 8 KiB, of which what no whole vector fits into stays empty.
pub fn estimated_bytes(spec: &IndexSpec, passages: i64, dimension: usize) -> u64 {
    const PAGE: usize = 8192 - 40;
    if spec.kind == IndexKind::Exact {
        return 0;
    }
    let links = 16 + 6 * 2 * spec.m as usize;
    let element = spec.kind.vector_bytes(dimension) + 80;
    let bytes = if element + links > PAGE {
        // The links do not fit beside their vector.
        PAGE + links
    } else {
        PAGE / (PAGE / (element + links))
    };
    passages.unsigned_abs() * bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_goes_by_size_share_and_dimension() {
        let own =
            |passages, dimension, shared_rows| advise(&IndexFacts { passages, dimension, shared_rows }).own;
        assert_eq!(own(5000, 384, 5e6), None);
        assert_eq!(own(100_000, 384, 120_000.0), None);
        assert_eq!(own(100_000, 384, 5e6), Some(IndexKind::Hnsw));
        assert_eq!(own(100_000, 3072, 5e6), Some(IndexKind::Halfvec));
        assert_eq!(own(2_000_000, 384, 2e6), Some(IndexKind::Halfvec));
        assert_eq!(own(100_000, 8192, 0.0), Some(IndexKind::Binary));
        assert_eq!(own(100, 8192, 0.0), None);
    }
}
