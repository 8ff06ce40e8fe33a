//! What a file is: by content, by extension, by content type.

use super::{ExtractError, Format, decode, office};

/// What a file turns out to be.
pub(super) enum Found {
    /// Decoded text of this format.
    Text(Format, String),
    /// Bytes of this format.
    Bytes(Format),
    /// A ZIP container of a format that only its parts tell.
    Zip,
}

/// First bytes of formats that are refused, and what to call them.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"PK\x05\x06", "an empty ZIP archive"),
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

/// First bytes of pictures, and what to call them.
const PICTURES: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"\0\0\0\x18ftyp", "a HEIC or AVIF image, or a video"),
    (b"\0\0\0\x1cftyp", "a HEIC or AVIF image, or a video"),
    (b"\0\0\0\x20ftyp", "a HEIC or AVIF image, or a video"),
];

/// What is stored in an old Office file, by the name of an entry (UTF-16), first match first.
const COMPOUND: &[(&str, Compound)] = &[
    ("EncryptedPackage", Compound::Encrypted),
    ("WordDocument", Compound::Refused("an old Word document (.doc)")),
    ("PowerPoint Document", Compound::Refused("an old PowerPoint presentation (.ppt)")),
    ("__properties_version1.0", Compound::Refused("an Outlook message (.msg)")),
    ("Workbook", Compound::Xls),
    ("Book", Compound::Xls),
];

enum Compound {
    Encrypted,
    Xls,
    Refused(&'static str),
}

/// Extensions of formats that are refused, and what to call them.
const REFUSED: &[(&str, &str)] = &[
    ("doc", "an old Word document (.doc)"),
    ("ppt", "an old PowerPoint presentation (.ppt)"),
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
    "application/msword",
    "application/vnd.",
];

/// Says what a file is, and decodes what is text. No parser reads it for that.
pub(super) fn detect(
    name: Option<&str>,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<Found, ExtractError> {
    if is_pdf(bytes) {
        return Ok(Found::Bytes(Format::Pdf));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Found::Zip);
    }
    if bytes.starts_with(b"{\\rtf") {
        return Ok(Found::Bytes(Format::Rtf));
    }
    if bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return compound(name, bytes).map(Found::Bytes);
    }
    refuse_known_binary(bytes)?;
    if named_format(name, content_type) == Some(Format::Eml) {
        return Ok(Found::Bytes(Format::Eml));
    }
    let text = decode::decode(bytes)?;
    let format = text_format(name, content_type, &text)?;
    match format {
        Format::Text | Format::Markdown | Format::Html | Format::Csv | Format::Json | Format::Eml => {
            Ok(Found::Text(format, text))
        }
        // Its beginning would have said so.
        other if text.trim().is_empty() => Err(other.broken("it is empty".into())),
        other => Err(other.broken(format!("it does not begin as one ({})", expected_beginning(other)))),
    }
}

/// The format alone, for messages.
pub(super) fn format(name: Option<&str>, content_type: Option<&str>, bytes: &[u8]) -> Option<Format> {
    match detect(name, content_type, bytes).ok()? {
        Found::Text(format, _) | Found::Bytes(format) => Some(format),
        Found::Zip => zip_format(name, bytes).ok(),
    }
}

/// The format of a ZIP container by its parts; a damaged one is what its name says.
pub(super) fn zip_format(name: Option<&str>, bytes: &[u8]) -> Result<Format, ExtractError> {
    let by_name = || extension(name).and_then(|extension| Format::from_extension(&extension));
    let is_container = |format: &Format| {
        !matches!(
            format,
            Format::Text | Format::Markdown | Format::Html | Format::Csv | Format::Json | Format::Eml
        )
    };
    let found = office::format_of(bytes).or_else(|| by_name().filter(is_container));
    found.ok_or_else(|| ExtractError::Unsupported { what: "a ZIP archive".into() })
}

/// What an old Office file holds: its directory lists entries by name.
fn compound(name: Option<&str>, bytes: &[u8]) -> Result<Format, ExtractError> {
    let has = |entry: &str| {
        let name: Vec<u8> = entry.encode_utf16().flat_map(u16::to_le_bytes).collect();
        bytes.windows(name.len()).any(|window| window == name)
    };
    match COMPOUND.iter().find(|(entry, _)| has(entry)) {
        Some((_, Compound::Xls)) => Ok(Format::Xls),
        Some((_, Compound::Encrypted)) => {
            let named = extension(name).and_then(|extension| Format::from_extension(&extension));
            Err(ExtractError::Encrypted { format: named.unwrap_or(Format::Docx) })
        }
        Some((_, Compound::Refused(what))) => Err(ExtractError::Unsupported { what: (*what).to_owned() }),
        None => Err(ExtractError::Unsupported { what: "an old Office file".into() }),
    }
}

fn expected_beginning(format: Format) -> &'static str {
    match format {
        Format::Pdf => "%PDF-",
        Format::Rtf => "{\\rtf",
        Format::Xls => "an old Office file",
        _ => "a ZIP container",
    }
}

/// Whether the content begins as a PDF does. Blank bytes before it are common and harmless.
fn is_pdf(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"%PDF-")
}

/// Refuses content that names itself as something else than text.
fn refuse_known_binary(bytes: &[u8]) -> Result<(), ExtractError> {
    let named = |signatures: &[(&[u8], &'static str)]| {
        signatures
            .iter()
            .find(|(signature, _)| bytes.starts_with(signature))
            .map(|(_, what)| (*what).to_owned())
    };
    match (named(SIGNATURES), named(PICTURES)) {
        (Some(what), _) => Err(ExtractError::Unsupported { what }),
        // A text may begin with the letters BM.
        (None, Some(what)) if what.contains("BMP") && !bytes.contains(&0) => Ok(()),
        (None, Some(what)) => Err(ExtractError::Picture { what }),
        (None, None) => Ok(()),
    }
}

/// The format of decoded text, where only HTML can be told from its content.
fn text_format(name: Option<&str>, content_type: Option<&str>, text: &str) -> Result<Format, ExtractError> {
    if begins_as_html(text) {
        return Ok(Format::Html);
    }
    if let Some(what) = refused_extension(name) {
        return Err(ExtractError::Unsupported { what: what.to_owned() });
    }
    if let Some(format) = named_format(name, content_type) {
        return Ok(format);
    }
    let media = media_type(content_type);
    match REFUSED_MEDIA.iter().any(|refused| media.starts_with(refused)) {
        true if media.starts_with("image/") => {
            Err(ExtractError::Picture { what: format!("content of type {media}") })
        }
        true => Err(ExtractError::Unsupported { what: format!("content of type {media}") }),
        false => Ok(Format::Text),
    }
}

/// The format that the extension names, else the content type.
fn named_format(name: Option<&str>, content_type: Option<&str>) -> Option<Format> {
    let named = extension(name).and_then(|extension| Format::from_extension(&extension));
    named.or_else(|| Format::from_media_type(&media_type(content_type)))
}

/// A content type without its parameters.
fn media_type(content_type: Option<&str>) -> String {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
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
