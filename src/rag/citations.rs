//! Citation markers in streamed text.
//!
//! Models write `[1]`, `[1, 3]` or `[1][3]`, before or after the full stop. The
//! reader below turns the stream into whole sentences, each with the numbers it
//! cites and no markers in its text.

use super::sentences::sentences;

/// A whole sentence of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CitedSentence {
    /// Without markers.
    pub text: String,
    /// Numbers as written by the model, unchecked, in order.
    pub cited: Vec<usize>,
    /// Whether the sentence began on a new line.
    pub new_line: bool,
}

/// Collects streamed text into sentences.
#[derive(Debug, Default)]
pub struct SentenceReader {
    buffer: String,
    started: bool,
}

impl SentenceReader {
    /// Adds text and returns the sentences it completed.
    pub fn push(&mut self, text: &str) -> Vec<CitedSentence> {
        self.buffer.push_str(text);
        let ranges = sentences(&self.buffer);
        let Some(last) = ranges.last() else { return Vec::new() };
        // A marker after the full stop belongs to the sentence before it, and may have come only in part.
        let last_text = &self.buffer[last.clone()];
        let after_markers = last_text[leading_markers(last_text)..].trim_start();
        let in_a_marker = after_markers.starts_with('[') && !after_markers.contains(']');
        if ranges.len() < 2 || after_markers.is_empty() || in_a_marker {
            return Vec::new();
        }
        let keep_from = last.start + leading_markers(&self.buffer[last.start..]);
        let rest = self.buffer.split_off(keep_from);
        let complete = std::mem::replace(&mut self.buffer, rest);
        self.split(&complete)
    }

    /// The rest, whole or not.
    pub fn finish(mut self) -> Vec<CitedSentence> {
        let rest = std::mem::take(&mut self.buffer);
        self.split(&rest)
    }

    fn split(&mut self, text: &str) -> Vec<CitedSentence> {
        let mut found: Vec<CitedSentence> = Vec::new();
        let mut end = 0;
        for range in sentences(text) {
            let new_line = self.started && text[end..range.start].contains('\n');
            end = range.end;
            let mut piece = &text[range];
            let markers = leading_markers(piece);
            if markers > 0
                && let Some(previous) = found.last_mut()
            {
                previous.cited.extend(cited_numbers(&piece[..markers]));
                piece = &piece[markers..];
            }
            let text = without_markers(piece);
            if text.trim().is_empty() {
                continue;
            }
            self.started = true;
            found.push(CitedSentence { text: text.trim().to_owned(), cited: cited_numbers(piece), new_line });
        }
        found
    }
}

/// Numbers in the markers of a text, in order.
fn cited_numbers(text: &str) -> Vec<usize> {
    markers(text).flat_map(|(_, _, numbers)| numbers).collect()
}

/// The text with its markers, and the spaces before them, taken out.
fn without_markers(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut end = 0;
    for (start, stop, _) in markers(text) {
        clean.push_str(text[end..start].trim_end_matches(' '));
        end = stop;
    }
    clean.push_str(&text[end..]);
    clean
}

/// Length of the markers that a text begins with, spaces included.
fn leading_markers(text: &str) -> usize {
    let mut length = 0;
    for (start, stop, _) in markers(text) {
        if !text[length..start].trim().is_empty() {
            break;
        }
        length = stop;
    }
    length
}

/// `[1]`, `[1, 2]`: start, end and numbers of each.
fn markers(text: &str) -> impl Iterator<Item = (usize, usize, Vec<usize>)> {
    text.match_indices('[').filter_map(|(start, _)| {
        let inside = &text[start + 1..];
        let length = inside.find(']')?;
        let numbers: Option<Vec<usize>> =
            inside[..length].split(',').map(|number| number.trim().parse().ok()).collect();
        Some((start, start + length + 2, numbers?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Vec<(String, Vec<usize>)> {
        let mut reader = SentenceReader::default();
        let mut found: Vec<CitedSentence> = parts.iter().flat_map(|part| reader.push(part)).collect();
        found.extend(reader.finish());
        found.into_iter().map(|sentence| (sentence.text, sentence.cited)).collect()
    }

    #[test]
    fn markers_before_and_after_the_full_stop_belong_to_their_sentence() {
        let expected =
            vec![("It leaves at nine.".to_owned(), vec![1]), ("It costs 3 euros.".to_owned(), vec![2, 3])];
        assert_eq!(read(&["It leaves at nine [1]. It costs 3 euros. [2][3]"]), expected);
        assert_eq!(read(&["It leaves at nine. [1] It costs 3 euros [2, 3]."]), expected);
    }

    #[test]
    fn the_cut_of_the_stream_does_not_matter() {
        let text = "It leaves at nine. [1] It costs 3 euros [2].\nDogs may come [17]. The [x] is no marker.";
        let whole = read(&[text]);
        assert_eq!(whole.len(), 4, "{whole:?}");
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let pieces = read(&letters.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(pieces, whole);
    }

    #[test]
    fn sentences_are_given_before_the_stream_ends() {
        let mut reader = SentenceReader::default();
        assert!(reader.push("It leaves at nine.").is_empty());
        assert!(reader.push(" [1]").is_empty());
        assert_eq!(reader.push(" It costs")[0].cited, [1]);
    }
}
