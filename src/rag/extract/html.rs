//! HTML to Markdown: the main content, without scripts, menus and hidden parts.

use htmd::element_handler::{HandlerResult, Handlers};
use htmd::options::{BrStyle, BulletListMarker, Options};
use htmd::{Element, HtmlToMarkdown};

use super::dom::{self, attribute, tag};
use super::{ExtractError, Extracted, Format, finish, tidy};

/// Reads a page as Markdown.
pub(super) fn extract(html: &str) -> Result<Extracted, ExtractError> {
    let page = dom::read(html)?;
    let markdown = converter().tree_to_markdown(&page.content);
    finish(page.title, tidy::tidy(&close_up_rows(&markdown)), Format::Html)
}

fn converter() -> HtmlToMarkdown {
    HtmlToMarkdown::builder()
        .options(Options {
            br_style: BrStyle::TwoSpaces,
            bullet_list_marker: BulletListMarker::Dash,
            ul_bullet_spacing: 1,
            ol_number_spacing: 1,
            ..Options::default()
        })
        .add_handler(vec!["a"], link)
        .add_handler(vec!["img"], image)
        .add_handler(vec!["tr"], row)
        .add_handler(vec!["strong", "b", "em", "i"], plain)
        .add_handler(vec!["hr"], rule)
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

/// Emphasis would only get in the way of search and quotation.
fn plain(handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    Some(handlers.walk_children(element.node))
}

fn rule(_: &dyn Handlers, _: Element) -> Option<HandlerResult> {
    Some("\n\n---\n\n".into())
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

/// Takes the blank lines out from between table rows, and runs of blanks out of
/// everything but code.
fn close_up_rows(markdown: &str) -> String {
    let mut out = String::with_capacity(markdown.len());
    let (mut in_code, mut after_row, mut pending) = (false, false, 0);
    for line in markdown.lines() {
        let is_fence = line.trim_start().starts_with("```");
        if !in_code && line.trim().is_empty() {
            pending += 1;
            continue;
        }
        let is_row = !in_code && line.starts_with('|') && line.ends_with('|');
        let blank_lines = if is_row && after_row { 0 } else { pending };
        out.extend(std::iter::repeat_n('\n', blank_lines));
        if in_code || is_fence {
            out.push_str(line)
        } else {
            push_collapsed(&mut out, line)
        }
        out.push('\n');
        in_code ^= is_fence;
        (after_row, pending) = (is_row, 0);
    }
    out
}

/// Keeps the indentation, then one blank between words.
fn push_collapsed(out: &mut String, line: &str) {
    let text = line.trim_start_matches(' ');
    out.push_str(&line[..line.len() - text.len()]);
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
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
            <p>a <b>bold</b><br>b&nbsp; c</p><hr><pre><code>let a = 1;\n  b</code></pre><p><img src=x alt='A ferry'></p>";
        assert_eq!(
            text(page),
            "## Fares\n\n- one\n- two\n  1. x\n\nSee [the list](https://example.org/a) or above.\n\n\
             a bold\nb c\n\n---\n\n```\nlet a = 1;\n  b\n```\n\nA ferry"
        );
    }

    #[test]
    fn tables_keep_a_row_on_a_line() {
        let with_head = "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>";
        assert_eq!(text(with_head), "| A | B |\n| - | - |\n| 1 | 2 |");
        let without = "<table><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr></table>";
        assert_eq!(text(without), "| 1 | 2 |\n| 3 | 4 |");
    }

    #[test]
    fn deep_nesting_is_refused_and_allowed_depth_fits_a_small_stack() {
        let nested = |tags: &str, times: usize| format!("{}x", tags.repeat(times));
        let refused = Err(ExtractError::TooDeep { format: Format::Html, limit: dom::MAX_DEPTH });
        assert_eq!(extract(&nested("<div>", 100_000)), refused);
        assert_eq!(extract(&format!("{}{}y", nested("<div>", 600), "</div>".repeat(600))), refused);
        for (tags, levels) in
            [("<div>", 1), ("<ul><li>", 2), ("<table><tr><td>", 4), ("<a href='http://x'><b>", 2)]
        {
            let deep = nested(tags, (dom::MAX_DEPTH - 8) / levels);
            let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || text(&deep));
            assert!(thread.unwrap().join().unwrap().contains('x'), "{tags}");
        }
    }
}
