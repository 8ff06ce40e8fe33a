//! OpenDocument texts, spreadsheets and presentations.
//!
//! Left out: headers and footers, tables of contents, comments, deleted text.

use std::collections::HashMap;

use roxmltree::Node;

use super::{ExtractError, Extracted, Format, children, finish, first_heading, sheets, stated_title, xml};
use crate::rag::extract::{
    archive::Archive,
    markdown::{Markdown, one_line},
};

/// Columns that a sheet may have; more is padding.
const MAX_COLUMNS: usize = 16_384;
/// Cells of a file that are read at most.
const MAX_CELLS: usize = 5_000_000;
/// Levels of a list.
const LEVELS: usize = 10;

pub(super) fn extract(bytes: &[u8], format: Format) -> Result<Extracted, ExtractError> {
    let mut archive = Archive::open(bytes, format)?;
    if let Some(manifest) = archive.read("META-INF/manifest.xml")?
        && manifest.windows(b"encryption-data".len()).any(|window| window == b"encryption-data")
    {
        return Err(ExtractError::Encrypted { format });
    }
    let text = xml::text(format, "content.xml", &archive.require("content.xml")?)?;
    let document = xml::parse(format, "content.xml", &text)?;
    let root = document.root_element();
    let body = xml::child(root, "body").ok_or_else(|| format.broken("it has no body".into()))?;
    let mut reader = Reader { format, numbered: numbered_lists(root), ..Reader::new(format) };
    reader.blocks(body, &List::default())?;
    let notes = std::mem::take(&mut reader.notes);
    notes.into_iter().try_for_each(|note| reader.blocks(note, &List::default()))?;
    let title = stated_title(&mut archive, format, "meta.xml");
    let mut extracted = finish(title, reader.out, format)?;
    extracted.title = extracted.title.or_else(|| first_heading(&extracted.text));
    Ok(extracted)
}

/// For each style of lists, which levels are numbered.
fn numbered_lists(root: Node) -> HashMap<String, [bool; LEVELS]> {
    let style = |node: Node| {
        let mut levels = [false; LEVELS];
        for level in node.children().filter(|child| xml::name(*child) == "list-level-style-number") {
            let index = xml::attribute(level, "level").and_then(|level| level.parse::<usize>().ok());
            if let Some(slot) = index.and_then(|index| levels.get_mut(index.wrapping_sub(1))) {
                *slot = true;
            }
        }
        Some((xml::attribute(node, "name")?.to_owned(), levels))
    };
    xml::all(root, "list-style").filter_map(style).collect()
}

/// The list that a block stands in.
#[derive(Default, Clone)]
struct List {
    style: String,
    /// 0 is no list.
    depth: usize,
    /// Which item of it.
    number: usize,
}

struct Reader<'a, 'input> {
    format: Format,
    numbered: HashMap<String, [bool; LEVELS]>,
    out: Markdown,
    boxes: Vec<Node<'a, 'input>>,
    notes: Vec<Node<'a, 'input>>,
    slides: usize,
    cells: usize,
}

impl<'a, 'input> Reader<'a, 'input> {
    fn new(format: Format) -> Self {
        Self {
            format,
            numbered: HashMap::new(),
            out: Markdown::default(),
            boxes: Vec::new(),
            notes: Vec::new(),
            slides: 0,
            cells: 0,
        }
    }

    fn blocks(&mut self, parent: Node<'a, 'input>, list: &List) -> Result<(), ExtractError> {
        for node in children(parent) {
            match xml::name(node) {
                "h" => {
                    let level = xml::attribute(node, "outline-level").and_then(|level| level.parse().ok());
                    let text = self.text(node);
                    self.out.heading(level.unwrap_or(1), &text);
                }
                "p" => self.paragraph(node, list)?,
                "list" => self.list(node, list)?,
                "table" if self.format == Format::Ods => self.sheet(node)?,
                "table" => {
                    let rows = self.rows(node)?.into_iter().map(|(_, cells)| cells).collect::<Vec<_>>();
                    self.out.table(&rows);
                }
                "page" => self.slide(node)?,
                // Beside the text, or in it a second time.
                "tracked-changes" | "table-of-content" | "annotation" | "forms" | "shapes" => {}
                "alphabetical-index" | "illustration-index" | "table-index" | "object" | "image" => {}
                _ => self.blocks(node, list)?,
            }
        }
        self.out.check_size()
    }

    fn paragraph(&mut self, node: Node<'a, 'input>, list: &List) -> Result<(), ExtractError> {
        let text = self.text(node);
        match list.depth.checked_sub(1) {
            None => self.out.paragraph(&text),
            Some(depth) => {
                let numbered =
                    self.numbered.get(&list.style).is_some_and(|levels| levels[depth.min(LEVELS - 1)]);
                let marker = if numbered { format!("{}.", list.number) } else { "-".to_owned() };
                self.out.item(depth, &marker, &text);
            }
        }
        std::mem::take(&mut self.boxes)
            .into_iter()
            .try_for_each(|content| self.blocks(content, &List::default()))
    }

    fn list(&mut self, node: Node<'a, 'input>, outer: &List) -> Result<(), ExtractError> {
        // A list in a list has the style of the outer one unless it names another.
        let style = xml::attribute(node, "style-name").map_or(outer.style.clone(), str::to_owned);
        let mut list = List { style, depth: outer.depth + 1, number: 0 };
        for item in children(node) {
            list.number += usize::from(xml::name(item) == "list-item");
            self.blocks(item, &list)?;
        }
        Ok(())
    }

    fn slide(&mut self, page: Node<'a, 'input>) -> Result<(), ExtractError> {
        self.slides += 1;
        let number = self.slides;
        let is_title = |frame: &Node| xml::attribute(*frame, "class") == Some("title");
        let title = page.children().find(is_title);
        let title = title.map(|frame| one_line(&xml::inner_text(frame))).filter(|title| !title.is_empty());
        self.out
            .heading(2, &title.map_or(format!("Slide {number}"), |title| format!("Slide {number}: {title}")));
        for shape in children(page).into_iter().filter(|shape| !is_title(shape)) {
            self.blocks(shape, &List::default())?;
        }
        Ok(())
    }

    fn sheet(&mut self, table: Node<'a, 'input>) -> Result<(), ExtractError> {
        let rows = self.rows(table)?;
        sheets::write_rows(xml::attribute(table, "name").unwrap_or("Sheet"), rows, &mut self.out)
    }

    /// Rows that are not empty, with their numbers.
    fn rows(&mut self, table: Node<'a, 'input>) -> Result<Vec<(u32, Vec<String>)>, ExtractError> {
        let mut rows = Vec::new();
        let mut number: u32 = 0;
        let is_row = |node: &Node| node.is_element() && xml::name(*node) == "table-row";
        // Rows may stand in groups; those of a table in a cell are that cell's.
        let own =
            |row: &Node| row.ancestors().skip(1).find(|node| xml::name(*node) == "table") == Some(table);
        let found: Vec<Node> = table.descendants().filter(is_row).filter(own).collect();
        for row in found {
            let times = repeated(row, "number-rows-repeated");
            let cells = self.cells(row)?;
            if !cells.is_empty() {
                for offset in 0..times {
                    self.cells += cells.len();
                    if self.cells > MAX_CELLS {
                        let reason = format!("it has more than {MAX_CELLS} cells; split the file");
                        return Err(self.format.broken(reason));
                    }
                    rows.push((number.saturating_add(offset), cells.clone()));
                }
            }
            number = number.saturating_add(times);
        }
        Ok(rows)
    }

    /// The cells of a row up to the last that is not empty.
    fn cells(&mut self, row: Node<'a, 'input>) -> Result<Vec<String>, ExtractError> {
        let mut cells: Vec<String> = Vec::new();
        let mut column = 0usize;
        for cell in children(row) {
            if !matches!(xml::name(cell), "table-cell" | "covered-table-cell") {
                continue;
            }
            let times = repeated(cell, "number-columns-repeated") as usize;
            let text = self.cell_text(cell);
            if !text.trim().is_empty() {
                let end = column.saturating_add(times);
                if end > MAX_COLUMNS {
                    return Err(self.format.broken(format!("a row has more than {MAX_COLUMNS} columns")));
                }
                cells.resize(column, String::new());
                cells.resize(end, text);
            }
            column = column.saturating_add(times);
        }
        Ok(cells)
    }

    fn cell_text(&mut self, cell: Node<'a, 'input>) -> String {
        let mut text = String::new();
        for node in children(cell) {
            match xml::name(node) {
                "p" | "h" => text.push_str(&self.text(node)),
                "annotation" | "frame" | "shapes" => {}
                _ => text.push_str(&self.cell_text(node)),
            }
            text.push('\n');
        }
        text.trim().to_owned()
    }

    /// The text of a paragraph. Boxes and notes in it are kept for later.
    fn text(&mut self, paragraph: Node<'a, 'input>) -> String {
        let mut text = String::new();
        self.inline(paragraph, &mut text);
        text
    }

    fn inline(&mut self, parent: Node<'a, 'input>, text: &mut String) {
        for node in parent.children() {
            if let Some(piece) = node.text().filter(|_| node.is_text()) {
                text.push_str(&piece.replace(['\n', '\r', '\t'], " "));
                continue;
            }
            match xml::name(node) {
                "s" => text.push(' '),
                "tab" => text.push('\t'),
                "line-break" => text.push('\n'),
                "note" => self.notes.extend(xml::child(node, "note-body")),
                "frame" | "text-box" | "custom-shape" | "g" => self.boxes.push(node),
                "annotation" | "" => {}
                _ => self.inline(node, text),
            }
        }
    }
}

fn repeated(node: Node, attribute: &str) -> u32 {
    xml::attribute(node, attribute).and_then(|count| count.parse().ok()).unwrap_or(1)
}
