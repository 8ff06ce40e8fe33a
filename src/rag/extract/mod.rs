//! From a file's bytes to readable text.
//!
//! What a file is, is decided by its content first, then by its extension,
//! then by its content type. What cannot be read is refused with a message
//! that says why; nothing is guessed and nothing is dropped silently.

mod decode;
mod detect;
mod dom;
mod html;
mod layout;
mod paragraphs;
mod pdf;
mod preflight;
mod tidy;

use std::fmt;

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Anything that is plain text: notes, CSV, JSON, logs, source code.
    Text,
    Markdown,
    /// Its text comes out as Markdown.
    Html,
    /// Its text comes out as plain paragraphs.
    Pdf,
}

impl Format {
    /// Whether the extracted text is Markdown, with headings, tables and code fences.
    pub fn is_markdown(self) -> bool {
        match self {
            Format::Markdown | Format::Html => true,
            Format::Text | Format::Pdf => false,
        }
    }

    /// The media type to store beside the text of such a file.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain",
            Format::Markdown => "text/markdown",
            Format::Html => "text/html",
            Format::Pdf => "application/pdf",
        }
    }

    /// The format that is stored as this media type.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        [Format::Text, Format::Markdown, Format::Html, Format::Pdf]
            .into_iter()
            .find(|format| format.media_type() == media_type)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "plain text",
            Format::Markdown => "Markdown",
            Format::Html => "HTML",
            Format::Pdf => "PDF",
        })
    }
}

/// The readable part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// The title that the file itself states.
    pub title: Option<String>,
    /// Never blank; lines end with `\n`; without NUL.
    pub text: String,
    pub format: Format,
}

/// Why a file gives no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    #[error("{what} cannot be read; supported are plain text, Markdown, HTML and PDF with a text layer")]
    Unsupported { what: String },
    #[error("not UTF-8 text: invalid byte 0x{byte:02x} at offset {offset}; convert the file to UTF-8")]
    NotUtf8 { offset: usize, byte: u8 },
    #[error("not valid {encoding}: malformed at byte offset {offset}")]
    Malformed { encoding: &'static str, offset: usize },
    #[error("not text: the content is binary, or UTF-16 without a byte-order mark")]
    Binary,
    #[error("contains a NUL character at offset {offset}, which cannot be stored; remove it from the text")]
    Nul { offset: usize },
    #[error("contains no text")]
    Empty,
    #[error("HTML is nested more than {limit} levels deep")]
    TooDeep { limit: usize },
    #[error("PDF has no text layer; OCR is not supported")]
    NoTextLayer,
    #[error("PDF is encrypted; remove the password first")]
    Encrypted,
    #[error("PDF has a text layer without a usable mapping to characters; OCR is not supported")]
    UnmappedText,
    #[error("PDF cannot be read: {reason}")]
    BadPdf { reason: String },
}

/// Reads the text of a file.
///
/// `name` is a file name, path or URL; only its extension counts.
/// `content_type` is a media type as a client sends it.
///
/// Blocking and CPU-bound, about 10 ms a PDF page at worst: call it on a
/// blocking thread.
///
/// # Errors
/// Every [`ExtractError`] is about the file, never about this program.
pub fn extract(
    name: Option<&str>,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<Extracted, ExtractError> {
    if detect::is_pdf(bytes) {
        return pdf::extract(bytes);
    }
    detect::refuse_known_binary(name, bytes)?;
    let text = decode::decode(bytes)?;
    match detect::text_format(name, content_type, &text)? {
        Format::Html => html::extract(&text),
        Format::Markdown => {
            let text = tidy::tidy(&text);
            finish(markdown_title(&text), text, Format::Markdown)
        }
        Format::Text => finish(None, tidy::tidy(&text), Format::Text),
        Format::Pdf => Err(ExtractError::BadPdf { reason: "it does not begin with %PDF-".into() }),
    }
}

fn finish(title: Option<String>, text: String, format: Format) -> Result<Extracted, ExtractError> {
    if text.trim().is_empty() {
        return Err(ExtractError::Empty);
    }
    Ok(Extracted { title, text, format })
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
    fn data_and_source_code_are_plain_text() {
        for name in ["a.csv", "a.json", "a.log", "a.rs", "Makefile", "a.unknown"] {
            let got = text_of(name, b"x: 1,2\n  y\n");
            assert_eq!((got.format, got.text.as_str()), (Format::Text, "x: 1,2\n  y"), "{name}");
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let zip = extract(Some("report.docx"), None, b"PK\x03\x04....").unwrap_err();
        assert!(zip.to_string().starts_with("a Word document (.docx) cannot be read; supported are"));
        let png = extract(None, None, b"\x89PNG\r\n\x1a\n").unwrap_err();
        assert!(png.to_string().starts_with("a PNG image cannot be read"));
        let mail = extract(Some("a.eml"), None, b"From: x").unwrap_err();
        assert!(matches!(mail, ExtractError::Unsupported { .. }));
        let image = extract(None, Some("image/webp"), b"text").unwrap_err();
        assert!(matches!(image, ExtractError::Unsupported { .. }));
        let named = extract(Some("a.pdf"), None, b"hello").unwrap_err();
        assert_eq!(named.to_string(), "PDF cannot be read: it does not begin with %PDF-");
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
