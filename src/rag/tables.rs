//! Tables in Markdown, as extraction writes them and passages hold them.

use std::ops::Range;

/// A row of a table below its head, or of one without a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its place in the text, without the line end.
    pub range: Range<usize>,
    pub cells: Vec<&'a str>,
    /// Names of the columns; empty where the table has no head.
    pub columns: Vec<&'a str>,
}

/// Whether a line is the one under a table's head: bars, dashes and colons.
pub fn is_rule(line: &str) -> bool {
    line.contains('-') && line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
}

/// Whether a line is a part of a table.
pub fn is_row(line: &str) -> bool {
    line.trim_start().starts_with('|')
}

/// The rows of a text's tables in order. Heads and the rules under them are none.
pub fn rows(text: &str) -> Vec<Row<'_>> {
    let mut found = Vec::new();
    let mut columns = Vec::new();
    let mut lines = text.split_inclusive('\n').peekable();
    let mut start = 0;
    while let Some(line) = lines.next() {
        let at = start;
        start += line.len();
        let line = line.trim_end();
        if !is_row(line) {
            columns.clear();
        } else if lines.peek().is_some_and(|next| is_row(next) && is_rule(next.trim())) {
            columns = cells(line);
        } else if !is_rule(line.trim()) {
            found.push(Row { range: at..at + line.len(), cells: cells(line), columns: columns.clone() });
        }
    }
    found
}

/// What stands between the bars of a row; a bar after `\` is text.
fn cells(row: &str) -> Vec<&str> {
    let inner = row.trim().trim_start_matches('|');
    let mut cells = Vec::new();
    let mut from = 0;
    for (at, _) in inner.match_indices('|').filter(|(at, _)| !inner[..*at].ends_with('\\')) {
        cells.push(inner[from..at].trim());
        from = at + 1;
    }
    let rest = inner[from..].trim();
    if !rest.is_empty() {
        cells.push(rest);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_columns() {
        let text =
            "Fares:\n\n| Who | Price |\n|---|:-:|\n| Adult | 14 |\n| Child \\| pupil | 7 |\n\nText.\n| a |\n";
        let rows = rows(text);
        assert_eq!(rows.len(), 3);
        assert_eq!(&text[rows[0].range.clone()], "| Adult | 14 |");
        assert_eq!(
            (rows[0].cells.clone(), rows[0].columns.clone()),
            (vec!["Adult", "14"], vec!["Who", "Price"])
        );
        assert_eq!(rows[1].cells, ["Child \\| pupil", "7"]);
        assert_eq!((rows[2].cells.clone(), rows[2].columns.len()), (vec!["a"], 0));
    }
}
