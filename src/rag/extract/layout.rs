//! Glyphs of a PDF page, as they are drawn, gathered into lines.

use std::io;
use std::time::Instant;

use pdf_extract::{MediaBox, OutputDev, OutputError, Transform};

/// A line of text with its place, in the direction in which it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub text: String,
    /// Where it begins and ends along its direction, in points.
    pub start: f64,
    pub end: f64,
    /// Distance of its baseline downwards from the page's origin, in points.
    pub baseline: f64,
    /// Font size of its first glyph, in points.
    pub size: f64,
    /// Whether gaps wide as columns are in it.
    pub has_columns: bool,
}

/// Lines of one page in the order in which they are drawn.
pub(super) type Page = Vec<Line>;

/// Collects the lines of a document.
pub(super) struct Layout {
    pub pages: Vec<Page>,
    /// Glyphs seen, and those of them that no character is known for.
    glyphs: usize,
    unmapped: usize,
    /// Strings shown, and those of them that the reader could make no glyph of.
    strings: usize,
    silent_strings: usize,
    line: Option<OpenLine>,
    at_string_start: bool,
    max_glyphs: usize,
    deadline: Instant,
}

struct OpenLine {
    line: Line,
    direction: (f64, f64),
    /// Glyphs of the line, to notice those that are drawn twice to look bold.
    drawn: Vec<(f64, String)>,
}

/// Where a glyph stands, in the direction in which its text is written.
struct Place {
    direction: (f64, f64),
    along: f64,
    end: f64,
    baseline: f64,
    size: f64,
}

impl Layout {
    /// Stops with an error after `max_glyphs` or at `deadline`.
    pub fn new(max_glyphs: usize, deadline: Instant) -> Self {
        Layout {
            pages: Vec::new(),
            glyphs: 0,
            unmapped: 0,
            strings: 0,
            silent_strings: 0,
            line: None,
            at_string_start: true,
            max_glyphs,
            deadline,
        }
    }

    /// Whether much of what is drawn has no known characters, so that the text would mislead.
    pub fn is_mostly_unmapped(&self) -> bool {
        self.unmapped * 5 > self.glyphs || self.silent_strings * 2 > self.strings
    }

    fn close_line(&mut self) {
        let Some(OpenLine { mut line, .. }) = self.line.take() else { return };
        line.text.truncate(line.text.trim_end().len());
        if !line.text.is_empty()
            && let Some(page) = self.pages.last_mut()
        {
            page.push(line);
        }
    }

    fn check_bounds(&self, seen: usize) -> Result<(), OutputError> {
        if seen > self.max_glyphs {
            return Err(io::Error::other(format!("more than {} characters", self.max_glyphs)).into());
        }
        if seen.is_multiple_of(256) && Instant::now() > self.deadline {
            return Err(io::Error::other("it takes too long").into());
        }
        Ok(())
    }
}

impl OutputDev for Layout {
    fn begin_page(
        &mut self,
        _: u32,
        _: &MediaBox,
        _: Option<(f64, f64, f64, f64)>,
    ) -> Result<(), OutputError> {
        self.pages.push(Page::new());
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), OutputError> {
        self.close_line();
        Ok(())
    }

    fn begin_word(&mut self) -> Result<(), OutputError> {
        self.at_string_start = true;
        self.strings += 1;
        self.check_bounds(self.strings)
    }

    fn output_character(
        &mut self,
        transform: &Transform,
        width: f64,
        spacing: f64,
        font_size: f64,
        glyph: &str,
    ) -> Result<(), OutputError> {
        self.glyphs += 1;
        self.check_bounds(self.glyphs)?;
        // Drawn, but without an entry in the font's table of characters.
        let glyph = if glyph.is_empty() { "\u{fffd}" } else { &characters(glyph) };
        if glyph.contains('\u{fffd}') {
            self.unmapped += 1;
        }
        let place = Place::new(transform, width, spacing, font_size);
        if self.line.as_ref().is_some_and(|open| !open.continues_at(&place, glyph)) {
            self.close_line();
        }
        match &mut self.line {
            Some(open) => open.push(&place, glyph, self.at_string_start),
            None if glyph.trim().is_empty() => {}
            None => self.line = Some(OpenLine::new(&place, glyph)),
        }
        self.at_string_start = false;
        Ok(())
    }

    fn end_word(&mut self) -> Result<(), OutputError> {
        // Still at its start: not one glyph came.
        self.silent_strings += usize::from(self.at_string_start);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}

impl Place {
    fn new(transform: &Transform, width: f64, spacing: f64, font_size: f64) -> Self {
        let stretch = transform.m11.hypot(transform.m12);
        let direction =
            if stretch > 0. { (transform.m11 / stretch, transform.m12 / stretch) } else { (1., 0.) };
        let (x, y) = (transform.m31, transform.m32);
        let along = x * direction.0 + y * direction.1;
        Place {
            direction,
            along,
            end: along + (width * font_size + spacing) * stretch,
            baseline: x * direction.1 - y * direction.0,
            size: (font_size * transform.m21.hypot(transform.m22)).abs(),
        }
    }
}

impl OpenLine {
    fn new(place: &Place, glyph: &str) -> Self {
        OpenLine {
            line: Line {
                text: glyph.to_owned(),
                start: place.along,
                end: place.end,
                baseline: place.baseline,
                size: place.size,
                has_columns: false,
            },
            direction: place.direction,
            drawn: vec![(place.along, glyph.to_owned())],
        }
    }

    /// Whether a glyph stands on this line and not before its end, kerning and repetition aside.
    fn continues_at(&self, place: &Place, glyph: &str) -> bool {
        let size = self.line.size.max(place.size);
        let turned = self.direction.0 * place.direction.0 + self.direction.1 * place.direction.1 < 0.99;
        let raised = (place.baseline - self.line.baseline).abs() > 0.5 * size;
        let back = place.along < self.line.end - 0.6 * size;
        !turned && !raised && (!back || self.has_drawn(place, glyph))
    }

    fn has_drawn(&self, place: &Place, glyph: &str) -> bool {
        let near = 0.2 * place.size;
        self.drawn.iter().any(|(along, drawn)| drawn == glyph && (along - place.along).abs() < near)
    }

    fn push(&mut self, place: &Place, glyph: &str, at_string_start: bool) {
        let line = &mut self.line;
        let is_blank = glyph.trim().is_empty();
        let overlaps = place.along < line.end - 0.3 * (place.end - place.along).max(0.1 * place.size);
        if overlaps && !is_blank && self.has_drawn(place, glyph) {
            return;
        }
        let line = &mut self.line;
        let gap = place.along - line.end;
        if at_string_start && gap > 2.5 * place.size {
            line.has_columns = true;
            line.text.truncate(line.text.trim_end().len());
            line.text.push_str("  ");
        }
        let is_apart = is_blank || (at_string_start && gap > 0.15 * place.size);
        if is_apart && !line.text.ends_with(' ') {
            line.text.push(' ');
        }
        if !is_blank {
            line.text.push_str(glyph);
            self.drawn.push((place.along, glyph.to_owned()));
        }
        line.end = place.end.max(line.end);
    }
}

/// Plain characters for what a font calls a glyph: ligatures are spelled out,
/// what is no character becomes U+FFFD.
fn characters(glyph: &str) -> String {
    let mut out = String::with_capacity(glyph.len());
    for character in glyph.chars() {
        match character {
            'ﬀ' => out.push_str("ff"),
            'ﬁ' => out.push_str("fi"),
            'ﬂ' => out.push_str("fl"),
            'ﬃ' => out.push_str("ffi"),
            'ﬄ' => out.push_str("ffl"),
            'ﬅ' | 'ﬆ' => out.push_str("st"),
            '\u{ad}' => out.push('-'),
            c if c.is_whitespace() => out.push(' '),
            c if c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
