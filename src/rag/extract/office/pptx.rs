//! PowerPoint presentations: a section for each slide, with its tables and its speaker's notes.

use roxmltree::Node;

use super::{
    ExtractError, Extracted, Format, children, finish, main_part, relation_id, relations, stated_title, xml,
};
use crate::rag::extract::{
    archive::Archive,
    markdown::{Markdown, one_line},
};

const FORMAT: Format = Format::Pptx;

pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    let mut archive = Archive::open(bytes, FORMAT)?;
    let main = main_part(&mut archive);
    let text = xml::text(FORMAT, &main, &archive.require(&main)?)?;
    let document = xml::parse(FORMAT, &main, &text)?;
    let parts = relations(&mut archive, FORMAT, &main)?;
    let mut out = Markdown::default();
    let mut number = 0;
    for slide in xml::all(document.root(), "sldId") {
        let Some(part) = relation_id(slide).and_then(|id| parts.get(id)) else { continue };
        number += 1;
        read_slide(&mut archive, &part.target, number, &mut out)?;
        out.check_size()?;
    }
    if number == 0 {
        return Err(ExtractError::Empty);
    }
    let title = stated_title(&mut archive, FORMAT, "docProps/core.xml");
    finish(title, out, FORMAT)
}

fn read_slide(
    archive: &mut Archive,
    path: &str,
    number: usize,
    out: &mut Markdown,
) -> Result<(), ExtractError> {
    let text = xml::text(FORMAT, path, &archive.require(path)?)?;
    let document = xml::parse(FORMAT, path, &text)?;
    let title =
        xml::all(document.root(), "sp").find(is_title).map(|shape| one_line(&paragraphs(shape).join(" ")));
    let mut content = Markdown::default();
    if let Some(tree) = xml::all(document.root(), "spTree").next() {
        read_shapes(tree, &mut content);
    }
    let notes = relations(archive, FORMAT, path)?.into_values().find(|part| part.kind == "notesSlide");
    if let Some(notes) = notes {
        read_notes(archive, &notes.target, &mut content)?;
    }
    let content = content.finish();
    let title = title.filter(|title| !title.is_empty());
    if title.is_some() || !content.is_empty() {
        out.heading(2, &title.map_or(format!("Slide {number}"), |title| format!("Slide {number}: {title}")));
        out.raw(&content);
    }
    Ok(())
}

fn read_notes(archive: &mut Archive, path: &str, out: &mut Markdown) -> Result<(), ExtractError> {
    let Some(bytes) = archive.read(path)? else { return Ok(()) };
    let text = xml::text(FORMAT, path, &bytes)?;
    let document = xml::parse(FORMAT, path, &text)?;
    let body = xml::all(document.root(), "sp").find(|shape| placeholder(*shape) == Some("body"));
    let notes = body.map(paragraphs).unwrap_or_default().join("\n");
    if !notes.trim().is_empty() {
        out.paragraph(&format!("Notes: {}", notes.trim()));
    }
    Ok(())
}

/// Shapes in their order, those of groups among them; titles have been read.
fn read_shapes(parent: Node, out: &mut Markdown) {
    for shape in children(parent) {
        match xml::name(shape) {
            // Numbers, dates and footers repeat on every slide.
            "sp" if is_title(&shape) || matches!(placeholder(shape), Some("sldNum" | "dt" | "ftr")) => {}
            "sp" => out.paragraph(&paragraphs(shape).join("\n")),
            "graphicFrame" => {
                for table in xml::all(shape, "tbl") {
                    out.table(&xml::all(table, "tr").map(cells).collect::<Vec<_>>());
                }
            }
            "grpSp" => read_shapes(shape, out),
            _ => {}
        }
    }
}

fn cells(row: Node) -> Vec<String> {
    row.children().filter(|node| xml::name(*node) == "tc").map(|cell| paragraphs(cell).join(" ")).collect()
}

fn is_title(shape: &Node) -> bool {
    matches!(placeholder(*shape), Some("title" | "ctrTitle"))
}

/// What a shape is in its slide's layout.
fn placeholder<'a>(shape: Node<'a, '_>) -> Option<&'a str> {
    let properties = shape.children().find(|node| xml::name(*node).starts_with("nv"))?;
    xml::attribute(xml::descend(properties, &["nvPr", "ph"])?, "type")
}

/// The paragraphs of a shape; levels below the first are items of a list.
fn paragraphs(shape: Node) -> Vec<String> {
    let paragraph = |node: Node| {
        let level = xml::child(node, "pPr").and_then(|properties| xml::attribute(properties, "lvl"));
        let depth = level.and_then(|level| level.parse::<usize>().ok()).unwrap_or(0).min(9);
        let text = text_of(node);
        if depth > 0 && !text.trim().is_empty() { format!("- {}", text.trim()) } else { text }
    };
    xml::all(shape, "p").map(paragraph).collect()
}

fn text_of(paragraph: Node) -> String {
    let mut text = String::new();
    for node in paragraph.descendants().filter(Node::is_element) {
        match xml::name(node) {
            "t" => text.push_str(node.text().unwrap_or_default()),
            "br" => text.push('\n'),
            "tab" => text.push('\t'),
            _ => {}
        }
    }
    text
}
