//! XML parts of office files as trees.
//!
//! The parser knows no entities but its own five, since document types are refused:
//! there is nothing in these files that could expand.

use roxmltree::{Document, Node};

use super::{ExtractError, Format, decode};

/// How deep elements may nest; readers recurse over them.
const MAX_DEPTH: usize = 256;

/// The text of an XML part: UTF-8, or UTF-16 that says so.
pub(super) fn text(format: Format, part: &str, bytes: &[u8]) -> Result<String, ExtractError> {
    decode::decode(bytes).map_err(|error| format.broken(format!("{part}: {error}")))
}

/// Parses a part.
pub(super) fn parse<'a>(format: Format, part: &str, text: &'a str) -> Result<Document<'a>, ExtractError> {
    let document =
        Document::parse(text).map_err(|error| format.broken(format!("{part} is no good XML: {error}")))?;
    let mut open = vec![(document.root(), 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(ExtractError::TooDeep { format, limit: MAX_DEPTH });
        }
        open.extend(node.children().filter(Node::is_element).map(|child| (child, depth + 1)));
    }
    Ok(document)
}

/// The name of an element without its prefix.
pub(super) fn name<'a>(node: Node<'a, '_>) -> &'a str {
    node.tag_name().name()
}

/// The first child element of this name.
pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, wanted: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.is_element() && name(*child) == wanted)
}

/// The element under a path of names.
pub(super) fn descend<'a, 'input>(node: Node<'a, 'input>, path: &[&str]) -> Option<Node<'a, 'input>> {
    path.iter().try_fold(node, |node, wanted| child(node, wanted))
}

/// All descendants of this name.
pub(super) fn all<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    wanted: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.descendants().filter(move |node| node.is_element() && name(*node) == wanted)
}

/// An attribute by its name without a prefix.
pub(super) fn attribute<'a>(node: Node<'a, '_>, wanted: &str) -> Option<&'a str> {
    node.attributes().find(|attribute| attribute.name() == wanted).map(|attribute| attribute.value())
}

/// The text under a node, as it stands.
pub(super) fn inner_text(node: Node) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}
