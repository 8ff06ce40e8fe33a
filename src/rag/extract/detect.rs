//! What a file is: by content, by extension, by content type.

use super::{ExtractError, Format};

/// First bytes of formats that are refused, and what to call them.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (doc, xls, ppt or msg)"),
    (b"{\\rtf", "a Rich Text file (.rtf)"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%!PS", "a PostScript file"),
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
];

/// Extensions of formats that are refused, and what to call them.
const REFUSED: &[(&str, &str)] = &[
    ("docx", "a Word document (.docx)"),
    ("doc", "an old Word document (.doc)"),
    ("xlsx", "an Excel workbook (.xlsx)"),
    ("xls", "an old Excel workbook (.xls)"),
    ("pptx", "a PowerPoint presentation (.pptx)"),
    ("ppt", "an old PowerPoint presentation (.ppt)"),
    ("odt", "an OpenDocument text (.odt)"),
    ("ods", "an OpenDocument spreadsheet (.ods)"),
    ("odp", "an OpenDocument presentation (.odp)"),
    ("epub", "an e-book (.epub)"),
    ("rtf", "a Rich Text file (.rtf)"),
    ("eml", "an e-mail message (.eml)"),
    ("msg", "an Outlook message (.msg)"),
    ("mbox", "a mailbox (.mbox)"),
    ("zip", "a ZIP archive"),
];

/// Media types of formats that are refused; a trailing `/` means the whole family.
const REFUSED_MEDIA: &[&str] = &[
    "image/",
    "audio/",
    "video/",
    "font/",
    "message/",
    "application/zip",
    "application/gzip",
    "application/rtf",
    "application/msword",
    "application/epub+zip",
    "application/vnd.",
];

/// Whether the content begins as a PDF does. Blank bytes before it are common and harmless.
pub(super) fn is_pdf(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"%PDF-")
}

/// Refuses content that names itself as something else than text.
pub(super) fn refuse_known_binary(name: Option<&str>, bytes: &[u8]) -> Result<(), ExtractError> {
    let Some((_, what)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) else {
        return Ok(());
    };
    // `docx` and the like are ZIP archives: their extension says it better.
    let what = refused_extension(name).unwrap_or(what);
    Err(ExtractError::Unsupported { what: what.to_owned() })
}

/// The format of decoded text, where only HTML can be told from its content.
pub(super) fn text_format(
    name: Option<&str>,
    content_type: Option<&str>,
    text: &str,
) -> Result<Format, ExtractError> {
    if begins_as_html(text) {
        return Ok(Format::Html);
    }
    if let Some(what) = refused_extension(name) {
        return Err(ExtractError::Unsupported { what: what.to_owned() });
    }
    match extension(name).as_deref() {
        Some("md" | "markdown" | "mdown" | "mkd") => return Ok(Format::Markdown),
        Some("html" | "htm" | "xhtml") => return Ok(Format::Html),
        Some("pdf") => return Ok(Format::Pdf),
        // Known to be text, whatever type a client derived for it.
        Some("txt" | "text" | "csv" | "tsv" | "json" | "log" | "rst" | "org") => return Ok(Format::Text),
        Some(_) | None => {}
    }
    media_format(content_type)
}

fn media_format(content_type: Option<&str>) -> Result<Format, ExtractError> {
    let media = content_type.unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "text/html" | "application/xhtml+xml" => Ok(Format::Html),
        "text/markdown" | "text/x-markdown" => Ok(Format::Markdown),
        "application/pdf" => Ok(Format::Pdf),
        other if REFUSED_MEDIA.iter().any(|refused| other.starts_with(refused)) => {
            Err(ExtractError::Unsupported { what: format!("content of type {other}") })
        }
        _ => Ok(Format::Text),
    }
}

/// Whether the text starts with `<!doctype html` or `<html`, after an XML declaration and comments.
fn begins_as_html(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        let end = if rest.starts_with("<?xml") {
            "?>"
        } else if rest.starts_with("<!--") {
            "-->"
        } else {
            break;
        };
        let Some((_, after)) = rest.split_once(end) else { return false };
        rest = after.trim_start();
    }
    ["<!doctype html", "<html"].iter().any(|opening| {
        rest.get(..opening.len()).is_some_and(|head| head.eq_ignore_ascii_case(opening))
            && !rest[opening.len()..].starts_with(|c: char| c.is_alphanumeric())
    })
}

fn refused_extension(name: Option<&str>) -> Option<&'static str> {
    let extension = extension(name)?;
    REFUSED.iter().find(|(refused, _)| *refused == extension).map(|(_, what)| *what)
}

fn extension(name: Option<&str>) -> Option<String> {
    let file = name?.rsplit(['/', '\\']).next()?;
    let (_, extension) = file.rsplit_once('.')?;
    Some(extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_recognised_by_its_opening() {
        assert!(begins_as_html("  <!DocType HTML>"));
        assert!(begins_as_html("<?xml version=\"1.0\"?>\n<!-- c -->\n<html lang=\"en\">"));
        assert!(!begins_as_html("<htmlx>"));
        assert!(!begins_as_html("About <html> tags"));
        assert!(!begins_as_html("<?xml version=\"1.0\"?><feed/>"));
        assert!(!begins_as_html("<!-- never closed"));
    }

    #[test]
    fn pdf_is_recognised_after_blank_bytes() {
        assert!(is_pdf(b"\r\n %PDF-1.4"));
        assert!(!is_pdf(b"see %PDF-1.4"));
    }

    #[test]
    fn extensions_come_from_the_last_part_of_a_path() {
        assert_eq!(extension(Some("a.b/C.TXT")).as_deref(), Some("txt"));
        assert_eq!(extension(Some("a.b/c")), None);
    }
}
