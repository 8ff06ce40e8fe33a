//! Lines of PDF pages joined into paragraphs.

use std::collections::HashSet;

use super::{
    layout::{Line, Page},
    tidy,
};

/// How a line follows the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// It goes on with the same sentence.
    Text,
    /// The break was meant: a list item, a row, an address.
    Line,
    Paragraph,
}

/// The text of the pages, a blank line between paragraphs. Each page ends with a form
/// feed, so that it is known which page a passage stands on.
pub(super) fn join(pages: &[Page]) -> String {
    let words = Words::of(pages);
    let mut text = String::new();
    for page in pages {
        let mut content = String::new();
        join_page(page, &words, &mut content);
        text.push_str(&tidy::tidy(&content));
        text.push_str("\n\x0c\n");
    }
    text
}

fn join_page(page: &Page, words: &Words, text: &mut String) {
    let leading = usual_leading(page);
    let mut rest = page.as_slice();
    while !rest.is_empty() {
        let (block, after) = rest.split_at(block_length(rest, leading));
        join_block(block, words, text);
        if !after.is_empty() {
            text.push_str("\n\n");
        }
        rest = after;
    }
}

/// Lines at the head of `lines` that stand under each other as those of a paragraph do.
fn block_length(lines: &[Line], leading: f64) -> usize {
    let together = |pair: &[Line]| {
        let step = pair[1].baseline - pair[0].baseline;
        let size = pair[0].size.max(pair[1].size);
        is_same_size(&pair[0], &pair[1]) && step > 0. && step < (1.3 * leading * size).max(1.15 * size)
    };
    1 + lines.windows(2).take_while(|pair| together(pair)).count()
}

fn is_same_size(a: &Line, b: &Line) -> bool {
    (a.size - b.size).abs() <= 0.15 * a.size.max(b.size)
}

/// Median distance of lines in font sizes, where it can be one between lines of a paragraph.
fn usual_leading(page: &Page) -> f64 {
    let mut steps: Vec<f64> = page
        .windows(2)
        .filter(|pair| is_same_size(&pair[0], &pair[1]))
        .map(|pair| (pair[1].baseline - pair[0].baseline) / pair[0].size)
        .filter(|step| (0.8..2.2).contains(step))
        .collect();
    steps.sort_by(f64::total_cmp);
    steps.get(steps.len() / 2).copied().unwrap_or(1.2)
}

fn join_block(block: &[Line], words: &Words, text: &mut String) {
    let right = block.iter().map(|line| line.end).fold(f64::MIN, f64::max);
    for (index, line) in block.iter().enumerate() {
        let follows = index.checked_sub(1).map(|before| follows(&block[before], line, right));
        match follows {
            None => text.push_str(&line.text),
            Some(Follows::Text) => append(text, &line.text, words),
            Some(Follows::Line) => {
                text.push('\n');
                text.push_str(&line.text);
            }
            Some(Follows::Paragraph) => {
                text.push_str("\n\n");
                text.push_str(&line.text);
            }
        }
    }
}

fn follows(before: &Line, line: &Line, right: f64) -> Follows {
    if before.has_columns || line.has_columns || begins_item(&line.text) {
        return Follows::Line;
    }
    let overlap = before.end.min(line.end) - before.start.max(line.start);
    if overlap <= 0. {
        return Follows::Paragraph;
    }
    // Where the next word would have fitted, the break was meant.
    let letters = line.text.chars().count().max(1) as f64;
    let word = line.text.split(' ').next().unwrap_or_default().chars().count() as f64;
    let word_width = (line.end - line.start) * word / letters;
    if before.end + word_width + 0.8 * line.size < right {
        let is_indented = line.start > before.start + 0.8 * line.size;
        return if is_indented { Follows::Paragraph } else { Follows::Line };
    }
    Follows::Text
}

/// Whether a line begins as a list item: `•`, `-`, `1.`, `(a)`.
fn begins_item(line: &str) -> bool {
    let Some((marker, _)) = line.split_once(' ') else { return false };
    if matches!(marker, "•" | "-" | "–" | "*" | "o" | "‣" | "▪" | "■" | "●" | "◦" | "·") {
        return true;
    }
    let core = marker.trim_start_matches('(').trim_end_matches(['.', ')']);
    let is_number = core.len() <= 3 && !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit());
    let is_letter = core.len() == 1 && core.bytes().all(|byte| byte.is_ascii_lowercase());
    core.len() < marker.len() && (is_number || is_letter)
}

/// Goes on with `next` on the same line; undoes a hyphen that only the line's end asked for.
fn append(text: &mut String, next: &str, words: &Words) {
    let Some(before) = text.strip_suffix(['-', '\u{2010}']) else {
        let no_spaces = |c: char| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{3000}'..='\u{303f}' | '\u{ff01}'..='\u{ff60}');
        if !(text.ends_with(no_spaces) && next.starts_with(no_spaces)) {
            text.push(' ');
        }
        return text.push_str(next);
    };
    let left = before.rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    let right = next.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    if left.is_empty() && !before.ends_with(|c: char| c.is_numeric()) {
        text.push(' ');
    } else if next.starts_with(char::is_lowercase)
        && !left.is_empty()
        && !is_compound(before, left, right, words)
    {
        text.truncate(before.len());
    }
    text.push_str(next);
}

/// Whether the hyphen between `left` and `right` belongs to the word, as the rest of the document has it.
fn is_compound(before: &str, left: &str, right: &str, words: &Words) -> bool {
    let is_chain = before[..before.len() - left.len()].ends_with('-');
    let whole = format!("{left}{right}");
    let hyphenated = format!("{left}-{right}");
    is_chain
        || words.has(&hyphenated)
        || (!words.has(&whole) && words.has(left) && words.has(right))
        || (!words.has(&whole) && matches!(left.to_lowercase().as_str(), "self" | "well" | "non" | "half"))
}

/// Words that stand within lines, in lower case, those with a hyphen among them.
struct Words(HashSet<String>);

impl Words {
    fn of(pages: &[Page]) -> Self {
        let mut words = HashSet::new();
        for line in pages.iter().flatten() {
            // The first and the last may be halves.
            let mut parts: Vec<&str> = line.text.split(' ').collect();
            if line.text.ends_with('-') {
                parts.pop();
            }
            for part in parts {
                let word = part.trim_matches(|c: char| !c.is_alphabetic()).to_lowercase();
                if !word.is_empty() {
                    words.insert(word);
                }
            }
        }
        Words(words)
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word.to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of 10 points, 12 points apart, 5 points a letter.
    fn page(lines: &[&str]) -> Page {
        let place = |(index, text): (usize, &&str)| Line {
            text: text.trim_start().to_string(),
            start: 5. * (text.len() - text.trim_start().len()) as f64,
            end: 5. * text.chars().count() as f64,
            baseline: 12. * index as f64,
            size: 10.,
            has_columns: text.contains("  ") && !text.starts_with(' '),
        };
        lines.iter().enumerate().filter(|(_, text)| !text.is_empty()).map(place).collect()
    }

    fn joined(lines: &[&str]) -> String {
        join(&[page(lines)]).trim_end().to_owned()
    }

    #[test]
    fn every_page_ends_with_a_form_feed() {
        assert_eq!(
            join(&[page(&["One."]), page(&[]), page(&["Three."])]),
            "One.\n\x0c\n\n\x0c\nThree.\n\x0c\n"
        );
    }

    #[test]
    fn wrapped_lines_become_a_paragraph() {
        assert_eq!(
            joined(&["The ferry leaves the harbour", "at nine and comes back before", "noon.", "", "Next."]),
            "The ferry leaves the harbour at nine and comes back before noon.\n\nNext."
        );
    }

    #[test]
    fn meant_breaks_stay() {
        assert_eq!(
            joined(&["Harbour Road 4", "Oster", "a much longer line of the block"]).lines().count(),
            3
        );
        let list = ["Bring warm clothes, water, and", "• a passport or a card that", "shows it", "2. a coat"];
        assert_eq!(joined(&list).lines().count(), 3);
        assert_eq!(joined(&["Name  Age", "Ann   20"]).lines().count(), 2);
    }

    #[test]
    fn hyphens_of_line_ends_go_and_those_of_words_stay() {
        assert_eq!(joined(&["this is an exam-", "ple of the text"]), "this is an example of the text");
        assert_eq!(
            joined(&["they are long-term plans so", "they call this plan a long-", "term plan"]),
            "they are long-term plans so they call this plan a long-term plan"
        );
        assert_eq!(
            joined(&["the town and its state-of-the-", "art hall"]),
            "the town and its state-of-the-art hall"
        );
        assert_eq!(joined(&["the people of Saint-", "Denis came"]), "the people of Saint-Denis came");
        assert_eq!(joined(&["between the years 1990-", "1995 they"]), "between the years 1990-1995 they");
    }

    #[test]
    fn lines_of_cjk_text_join_without_a_space() {
        assert_eq!(joined(&["渡轮每天早上", "九点出发。"]), "渡轮每天早上九点出发。");
    }
}
