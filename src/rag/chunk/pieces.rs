//! The smallest parts of a text that should stay whole, and what to do with those too long.

use unicode_segmentation::UnicodeSegmentation;

use crate::rag::{sentences::sentences, tables};

/// Headings from the outermost to the innermost.
pub(super) type Section = Vec<String>;

/// What a piece is, and so how it may be repeated or cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Heading,
    Sentence,
    /// A line of code, of a table, of front matter.
    Line,
}

/// Lines of one kind that belong together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub kind: Kind,
    /// Byte offsets in the text.
    pub start: usize,
    pub end: usize,
    /// Index of its section.
    pub section: usize,
}

/// A part of the text that stays whole, without blanks around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    pub section: usize,
    pub tokens: usize,
    pub starts_paragraph: bool,
    /// The head of the table that the row belongs to.
    pub head: Option<Head>,
}

/// Names of a table's columns and the line under them, which each passage of its rows repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub start: usize,
    pub end: usize,
    pub tokens: usize,
}

/// Bytes above which a piece is cut before it is counted: tokenizers are slow with long texts.
const MAX_BYTES: usize = 8192;

/// How far from where it should be a boundary between words or characters is looked for, in bytes.
const NEAR: usize = 64;

/// Pieces of all blocks, in order, of at most `max_tokens` where characters allow.
pub(super) fn cut(
    text: &str,
    blocks: &[Block],
    max_tokens: usize,
    count_tokens: &dyn Fn(&str) -> usize,
) -> Vec<Piece> {
    let mut cutter = Cutter { text, max_tokens, count_tokens, pieces: Vec::new() };
    for block in blocks {
        let head = cutter.head(block);
        let mut starts_paragraph = true;
        for (start, end) in wholes(text, block) {
            let head = head.filter(|head| start >= head.end);
            // Rows leave room for the head.
            cutter.max_tokens = max_tokens - head.map_or(0, |head| head.tokens);
            let (kind, section) = (block.kind, block.section);
            cutter.add(Piece { kind, start, end, section, tokens: 0, starts_paragraph, head });
            starts_paragraph = false;
        }
    }
    cutter.pieces
}

/// Sentences, or lines, of a block.
fn wholes(text: &str, block: &Block) -> Vec<(usize, usize)> {
    let inner = &text[block.start..block.end];
    let ranges = match block.kind {
        Kind::Heading => vec![(0, inner.len())],
        Kind::Sentence => sentences(inner).into_iter().map(|range| (range.start, range.end)).collect(),
        Kind::Line => lines(inner),
    };
    ranges.into_iter().map(|(start, end)| (block.start + start, block.start + end)).collect()
}

/// Lines that are not blank; their indentation belongs to them.
fn lines(text: &str) -> Vec<(usize, usize)> {
    let mut start = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end().len();
        if bare > 0 {
            found.push((start, start + bare));
        }
        start += line.len();
    }
    found
}

/// Length of the head that a table begins with: names of columns, and a line of dashes under them.
pub(super) fn head_length(table: &str) -> Option<usize> {
    let (names, rest) = table.split_once('\n')?;
    let line = rest.lines().next()?;
    let is_head = tables::is_row(names) && tables::is_rule(line) && names.len() <= MAX_BYTES;
    is_head.then(|| names.len() + 1 + line.len())
}

struct Cutter<'a> {
    text: &'a str,
    max_tokens: usize,
    count_tokens: &'a dyn Fn(&str) -> usize,
    pieces: Vec<Piece>,
}

impl Cutter<'_> {
    /// The head of a table: the first row, where a line of dashes is under it. One that would
    /// take more than half of a passage is not repeated.
    fn head(&self, block: &Block) -> Option<Head> {
        if block.kind != Kind::Line {
            return None;
        }
        let end = block.start + head_length(&self.text[block.start..block.end])?;
        // One more for the line end before the rows.
        let tokens = (self.count_tokens)(&self.text[block.start..end]) + 1;
        (tokens * 2 <= self.max_tokens).then_some(Head { start: block.start, end, tokens })
    }

    /// Adds a piece, or the parts of one that is too long: its lines, its words, its characters.
    fn add(&mut self, piece: Piece) {
        let length = piece.end - piece.start;
        let tokens = if length > MAX_BYTES { None } else { Some((self.count_tokens)(self.slice(&piece))) };
        let parts = match tokens {
            Some(tokens) if tokens <= self.max_tokens => {
                self.pieces.push(Piece { tokens, ..piece });
                return;
            }
            // A tenth less than would fit on average, since parts differ.
            Some(tokens) => (tokens * 10).div_ceil(self.max_tokens * 9).max(2),
            None => length.div_ceil(MAX_BYTES * 3 / 4).max(2),
        };
        let ranges = self.parts(&piece, parts);
        if ranges.len() == 1 {
            // One character: it cannot be cut.
            self.pieces.push(Piece { tokens: tokens.unwrap_or(length), ..piece });
            return;
        }
        for (start, end) in ranges {
            let starts_paragraph = piece.starts_paragraph && start == piece.start;
            self.add(Piece { start, end, starts_paragraph, ..piece });
        }
    }

    /// Cuts a piece into about `parts` of equal length, each where a line ends,
    /// else between words, else between characters. Blanks between them are left out.
    fn parts(&self, piece: &Piece, parts: usize) -> Vec<(usize, usize)> {
        let text = self.slice(piece);
        let step = text.len().div_ceil(parts).max(1);
        let mut ranges = Vec::with_capacity(parts);
        let mut from = 0;
        while from < text.len() {
            let rest = &text[from..];
            let to = from + if rest.len() <= step { rest.len() } else { cut_before(rest, step) };
            let part = &text[from..to];
            let trimmed = part.trim();
            if !trimmed.is_empty() {
                let start = piece.start + from + part.len() - part.trim_start().len();
                ranges.push((start, start + trimmed.len()));
            }
            from = to;
        }
        ranges
    }

    fn slice(&self, piece: &Piece) -> &str {
        &self.text[piece.start..piece.end]
    }
}

/// The best offset to cut `text` at, in `1..=limit` where a character allows it.
fn cut_before(text: &str, limit: usize) -> usize {
    let limit = text.floor_char_boundary(limit);
    let window = &text[..limit];
    // A part shorter than half a step would make the parts too many.
    let late = |at: &usize| *at * 2 >= limit && *at > 0;
    let line_end = window.rfind('\n').filter(late);
    let word_end = || {
        let at = window.rfind(char::is_whitespace)?;
        Some(at + window[at..].chars().next()?.len_utf8()).filter(|at| *at < limit).filter(late)
    };
    // Scripts without blanks: the boundaries of Unicode Standard Annex 29, looked for
    // near the limit only.
    let (near, far) = (limit - limit.min(NEAR), (limit + NEAR).min(text.len()));
    let (near, far) = (text.floor_char_boundary(near), text.ceil_char_boundary(far));
    let around = &text[near..far];
    let last = |at: usize| Some(near + at).filter(late);
    let word =
        || around.split_word_bound_indices().map(|(at, _)| at).take_while(|at| near + at <= limit).last();
    let cluster =
        || around.grapheme_indices(true).map(|(at, _)| at).take_while(|at| near + at <= limit).last();
    let boundary = || word().and_then(last).or_else(|| cluster().and_then(last));
    let first = || match text[..far].graphemes(true).next() {
        Some(one) if one.len() <= NEAR => one.len(),
        // A character under more marks than anyone can read.
        _ => limit.max(text.chars().next().map_or(1, char::len_utf8)),
    };
    line_end.or_else(word_end).or_else(boundary).unwrap_or_else(first)
}
