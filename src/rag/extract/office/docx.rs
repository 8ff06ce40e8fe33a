//! Word documents: headings, lists, tables, text boxes, footnotes.
//!
//! Left out: headers and footers, which repeat on every page, comments, and what
//! tracked changes have deleted.

use roxmltree::Node;

use super::{
    ExtractError, Extracted, Format, children, finish, first_heading, main_part,
    numbering::Numbering,
    relations, stated_title,
    styles::{self, Style, Styles},
    xml,
};
use crate::rag::extract::{archive::Archive, markdown::Markdown};

const FORMAT: Format = Format::Docx;

pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    let mut archive = Archive::open(bytes, FORMAT)?;
    let main = main_part(&mut archive);
    let parts = relations(&mut archive, FORMAT, &main)?;
    let mut part = |kind: &str| -> Result<Option<String>, ExtractError> {
        let Some(relation) = parts.values().find(|relation| relation.kind == kind) else { return Ok(None) };
        let bytes = archive.read(&relation.target)?;
        bytes.map(|bytes| xml::text(FORMAT, &relation.target, &bytes)).transpose()
    };
    let (styles, numbering) = (part("styles")?, part("numbering")?);
    let notes = [part("footnotes")?, part("endnotes")?];
    let text = xml::text(FORMAT, &main, &archive.require(&main)?)?;
    let document = xml::parse(FORMAT, &main, &text)?;
    let body = xml::descend(document.root(), &["document", "body"])
        .ok_or_else(|| FORMAT.broken("it has no body".into()))?;
    let notes = notes.iter().flatten().map(|notes| xml::parse(FORMAT, "footnotes.xml", notes));
    let notes = notes.collect::<Result<Vec<_>, _>>()?;
    let mut reader = Reader {
        styles: with_root(styles.as_deref(), "styles.xml", Styles::read)?,
        numbering: with_root(numbering.as_deref(), "numbering.xml", Numbering::read)?,
        out: Markdown::default(),
        boxes: Vec::new(),
    };
    reader.blocks(body)?;
    for notes in &notes {
        for note in xml::all(notes.root(), "footnote").chain(xml::all(notes.root(), "endnote")) {
            // Those with a type are the lines between text and notes.
            if xml::attribute(note, "type").is_none() {
                reader.blocks(note)?;
            }
        }
    }
    let title = stated_title(&mut archive, FORMAT, "docProps/core.xml");
    let mut extracted = finish(title, reader.out, FORMAT)?;
    extracted.title = extracted.title.or_else(|| first_heading(&extracted.text));
    Ok(extracted)
}

/// Reads a part that a document may lack.
fn with_root<T: Default>(
    text: Option<&str>,
    part: &str,
    read: impl FnOnce(Node) -> T,
) -> Result<T, ExtractError> {
    let Some(text) = text else { return Ok(T::default()) };
    Ok(read(xml::parse(FORMAT, part, text)?.root()))
}

struct Reader<'a, 'input> {
    styles: Styles,
    numbering: Numbering,
    out: Markdown,
    /// Text boxes of the paragraph that is read: they come after it.
    boxes: Vec<Node<'a, 'input>>,
}

impl<'a, 'input> Reader<'a, 'input> {
    fn blocks(&mut self, parent: Node<'a, 'input>) -> Result<(), ExtractError> {
        for node in children(parent) {
            match xml::name(node) {
                "p" => self.paragraph(node)?,
                "tbl" => self.table(node)?,
                // Wrappers: content controls, custom markup, inserted text.
                "sdt" | "sdtContent" | "customXml" | "smartTag" | "ins" | "moveTo" => self.blocks(node)?,
                _ => {}
            }
        }
        self.out.check_size()
    }

    fn paragraph(&mut self, node: Node<'a, 'input>) -> Result<(), ExtractError> {
        let mut text = String::new();
        self.runs(node, &mut text);
        let style = self.style(node);
        match (style.level, style.list) {
            (Some(level), _) => self.out.heading(level, &text),
            (None, _) if style.is_title => self.out.heading(1, &text),
            (None, Some((list, depth))) if list != "0" && !text.trim().is_empty() => {
                let marker = self.numbering.marker(&list, depth);
                self.out.item(depth, &marker, &text);
            }
            _ => self.out.paragraph(&text),
        }
        std::mem::take(&mut self.boxes).into_iter().try_for_each(|content| self.blocks(content))
    }

    /// What a paragraph is: by itself, else by its style.
    fn style(&self, paragraph: Node) -> Style {
        let Some(properties) = xml::child(paragraph, "pPr") else { return Style::default() };
        let named = xml::child(properties, "pStyle").and_then(|style| xml::attribute(style, "val"));
        let style = named.map(|id| self.styles.resolve(id)).unwrap_or_default();
        Style {
            level: styles::outline_level(properties).or(style.level),
            list: styles::list(properties).or(style.list),
            is_title: style.is_title,
        }
    }

    /// The text of runs, links and fields.
    fn runs(&mut self, parent: Node<'a, 'input>, text: &mut String) {
        for node in children(parent) {
            match xml::name(node) {
                "t" => text.push_str(node.text().unwrap_or_default()),
                "tab" | "ptab" if xml::name(parent) == "r" => text.push('\t'),
                "br" | "cr" => text.push('\n'),
                "noBreakHyphen" => text.push('-'),
                "txbxContent" => self.boxes.push(node),
                // Deleted text, properties, and instructions of fields are not read.
                "del" | "moveFrom" | "pPr" | "rPr" | "instrText" | "delText" => {}
                _ => self.runs(node, text),
            }
        }
    }

    fn table(&mut self, table: Node<'a, 'input>) -> Result<(), ExtractError> {
        let mut rows = Vec::new();
        self.rows(table, &mut rows);
        self.out.table(&rows);
        std::mem::take(&mut self.boxes).into_iter().try_for_each(|content| self.blocks(content))
    }

    fn rows(&mut self, parent: Node<'a, 'input>, rows: &mut Vec<Vec<String>>) {
        for node in children(parent) {
            match xml::name(node) {
                "tr" => {
                    let mut row = Vec::new();
                    self.cells(node, &mut row);
                    rows.push(row);
                }
                "sdt" | "sdtContent" | "customXml" | "ins" => self.rows(node, rows),
                _ => {}
            }
        }
    }

    fn cells(&mut self, parent: Node<'a, 'input>, row: &mut Vec<String>) {
        for node in children(parent) {
            match xml::name(node) {
                "tc" => {
                    let mut text = String::new();
                    self.cell_text(node, &mut text);
                    row.push(text);
                    row.extend(std::iter::repeat_n(String::new(), spanned(node)));
                }
                "sdt" | "sdtContent" | "customXml" | "ins" => self.cells(node, row),
                "trPr" => {
                    let before = xml::child(node, "gridBefore").and_then(|node| xml::attribute(node, "val"));
                    let before = before.and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
                    row.extend(std::iter::repeat_n(String::new(), before.min(MAX_SPAN)));
                }
                _ => {}
            }
        }
    }

    /// Paragraphs of a cell, and the tables in it, one after the other.
    fn cell_text(&mut self, cell: Node<'a, 'input>, text: &mut String) {
        for node in children(cell) {
            match xml::name(node) {
                "p" => {
                    text.push('\n');
                    self.runs(node, text);
                }
                "tcPr" | "trPr" | "tblPr" | "del" => {}
                _ => self.cell_text(node, text),
            }
        }
    }
}

/// Most columns that a cell is believed to span.
const MAX_SPAN: usize = 64;

/// Columns that a cell spans beside its own.
fn spanned(cell: Node) -> usize {
    let span = xml::descend(cell, &["tcPr", "gridSpan"]).and_then(|span| xml::attribute(span, "val"));
    span.and_then(|span| span.parse::<usize>().ok()).map_or(0, |span| span.saturating_sub(1).min(MAX_SPAN))
}
