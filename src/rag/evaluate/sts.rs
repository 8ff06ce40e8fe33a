//! Semantic similarity of sentence pairs, as the STS benchmark counts it.

use std::{fs, path::Path};

use super::{EvaluationError, Progress, scores, vectors::Vectors};
use crate::models::{Embedder, TextRole};

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub struct StsReport {
    pub pairs: usize,
    /// Spearman's correlation of cosines and judgements, × 100.
    pub spearman: f64,
}

/// Reads `sentence, sentence, score` records of a CSV file without a header.
pub async fn evaluate_sts(
    embedder: &dyn Embedder,
    file: &Path,
    progress: &Progress<'_>,
) -> Result<StsReport, EvaluationError> {
    let text = fs::read_to_string(file).map_err(|error| EvaluationError::data(file, error))?;
    let (mut left, mut right, mut judged) = (Vec::new(), Vec::new(), Vec::new());
    for (index, record) in records(&text).into_iter().enumerate() {
        let wrong =
            || EvaluationError::data(file, format!("record {}: not two sentences and a score", index + 1));
        let [a, b, score] = <[String; 3]>::try_from(record).map_err(|_| wrong())?;
        judged.push(score.trim().parse::<f64>().ok().filter(|score| score.is_finite()).ok_or_else(wrong)?);
        left.push(a);
        right.push(b);
    }
    let embed =
        async |texts| Vectors::of_texts(embedder, texts, TextRole::Query, "sentences", progress).await;
    let cosines = embed(&left).await?.cosines(&embed(&right).await?);
    Ok(StsReport { pairs: judged.len(), spearman: 100.0 * scores::spearman(&cosines, &judged) })
}

/// Records of a CSV text: fields in quotes may hold commas, line ends and doubled quotes (RFC 4180).
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            _ => field.push(c),
        }
    }
    if !record.is_empty() || !field.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hide_commas_and_line_ends() {
        let text = "a b,c,5.0\r\n\"x, \"\"y\"\"\",\"two\nlines\",0\n5 \"inch\" pipe,,\"\"";
        let expected = [["a b", "c", "5.0"], ["x, \"y\"", "two\nlines", "0"], ["5 \"inch\" pipe", "", ""]];
        assert_eq!(records(text), expected);
        assert!(records("").is_empty());
    }
}
