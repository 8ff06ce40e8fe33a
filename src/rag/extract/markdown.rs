//! The Markdown that structured formats are read as: headings, paragraphs, lists, tables.

use super::{ExtractError, MAX_TEXT, tidy};

/// Deepest level of a heading.
const MAX_LEVEL: usize = 6;

/// Markdown as it is written, block after block.
#[derive(Debug, Default)]
pub(super) struct Markdown {
    text: String,
    in_list: bool,
}

impl Markdown {
    /// A heading; nothing when it has no text.
    pub fn heading(&mut self, level: usize, title: &str) {
        let title = one_line(title);
        if !title.is_empty() {
            self.begin_block();
            self.text.extend(std::iter::repeat_n('#', level.clamp(1, MAX_LEVEL)));
            self.text.push(' ');
            self.text.push_str(&title);
        }
    }

    /// A paragraph; its line ends stay.
    pub fn paragraph(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.begin_block();
            self.push_lines(text, "");
        }
    }

    /// Text whose blank lines stand between paragraphs.
    pub fn text(&mut self, text: &str) {
        let mut paragraph = String::new();
        for line in text.lines() {
            if line.trim().is_empty() {
                self.paragraph(&std::mem::take(&mut paragraph));
            } else {
                paragraph.push_str(line);
                paragraph.push('\n');
            }
        }
        self.paragraph(&paragraph);
    }

    /// An item of a list, `depth` levels deep in it.
    pub fn item(&mut self, depth: usize, marker: &str, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        if !self.in_list {
            self.begin_block();
        } else {
            self.text.push('\n');
        }
        let indent = "  ".repeat(depth.min(MAX_LEVEL));
        self.text.push_str(&indent);
        self.text.push_str(marker);
        self.text.push(' ');
        self.push_lines(text, &format!("{indent}  "));
        self.in_list = true;
    }

    /// A table, without the rows and columns that are empty throughout.
    ///
    /// The first row is the head when it names the columns. Rows before it with only one
    /// cell are its caption. What is only one column wide was a table for its looks: its
    /// cells become paragraphs.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        let columns = used_columns(rows);
        let mut rows: Vec<&Vec<String>> = rows.iter().filter(|row| !is_empty_row(row)).collect();
        if let [column] = columns[..] {
            return rows.iter().for_each(|row| self.paragraph(&row[column]));
        }
        let captions = rows.iter().take_while(|row| filled(row).count() == 1).count();
        for row in rows.drain(..captions) {
            filled(row).for_each(|cell| self.paragraph(cell));
        }
        let has_head = rows.len() > 1 && columns.iter().all(|c| is_name(rows[0].get(*c)));
        for (index, row) in rows.into_iter().enumerate() {
            if index == 0 {
                self.begin_block();
            } else {
                self.text.push('\n');
            }
            self.text.push('|');
            for column in &columns {
                self.text.push(' ');
                self.push_cell(row.get(*column).map_or("", String::as_str));
                self.text.push_str(" |");
            }
            if index == 0 && has_head {
                self.text.push_str("\n|");
                self.text.extend(std::iter::repeat_n(" --- |", columns.len()));
            }
        }
    }

    /// Markdown that was written elsewhere.
    pub fn raw(&mut self, markdown: &str) {
        if !markdown.trim().is_empty() {
            self.begin_block();
            self.text.push_str(markdown.trim_end());
        }
    }

    /// Whether more has been written than a document may hold; readers of large files stop then.
    pub fn check_size(&self) -> Result<(), ExtractError> {
        if self.text.len() > MAX_TEXT { Err(ExtractError::TooMuchText { limit: MAX_TEXT }) } else { Ok(()) }
    }

    /// The text, tidy and without NUL.
    pub fn finish(self) -> String {
        tidy::tidy(&self.text.replace('\0', ""))
    }

    fn begin_block(&mut self) {
        if !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
        self.in_list = false;
    }

    /// Lines that do not read as another block than the one they are in.
    fn push_lines(&mut self, text: &str, indent: &str) {
        let lines = text.trim().lines().map(str::trim).filter(|line| !line.is_empty());
        for (index, line) in lines.enumerate() {
            if index > 0 {
                self.text.push('\n');
                self.text.push_str(indent);
            }
            if reads_as_block(line) {
                self.text.push('\\');
            }
            self.text.push_str(line);
        }
    }

    fn push_cell(&mut self, cell: &str) {
        for (index, word) in cell.split_whitespace().enumerate() {
            if index > 0 {
                self.text.push(' ');
            }
            for part in word.split_inclusive('|') {
                match part.strip_suffix('|') {
                    Some(before) => {
                        self.text.push_str(before);
                        self.text.push_str("\\|");
                    }
                    None => self.text.push_str(part),
                }
            }
        }
    }
}

/// Blanks collapsed to one between words.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a line of text would be taken for a heading, a fence, a rule or a row.
fn reads_as_block(line: &str) -> bool {
    let is_heading = line.starts_with('#') && line.trim_start_matches('#').starts_with([' ', '\t']);
    let is_rule = line.len() > 1 && ["-", "="].iter().any(|mark| line.trim_end_matches(mark).is_empty());
    is_heading || is_rule || line.starts_with("```") || line.starts_with("~~~") || line.starts_with('|')
}

fn used_columns(rows: &[Vec<String>]) -> Vec<usize> {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut used = vec![false; width];
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            used[column] |= !cell.trim().is_empty();
        }
    }
    (0..width).filter(|column| used[*column]).collect()
}

fn is_empty_row(row: &[String]) -> bool {
    filled(row).next().is_none()
}

/// The cells of a row that hold something.
fn filled(row: &[String]) -> impl Iterator<Item = &String> {
    row.iter().filter(|cell| !cell.trim().is_empty())
}

/// Whether a cell can be the name of its column: text that is no number. The first may be empty.
fn is_name(cell: Option<&String>) -> bool {
    let digits = |cell: &str| cell.chars().filter(char::is_ascii_digit).count() * 2 > cell.chars().count();
    cell.is_none_or(|cell| cell.is_empty() || !digits(cell.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(cells: &[&[&str]]) -> Vec<Vec<String>> {
        cells.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn blocks_stand_apart_and_text_is_not_taken_for_one() {
        let mut out = Markdown::default();
        out.heading(9, " A\nb ");
        out.paragraph("# one\ntwo\n---");
        out.item(0, "-", "x");
        out.item(1, "1.", "y\nz");
        out.paragraph("```");
        assert_eq!(out.finish(), "###### A b\n\n\\# one\ntwo\n\\---\n\n- x\n  1. y\n    z\n\n\\```");
    }

    #[test]
    fn tables_lose_what_is_empty_and_keep_their_head() {
        let mut out = Markdown::default();
        out.table(&rows(&[&["The league"], &["Team", "", "Wins"], &[], &["A|B", "", "4\n5"]]));
        out.table(&rows(&[&["2020", "1"], &["2021", "2"]]));
        out.table(&rows(&[&["", "only"], &["", "text"]]));
        assert_eq!(
            out.finish(),
            "The league\n\n| Team | Wins |\n| --- | --- |\n| A\\|B | 4 5 |\n\n| 2020 | 1 |\n| 2021 | 2 |\n\nonly\n\ntext"
        );
    }
}
