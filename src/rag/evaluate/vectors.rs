//! Exact search in memory, for test sets of a few thousand texts.

use std::sync::Arc;

use super::{EvaluationError, Progress};
use crate::{
    models::{Embedder, EncodedImage, Lane, TextRole},
    rag::RagError,
};

/// Inputs of one call of the model.
const BATCH: usize = 64;

/// Vectors of length 1, so that their products are cosines.
#[derive(Clone)]
pub struct Vectors(Arc<Vec<Vec<f32>>>);

impl Vectors {
    /// Embeds texts; `stage` and `progress` tell how far it is.
    pub async fn of_texts(
        embedder: &dyn Embedder,
        texts: &[String],
        role: TextRole,
        stage: &'static str,
        progress: &Progress<'_>,
    ) -> Result<Self, EvaluationError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            let embedded = embedder.embed(batch.to_vec(), role, Lane::Bulk).await.map_err(RagError::from)?;
            vectors.extend(embedded.vectors);
            progress(stage, vectors.len(), texts.len());
        }
        Ok(Self::new(vectors))
    }

    /// Embeds images.
    pub async fn of_images(
        embedder: &dyn Embedder,
        images: &[EncodedImage],
        progress: &Progress<'_>,
    ) -> Result<Self, EvaluationError> {
        let mut vectors = Vec::with_capacity(images.len());
        for batch in images.chunks(BATCH) {
            let embedded = embedder.embed_images(batch.to_vec(), Lane::Bulk).await.map_err(RagError::from)?;
            vectors.extend(embedded.vectors);
            progress("images", vectors.len(), images.len());
        }
        Ok(Self::new(vectors))
    }

    pub fn new(mut vectors: Vec<Vec<f32>>) -> Self {
        for vector in &mut vectors {
            let length = dot(vector, vector).sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|x| *x /= length);
            }
        }
        Self(Arc::new(vectors))
    }

    /// Cosines of this set's vectors with those of the same places in `other`.
    pub fn cosines(&self, other: &Self) -> Vec<f64> {
        self.0.iter().zip(other.0.iter()).map(|(a, b)| f64::from(dot(a, b))).collect()
    }

    /// The share of this set's vectors that have one of their `right` ones among the `k` nearest of
    /// `others`: recall@k where each has one. Of equally near ones the first counts as nearer.
    pub async fn recall(
        &self,
        others: &Self,
        right: Vec<Vec<usize>>,
        k: usize,
    ) -> Result<f64, EvaluationError> {
        let (queries, others) = (self.clone(), others.clone());
        let count = move || {
            let found =
                queries.0.iter().zip(&right).filter(|(query, right)| {
                    others.nearest(query, k).iter().any(|index| right.contains(index))
                });
            found.count() as f64 / queries.0.len().max(1) as f64
        };
        Ok(tokio::task::spawn_blocking(count).await.map_err(RagError::from)?)
    }

    /// Places of the `k` nearest, the nearest first.
    fn nearest(&self, query: &[f32], k: usize) -> Vec<usize> {
        let mut ranked: Vec<(f32, usize)> =
            self.0.iter().enumerate().map(|(index, vector)| (dot(query, vector), index)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.into_iter().take(k).map(|(_, index)| index).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(degrees: &[f32]) -> Vectors {
        Vectors::new(
            degrees.iter().map(|d| vec![3.0 * d.to_radians().cos(), 3.0 * d.to_radians().sin()]).collect(),
        )
    }

    #[test]
    fn cosines_are_those_of_the_angles() {
        let cosines = at(&[0.0, 90.0, 10.0]).cosines(&at(&[60.0, 90.0, 190.0]));
        for (cosine, expected) in cosines.iter().zip([0.5, 1.0, -1.0]) {
            assert!((cosine - expected).abs() < 1e-6);
        }
    }

    #[tokio::test]
    async fn recall_counts_queries_with_a_right_one_among_the_nearest() {
        let (queries, others) = (at(&[0.0, 50.0, 100.0]), at(&[5.0, 30.0, 60.0, 165.0]));
        // Nearest two: of 0 are 5 and 30, of 50 are 60 and 30, of 100 are 60 and 165.
        let own = vec![vec![0], vec![1], vec![1]];
        let third = 1.0 / 3.0;
        assert!((queries.recall(&others, own.clone(), 1).await.unwrap() - third).abs() < 1e-12);
        assert!((queries.recall(&others, own, 2).await.unwrap() - 2.0 * third).abs() < 1e-12);
        let several = vec![vec![2, 3], vec![0, 2], vec![]];
        assert!((queries.recall(&others, several, 1).await.unwrap() - third).abs() < 1e-12);
    }

    #[tokio::test]
    async fn of_equal_ones_the_first_is_nearer() {
        let (queries, others) = (at(&[20.0]), at(&[20.0, 20.0]));
        assert_eq!(queries.recall(&others, vec![vec![1]], 1).await.unwrap(), 0.0);
        assert_eq!(queries.recall(&others, vec![vec![0]], 1).await.unwrap(), 1.0);
    }
}
