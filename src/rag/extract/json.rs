//! JSON and JSON Lines: each value on a line with the path that leads to it.
//!
//! A line stands for itself wherever the text is cut. Numbers stay as they are written.

use serde::de::IgnoredAny;

use super::{ExtractError, Extracted, Format, MAX_TEXT, finish, markdown::Markdown};

const FORMAT: Format = Format::Json;

/// How deep values may nest: each is written with the path to it.
const MAX_DEPTH: usize = 64;

/// Reads one value, or several that follow each other. Records, which are the
/// values of a list or of a file of several, become sections.
pub(super) fn extract(text: &str) -> Result<Extracted, ExtractError> {
    let values = values(text)?;
    let mut out = Markdown::default();
    let mut title = None;
    match values.as_slice() {
        [value] if !value.starts_with('[') => {
            let flattened = Flattened::of(value)?;
            out.paragraph(&flattened.text);
            title = flattened.title;
        }
        [list] => write_records(elements(list), &mut out)?,
        several => write_records(several.iter().copied(), &mut out)?,
    }
    finish(title, out.finish(), FORMAT)
}

/// The values of a file, checked to be JSON: what reads them below need not doubt it.
fn values(text: &str) -> Result<Vec<&str>, ExtractError> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut values, mut start) = (Vec::new(), 0);
    while let Some(value) = stream.next() {
        value.map_err(|error| FORMAT.broken(error.to_string()))?;
        let end = stream.byte_offset();
        values.push(text[start..end].trim());
        start = end;
    }
    Ok(values)
}

fn write_records<'a>(records: impl Iterator<Item = &'a str>, out: &mut Markdown) -> Result<(), ExtractError> {
    for (index, record) in records.enumerate() {
        out.heading(2, &format!("Record {}", index + 1));
        out.paragraph(&Flattened::of(record)?.text);
        out.check_size()?;
    }
    Ok(())
}

/// The elements of a list that is known to be one.
fn elements(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list.strip_prefix('[').unwrap_or(list);
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        stream.next()?.ok()?;
        let (element, after) = rest.split_at(stream.byte_offset());
        rest = after;
        Some(element)
    })
}

/// The leaves of a value, `path: leaf` line by line.
struct Flattened {
    text: String,
    /// What the value calls its title or name.
    title: Option<String>,
}

/// Where in the value a token stands.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Flattened {
    fn of(value: &str) -> Result<Self, ExtractError> {
        let mut flattened = Flattened { text: String::new(), title: None };
        let mut path: Vec<Step> = Vec::new();
        let mut rest = value;
        // A string before a colon is a key.
        while let Some((token, after)) = next_token(rest) {
            let is_key = after.trim_ascii_start().starts_with(':');
            match token {
                "{" => path.push(Step::Key("\"\"")),
                "[" => path.push(Step::Index(0)),
                "}" | "]" => drop(path.pop()),
                "," => {
                    if let Some(Step::Index(index)) = path.last_mut() {
                        *index += 1;
                    }
                }
                ":" => {}
                key if is_key => {
                    if let Some(step) = path.last_mut() {
                        *step = Step::Key(key);
                    }
                }
                leaf => flattened.push(&path, leaf)?,
            }
            rest = after;
        }
        Ok(flattened)
    }

    fn push(&mut self, path: &[Step], leaf: &str) -> Result<(), ExtractError> {
        let leaf = unquoted(leaf);
        if leaf.trim().is_empty() {
            return Ok(());
        }
        if path.len() > MAX_DEPTH {
            return Err(ExtractError::TooDeep { format: FORMAT, limit: MAX_DEPTH });
        }
        if let [Step::Key(key)] = path
            && matches!(unquoted(key).as_str(), "title" | "name")
        {
            self.title.get_or_insert_with(|| super::markdown::one_line(&leaf));
        }
        for (index, step) in path.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    if index > 0 {
                        self.text.push('.');
                    }
                    self.text.push_str(&unquoted(key));
                }
                Step::Index(at) => self.text.push_str(&format!("[{at}]")),
            }
        }
        if !path.is_empty() {
            self.text.push_str(": ");
        }
        self.text.push_str(leaf.trim());
        self.text.push('\n');
        // A long path may lead to many values.
        if self.text.len() > MAX_TEXT { Err(ExtractError::TooMuchText { limit: MAX_TEXT }) } else { Ok(()) }
    }
}

/// The first token of valid JSON, and what comes after it.
fn next_token(json: &str) -> Option<(&str, &str)> {
    let json = json.trim_ascii_start();
    let end = match json.bytes().next()? {
        b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
        b'"' => {
            let mut escaped = false;
            let close = json.bytes().skip(1).position(|byte| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            });
            close? + 2
        }
        _ => json.find([',', ']', '}', ':', ' ', '\t', '\r', '\n']).unwrap_or(json.len()),
    };
    Some(json.split_at(end))
}

fn unquoted(token: &str) -> String {
    if token.starts_with('"') { serde_json::from_str(token).unwrap_or_default() } else { token.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        extract(json).unwrap().text
    }

    #[test]
    fn leaves_are_lines_with_their_paths() {
        let json = r#"{"name": "Nord\u00e9", "fares": [{"adult": 1.10, "child": null}, [true]], "a:b": "x\n\"y\"", "e": {}}"#;
        let got = extract(json).unwrap();
        assert_eq!(got.title.as_deref(), Some("Nordé"));
        assert_eq!(
            got.text,
            "name: Nordé\nfares[0].adult: 1.10\nfares[0].child: null\nfares[1][0]: true\na:b: x\n\"y\""
        );
        assert_eq!(text("12345678901234567890.10"), "12345678901234567890.10");
    }

    #[test]
    fn records_are_sections() {
        let want = "## Record 1\n\na: 1\n\n## Record 2\n\na: 2";
        assert_eq!(text("{\"a\": 1}\n\n{\"a\": 2}\n"), want);
        assert_eq!(text("[{\"a\": 1},\n {\"a\": 2}]"), want);
        assert_eq!(text("[\"x\"]"), "## Record 1\n\nx");
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        assert_eq!(extract("{}"), Err(ExtractError::Empty));
        let error = extract("{\"a\": 1}\n{\"a\": }").unwrap_err().to_string();
        assert_eq!(error, "JSON cannot be read: expected value at line 2 column 7");
        let deep = extract(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)));
        assert_eq!(deep, Err(ExtractError::TooDeep { format: FORMAT, limit: MAX_DEPTH }));
    }
}
