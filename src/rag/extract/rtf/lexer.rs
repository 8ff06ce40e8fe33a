//! RTF as a stream of bytes, control words and braces.

/// A part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    /// `\*`: who does not know the group's word passes it over.
    Optional,
    /// A byte of text in some encoding.
    Byte(u8),
    /// `\word` or `\word12`.
    Word(&'a str, Option<i32>),
}

/// Cuts RTF into tokens; whatever the bytes are, it goes forward.
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Leaves out binary data.
    pub fn leave_out(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn control(&mut self) -> Option<Token<'a>> {
        let letters = self.rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        if letters == 0 {
            return self.symbol();
        }
        let (word, after) = self.rest.split_at(letters);
        let sign = usize::from(after.first() == Some(&b'-'));
        let digits = after[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = after.split_at(if digits == 0 { 0 } else { sign + digits });
        self.rest = after.strip_prefix(b" ").unwrap_or(after);
        let word = std::str::from_utf8(word).unwrap_or_default();
        // A number that is too large means nothing.
        Some(Token::Word(word, std::str::from_utf8(number).ok().and_then(|number| number.parse().ok())))
    }

    fn symbol(&mut self) -> Option<Token<'a>> {
        let (symbol, after) = self.rest.split_first()?;
        self.rest = after;
        match symbol {
            b'\'' => {
                let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
                let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
                self.rest = after.get(if byte.is_some() { 2 } else { 0 }..).unwrap_or_default();
                Some(byte.map_or(Token::Word("", None), Token::Byte))
            }
            b'*' => Some(Token::Optional),
            b'\n' | b'\r' => Some(Token::Word("par", None)),
            b'\t' => Some(Token::Word("tab", None)),
            b'~' => Some(Token::Word("nbsp", None)),
            b'_' => Some(Token::Word("nbhyphen", None)),
            b'\\' | b'{' | b'}' => Some(Token::Byte(*symbol)),
            // Optional hyphens, entries of an index, formulas.
            _ => Some(Token::Word("", None)),
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (first, after) = self.rest.split_first()?;
            self.rest = after;
            return match first {
                b'{' => Some(Token::Open),
                b'}' => Some(Token::Close),
                b'\\' => self.control(),
                // Line ends are only for those who look at the source.
                b'\r' | b'\n' | 0 => continue,
                byte => Some(Token::Byte(*byte)),
            };
        }
    }
}

/// The character that a control word stands for.
pub(super) fn named_character(word: &str) -> Option<char> {
    Some(match word {
        "nbsp" => '\u{a0}',
        "nbhyphen" => '-',
        "emdash" => '—',
        "endash" => '–',
        "emspace" | "enspace" | "qmspace" => ' ',
        "bullet" => '•',
        "lquote" => '‘',
        "rquote" => '’',
        "ldblquote" => '“',
        "rdblquote" => '”',
        _ => return None,
    })
}
