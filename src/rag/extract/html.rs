//! HTML to Markdown: the main content, without scripts, menus and hidden parts.

use std::rc::Rc;

use htmd::element_handler::{HandlerResult, Handlers};
use htmd::options::{BrStyle, BulletListMarker, HrStyle, Options};
use htmd::{Element, HtmlToMarkdown, Node};
use markup5ever_rcdom::NodeData;

use super::{ExtractError, Extracted, Format, finish, tidy};

/// The converter recurses, so that deeper trees could exhaust a thread's stack.
/// Browsers stop nesting at 512 levels.
const MAX_DEPTH: usize = 512;

/// Elements that hold no text of the page.
const DROPPED: &[&str] = &[
    "script", "style", "template", "noscript", "nav", "footer", "iframe", "object", "embed", "svg", "math",
    "canvas", "audio", "video", "button", "select", "input", "textarea", "datalist", "dialog", "link", "meta",
    "title",
];

/// ARIA roles of the parts around the content.
const DROPPED_ROLES: &[&str] = &["navigation", "contentinfo", "search", "menu", "menubar"];

/// Reads a page as Markdown.
pub(super) fn extract(html: &str) -> Result<Extracted, ExtractError> {
    let converter = converter();
    let document = converter.html_to_tree(html).map_err(|_| ExtractError::Empty)?;
    let outline = prune(&document)?;
    let body = outline.main.as_ref().filter(|main| !text_of(main).is_empty()).unwrap_or(&document);
    let text = tidy::tidy(&converter.tree_to_markdown(body));
    finish(outline.title.or(outline.heading), text, Format::Html)
}

fn converter() -> HtmlToMarkdown {
    HtmlToMarkdown::builder()
        .options(Options {
            hr_style: HrStyle::Dashes,
            br_style: BrStyle::TwoSpaces,
            bullet_list_marker: BulletListMarker::Dash,
            ul_bullet_spacing: 1,
            ol_number_spacing: 1,
            ..Options::default()
        })
        .add_handler(vec!["a"], link)
        .add_handler(vec!["img"], image)
        .add_handler(vec!["tr"], row)
        .build()
}

/// Keeps the address of a link only where it means something outside of the page.
fn link(handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    let href = attribute(element.node, "href").unwrap_or_default();
    let is_absolute = ["http://", "https://", "mailto:"].iter().any(|scheme| href.starts_with(scheme));
    let label = handlers.walk_children(element.node).content;
    if is_absolute && !label.trim().is_empty() && label.trim() != href {
        return handlers.fallback(element);
    }
    Some(label.into())
}

/// A picture is its description.
fn image(_: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    attribute(element.node, "alt").map(|alt| alt.trim().to_owned().into())
}

/// A row of a table without header cells; the others do not come here.
fn row(handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    let cells: Vec<String> = element
        .node
        .children
        .borrow()
        .iter()
        .filter(|child| matches!(tag(child), Some("td" | "th")))
        .filter_map(|child| handlers.handle(child))
        .map(|cell| cell.content.trim().to_owned())
        .collect();
    let filled = cells.iter().filter(|cell| !cell.is_empty()).count();
    let is_layout = filled < 2 || cells.iter().any(|cell| cell.contains('\n'));
    Some(if is_layout {
        format!("\n\n{}\n\n", cells.join("\n\n").trim()).into()
    } else {
        format!("\n| {} |\n", cells.join(" | ")).into()
    })
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
            return Err(ExtractError::TooDeep { limit: MAX_DEPTH });
        }
        let slot = match tag(&node) {
            Some("head") => {
                outline.title = outline.title.or_else(|| head_title(&node));
                None
            }
            Some("h1") => Some(&mut outline.heading),
            _ => None,
        };
        if let Some(slot) = slot
            && slot.is_none()
        {
            *slot = Some(text_of(&node)).filter(|text| !text.is_empty());
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
    Some(text_of(title)).filter(|text| !text.is_empty())
}

fn is_dropped(node: &Node) -> bool {
    let Some(tag) = tag(node) else { return matches!(node.data, NodeData::Comment { .. }) };
    let has = |name: &str, values: &[&str]| attribute(node, name).is_some_and(|v| values.contains(&v.as_str()));
    DROPPED.contains(&tag)
        || attribute(node, "hidden").is_some()
        || has("aria-hidden", &["true"])
        || has("role", DROPPED_ROLES)
}

fn tag(node: &Node) -> Option<&str> {
    match &node.data {
        NodeData::Element { name, .. } => Some(&name.local),
        _ => None,
    }
}

fn attribute(node: &Node, name: &str) -> Option<String> {
    let NodeData::Element { attrs, .. } = &node.data else { return None };
    let attrs = attrs.borrow();
    attrs.iter().find(|attr| &*attr.name.local == name).map(|attr| attr.value.to_string())
}

/// The text under a node, blanks collapsed.
fn text_of(node: &Rc<Node>) -> String {
    let mut text = String::new();
    let mut open = vec![Rc::clone(node)];
    while let Some(node) = open.pop() {
        if let NodeData::Text { contents } = &node.data {
            text.push_str(&contents.borrow());
        }
        open.extend(node.children.borrow().iter().rev().cloned());
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(html: &str) -> String {
        extract(html).unwrap().text
    }

    #[test]
    fn title_comes_from_the_head_then_from_the_first_heading() {
        let page = "<head><title> A \n title </title></head><h1>B</h1><svg><title>C</title></svg>";
        assert_eq!(extract(page).unwrap().title.as_deref(), Some("A title"));
        assert_eq!(extract("<h1>B <em>c</em></h1><h1>D</h1>").unwrap().title.as_deref(), Some("B c"));
        assert_eq!(extract("<p>x</p>").unwrap().title, None);
    }

    #[test]
    fn what_is_around_the_content_is_dropped() {
        let page = "<body><nav>menu</nav><div role=navigation>more</div><script>s()</script>\
            <style>p{}</style><template>t</template><noscript>n</noscript><p hidden>h</p>\
            <p>Kept &amp; read.</p><!-- c --><footer>f</footer></body>";
        assert_eq!(text(page), "Kept & read.");
    }

    #[test]
    fn main_is_preferred_unless_empty() {
        assert_eq!(text("<div>aside</div><main><p>content</p></main>"), "content");
        assert_eq!(text("<div>all there is</div><main> </main>"), "all there is");
    }

    #[test]
    fn structure_stays_readable() {
        let page = "<h2>Fares</h2><ul><li>one</li><li>two<ol><li>x</li></ol></li></ul>\
            <p>See <a href='https://example.org/a'>the list</a> or <a href='#top'>above</a>.</p>\
            <p>a<br>b</p><pre><code>let a = 1;\n  b</code></pre><p><img src=x alt='A ferry'></p>";
        assert_eq!(
            text(page),
            "## Fares\n\n- one\n- two\n  1. x\n\nSee [the list](https://example.org/a) or above.\n\n\
             a\nb\n\n```\nlet a = 1;\n  b\n```\n\nA ferry"
        );
    }

    #[test]
    fn tables_keep_a_row_on_a_line() {
        let with_head = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>";
        let lines: Vec<String> = text(with_head).lines().map(|line| line.replace(' ', "")).collect();
        assert_eq!(lines, ["|A|B|", "|---|---|", "|1|2|"]);
        let without = "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr></table>";
        assert_eq!(text(without).replace("\n\n", "\n"), "| 1 | 2 |\n| 3 | 4 |");
    }

    #[test]
    fn deep_nesting_is_refused_and_allowed_depth_fits_a_small_stack() {
        let nested = |levels: usize| format!("{}x{}", "<div>".repeat(levels), "</div>".repeat(levels));
        assert_eq!(extract(&nested(100_000)), Err(ExtractError::TooDeep { limit: MAX_DEPTH }));
        let deep = nested(MAX_DEPTH - 4);
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || text(&deep));
        assert_eq!(thread.unwrap().join().unwrap(), "x");
    }
}
