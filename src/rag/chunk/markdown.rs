//! The blocks of a text: where headings, tables, code and paragraphs are.

use super::pieces::{Block, Kind, Section};

/// Blocks in order, and the sections that they belong to.
pub(super) struct Outline {
    pub blocks: Vec<Block>,
    /// Never empty; the first is what comes before any heading.
    pub sections: Vec<Section>,
}

/// Paragraphs of text without markup.
pub(super) fn plain(text: &str) -> Outline {
    let mut scan = Scan::new(text);
    for line in lines(text) {
        if line.content.is_empty() {
            scan.close();
        } else {
            scan.extend(Kind::Sentence, &line);
        }
    }
    scan.finish()
}

/// Blocks of Markdown: as much of CommonMark as matters for where to cut.
pub(super) fn outline(text: &str) -> Outline {
    let mut scan = Scan::new(text);
    let mut lines = lines(text).peekable();
    if text.starts_with("---\n") && text.contains("\n---") {
        for (index, line) in lines.by_ref().enumerate() {
            scan.extend(Kind::Line, &line);
            if index > 0 && line.content == "---" {
                break;
            }
        }
        scan.close();
    }
    let mut fence: Option<&str> = None;
    while let Some(line) = lines.next() {
        if let Some(mark) = fence {
            scan.extend(Kind::Line, &line);
            if line.content.starts_with(mark) && line.content.trim_end_matches(&mark[..1]).is_empty() {
                fence = None;
                scan.close();
            }
        } else if let Some(mark) = fence_mark(line.content) {
            fence = Some(mark);
            scan.close();
            scan.extend(Kind::Line, &line);
        } else if line.content.is_empty() {
            scan.close();
        } else if let Some((level, title)) = atx_heading(&line) {
            scan.heading(level, title, &line);
        } else if let Some(level) = lines.peek().and_then(|next| setext_level(next))
            && scan.is_closed()
            && !line.content.starts_with(['|', '-', '>', '*'])
        {
            scan.heading(level, line.content, &line);
            scan.lengthen_heading(lines.next());
        } else if line.content.starts_with('|') {
            scan.extend(Kind::Line, &line);
        } else {
            scan.extend(Kind::Sentence, &line);
        }
    }
    scan.finish()
}

struct Line<'a> {
    /// Without blanks around it.
    content: &'a str,
    /// Byte offsets of the line without its end.
    start: usize,
    end: usize,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let begin = start;
        start += line.len();
        let bare = line.trim_end();
        Line { content: bare.trim_start(), start: begin, end: begin + bare.len() }
    })
}

fn fence_mark(line: &str) -> Option<&str> {
    let mark = ["`", "~"].into_iter().find(|mark| line.starts_with(&mark.repeat(3)))?;
    let length = line.len() - line.trim_start_matches(mark).len();
    Some(&line[..length])
}

/// Level and title of `## Title ##`.
fn atx_heading<'a>(line: &Line<'a>) -> Option<(usize, &'a str)> {
    let rest = line.content.trim_start_matches('#');
    let level = line.content.len() - rest.len();
    let is_heading = (1..=6).contains(&level) && (rest.is_empty() || rest.starts_with([' ', '\t']));
    is_heading.then(|| (level, rest.trim_end_matches('#').trim()))
}

/// Level of the heading that a line of `===` or `---` makes of the line above it.
fn setext_level(line: &Line) -> Option<usize> {
    let all = |mark: char| line.content.len() >= 2 && line.content.chars().all(|c| c == mark);
    if all('=') { Some(1) } else { all('-').then_some(2) }
}

struct Scan<'a> {
    text: &'a str,
    outline: Outline,
    path: Vec<(usize, String)>,
    open: Option<Block>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        let outline = Outline { blocks: Vec::new(), sections: vec![Section::new()] };
        Scan { text, outline, path: Vec::new(), open: None }
    }

    fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    fn close(&mut self) {
        self.outline.blocks.extend(self.open.take());
    }

    /// Adds a line to the open block, or opens one when its kind differs.
    fn extend(&mut self, kind: Kind, line: &Line) {
        match &mut self.open {
            Some(block) if block.kind == kind => block.end = line.end,
            _ => {
                self.close();
                let section = self.outline.sections.len() - 1;
                self.open = Some(Block { kind, start: line.start, end: line.end, section });
            }
        }
    }

    fn heading(&mut self, level: usize, title: &str, line: &Line) {
        self.close();
        self.path.retain(|(above, _)| *above < level);
        self.path.push((level, title.to_owned()));
        self.outline.sections.push(self.path.iter().map(|(_, title)| title.clone()).collect());
        self.extend(Kind::Heading, line);
        self.close();
    }

    fn lengthen_heading(&mut self, underline: Option<Line>) {
        if let (Some(block), Some(line)) = (self.outline.blocks.last_mut(), underline) {
            block.end = line.end;
        }
    }

    fn finish(mut self) -> Outline {
        self.close();
        debug_assert!(self.outline.blocks.iter().all(|block| block.end <= self.text.len()));
        self.outline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(Kind, &str, String)> {
        let outline = outline(text);
        let describe = |block: &Block| {
            (block.kind, &text[block.start..block.end], outline.sections[block.section].join(" > "))
        };
        outline.blocks.iter().map(describe).collect()
    }

    #[test]
    fn headings_make_paths() {
        let got = blocks("intro\n# A\ntext\n### B ##\nSet\n===\n## C\n#no heading");
        let paths: Vec<_> = got.iter().map(|(kind, text, path)| (*kind, *text, path.as_str())).collect();
        assert_eq!(
            paths,
            [
                (Kind::Sentence, "intro", ""),
                (Kind::Heading, "# A", "A"),
                (Kind::Sentence, "text", "A"),
                (Kind::Heading, "### B ##", "A > B"),
                (Kind::Heading, "Set\n===", "Set"),
                (Kind::Heading, "## C", "Set > C"),
                (Kind::Sentence, "#no heading", "Set > C"),
            ]
        );
    }

    #[test]
    fn code_tables_and_front_matter_are_lines() {
        let text = "---\ntitle: x\n---\n```sh\n# not a heading\n\nls\n```\npara\n| a |\n|---|\n\n~~~~\n~~~\n~~~~\nend";
        let got: Vec<_> = blocks(text).into_iter().map(|(kind, text, _)| (kind, text)).collect();
        assert_eq!(
            got,
            [
                (Kind::Line, "---\ntitle: x\n---"),
                (Kind::Line, "```sh\n# not a heading\n\nls\n```"),
                (Kind::Sentence, "para"),
                (Kind::Line, "| a |\n|---|"),
                (Kind::Line, "~~~~\n~~~\n~~~~"),
                (Kind::Sentence, "end"),
            ]
        );
    }

    #[test]
    fn a_rule_after_a_list_or_an_open_fence_is_no_heading() {
        assert_eq!(blocks("- item\n---\n").len(), 1);
        assert_eq!(blocks("```\nnever closed\n# x").len(), 1);
    }
}
