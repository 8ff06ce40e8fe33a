//! Office files: containers of XML parts.

mod docx;
mod numbering;
mod odf;
mod pptx;
mod sheets;
mod styles;

pub(super) use sheets::delimited;

use std::collections::HashMap;

use roxmltree::Node;

use super::{
    ExtractError, Extracted, Format,
    archive::Archive,
    markdown::{Markdown, one_line},
    xml,
};

/// What a ZIP container holds; nothing when it is none of the formats that are read.
pub(super) fn format_of(bytes: &[u8]) -> Option<Format> {
    // What is broken is told by the reader that its name calls for.
    let mut archive = Archive::open(bytes, Format::Docx).ok()?;
    if let Ok(Some(kind)) = archive.read("mimetype") {
        let kind = String::from_utf8_lossy(&kind).trim().to_owned();
        // Templates are read like documents.
        return Format::from_media_type(kind.trim_end_matches("-template"));
    }
    let folders = [("word/", Format::Docx), ("ppt/", Format::Pptx)];
    let main = main_part(&mut archive);
    let in_folder = |(folder, format): (&str, Format)| main.starts_with(folder).then_some(format);
    if main.starts_with("xl/") {
        return Some(if main.ends_with(".bin") { Format::Xlsb } else { Format::Xlsx });
    }
    folders
        .into_iter()
        .find_map(in_folder)
        .or_else(|| archive.has("META-INF/container.xml").then_some(Format::Epub))
}

/// The part that is the document; empty where none is named.
fn main_part(archive: &mut Archive) -> String {
    let relations = relations(archive, Format::Docx, "").unwrap_or_default();
    let main = relations.into_values().find(|relation| relation.kind == "officeDocument");
    let usual = ["word/document.xml", "ppt/presentation.xml", "xl/workbook.xml", "xl/workbook.bin"];
    let named = main.map(|relation| relation.target);
    named
        .or_else(|| usual.iter().find(|path| archive.has(path)).map(|path| (*path).to_owned()))
        .unwrap_or_default()
}

/// Reads an office file.
pub(super) fn extract(bytes: &[u8], format: Format) -> Result<Extracted, ExtractError> {
    match format {
        Format::Docx => docx::extract(bytes),
        Format::Pptx => pptx::extract(bytes),
        Format::Odt | Format::Ods | Format::Odp => odf::extract(bytes, format),
        _ => sheets::extract(bytes, format),
    }
}

/// A part that another part refers to.
pub(super) struct Relation {
    /// The last word of its type's address, such as `image` or `slide`.
    pub kind: String,
    /// Its path in the container.
    pub target: String,
}

/// What a part of an Office Open XML file refers to, by id; `""` is the file itself.
fn relations(
    archive: &mut Archive,
    format: Format,
    part: &str,
) -> Result<HashMap<String, Relation>, ExtractError> {
    let (folder, file) = part.rsplit_once('/').unwrap_or(("", part));
    let path = join(folder, &format!("_rels/{file}.rels"));
    let Some(bytes) = archive.read(&path)? else { return Ok(HashMap::new()) };
    let text = xml::text(format, &path, &bytes)?;
    let document = xml::parse(format, &path, &text)?;
    let relation = |node: Node| {
        let kind = xml::attribute(node, "Type")?.rsplit('/').next()?.to_owned();
        let target = join(folder, xml::attribute(node, "Target")?);
        Some((xml::attribute(node, "Id")?.to_owned(), Relation { kind, target }))
    };
    Ok(xml::all(document.root(), "Relationship").filter_map(relation).collect())
}

/// A target as it is written in a part of `folder`.
fn join(folder: &str, target: &str) -> String {
    if let Some(absolute) = target.strip_prefix('/') {
        return absolute.to_owned();
    }
    let mut path: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    for step in target.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(path.pop()),
            step => path.push(step),
        }
    }
    path.join("/")
}

/// The id by which an element refers to another part (`r:id`, `r:embed`).
fn relation_id<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let of_relation = |space: Option<&str>| space.is_some_and(|space| space.ends_with("relationships"));
    node.attributes().find(|attribute| of_relation(attribute.namespace())).map(|attribute| attribute.value())
}

/// Child elements; of alternatives the first that holds text.
fn children<'a, 'input>(node: Node<'a, 'input>) -> Vec<Node<'a, 'input>> {
    let mut found = Vec::new();
    for child in node.children().filter(Node::is_element) {
        if xml::name(child) != "AlternateContent" {
            found.push(child);
            continue;
        }
        let choices = || child.children().filter(Node::is_element);
        let readable = |choice: &Node| xml::all(*choice, "t").next().is_some();
        if let Some(choice) = choices().find(readable).or_else(|| choices().next()) {
            found.extend(children(choice));
        }
    }
    found
}

/// The title in the properties of an office file, unless a program made it up.
fn stated_title(archive: &mut Archive, format: Format, path: &str) -> Option<String> {
    let bytes = archive.read(path).ok()??;
    let text = xml::text(format, path, &bytes).ok()?;
    let document = xml::parse(format, path, &text).ok()?;
    let title = xml::all(document.root(), "title").next().map(xml::inner_text)?;
    super::stated_title(&title)
}

/// The document, where something was written.
fn finish(title: Option<String>, out: Markdown, format: Format) -> Result<Extracted, ExtractError> {
    out.check_size()?;
    super::finish(title, out.finish(), format)
}

/// A title that the text itself begins with.
fn first_heading(text: &str) -> Option<String> {
    let line = text.lines().find(|line| !line.is_empty())?;
    line.strip_prefix("# ").map(one_line)
}
