//! Arithmetic of vectors, whichever model made them.

/// Scales a vector to length 1. One of zeros has no direction and stays.
pub fn scale_to_one(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        for x in vector {
            *x = (f64::from(*x) / length) as f32;
        }
    }
}

/// Cosine similarity; 0 for a vector of zeros and for vectors of different lengths.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
        scale_to_one(&mut vector);
        vector
    }

    #[test]
    fn vectors_get_length_one() {
        assert_eq!(normalized(vec![3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(normalized(vec![0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(normalized(vec![f32::MAX, 0.0]), [1.0, 0.0]);
    }
}
