//! Styles of a Word document: which paragraphs are headings, titles and list items.

use std::collections::HashMap;

use roxmltree::Node;

use super::xml;

/// Styles stand on others no deeper than this.
const MAX_CHAIN: usize = 16;

/// What matters of a style, its bases included.
#[derive(Debug, Clone, Default)]
pub(super) struct Style {
    /// 1 is the highest.
    pub level: Option<usize>,
    pub is_title: bool,
    /// List and depth in it.
    pub list: Option<(String, usize)>,
}

/// A style as it is written.
#[derive(Default)]
struct Written {
    style: Style,
    base: Option<String>,
}

/// The styles of a document by id.
#[derive(Default)]
pub(super) struct Styles(HashMap<String, Written>);

impl Styles {
    pub fn read(root: Node) -> Self {
        let written = |node: Node| {
            let id = xml::attribute(node, "styleId")?.to_owned();
            let name =
                xml::child(node, "name").and_then(|name| xml::attribute(name, "val")).unwrap_or_default();
            let base = xml::child(node, "basedOn").and_then(|base| xml::attribute(base, "val"));
            let properties = xml::child(node, "pPr");
            let level = heading_level(name).or_else(|| properties.and_then(outline_level));
            let style = Style {
                level,
                is_title: name.eq_ignore_ascii_case("title"),
                list: properties.and_then(list),
            };
            Some((id, Written { style, base: base.map(str::to_owned) }))
        };
        Self(xml::all(root, "style").filter_map(written).collect())
    }

    /// A style with what it takes over from those that it is based on.
    pub fn resolve(&self, id: &str) -> Style {
        let mut resolved = Style::default();
        let mut next = Some(id);
        for _ in 0..MAX_CHAIN {
            let Some(written) = next.and_then(|id| self.0.get(id)) else { break };
            resolved.level = resolved.level.or(written.style.level);
            resolved.is_title |= written.style.is_title;
            resolved.list = resolved.list.or_else(|| written.style.list.clone());
            next = written.base.as_deref();
        }
        resolved
    }
}

/// The level of a style named `heading 2`.
fn heading_level(name: &str) -> Option<usize> {
    let number = name.to_ascii_lowercase().strip_prefix("heading ")?.parse().ok()?;
    (1..=9).contains(&number).then_some(number)
}

/// The level of a paragraph in the outline; 9 is body text.
pub(super) fn outline_level(properties: Node) -> Option<usize> {
    let level = xml::attribute(xml::child(properties, "outlineLvl")?, "val")?.parse::<usize>().ok()?;
    (level < 9).then_some(level + 1)
}

/// List and depth of a paragraph; list 0 takes it out of its style's.
pub(super) fn list(properties: Node) -> Option<(String, usize)> {
    let numbering = xml::child(properties, "numPr")?;
    let list = xml::attribute(xml::child(numbering, "numId")?, "val")?.to_owned();
    let depth = xml::child(numbering, "ilvl").and_then(|level| xml::attribute(level, "val")?.parse().ok());
    Some((list, depth.unwrap_or(0)))
}
