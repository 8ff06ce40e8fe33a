//! From a file's bytes to readable text.
//!
//! What a file is, is decided by its content first, then by its extension,
//! then by its content type. What cannot be read is refused with a message
//! that says why; nothing is guessed and nothing is dropped silently.
//!
//! Formats that need a parser are read by a process of their own ([`Readers`]),
//! so that no file can harm the server.

mod archive;
mod decode;
mod detect;
mod dom;
mod epub;
mod format;
mod guard;
mod html;
mod json;
mod layout;
mod mail;
mod markdown;
mod office;
mod paragraphs;
mod pdf;
mod preflight;
mod readers;
mod rtf;
mod tidy;
mod worker;
mod xml;

pub use format::Format;
pub use readers::{ReaderError, Readers};
pub use worker::serve;

use serde::{Deserialize, Serialize};

use detect::Found;

/// Bytes of text that a document may hold; about 20,000 pages.
const MAX_TEXT: usize = 64 << 20;

/// The readable part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// The title that the file itself states.
    pub title: Option<String>,
    /// Never blank; lines end with `\n`; without NUL.
    pub text: String,
    pub format: Format,
}

/// Why a file gives no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ExtractError {
    #[error("{what} cannot be read; supported are {}", Format::supported())]
    Unsupported { what: String },
    #[error(
        "{what} holds no text; a picture (PNG, JPEG, WebP or GIF) can be stored in a collection whose model reads images"
    )]
    Picture { what: String },
    #[error("not UTF-8 text: invalid byte 0x{byte:02x} at offset {offset}; convert the file to UTF-8")]
    NotUtf8 { offset: usize, byte: u8 },
    #[error("not valid {encoding}: malformed at byte offset {offset}")]
    Malformed { encoding: String, offset: usize },
    #[error("not text: the content is binary, or UTF-16 without a byte-order mark")]
    Binary,
    #[error("contains a NUL character at offset {offset}, which cannot be stored; remove it from the text")]
    Nul { offset: usize },
    #[error("contains no text")]
    Empty,
    #[error("{format} is nested more than {limit} levels deep")]
    TooDeep { format: Format, limit: usize },
    #[error("contains more than {} MiB of text; split the file", limit >> 20)]
    TooMuchText { limit: usize },
    #[error("PDF has no text layer; OCR is not supported")]
    NoTextLayer,
    #[error("{format} is encrypted; remove the password first")]
    Encrypted { format: Format },
    #[error("PDF has a text layer without a usable mapping to characters; OCR is not supported")]
    UnmappedText,
    #[error("{format} cannot be read: {reason}")]
    Broken { format: Format, reason: String },
    #[error("reading it took longer than {seconds} s; split the file or save it in another format")]
    TooSlow { seconds: u64 },
    #[error("reading it {what}; the file is damaged, or too large in what it describes")]
    Crashed { what: String },
}

impl ExtractError {
    /// The message without the list of formats.
    fn reason(&self) -> String {
        match self {
            ExtractError::Unsupported { what } => format!("{what} cannot be read"),
            ExtractError::Picture { what } => format!("{what} holds no text"),
            other => other.to_string(),
        }
    }
}

impl Format {
    /// What is said of a file of this format that cannot be read.
    fn broken(self, reason: String) -> ExtractError {
        ExtractError::Broken { format: self, reason }
    }
}

/// Reads the text of a file, in this process.
///
/// `name` is a file name, path or URL; only its extension counts.
/// `content_type` is a media type as a client sends it.
///
/// Blocking and CPU-bound, about 10 ms a PDF page at worst: call it on a
/// blocking thread. What a hostile file may do to a process, it does to this
/// one: [`Readers::extract`] is for those.
///
/// # Errors
/// Every [`ExtractError`] is about the file, never about this program.
pub fn extract(
    name: Option<&str>,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<Extracted, ExtractError> {
    let read = || read(name, content_type, bytes, 0);
    let format = || detect::format(name, content_type, bytes).unwrap_or(Format::Text);
    guard::guarded(read, |reason| format().broken(reason))
}

/// Reads what needs no parser: plain text and Markdown, and refuses what is known to be
/// nothing that can be read. Nothing for everything else.
fn extract_plain(
    name: Option<&str>,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Option<Result<Extracted, ExtractError>> {
    match detect::detect(name, content_type, bytes) {
        Ok(Found::Text(Format::Text, text)) => Some(plain(&text)),
        Ok(Found::Text(Format::Markdown, text)) => Some(markdown(&text)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    }
}

/// Reads any format; `depth` counts the mails that a file is attached to.
fn read(
    name: Option<&str>,
    content_type: Option<&str>,
    bytes: &[u8],
    depth: usize,
) -> Result<Extracted, ExtractError> {
    let (format, text) = match detect::detect(name, content_type, bytes)? {
        Found::Text(format, text) => (format, text),
        Found::Bytes(format) => (format, String::new()),
        Found::Zip => (detect::zip_format(name, bytes)?, String::new()),
    };
    match format {
        Format::Text => plain(&text),
        Format::Markdown => markdown(&text),
        Format::Html => html::extract(&text),
        Format::Csv => office::delimited(&text),
        Format::Json => json::extract(&text),
        Format::Pdf => pdf::extract(bytes),
        Format::Rtf => rtf::extract(bytes),
        Format::Eml => mail::extract(bytes, depth),
        Format::Epub => epub::extract(bytes),
        Format::Docx
        | Format::Pptx
        | Format::Xlsx
        | Format::Xlsb
        | Format::Xls
        | Format::Odt
        | Format::Ods
        | Format::Odp => office::extract(bytes, format),
    }
}

fn plain(text: &str) -> Result<Extracted, ExtractError> {
    finish(None, tidy::tidy(text), Format::Text)
}

fn markdown(text: &str) -> Result<Extracted, ExtractError> {
    let text = tidy::tidy(text);
    finish(markdown_title(&text), text, Format::Markdown)
}

fn finish(title: Option<String>, text: String, format: Format) -> Result<Extracted, ExtractError> {
    if text.trim().is_empty() {
        return Err(ExtractError::Empty);
    }
    if text.len() > MAX_TEXT {
        return Err(ExtractError::TooMuchText { limit: MAX_TEXT });
    }
    Ok(Extracted { title, text, format })
}

/// A title as a file's properties state it, unless a program made it up.
fn stated_title(title: &str) -> Option<String> {
    let title = markdown::one_line(&title.replace('\0', ""));
    let lower = title.to_lowercase();
    let is_made_up = lower.starts_with("microsoft word -")
        || lower.starts_with("untitled")
        || lower.starts_with("powerpoint presentation")
        || lower.starts_with("slide 1");
    (!title.is_empty() && !is_made_up).then_some(title)
}

/// The first level-one heading, or the `title` of YAML front matter.
fn markdown_title(text: &str) -> Option<String> {
    let front_matter = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"));
    let stated =
        front_matter.and_then(|(block, _)| block.lines().find_map(|line| line.strip_prefix("title:")));
    let heading = || text.lines().find_map(|line| line.strip_prefix("# "));
    let title = stated.or_else(heading)?;
    let title = title.trim().trim_matches(['"', '\'']).trim_end_matches([' ', '#']);
    (!title.is_empty()).then(|| title.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(name: &str, bytes: &[u8]) -> Extracted {
        extract(Some(name), None, bytes).unwrap()
    }

    #[test]
    fn content_decides_before_extension_and_content_type() {
        let page = b"\n<!DOCTYPE HTML><title>T</title><p>Hello";
        let got = extract(Some("a.txt"), Some("text/plain"), page).unwrap();
        assert_eq!((got.format, got.text.as_str()), (Format::Html, "Hello"));
    }

    #[test]
    fn extension_decides_before_content_type() {
        let got = extract(Some("notes.md"), Some("text/html"), b"# A *b*").unwrap();
        assert_eq!((got.format, got.title.as_deref()), (Format::Markdown, Some("A *b*")));
        assert_eq!(extract(None, Some("text/html; charset=utf-8"), b"<p>x").unwrap().text, "x");
        assert_eq!(extract(None, Some("text/markdown"), b"x").unwrap().format, Format::Markdown);
    }

    #[test]
    fn logs_and_source_code_are_plain_text() {
        for name in ["a.log", "a.rs", "a.xml", "Makefile", "a.unknown"] {
            let got = text_of(name, b"x: 1,2\n  y\n");
            assert_eq!((got.format, got.text.as_str()), (Format::Text, "x: 1,2\n  y"), "{name}");
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let zip = extract(Some("report.docx"), None, b"PK\x03\x04....").unwrap_err();
        assert!(
            zip.to_string().starts_with("Word document (.docx) cannot be read: its ZIP container is damaged")
        );
        let old = extract(Some("a.doc"), None, b"text").unwrap_err();
        assert!(
            old.to_string()
                .starts_with("an old Word document (.doc) cannot be read; supported are plain text,")
        );
        let png = extract(None, None, b"\x89PNG\r\n\x1a\n").unwrap_err();
        assert!(png.to_string().starts_with("a PNG image holds no text"));
        let image = extract(None, Some("image/webp"), b"text").unwrap_err();
        assert!(matches!(image, ExtractError::Picture { .. }));
        let named = extract(Some("a.pdf"), None, b"hello").unwrap_err();
        assert_eq!(named.to_string(), "PDF cannot be read: it does not begin as one (%PDF-)");
    }

    #[test]
    fn blank_files_are_refused() {
        for bytes in [&b""[..], b" \n\t\n", b"\xef\xbb\xbf", b"\xff\xfe"] {
            assert_eq!(extract(None, None, bytes), Err(ExtractError::Empty), "{bytes:?}");
        }
        let page = b"<!doctype html><title>T</title><script>x</script>";
        assert_eq!(extract(None, None, page), Err(ExtractError::Empty));
    }

    #[test]
    fn markdown_titles() {
        assert_eq!(markdown_title("---\ntitle: \"A b\"\n---\n# C"), Some("A b".into()));
        assert_eq!(markdown_title("intro\n\n# C d #\n# E"), Some("C d".into()));
        assert_eq!(markdown_title("## only\n"), None);
    }
}
