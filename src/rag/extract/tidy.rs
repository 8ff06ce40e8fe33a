//! The same whitespace conventions for the text of every format.

/// Blank lines that may follow each other.
const MAX_BLANK_LINES: usize = 2;

/// Makes every line end `\n`, strips trailing blanks of lines, keeps at most
/// two blank lines in a row, and none at the start or the end.
pub(super) fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0;
    for line in
        text.replace("\r\n", "\n").split(['\n', '\r', '\x0c', '\x0b', '\u{2028}', '\u{2029}', '\u{85}'])
    {
        let line = line.trim_end();
        if line.is_empty() {
            blank += 1;
            continue;
        }
        if !out.is_empty() {
            let lines = 1 + blank.min(MAX_BLANK_LINES);
            out.extend(std::iter::repeat_n('\n', lines));
        }
        out.push_str(line);
        blank = 0;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_blanks_are_normalised() {
        assert_eq!(tidy("\r\n  a  \r\nb\t\rc\n\n\n\n\nd\n\n"), "  a\nb\nc\n\n\nd");
        assert_eq!(tidy("a\x0cb"), "a\nb");
        assert_eq!(tidy(" \n "), "");
    }
}
