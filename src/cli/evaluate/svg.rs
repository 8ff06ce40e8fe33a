//! Small charts as SVG that stands in an HTML page: colours are the page's, `--s0` and on.

use std::fmt::Write;

/// Units of the drawing, margins included.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Bars of a histogram.
const BINS: usize = 20;

/// Named values, drawn in one colour.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub values: Vec<f64>,
}

/// Shares, 0 to 1, over places that are named; a line for each series.
pub fn lines(title: &str, places: &[String], series: &[Series]) -> String {
    let mut chart = Chart::new(title, 1.0);
    let at = |index: usize| (index as f64 + 0.5) / places.len().max(1) as f64;
    for (index, name) in places.iter().enumerate() {
        chart.mark_x(at(index), name);
    }
    for (number, Series { name, values }) in series.iter().enumerate() {
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(index, value)| format!("{:.1},{:.1}", x(at(index)), chart.y(*value)))
            .collect();
        chart.add(&format!(
            r#"<polyline points="{}" fill="none" stroke="var(--s{number})" stroke-width="2"/>"#,
            points.join(" ")
        ));
        for (index, value) in values.iter().enumerate() {
            let told =
                escaped(&format!("{name}, {}: {value:.4}", places.get(index).map_or("", String::as_str)));
            chart.add(&format!(
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="var(--s{number})"><title>{told}</title></circle>"#,
                x(at(index)),
                chart.y(*value)
            ));
        }
    }
    chart.finish()
}

/// Shares, 0 to 1: a group of bars for each place, a bar for each series.
pub fn bars(title: &str, places: &[String], series: &[Series]) -> String {
    let mut chart = Chart::new(title, 1.0);
    let group = 1.0 / places.len().max(1) as f64;
    let width = group * 0.8 / series.len().max(1) as f64;
    for (index, place) in places.iter().enumerate() {
        chart.mark_x((index as f64 + 0.5) * group, place);
        for (number, Series { name, values }) in series.iter().enumerate() {
            let Some(value) = values.get(index) else { continue };
            let from = (index as f64 + 0.1) * group + number as f64 * width;
            chart.bar(number, from, from + width, *value, &format!("{name}, {place}: {value:.4}"));
            chart.add(&format!(
                r#"<text class="value" x="{:.1}" y="{:.1}">{value:.2}</text>"#,
                x(from + width / 2.0),
                chart.y(*value) - 3.0
            ));
        }
    }
    chart.finish()
}

/// How values are distributed: for each series the share of them in each of twenty ranges. `mark` is a value
/// with a name.
pub fn histogram(title: &str, series: &[Series], mark: Option<(f64, &str)>) -> String {
    let all =
        || series.iter().flat_map(|series| series.values.iter().copied()).chain(mark.map(|(value, _)| value));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = match (low.is_finite(), high > low) {
        (true, true) => (low, high),
        (true, false) => (low, low + 1.0),
        (false, _) => (0.0, 1.0),
    };
    let shares: Vec<[f64; BINS]> = series.iter().map(|series| shares(&series.values, low, high)).collect();
    let most = shares.iter().flatten().copied().fold(0.05, f64::max);
    let mut chart = Chart::new(title, most);
    for step in 0..=4 {
        let at = f64::from(step) / 4.0;
        chart.mark_x(at, &short(low + at * (high - low)));
    }
    let bin = 1.0 / BINS as f64;
    let width = bin * 0.9 / series.len().max(1) as f64;
    for (number, (series, shares)) in series.iter().zip(&shares).enumerate() {
        for (index, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let from = (index as f64 + 0.05) * bin + number as f64 * width;
            let range = |place: usize| short(low + place as f64 * bin * (high - low));
            let told =
                format!("{}, {} to {}: {:.1} %", series.name, range(index), range(index + 1), share * 100.0);
            chart.bar(number, from, from + width, *share, &told);
        }
    }
    if let Some((value, name)) = mark {
        let at = x((value - low) / (high - low));
        let (top, foot) = (TOP, HEIGHT - BOTTOM);
        chart.add(&format!(r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{top}" y2="{foot}"/>"#));
        let (side, shift) = if at > WIDTH / 2.0 { ("end", -4.0) } else { ("start", 4.0) };
        chart.add(&format!(
            r#"<text x="{:.1}" y="{}" text-anchor="{side}">{}</text>"#,
            at + shift,
            TOP + 10.0,
            escaped(&format!("{name} {}", short(value)))
        ));
    }
    chart.finish()
}

/// As text of HTML, and within quotation marks.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Shares of the values in each range from `low` to `high`.
fn shares(values: &[f64], low: f64, high: f64) -> [f64; BINS] {
    let mut shares = [0.0; BINS];
    for value in values {
        let bin = ((value - low) / (high - low) * BINS as f64) as usize;
        shares[bin.min(BINS - 1)] += 1.0 / values.len() as f64;
    }
    shares
}

fn short(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// From a share of the chart's width to the drawing's units.
fn x(share: f64) -> f64 {
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

/// A frame with a scale from 0 to `most`, and what was drawn into it.
struct Chart {
    most: f64,
    svg: String,
}

impl Chart {
    fn new(title: &str, most: f64) -> Self {
        let title = escaped(title);
        let svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>"#
        );
        let mut chart = Self { most, svg };
        for step in 0..=4 {
            let value = most * f64::from(step) / 4.0;
            let (y, right) = (chart.y(value), WIDTH - RIGHT);
            chart.add(&format!(r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"#));
            chart.add(&format!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{value:.2}</text>"#,
                LEFT - 6.0,
                y + 4.0
            ));
        }
        chart
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value.clamp(0.0, self.most) / self.most * (HEIGHT - TOP - BOTTOM)
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
    }

    fn mark_x(&mut self, share: f64, name: &str) {
        let anchor = if share <= 0.0 {
            "start"
        } else if share >= 1.0 {
            "end"
        } else {
            "middle"
        };
        let (at, y, name) = (x(share), HEIGHT - BOTTOM + 16.0, escaped(name));
        // Writing to a string cannot fail.
        let _ = write!(self.svg, r#"<text x="{at:.1}" y="{y}" text-anchor="{anchor}">{name}</text>"#);
    }

    fn bar(&mut self, number: usize, from: f64, to: f64, value: f64, told: &str) {
        let (left, right, top, foot) = (x(from), x(to), self.y(value), self.y(0.0));
        self.add(&format!(
            r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="var(--s{number})"><title>{}</title></rect>"#,
            (right - left).max(0.5),
            foot - top,
            escaped(told)
        ));
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series { name: name.into(), values: values.to_vec() }
    }

    fn elements<'a>(document: &'a roxmltree::Document<'_>, name: &str) -> Vec<roxmltree::Node<'a, 'a>> {
        document.descendants().filter(|node| node.has_tag_name(name)).collect()
    }

    #[test]
    fn points_stand_where_their_values_are() {
        let places = ["1".to_owned(), "10".to_owned()];
        let svg =
            lines("nDCG & <k>", &places, &[series("dense", &[0.0, 1.0]), series("hybrid", &[0.5, 0.5])]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let heights: Vec<f64> = elements(&document, "circle")
            .iter()
            .map(|circle| circle.attribute("cy").unwrap().parse().unwrap())
            .collect();
        assert_eq!(
            heights,
            [HEIGHT - BOTTOM, TOP, (HEIGHT - BOTTOM + TOP) / 2.0, (HEIGHT - BOTTOM + TOP) / 2.0]
        );
        assert_eq!(elements(&document, "polyline").len(), 2);
        assert_eq!(document.root_element().attribute("aria-label"), Some("nDCG & <k>"));
        assert!(svg.contains("hybrid, 10: 0.5000"), "{svg}");
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let places = ["abstention".to_owned()];
        let svg = bars("figures", &places, &[series("then", &[0.5]), series("now", &[0.25])]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let heights: Vec<f64> = elements(&document, "rect")
            .iter()
            .map(|bar| bar.attribute("height").unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights, [107.0, 53.5]);
    }

    #[test]
    fn a_histogram_shows_shares_whatever_the_values_are() {
        assert_eq!(shares(&[0.0, 0.0, 1.0, 0.5], 0.0, 1.0)[0], 0.5);
        assert_eq!(shares(&[0.0, 0.0, 1.0, 0.5], 0.0, 1.0)[19], 0.25);
        for values in [vec![], vec![3.0], vec![7.0, 7.0], vec![-2.0, 1e6]] {
            let svg = histogram("scores", &[series("relevant", &values), series("others", &[])], None);
            let document = roxmltree::Document::parse(&svg).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(elements(&document, "rect").is_empty(), values.is_empty());
        }
        let svg = histogram("scores", &[series("a", &[0.2, 0.4])], Some((0.3, "cut")));
        assert!(svg.contains("cut 0.30"), "{svg}");
    }
}
