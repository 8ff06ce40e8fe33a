//! PDF with a text layer, read by `pdf-extract`, which panics on what it does not know:
//! see [`super::guard`].

use std::time::{Duration, Instant};

use pdf_extract::{Document, Error, Object, decode_text_string};

use super::layout::Layout;
use super::{ExtractError, Extracted, Format, finish, paragraphs, preflight, stated_title};

const MAX_GLYPHS: usize = 50_000_000;
const MAX_DURATION: Duration = Duration::from_secs(60);

/// Reads the text layer.
pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    preflight::check_expansion(bytes).map_err(bad)?;
    let mut document = Document::load_mem(bytes.trim_ascii_start()).map_err(refusal)?;
    // Many files are encrypted without a password, to forbid printing.
    if document.trailer.has(b"Encrypt") && document.decrypt("").is_err() {
        return Err(ExtractError::Encrypted { format: Format::Pdf });
    }
    preflight::prepare(&mut document).map_err(bad)?;
    let mut layout = Layout::new(MAX_GLYPHS, Instant::now() + MAX_DURATION);
    pdf_extract::output_doc(&document, &mut layout).map_err(bad)?;
    if layout.pages.iter().all(Vec::is_empty) {
        return Err(ExtractError::NoTextLayer);
    }
    if layout.is_mostly_unmapped() {
        return Err(ExtractError::UnmappedText);
    }
    finish(title(&document), paragraphs::join(&layout.pages), Format::Pdf)
}

fn refusal(error: Error) -> ExtractError {
    match error {
        Error::Decryption(_) | Error::InvalidPassword => ExtractError::Encrypted { format: Format::Pdf },
        other => bad(other),
    }
}

fn bad(reason: impl ToString) -> ExtractError {
    Format::Pdf.broken(reason.to_string())
}

/// The title in the document's information.
fn title(document: &Document) -> Option<String> {
    let information = document.trailer.get(b"Info").and_then(Object::as_reference).ok()?;
    let title = document.get_dictionary(information).and_then(|info| info.get(b"Title")).ok()?;
    stated_title(&decode_text_string(title).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PDF of the given objects, the first of them the catalog; `root` ends the trailer.
    fn pdf(objects: &[String], trailer: &str) -> Vec<u8> {
        let mut out = b"%PDF-1.4\n".to_vec();
        let mut offsets = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            offsets.push(out.len());
            out.extend(format!("{} 0 obj\n{object}\nendobj\n", index + 1).into_bytes());
        }
        let start = out.len();
        out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).into_bytes());
        for offset in offsets {
            out.extend(format!("{offset:010} 00000 n \n").into_bytes());
        }
        let size = objects.len() + 1;
        out.extend(
            format!("trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF")
                .into_bytes(),
        );
        out
    }

    fn stream(dictionary: &str, content: &str) -> String {
        format!("<< {dictionary} /Length {} >>\nstream\n{content}\nendstream", content.len())
    }

    /// One page that draws `content`; `extra` objects are numbered from 6.
    fn page(content: &str, resources: &str, extra: &[String], trailer: &str) -> Vec<u8> {
        let mut objects = vec![
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
            format!(
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
                 /Resources << /Font << /F1 5 0 R >> {resources} >> >>"
            ),
            stream("", content),
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
        ];
        objects.extend_from_slice(extra);
        pdf(&objects, trailer)
    }

    fn reason(bytes: &[u8]) -> String {
        crate::rag::extract::extract(None, None, bytes).unwrap_err().to_string()
    }

    #[test]
    fn text_title_and_paragraphs() {
        let content = "BT /F1 12 Tf 72 700 Td (The ferry leaves the har-) Tj 0 -14 Td (bour at nine and comes back.) Tj \
            0 -40 Td [(Din) 20 (ner is at) -600 (seven.)] TJ ET";
        let info = "<< /Title (Ferry \\(new\\)) >>".to_owned();
        let got = extract(&page(content, "", &[info], "/Info 6 0 R")).unwrap();
        assert_eq!(got.title.as_deref(), Some("Ferry (new)"));
        assert_eq!(
            got.text.trim_end(),
            "The ferry leaves the harbour at nine and comes back.\n\nDinner is at seven."
        );
    }

    #[test]
    fn text_drawn_twice_to_look_bold_is_read_once() {
        let content = "BT /F1 12 Tf 1 0 0 1 72 700 Tm (Bold) Tj 1 0 0 1 72.4 700 Tm (Bold) Tj ET";
        assert_eq!(extract(&page(content, "", &[], "")).unwrap().text.trim_end(), "Bold");
    }

    #[test]
    fn text_written_upwards_is_read_as_a_line() {
        let content = "BT /F1 12 Tf 0 1 -1 0 300 100 Tm (Up the) Tj ( mast) Tj ET";
        assert_eq!(extract(&page(content, "", &[], "")).unwrap().text.trim_end(), "Up the mast");
    }

    #[test]
    fn a_page_of_pictures_has_no_text_layer() {
        let picture = stream("/Type /XObject /Subtype /Image /Width 1 /Height 1", "BT (x) Tj");
        let bytes = page("/X Do", "/XObject << /X 6 0 R >>", &[picture], "");
        assert_eq!(reason(&bytes), "PDF has no text layer; OCR is not supported");
    }

    #[test]
    fn forms_are_read_with_their_own_fonts() {
        let symbols = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica \
            /Encoding << /Type /Encoding /Differences [65 /X /Y] >> >>";
        let form = stream(
            "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Filter /ASCII85Decode \
             /Resources << /Font << /F1 7 0 R >> >>",
            // BT /F1 12 Tf 72 600 Td (AB) Tj ET
            r#"6<#'\7PQ#?1*BP.+?)%u2D?g-<+I+"5sd"C<,*OE;u~>"#,
        );
        let content = "BT /F1 12 Tf 72 700 Td (AB) Tj ET /X Do";
        let bytes = page(content, "/XObject << /X 6 0 R >>", &[form, symbols.to_owned()], "");
        assert_eq!(extract(&bytes).unwrap().text.trim_end(), "AB\n\nXY");
    }

    #[test]
    fn encrypted_is_refused() {
        let encrypt = "<< /Filter /Standard /V 1 /R 2 /O (00000000000000000000000000000000) \
            /U (00000000000000000000000000000000) /P -4 >>";
        let content = "BT /F1 12 Tf (x) Tj ET";
        let indirect = page(content, "", &[encrypt.to_owned()], "/Encrypt 6 0 R /ID [(a) (a)]");
        let direct = page(content, "", &[], &format!("/Encrypt {encrypt} /ID [(a) (a)]"));
        assert_eq!(extract(&indirect), Err(ExtractError::Encrypted { format: Format::Pdf }));
        assert_eq!(extract(&direct), Err(ExtractError::Encrypted { format: Format::Pdf }));
    }

    #[test]
    fn what_makes_the_reader_panic_becomes_an_error() {
        let bytes = page("BT /Missing 12 Tf (x) Tj ET", "", &[], "");
        assert!(reason(&bytes).starts_with("PDF cannot be read: malformed or not supported ("));
        for bytes in [&b"%PDF-1.4"[..], b"%PDF-1.7\n1 0 obj\n<< /Type", &page("", "", &[], "")[..300]] {
            assert!(reason(bytes).starts_with("PDF cannot be read: "));
        }
    }

    #[test]
    fn endless_nesting_is_refused() {
        let form = "/Type /XObject /Subtype /Form /BBox [0 0 9 9]";
        let named = stream(&format!("{form} /Resources << /XObject << /X 6 0 R >> >>"), "/X Do");
        let endless = page("/X Do", "/XObject << /X 6 0 R >>", &[named], "");
        assert_eq!(reason(&endless), "PDF cannot be read: its forms draw each other without end");
        let unmarked = stream("/Resources << /XObject << /X 6 0 R >> >>", "/X Do");
        let unmarked = page("/X Do", "/XObject << /X 6 0 R >>", &[unmarked], "");
        assert_eq!(reason(&unmarked), "PDF cannot be read: its forms draw each other without end");
        let inherited = page("/X Do", "/XObject << /X 6 0 R >>", &[stream(form, "/X Do")], "");
        assert!(reason(&inherited).contains("without naming its resources"));
        let tree = [
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            "<< /Type /Pages /Kids [3 0 R] /Count 1 /Parent 2 0 R >>".to_owned(),
            "<< /Type /Page /Parent 2 0 R >>".to_owned(),
        ];
        assert_eq!(reason(&pdf(&tree, "")), "PDF cannot be read: its page tree nests without end");
    }
}
