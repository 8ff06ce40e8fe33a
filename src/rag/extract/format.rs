//! The formats that are read: names, media types and file endings, in one place.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Anything that is plain text: notes, logs, source code.
    Text,
    Markdown,
    Html,
    /// Its text comes out as plain paragraphs; each page ends with a form feed.
    Pdf,
    Docx,
    Pptx,
    Xlsx,
    Xlsb,
    Xls,
    Odt,
    Ods,
    Odp,
    Epub,
    Rtf,
    Eml,
    Csv,
    Json,
}

/// What is known about a format.
struct Known {
    format: Format,
    /// As it stands in a list of supported formats.
    name: &'static str,
    /// Without the dot.
    extensions: &'static [&'static str],
    /// The first is what is stored beside the text.
    media_types: &'static [&'static str],
}

const FORMATS: &[Known] = &[
    Known {
        format: Format::Text,
        name: "plain text",
        extensions: &["txt", "text", "log", "rst", "org"],
        media_types: &["text/plain"],
    },
    Known {
        format: Format::Markdown,
        name: "Markdown",
        extensions: &["md", "markdown", "mdown", "mkd"],
        media_types: &["text/markdown", "text/x-markdown"],
    },
    Known {
        format: Format::Html,
        name: "HTML",
        extensions: &["html", "htm", "xhtml"],
        media_types: &["text/html", "application/xhtml+xml"],
    },
    Known {
        format: Format::Pdf,
        name: "PDF with a text layer",
        extensions: &["pdf"],
        media_types: &["application/pdf"],
    },
    Known {
        format: Format::Docx,
        name: "Word (docx)",
        extensions: &["docx", "docm"],
        media_types: &["application/vnd.openxmlformats-officedocument.wordprocessingml.document"],
    },
    Known {
        format: Format::Pptx,
        name: "PowerPoint (pptx)",
        extensions: &["pptx", "pptm"],
        media_types: &["application/vnd.openxmlformats-officedocument.presentationml.presentation"],
    },
    Known {
        format: Format::Xlsx,
        name: "Excel (xlsx, xlsb, xls)",
        extensions: &["xlsx", "xlsm"],
        media_types: &["application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"],
    },
    Known {
        format: Format::Xlsb,
        name: "",
        extensions: &["xlsb"],
        media_types: &["application/vnd.ms-excel.sheet.binary.macroenabled.12"],
    },
    Known { format: Format::Xls, name: "", extensions: &["xls"], media_types: &["application/vnd.ms-excel"] },
    Known {
        format: Format::Odt,
        name: "OpenDocument (odt, ods, odp)",
        extensions: &["odt"],
        media_types: &["application/vnd.oasis.opendocument.text"],
    },
    Known {
        format: Format::Ods,
        name: "",
        extensions: &["ods"],
        media_types: &["application/vnd.oasis.opendocument.spreadsheet"],
    },
    Known {
        format: Format::Odp,
        name: "",
        extensions: &["odp"],
        media_types: &["application/vnd.oasis.opendocument.presentation"],
    },
    Known {
        format: Format::Epub,
        name: "EPUB",
        extensions: &["epub"],
        media_types: &["application/epub+zip"],
    },
    Known {
        format: Format::Rtf,
        name: "RTF",
        extensions: &["rtf"],
        media_types: &["application/rtf", "text/rtf"],
    },
    Known {
        format: Format::Eml,
        name: "e-mail (eml)",
        extensions: &["eml"],
        media_types: &["message/rfc822"],
    },
    Known {
        format: Format::Csv,
        name: "CSV and TSV",
        extensions: &["csv", "tsv", "tab"],
        media_types: &["text/csv", "text/tab-separated-values"],
    },
    Known {
        format: Format::Json,
        name: "JSON and JSON Lines",
        extensions: &["json", "jsonl", "ndjson", "geojson"],
        media_types: &["application/json", "application/x-ndjson", "application/jsonl"],
    },
];

impl Format {
    /// Whether the extracted text is Markdown, with headings, tables and code fences.
    pub fn is_markdown(self) -> bool {
        !matches!(self, Format::Text | Format::Pdf)
    }

    /// The media type to store beside the text of such a file.
    pub fn media_type(self) -> &'static str {
        self.known().media_types[0]
    }

    /// The format that is stored as this media type, or that a client means by it.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let known = FORMATS.iter().find(|known| known.media_types.contains(&media_type))?;
        Some(known.format)
    }

    /// The format of files with this ending, in lower case and without the dot.
    pub fn from_extension(extension: &str) -> Option<Self> {
        let known = FORMATS.iter().find(|known| known.extensions.contains(&extension))?;
        Some(known.format)
    }

    /// Every format in words, for messages.
    pub fn supported() -> String {
        let names: Vec<&str> =
            FORMATS.iter().map(|known| known.name).filter(|name| !name.is_empty()).collect();
        names.join(", ")
    }

    /// Every file ending that names a format, without the dot.
    pub fn extensions() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().flat_map(|known| known.extensions).copied()
    }

    fn known(self) -> &'static Known {
        // The test below finds each variant.
        FORMATS.iter().find(|known| known.format == self).unwrap_or(&FORMATS[0])
    }
}

/// As an error begins: "PDF cannot be read: …".
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Markdown => "Markdown",
            Format::Html => "HTML",
            Format::Pdf => "PDF",
            Format::Docx => "Word document (.docx)",
            Format::Pptx => "PowerPoint presentation (.pptx)",
            Format::Xlsx => "Excel workbook (.xlsx)",
            Format::Xlsb => "Excel workbook (.xlsb)",
            Format::Xls => "Excel workbook (.xls)",
            Format::Odt => "OpenDocument text (.odt)",
            Format::Ods => "OpenDocument spreadsheet (.ods)",
            Format::Odp => "OpenDocument presentation (.odp)",
            Format::Epub => "e-book (.epub)",
            Format::Rtf => "RTF",
            Format::Eml => "e-mail",
            Format::Csv => "table (CSV)",
            Format::Json => "JSON",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_known_by_its_media_type_and_endings() {
        let all = [
            Format::Text,
            Format::Markdown,
            Format::Html,
            Format::Pdf,
            Format::Docx,
            Format::Pptx,
            Format::Xlsx,
            Format::Xlsb,
            Format::Xls,
            Format::Odt,
            Format::Ods,
            Format::Odp,
            Format::Epub,
            Format::Rtf,
            Format::Eml,
            Format::Csv,
            Format::Json,
        ];
        assert_eq!(all.len(), FORMATS.len());
        for format in all {
            assert_eq!(format.known().format, format);
            assert_eq!(Format::from_media_type(format.media_type()), Some(format));
            assert!(format.known().extensions.iter().all(|e| Format::from_extension(e) == Some(format)));
        }
        assert!(
            Format::supported().starts_with("plain text, Markdown, HTML, PDF with a text layer, Word (docx)")
        );
    }
}
