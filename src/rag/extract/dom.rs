//! The tree of an HTML page, cut down to its content.

use std::rc::Rc;

use htmd::Node;
use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{NodeData, RcDom};

use super::{ExtractError, Format};

/// Browsers stop nesting at 512 levels. What walks the tree recurses, so that
/// more could exhaust a thread's stack.
pub(super) const MAX_DEPTH: usize = 512;

/// Bytes parsed between two looks at the depth: parsing takes quadratic time in it.
const PIECE: usize = 4096;

/// Elements that hold no text of the page.
const DROPPED: &[&str] = &[
    "script", "style", "template", "noscript", "nav", "footer", "iframe", "object", "embed", "svg", "math",
    "canvas", "audio", "video", "button", "select", "input", "textarea", "datalist", "dialog", "link",
    "meta", "title",
];

/// ARIA roles of the parts around the content.
const DROPPED_ROLES: &[&str] = &["navigation", "contentinfo", "search", "menu", "menubar"];

/// What a reader sees of a page.
pub(super) struct Page {
    /// From the head, else the first heading.
    pub title: Option<String>,
    /// The main part where the page names one, else everything.
    pub content: Rc<Node>,
    /// Dropping a document empties every node under it, those still referred to as well.
    _document: Rc<Node>,
}

/// Parses a page and removes what is not content.
///
/// # Errors
/// [`ExtractError::TooDeep`].
pub(super) fn read(html: &str) -> Result<Page, ExtractError> {
    let document = parse(html)?;
    let outline = prune(&document)?;
    let main = outline.main.filter(|main| non_blank_text(main).is_some());
    let content = main.unwrap_or_else(|| Rc::clone(&document));
    Ok(Page { title: outline.title.or(outline.heading), content, _document: document })
}

fn parse(html: &str) -> Result<Rc<Node>, ExtractError> {
    let mut parser = html5ever::parse_document(RcDom::default(), Default::default());
    let mut rest = html;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        parser.process(piece.into());
        if is_too_deep(&parser.tokenizer.sink.sink.document) {
            return Err(ExtractError::TooDeep { format: Format::Html, limit: MAX_DEPTH });
        }
        rest = after;
    }
    Ok(parser.finish().document)
}

/// Whether the elements that are still open, the last children, nest too deep.
fn is_too_deep(document: &Rc<Node>) -> bool {
    let mut node = Rc::clone(document);
    for _ in 0..MAX_DEPTH {
        let Some(last) = node.children.borrow().last().cloned() else { return false };
        node = last;
    }
    true
}

/// What a walk over the document finds.
#[derive(Default)]
struct Outline {
    title: Option<String>,
    heading: Option<String>,
    main: Option<Rc<Node>>,
}

/// Removes what is not content and notes titles and the main part.
///
/// A loop with a stack of its own: the tree may be of any depth.
fn prune(document: &Rc<Node>) -> Result<Outline, ExtractError> {
    let mut outline = Outline::default();
    let mut open = vec![(Rc::clone(document), 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(ExtractError::TooDeep { format: Format::Html, limit: MAX_DEPTH });
        }
        match tag(&node) {
            Some("head") if outline.title.is_none() => outline.title = head_title(&node),
            Some("h1") if outline.heading.is_none() => outline.heading = non_blank_text(&node),
            _ => {}
        }
        let is_main = tag(&node) == Some("main") || attribute(&node, "role").as_deref() == Some("main");
        if is_main && outline.main.is_none() {
            outline.main = Some(Rc::clone(&node));
        }
        node.children.borrow_mut().retain(|child| !is_dropped(child));
        open.extend(node.children.borrow().iter().rev().map(|child| (Rc::clone(child), depth + 1)));
    }
    Ok(outline)
}

fn head_title(head: &Node) -> Option<String> {
    let children = head.children.borrow();
    let title = children.iter().find(|child| tag(child) == Some("title"))?;
    non_blank_text(title)
}

fn is_dropped(node: &Node) -> bool {
    let Some(tag) = tag(node) else { return matches!(node.data, NodeData::Comment { .. }) };
    let has =
        |name: &str, values: &[&str]| attribute(node, name).is_some_and(|v| values.contains(&v.as_str()));
    DROPPED.contains(&tag)
        || attribute(node, "hidden").is_some()
        || has("aria-hidden", &["true"])
        || has("role", DROPPED_ROLES)
}

pub(super) fn tag(node: &Node) -> Option<&str> {
    match &node.data {
        NodeData::Element { name, .. } => Some(&name.local),
        _ => None,
    }
}

pub(super) fn attribute(node: &Node, name: &str) -> Option<String> {
    let NodeData::Element { attrs, .. } = &node.data else { return None };
    let attrs = attrs.borrow();
    attrs.iter().find(|attr| &*attr.name.local == name).map(|attr| attr.value.to_string())
}

/// The text under a node, blanks collapsed; nothing when there is none.
fn non_blank_text(node: &Rc<Node>) -> Option<String> {
    let mut text = String::new();
    let mut open = vec![Rc::clone(node)];
    while let Some(node) = open.pop() {
        if let NodeData::Text { contents } = &node.data {
            text.push_str(&contents.borrow());
        }
        open.extend(node.children.borrow().iter().rev().cloned());
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}
