//! From a document's text to passages that fit an embedder.
//!
//! The text is cut into the smallest pieces that should stay whole (sentences,
//! table rows, code lines), each is counted once, and pieces are packed
//! greedily. Nothing is rewritten: a passage is a slice of the text, with the head
//! of its table before it where it begins within one.

mod earlier;
mod markdown;
mod pieces;

pub use earlier::Earlier;

use std::borrow::Cow;

use super::extract::Format;
use pieces::{Kind, Piece, Section};

/// How long passages may be, in tokens of the embedder without special ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    pub max_tokens: usize,
    /// Tokens of whole sentences that a passage may repeat from the one before it;
    /// counts up to half of `max_tokens`.
    pub overlap_tokens: usize,
}

/// A passage of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// `text[start..end]` of the document, after the head of the table that it goes on with.
    pub text: String,
    /// Byte offsets in the document's text.
    pub start: usize,
    pub end: usize,
    /// The headings that all of the passage stands under, such as `Install > Linux`.
    pub heading: Option<String>,
    /// Where it stands: its heading, else its first and its last one, or the pages of a PDF.
    pub place: Option<String>,
}

/// More than text has in any language and vocabulary.
const MAX_BYTES_PER_TOKEN: usize = 24;

/// Cuts `text` into passages of at most `limits.max_tokens`.
///
/// Sections, paragraphs and sentences stay whole where they fit; a word, a table
/// row or a code line is cut only when it is longer than a passage by itself.
/// The passages together hold every character that is not blank; text that fits
/// is one passage, blank text none. A single character may count more than
/// `max_tokens`: it is a passage all the same.
///
/// Linear in the length of `text`: each part of it is counted about twice.
pub fn chunk(
    text: &str,
    format: Format,
    limits: ChunkLimits,
    count_tokens: &dyn Fn(&str) -> usize,
) -> Vec<Chunk> {
    chunk_again(text, format, limits, &Earlier::default(), count_tokens)
}

/// [`chunk`] for a text that is another version of one that was cut before: the earlier passages that
/// still stand in it are cut out as they were, so that only those around a change are others.
pub fn chunk_again(
    text: &str,
    format: Format,
    limits: ChunkLimits,
    earlier: &Earlier,
    count_tokens: &dyn Fn(&str) -> usize,
) -> Vec<Chunk> {
    let max_tokens = limits.max_tokens.max(1);
    // A tokenizer may take a text that it does not know, of any length, for one token.
    let count_tokens = &|text: &str| count_tokens(text).max(text.len() / MAX_BYTES_PER_TOKEN);
    let outline = if format.is_markdown() { markdown::outline(text) } else { markdown::plain(text) };
    let pieces = pieces::cut(text, &outline.blocks, max_tokens, count_tokens);
    let page_ends = if format == Format::Pdf {
        text.match_indices('\x0c').map(|(at, _)| at).collect()
    } else {
        Vec::new()
    };
    let packer = Packer {
        page_ends,
        text,
        earlier,
        pieces: &pieces,
        sections: &outline.sections,
        section_ends: section_ends(&pieces),
        paragraph_ends: paragraph_ends(&pieces),
        max_tokens,
        overlap_tokens: limits.overlap_tokens.min(max_tokens / 2),
        count_tokens,
    };
    packer.pack()
}

struct Packer<'a> {
    /// Where the pages of a PDF end, in bytes; empty when that is not known.
    page_ends: Vec<usize>,
    text: &'a str,
    earlier: &'a Earlier,
    pieces: &'a [Piece],
    sections: &'a [Section],
    /// For each piece, the first one after its section or paragraph.
    section_ends: Vec<usize>,
    paragraph_ends: Vec<usize>,
    max_tokens: usize,
    overlap_tokens: usize,
    count_tokens: &'a dyn Fn(&str) -> usize,
}

impl Packer<'_> {
    fn pack(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut next = 0;
        while next < self.pieces.len() {
            let (first, end) = self.earlier_passage(next).unwrap_or_else(|| self.passage_up_to_earlier(next));
            chunks.push(self.chunk(first, end));
            next = end;
        }
        chunks
    }

    /// The earlier passage that goes on at `next`, where there is one that still fits.
    fn earlier_passage(&self, next: usize) -> Option<(usize, usize)> {
        if self.earlier.is_empty() {
            return None;
        }
        // It repeats something, or there was no room for that.
        [self.overlap_start(next), next].into_iter().find_map(|first| {
            let piece = &self.pieces[first];
            let head = piece.head.map(|head| &self.text[head.start..head.end]);
            self.earlier.that_begin(head, &self.text[piece.start..]).find_map(|length| {
                let ends_at = |piece: &Piece| piece.end.cmp(&(self.pieces[first].start + length));
                let end = 1 + self.pieces.binary_search_by(ends_at).ok()?;
                let fits = || (self.count_tokens)(&self.passage_text(first, end)) <= self.max_tokens;
                (end > next && fits()).then_some((first, end))
            })
        })
    }

    /// [`Packer::passage`], ended where an earlier one goes on.
    fn passage_up_to_earlier(&self, next: usize) -> (usize, usize) {
        let (first, end) = self.passage(next);
        if self.earlier.is_empty() {
            return (first, end);
        }
        (first, (next + 1..end).find(|at| self.earlier_passage(*at).is_some()).unwrap_or(end))
    }

    /// The pieces of the passage that goes on at `next`: some before it, at least itself, some after it.
    fn passage(&self, next: usize) -> (usize, usize) {
        let first = self.overlap_start(next);
        let mut end = self.without_trailing_headings(next, self.chunk_end(first, next));
        // Tokens of joined pieces are not always the sum of theirs.
        loop {
            let tokens = (self.count_tokens)(&self.passage_text(first, end));
            if tokens <= self.max_tokens {
                return (first, end);
            }
            if end == next + 1 {
                return (next, end);
            }
            let fitting = first + (end - first) * self.max_tokens / tokens;
            end = fitting.clamp(next + 1, end - 1);
        }
    }

    /// The first of the pieces before `next` that the passage repeats: sentences of the same section.
    fn overlap_start(&self, next: usize) -> usize {
        let mut first = next;
        let mut room = self.overlap_tokens.min(self.max_tokens.saturating_sub(self.pieces[next].tokens));
        while let Some(before) = first.checked_sub(1) {
            let piece = &self.pieces[before];
            let fits = piece.tokens <= room && piece.kind == Kind::Sentence;
            if !fits || piece.section != self.pieces[next].section {
                break;
            }
            room -= piece.tokens;
            first = before;
        }
        first
    }

    /// Where the passage from `first` over `next` ends by the sum of tokens.
    fn chunk_end(&self, first: usize, next: usize) -> usize {
        let head = self.pieces[first].head.map_or(0, |head| head.tokens);
        let mut tokens = head + self.tokens(first, next + 1);
        let mut end = next + 1;
        while let Some(piece) = self.pieces.get(end) {
            if tokens + piece.tokens > self.max_tokens || self.should_break(end, tokens) {
                break;
            }
            tokens += piece.tokens;
            end += 1;
        }
        end
    }

    /// Whether a passage of `tokens` should rather end before a section or paragraph that would be cut.
    fn should_break(&self, at: usize, tokens: usize) -> bool {
        let (piece, before) = (&self.pieces[at], &self.pieces[at - 1]);
        let room = self.max_tokens - tokens;
        if piece.section != before.section {
            return tokens * 4 >= self.max_tokens && self.tokens(at, self.section_ends[at]) > room;
        }
        let paragraph = self.tokens(at, self.paragraph_ends[at]);
        piece.starts_paragraph
            && tokens * 2 >= self.max_tokens
            && paragraph > room
            && paragraph <= self.max_tokens
    }

    /// Tokens of a range of pieces, counted no further than needed to see that they do not fit.
    fn tokens(&self, from: usize, to: usize) -> usize {
        let mut sum = 0;
        for piece in &self.pieces[from..to] {
            sum += piece.tokens;
            if sum > self.max_tokens {
                break;
            }
        }
        sum
    }

    /// A heading goes with what follows it.
    fn without_trailing_headings(&self, next: usize, end: usize) -> usize {
        if end == self.pieces.len() {
            return end;
        }
        let headings = self.pieces[next..end].iter().rev().take_while(|piece| piece.kind == Kind::Heading);
        match end - headings.count() {
            kept if kept > next => kept,
            _ => end,
        }
    }

    fn passage_text(&self, first: usize, end: usize) -> Cow<'_, str> {
        let slice = &self.text[self.pieces[first].start..self.pieces[end - 1].end];
        match self.pieces[first].head {
            Some(head) => format!("{}\n{slice}", &self.text[head.start..head.end]).into(),
            None => slice.into(),
        }
    }

    /// The pages that a part of the text stands on.
    fn pages(&self, start: usize, end: usize) -> Option<String> {
        let page = |at: usize| 1 + self.page_ends.partition_point(|page_end| *page_end < at);
        match (page(start), page(end)) {
            _ if self.page_ends.is_empty() => None,
            (first, last) if first == last => Some(format!("Page {first}")),
            (first, last) => Some(format!("Pages {first}–{last}")),
        }
    }

    fn chunk(&self, first: usize, end: usize) -> Chunk {
        let sections = &self.sections[self.pieces[first].section..=self.pieces[end - 1].section];
        let (start, end_offset) = (self.pieces[first].start, self.pieces[end - 1].end);
        let heading = common_path(sections);
        let place =
            self.pages(start, end_offset).or_else(|| heading.clone()).or_else(|| first_to_last(sections));
        Chunk { text: self.passage_text(first, end).into_owned(), start, end: end_offset, heading, place }
    }
}

/// The headings that all sections stand under.
fn common_path(sections: &[Section]) -> Option<String> {
    let (first, rest) = sections.split_first()?;
    let shared = |path: &Section| path.iter().zip(first).take_while(|(a, b)| a == b).count();
    let length = rest.iter().map(shared).min().unwrap_or(first.len());
    (length > 0).then(|| first[..length].join(" > "))
}

/// The first and the last heading of sections that have none in common.
fn first_to_last(sections: &[Section]) -> Option<String> {
    let mut titles = sections.iter().filter_map(|section| section.last());
    let first = titles.next()?;
    Some(titles.next_back().map_or(first.clone(), |last| format!("{first} – {last}")))
}

fn section_ends(pieces: &[Piece]) -> Vec<usize> {
    ends(pieces, |before, piece| before.section != piece.section)
}

fn paragraph_ends(pieces: &[Piece]) -> Vec<usize> {
    ends(pieces, |before, piece| piece.starts_paragraph || before.section != piece.section)
}

fn ends(pieces: &[Piece], is_boundary: impl Fn(&Piece, &Piece) -> bool) -> Vec<usize> {
    let mut ends = vec![pieces.len(); pieces.len()];
    for at in (1..pieces.len()).rev() {
        ends[at - 1] = if is_boundary(&pieces[at - 1], &pieces[at]) { at } else { ends[at] };
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn characters(text: &str) -> usize {
        text.chars().count()
    }

    fn passages(text: &str, format: Format, max_tokens: usize, overlap_tokens: usize) -> Vec<Chunk> {
        chunk(text, format, ChunkLimits { max_tokens, overlap_tokens }, &words)
    }

    fn texts(chunks: &[Chunk]) -> Vec<&str> {
        chunks.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    #[test]
    fn a_small_document_is_one_passage() {
        let got = passages("# A\n\nOne.\n\n## B\n\nTwo.\n", Format::Markdown, 50, 10);
        assert_eq!(texts(&got), ["# A\n\nOne.\n\n## B\n\nTwo."]);
        assert_eq!(got[0].heading.as_deref(), Some("A"));
        assert_eq!(passages(" \n\n", Format::Text, 50, 10), []);
    }

    #[test]
    fn sections_stay_whole_and_know_their_headings() {
        let text = "# A\n\nOne two three four five.\n\n## B\n\nSix seven eight nine ten.\n\n## C\n\nEleven.";
        let got = passages(text, Format::Markdown, 10, 4);
        let headings: Vec<_> = got.iter().map(|chunk| chunk.heading.as_deref().unwrap()).collect();
        assert_eq!(
            texts(&got),
            ["# A\n\nOne two three four five.", "## B\n\nSix seven eight nine ten.\n\n## C\n\nEleven."]
        );
        assert_eq!(headings, ["A", "A"]);
        let got = passages(text, Format::Markdown, 8, 4);
        assert_eq!(got[1].heading.as_deref(), Some("A > B"));
    }

    #[test]
    fn sentences_stay_whole_and_overlap() {
        let text = "One two three. Four five six. Seven eight nine. Ten eleven twelve.";
        assert_eq!(
            texts(&passages(text, Format::Text, 7, 3)),
            [
                "One two three. Four five six.",
                "Four five six. Seven eight nine.",
                "Seven eight nine. Ten eleven twelve."
            ]
        );
        assert_eq!(texts(&passages(text, Format::Text, 7, 0)).len(), 2);
    }

    #[test]
    fn a_heading_is_never_left_at_the_end() {
        let text = "Some words that come first here.\n\n# A\n\nOne two three four five six seven.";
        let got = passages(text, Format::Markdown, 9, 0);
        assert_eq!(texts(&got)[1], "# A\n\nOne two three four five six seven.");
    }

    #[test]
    fn rows_and_code_lines_stay_whole() {
        let text = "| a b | c |\n|---|---|\n| d e | f |\n| g h | i |\n\n```\nlet a = b;\nlet c = d;\n```";
        for piece in passages(text, Format::Markdown, 8, 8) {
            for line in piece.text.lines() {
                assert!(text.lines().any(|whole| whole == line), "{line}");
            }
        }
    }

    #[test]
    fn passages_of_a_table_repeat_its_head() {
        let rows: String = (0..40).map(|n| format!("| name {n} | {n} |\n")).collect();
        let text = format!("# Fares\n\n| Who | Price |\n| --- | --- |\n{rows}");
        let got = passages(&text, Format::Markdown, 40, 10);
        assert!(got.len() > 3);
        for chunk in &got {
            let rows = chunk.text.split_once("| Who | Price |\n| --- | --- |\n").unwrap().1;
            assert!(rows.starts_with("| name ") && rows.ends_with(" |") && words(&chunk.text) <= 40);
            assert_eq!(chunk.heading.as_deref(), Some("Fares"));
        }
        // A row that is too long is cut so that each part has the head, and a head that is
        // too long is left out.
        let long = format!("| A | B |\n| - | - |\n| {} | y |", "x ".repeat(100));
        assert!(
            passages(&long, Format::Markdown, 30, 0).iter().all(|chunk| chunk.text.starts_with("| A | B |"))
        );
        let wide = format!("|{}\n|{}\n{}", " a |".repeat(50), " - |".repeat(50), "| 1 |\n".repeat(50));
        check(&wide, &passages(&wide, Format::Markdown, 30, 0), 30, words);
    }

    #[test]
    fn a_large_table_is_cut_in_linear_time() {
        let text = format!("| Who | Price |\n| --- | --- |\n{}", "| somebody | 12.50 |\n".repeat(100_000));
        let counted = std::cell::Cell::new(0);
        let count = |part: &str| {
            counted.set(counted.get() + part.len());
            words(part)
        };
        let got = chunk(&text, Format::Csv, ChunkLimits { max_tokens: 200, overlap_tokens: 20 }, &count);
        assert!(counted.get() <= 8 * text.len());
        check(&text, &got, 200, words);
    }

    #[test]
    fn places_are_pages_and_ranges_of_sections() {
        let text = "One two three.\n\x0c\nFour five six.\n\x0c\n\n\x0c\nSeven eight nine.\n\x0c\n";
        let places = |text: &str, format, max_tokens| -> Vec<_> {
            passages(text, format, max_tokens, 0).into_iter().map(|chunk| chunk.place).collect()
        };
        let pages = |names: &[&str]| names.iter().map(|name| Some((*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(places(text, Format::Pdf, 3), pages(&["Page 1", "Page 2", "Page 4"]));
        assert_eq!(places(text, Format::Pdf, 50), pages(&["Pages 1–4"]));
        // Stored before pages were known.
        assert_eq!(places("One two three.", Format::Pdf, 50), [None]);
        let slides = "## Slide 1: A\n\nx\n\n## Slide 2: B\n\ny\n\n## Slide 3: C\n\nz";
        assert_eq!(places(slides, Format::Pptx, 50), pages(&["Slide 1: A – Slide 3: C"]));
    }

    #[test]
    fn text_that_counts_as_one_token_is_cut_all_the_same() {
        let text = "เรือเฟอร์รี่".repeat(500);
        let got = chunk(&text, Format::Text, ChunkLimits { max_tokens: 10, overlap_tokens: 0 }, &|_| 1);
        assert!(got.iter().all(|chunk| chunk.text.len() < 11 * MAX_BYTES_PER_TOKEN));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let family = "👨‍👩‍👧";
        let text = family.repeat(50);
        let limits = ChunkLimits { max_tokens: 12, overlap_tokens: 2 };
        let got = chunk(&text, Format::Text, limits, &characters);
        assert!(
            got.iter().all(|chunk| chunk.text.len() % family.len() == 0 && characters(&chunk.text) <= 12)
        );
        assert_eq!(got.iter().map(|chunk| chunk.text.len()).sum::<usize>(), text.len());
    }

    /// Texts that break naive chunkers.
    fn hostile() -> Vec<String> {
        let mixed = "# Título > x\n\nDr. Ünal paid 3.5 €. 渡轮九点出发。真的吗？ \u{a0}\n\n* a\n* b\n\n| a | b |\n|--|--|\n\
            | 1 | 2 |\n```\n  code\n\n```\nSet\n---\n🇩🇪🇫🇷 e\u{301}e\u{301} เรือเฟอร์รี่ออกตอนเก้าโมง\n";
        vec![
            mixed.repeat(5),
            mixed.replace('\n', "\r\n"),
            mixed.replace('\n', " "),
            mixed.replace(char::is_whitespace, ""),
            "x".repeat(9_000),
            "渡轮".repeat(2_000),
            "a b ".repeat(3_000),
            "y\n".repeat(2_000),
            "# h\n".repeat(300),
            "\n \n\t".repeat(10),
            ".!?".repeat(1_000),
            "```\n".repeat(99),
            format!("{}\u{3000}。\u{2028}end", " ".repeat(20_000)),
        ]
    }

    #[test]
    fn nothing_is_lost_and_limits_hold() {
        let limits = [(1, 0), (3, 3), (16, 5), (200, 40), (100_000, 10)];
        for text in hostile() {
            for (max_tokens, overlap_tokens) in limits {
                for (format, count) in [
                    (Format::Markdown, words as fn(&str) -> usize),
                    (Format::Text, characters),
                    (Format::Html, characters),
                ] {
                    let got = chunk(&text, format, ChunkLimits { max_tokens, overlap_tokens }, &count);
                    check(&text, &got, max_tokens, count);
                }
            }
        }
    }

    fn cut_again(text: &str, before: &[Chunk], max_tokens: usize, overlap_tokens: usize) -> Vec<Chunk> {
        let earlier = Earlier::new(before.iter().map(|chunk| chunk.text.as_str()));
        let limits = ChunkLimits { max_tokens, overlap_tokens };
        chunk_again(text, Format::Markdown, limits, &earlier, &words)
    }

    #[test]
    fn only_passages_around_a_change_are_cut_anew() {
        let paragraph = |n: usize| (0..1 + n % 7).map(|s| format!("Sentence {s} of {n} is here. ")).collect();
        let mut paragraphs: Vec<String> = (0..200).map(paragraph).collect();
        let before = passages(&paragraphs.join("\n\n"), Format::Markdown, 40, 8);
        paragraphs.insert(70, "This is new. It was not here before, but it is now.".into());
        paragraphs.remove(120);
        paragraphs.swap(3, 180);
        let text = paragraphs.join("\n\n");
        let got = cut_again(&text, &before, 40, 8);
        check(&text, &got, 40, words);
        let others = got.iter().filter(|chunk| before.iter().all(|known| known.text != chunk.text)).count();
        assert!((3..=12).contains(&others) && got.len() > 100, "{others} of {}", got.len());
    }

    #[test]
    fn nothing_is_lost_of_a_changed_text_whatever_was_cut_before() {
        for text in hostile() {
            let middle = text.floor_char_boundary(text.len() / 2);
            let changed = format!("New. {}\n\nMore. {}", &text[..middle], &text[middle..]);
            for (before, max_tokens, overlap_tokens) in [(16, 16, 5), (40, 16, 5), (16, 200, 40), (1, 3, 3)] {
                let before = passages(&text, Format::Markdown, before, overlap_tokens);
                let got = cut_again(&changed, &before, max_tokens, overlap_tokens);
                check(&changed, &got, max_tokens, words);
            }
        }
    }

    fn check(text: &str, chunks: &[Chunk], max_tokens: usize, count: fn(&str) -> usize) {
        let mut covered = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            let head = chunk.text.strip_suffix(&text[chunk.start..chunk.end]).unwrap();
            assert!(head.is_empty() || head.starts_with('|') && head.ends_with("|\n"), "{head:?}");
            assert!(chunk.end > covered, "no progress in {index}");
            let gap = text.get(covered..chunk.start).unwrap_or_default();
            assert!(gap.trim().is_empty(), "lost {gap:?}");
            let is_single = chunk.text.chars().count() <= 10;
            assert!(count(&chunk.text) <= max_tokens || is_single, "{} is too long", chunk.text);
            covered = chunk.end;
        }
        assert!(text[covered..].trim().is_empty(), "lost the end");
    }

    #[test]
    fn every_part_is_counted_a_bounded_number_of_times() {
        for text in hostile() {
            let counted = std::cell::Cell::new(0);
            let count = |part: &str| {
                counted.set(counted.get() + part.len());
                characters(part)
            };
            chunk(&text, Format::Markdown, ChunkLimits { max_tokens: 64, overlap_tokens: 16 }, &count);
            assert!(counted.get() <= 8 * text.len() + 64, "{} for {}", counted.get(), text.len());
        }
    }
}
