//! Rich Text Format: paragraphs, headings by style or outline level, tables.
//!
//! Left out: headers and footers, pictures, hidden text.

mod charset;
mod lexer;

use std::collections::HashMap;

use encoding_rs::Encoding;

use super::{ExtractError, Extracted, Format, finish, markdown::Markdown, stated_title};
use lexer::{Lexer, Token};

/// Groups that hold no text of the document.
const SKIPPED: &[&str] = &[
    "colortbl",
    "pict",
    "object",
    "objdata",
    "header",
    "headerl",
    "headerr",
    "headerf",
    "footer",
    "footerl",
    "footerr",
    "footerf",
    "fldinst",
    "listtable",
    "listoverridetable",
    "rsidtbl",
    "generator",
    "themedata",
    "datastore",
    "xmlnstbl",
    "bkmkstart",
    "bkmkend",
    "annotation",
    "atnid",
    "atnauthor",
    "author",
    "operator",
    "comment",
    "doccomm",
    "subject",
    "keywords",
    "company",
    "revtbl",
    "filetbl",
    "latentstyles",
    "nonshppict",
    "pnseclvl",
    "mmathPr",
    "upr",
    "private",
    "ftnsep",
    "ftnsepc",
    "aftnsep",
    "aftnsepc",
];

/// Groups open at once; real files have some dozens.
const MAX_GROUPS: usize = 4096;

pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    let mut reader = Reader::default();
    let mut lexer = Lexer::new(bytes);
    while let Some(token) = lexer.next() {
        reader.take(token)?;
        lexer.leave_out(std::mem::take(&mut reader.skip_binary));
    }
    reader.flush();
    reader.end_paragraph();
    reader.end_table();
    let title = stated_title(&reader.title);
    finish(title, reader.out.finish(), Format::Rtf)
}

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Target {
    #[default]
    Document,
    Title,
    Fonts,
    Styles,
    Nothing,
}

/// What a group takes over from the one around it.
#[derive(Clone)]
struct State {
    goes_to: Target,
    /// Characters that stand for one of Unicode to those who do not know it.
    substitutes: usize,
    encoding: &'static Encoding,
    is_hidden: bool,
    in_table: bool,
    level: Option<usize>,
    /// The font or style that is defined, in the tables of them.
    defined: i32,
}

struct Reader {
    state: State,
    outer: Vec<State>,
    out: Markdown,
    /// Bytes that are not decoded yet.
    bytes: Vec<u8>,
    /// Half of a character beyond the basic plane.
    high_surrogate: Option<u16>,
    text: String,
    title: String,
    style_name: String,
    row: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Substitutes that are still to be passed over.
    passed_over: usize,
    /// The group began with `\*`: unknown ones of them are not text.
    is_optional: bool,
    skip_binary: usize,
    default_encoding: &'static Encoding,
    fonts: HashMap<i32, &'static Encoding>,
    headings: HashMap<i32, usize>,
}

impl Default for Reader {
    fn default() -> Self {
        let encoding = encoding_rs::WINDOWS_1252;
        Self {
            state: State {
                goes_to: Target::Document,
                substitutes: 1,
                encoding,
                is_hidden: false,
                in_table: false,
                level: None,
                defined: 0,
            },
            outer: Vec::new(),
            out: Markdown::default(),
            bytes: Vec::new(),
            high_surrogate: None,
            text: String::new(),
            title: String::new(),
            style_name: String::new(),
            row: Vec::new(),
            rows: Vec::new(),
            passed_over: 0,
            is_optional: false,
            skip_binary: 0,
            default_encoding: encoding,
            fonts: HashMap::new(),
            headings: HashMap::new(),
        }
    }
}

impl Reader {
    fn take(&mut self, token: Token) -> Result<(), ExtractError> {
        match token {
            Token::Open => {
                self.flush();
                if self.outer.len() == MAX_GROUPS {
                    return Err(ExtractError::TooDeep { format: Format::Rtf, limit: MAX_GROUPS });
                }
                self.outer.push(self.state.clone());
                (self.passed_over, self.is_optional) = (0, false);
            }
            Token::Close => {
                self.flush();
                self.end_definition();
                if let Some(outer) = self.outer.pop() {
                    self.state = outer;
                }
                (self.passed_over, self.is_optional) = (0, false);
            }
            Token::Byte(_) | Token::Word("bin", _) if self.passed_over > 0 => self.passed_over -= 1,
            Token::Byte(byte) => {
                self.is_optional = false;
                self.bytes.push(byte);
            }
            Token::Optional => self.is_optional = true,
            Token::Word(word, value) => {
                self.flush();
                self.word(word, value)?;
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &str, value: Option<i32>) -> Result<(), ExtractError> {
        if std::mem::take(&mut self.is_optional) && !matches!(word, "shppict" | "shptxt" | "pntext") {
            self.state.goes_to = Target::Nothing;
        }
        let number = value.unwrap_or(1);
        match word {
            "bin" => self.skip_binary = usize::try_from(number).unwrap_or(0),
            "u" => self.unicode(number),
            "uc" => self.state.substitutes = usize::try_from(number).unwrap_or(1),
            "ansicpg" => {
                self.default_encoding = charset::of_codepage(number).unwrap_or(self.default_encoding);
                self.state.encoding = self.default_encoding;
            }
            "f" if self.state.goes_to == Target::Fonts => self.state.defined = number,
            "f" => self.state.encoding = self.fonts.get(&number).copied().unwrap_or(self.default_encoding),
            "fcharset" => {
                if let Some(encoding) = charset::of_font(number) {
                    self.fonts.insert(self.state.defined, encoding);
                }
            }
            "plain" => (self.state.encoding, self.state.is_hidden) = (self.default_encoding, false),
            "v" => self.state.is_hidden = value != Some(0),
            "s" if self.state.goes_to == Target::Styles => self.state.defined = number,
            "s" => self.state.level = self.headings.get(&number).copied(),
            "outlinelevel" => {
                self.state.level =
                    usize::try_from(number).ok().filter(|level| *level < 9).map(|level| level + 1)
            }
            "pard" => (self.state.level, self.state.in_table) = (None, false),
            "intbl" => self.state.in_table = true,
            "par" | "sect" | "page" => self.end_paragraph(),
            "line" => self.push('\n'),
            "tab" => self.push('\t'),
            "cell" | "nestcell" => self.row.push(std::mem::take(&mut self.text).trim().to_owned()),
            "row" | "nestrow" => self.rows.push(std::mem::take(&mut self.row)),
            "fonttbl" => self.state.goes_to = Target::Fonts,
            "stylesheet" => self.state.goes_to = Target::Styles,
            "title" => self.state.goes_to = Target::Title,
            word if SKIPPED.contains(&word) => self.state.goes_to = Target::Nothing,
            word => {
                if let Some(character) = lexer::named_character(word) {
                    self.push(character);
                }
            }
        }
        self.out.check_size()
    }

    /// A character in UTF-16, in one or two words; what stands for it elsewhere is passed over.
    fn unicode(&mut self, number: i32) {
        // Numbers above 32,767 are written as negative ones.
        let unit = number as u16;
        let units = self.high_surrogate.take().into_iter().chain([unit]);
        for character in char::decode_utf16(units) {
            match character {
                Ok(character) => self.push(character),
                Err(error) if (0xd800..0xdc00).contains(&error.unpaired_surrogate()) => {
                    self.high_surrogate = Some(error.unpaired_surrogate());
                }
                Err(_) => self.push(char::REPLACEMENT_CHARACTER),
            }
        }
        self.passed_over = self.state.substitutes;
    }

    fn push(&mut self, character: char) {
        match self.state.goes_to {
            Target::Document if !self.state.is_hidden => self.text.push(character),
            Target::Title => self.title.push(character),
            Target::Styles => self.style_name.push(character),
            Target::Document | Target::Fonts | Target::Nothing => {}
        }
    }

    /// Decodes what has come in bytes.
    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let (text, _) = self.state.encoding.decode_without_bom_handling(&bytes);
        text.chars().for_each(|character| self.push(character));
    }

    /// The end of a style's definition: its name has been read.
    fn end_definition(&mut self) {
        if self.state.goes_to != Target::Styles {
            return;
        }
        let name = std::mem::take(&mut self.style_name).to_lowercase();
        let level =
            name.trim_end_matches(';').trim().strip_prefix("heading ").and_then(|level| level.parse().ok());
        if let Some(level) = level {
            self.headings.insert(self.state.defined, level);
        }
    }

    fn end_paragraph(&mut self) {
        if self.state.in_table {
            return self.push('\n');
        }
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() && self.row.is_empty() && !self.rows.is_empty() {
            return;
        }
        self.end_table();
        match self.state.level {
            Some(level) => self.out.heading(level, &text),
            None => self.out.paragraph(&text),
        }
    }

    fn end_table(&mut self) {
        if !self.row.is_empty() {
            self.rows.push(std::mem::take(&mut self.row));
        }
        self.out.table(&std::mem::take(&mut self.rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rtf: &str) -> String {
        extract(rtf.as_bytes()).unwrap().text
    }

    #[test]
    fn characters_of_every_kind() {
        assert_eq!(
            text(r"{\rtf1\ansi caf\'e9 \u8364?\~x \{y\}\par second\line third}"),
            "café €\u{a0}x {y}\n\nsecond\nthird"
        );
        assert_eq!(text(r"{\rtf1\ansicpg1251 \'cf\'f0}"), "Пр");
        assert_eq!(text(r"{\rtf1{\fonttbl{\f0 A;}{\f1\fcharset128 B;}}\f1 \'93\'fa\f0 \'e9}"), "日é");
        assert_eq!(text(r"{\rtf1 \u-10179?\u-8694?{\uc2 \u233 xxy}z}"), "😊éyz");
    }

    #[test]
    fn structure_and_what_is_left_out() {
        let rtf = r"{\rtf1{\stylesheet{\s0 Normal;}{\s1 heading 1;}}{\info{\title The fares}}{\header top}
\pard\s1 Fares\par\pard text {\*\unknown no}{\pict 00ff}{\v hidden}end\par
\trowd\intbl Who\cell Price\cell\row\trowd\intbl Child\cell{\b 3}\cell\row\pard after\par}";
        let got = extract(rtf.as_bytes()).unwrap();
        assert_eq!(got.title.as_deref(), Some("The fares"));
        assert_eq!(got.text, "# Fares\n\ntext end\n\n| Who | Price |\n| --- | --- |\n| Child | 3 |\n\nafter");
    }

    #[test]
    fn groups_without_end_are_refused() {
        let deep = extract("{\\rtf1 ".repeat(100_000).as_bytes());
        assert_eq!(deep, Err(ExtractError::TooDeep { format: Format::Rtf, limit: MAX_GROUPS }));
        assert_eq!(text(r"{\rtf1 open"), "open");
        assert_eq!(extract(br"{\rtf1\bin99999999999 x}"), Err(ExtractError::Empty));
    }
}
