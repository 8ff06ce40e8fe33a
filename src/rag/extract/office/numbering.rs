//! Numbers of list items of a Word document.

use std::collections::HashMap;

use roxmltree::Node;

use super::xml;

/// Levels that a list may have.
const LEVELS: usize = 9;

/// The lists of a document and how far each has counted.
#[derive(Default)]
pub(super) struct Numbering {
    /// For each list, whether each of its levels is numbered, and from where.
    lists: HashMap<String, [Option<usize>; LEVELS]>,
    counts: HashMap<String, [usize; LEVELS]>,
}

impl Numbering {
    pub fn read(root: Node) -> Self {
        let abstracts: HashMap<&str, _> = xml::all(root, "abstractNum")
            .filter_map(|node| Some((xml::attribute(node, "abstractNumId")?, levels(node))))
            .collect();
        let list = |node: Node| {
            let base = xml::attribute(xml::child(node, "abstractNumId")?, "val")?;
            Some((xml::attribute(node, "numId")?.to_owned(), *abstracts.get(base)?))
        };
        let lists = xml::all(root, "num").filter_map(list).collect();
        Self { lists, counts: HashMap::new() }
    }

    /// The marker of the next item of a list: `3.`, or `-` where it is not numbered.
    pub fn marker(&mut self, list: &str, depth: usize) -> String {
        let depth = depth.min(LEVELS - 1);
        let Some(start) = self.lists.get(list).and_then(|levels| levels[depth]) else { return "-".into() };
        let counts = self.counts.entry(list.to_owned()).or_default();
        counts[depth] += 1;
        counts[depth + 1..].fill(0);
        format!("{}.", start + counts[depth] - 1)
    }
}

/// Where each level begins to count; nothing for bullets.
fn levels(node: Node) -> [Option<usize>; LEVELS] {
    let mut levels = [None; LEVELS];
    for level in xml::all(node, "lvl") {
        let value = |name| xml::child(level, name).and_then(|node| xml::attribute(node, "val"));
        let index = xml::attribute(level, "ilvl").and_then(|index| index.parse::<usize>().ok());
        let is_numbered = !matches!(value("numFmt"), None | Some("bullet" | "none"));
        if let Some(slot) = index.and_then(|index| levels.get_mut(index)) {
            let start: u16 = value("start").and_then(|start| start.parse().ok()).unwrap_or(1);
            *slot = is_numbered.then_some(usize::from(start));
        }
    }
    levels
}
