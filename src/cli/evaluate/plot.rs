//! Results as a page that stands alone: one HTML file, nothing fetched, no scripts.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use ragway::rag::evaluate::{AnswerReport, Comparison, GateReport, RetrievalReport};

use super::svg::{Series, bars, escaped, histogram, lines};

const STYLE: &str = include_str!("plot.css");

/// Writes the results of one retrieval evaluation.
pub fn retrieval(file: &Path, reports: &[RetrievalReport]) -> Result<()> {
    let title = reports.first().map_or("retrieval".into(), |report| format!("retrieval on {}", report.data));
    write(file, &page(&title, &retrieval_section(reports)))
}

/// Writes the results of an evaluation of answers.
pub fn answers(file: &Path, report: &AnswerReport) -> Result<()> {
    write(file, &page(&format!("answers on {}", report.data), &answers_section(report)))
}

/// Writes what a gate compared, and what it measured for that.
pub fn gate(file: &Path, report: &GateReport) -> Result<()> {
    let mut sections = gate_section(&report.comparisons);
    for alike in report.retrieval.chunk_by(|a, b| a.data == b.data && a.space == b.space) {
        sections.push_str(&retrieval_section(alike));
    }
    report.answers.iter().for_each(|answers| sections.push_str(&answers_section(answers)));
    write(file, &page(if report.fell() { "the gate fails" } else { "the gate passes" }, &sections))
}

fn write(file: &Path, page: &str) -> Result<()> {
    fs::write(file, page).with_context(|| file.display().to_string())
}

fn page(title: &str, sections: &str) -> String {
    let title = escaped(&format!("ragway {}: {title}", env!("CARGO_PKG_VERSION")));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{sections}</main>\n</body>\n</html>\n"
    )
}

fn retrieval_section(reports: &[RetrievalReport]) -> String {
    let Some(first) = reports.first() else { return String::new() };
    let reranked = if first.reranked { ", reranked" } else { "" };
    let about = format!(
        "{} documents, {} queries, in the space {}{reranked}",
        first.documents, first.queries, first.space.id
    );
    let rows = reports.iter().map(|report| {
        let figures = [report.ndcg_10, report.recall_10, report.recall_100, report.mrr_10];
        (report.mode.name().to_owned(), figures.map(|figure| format!("{figure:.4}")).to_vec())
    });
    let places: Vec<String> = first.curve.iter().map(|cut| cut.k.to_string()).collect();
    let curve = |of: &dyn Fn(&ragway::rag::evaluate::Cutoff) -> f64| -> Vec<Series> {
        let series = |report: &RetrievalReport| Series {
            name: report.mode.name().to_owned(),
            values: report.curve.iter().map(of).collect(),
        };
        reports.iter().map(series).collect()
    };
    let (ndcg, recall) = (curve(&|cut| cut.ndcg), curve(&|cut| cut.recall));
    let mut figures = figure("nDCG of the first k results", &ndcg, |title| lines(title, &places, &ndcg));
    figures += &figure("Recall of the first k results", &recall, |title| lines(title, &places, &recall));
    for report in reports {
        let series = two("relevant", "others", &report.scores);
        let title = format!("What the first ten results were ranked by: {}", report.mode.name());
        figures += &figure(&title, &series, |title| histogram(title, &series, None));
    }
    let head = ["mode", "nDCG@10", "recall@10", "recall@100", "MRR@10"];
    section(&format!("Retrieval: {}", first.data), &about, &table(&head, rows), &figures)
}

fn answers_section(report: &AnswerReport) -> String {
    let about = format!(
        "{} answerable and {} unanswerable questions, {} passages each, in the space {}; {} answers generated, \
         {} quoted",
        report.answerable, report.unanswerable, report.k, report.space, report.generated, report.extractive
    );
    let named = [
        ("answered", report.answered_share()),
        ("holds gold", report.contains_gold),
        ("citations", report.citation_precision),
        ("quotes gold", report.quotes_gold),
        ("abstention", report.abstention),
        ("F1", report.f1),
    ];
    let places: Vec<String> = named.iter().map(|(name, _)| (*name).to_owned()).collect();
    let shares = [Series { name: "share".into(), values: named.map(|(_, value)| value).to_vec() }];
    let rows = named.iter().map(|(name, value)| ((*name).to_owned(), vec![format!("{value:.4}")]));
    let mut figures = figure("Answers", &[], |title| bars(title, &places, &shares));
    let scores = two("answerable", "unanswerable", &report.scores);
    let cut = (f64::from(report.answer_cut), "answer_cut");
    figures += &figure("Scores of the questions", &scores, |title| histogram(title, &scores, Some(cut)));
    let cuts: Vec<String> = report.trade_off.iter().map(|cut| format!("{:.2}", cut.score)).collect();
    let trade_off = [
        Series {
            name: "answerable kept".into(),
            values: report.trade_off.iter().map(|cut| cut.kept).collect(),
        },
        Series {
            name: "unanswerable refused".into(),
            values: report.trade_off.iter().map(|cut| cut.refused).collect(),
        },
    ];
    figures += &figure("What other cuts would do", &trade_off, |title| lines(title, &cuts, &trade_off));
    section(&format!("Answers: {}", report.data), &about, &table(&["figure", "share"], rows), &figures)
}

fn gate_section(comparisons: &[Comparison]) -> String {
    let rows = comparisons.iter().map(|row| {
        let change = format!("{:+.4}", row.now - row.before);
        let verdict = if row.fell() { "fell" } else { "holds" };
        let cells = [
            format!("{:.4}", row.before),
            format!("{:.4}", row.now),
            change,
            format!("{:.4}", row.tolerance),
        ];
        let cells = [row.figure.clone()].into_iter().chain(cells).chain([verdict.to_owned()]);
        (row.subject.clone(), cells.collect())
    });
    let head = ["evaluation", "figure", "baseline", "now", "change", "may fall by", ""];
    let mut figures = String::new();
    for alike in comparisons.chunk_by(|a, b| a.subject == b.subject) {
        let places: Vec<String> = alike.iter().map(|row| row.figure.replace('_', " ")).collect();
        let values = |of: &dyn Fn(&Comparison) -> f64| alike.iter().map(of).collect();
        let series = [
            Series { name: "baseline".into(), values: values(&|row| row.before) },
            Series { name: "now".into(), values: values(&|row| row.now) },
        ];
        figures += &figure(&alike[0].subject, &series, |title| bars(title, &places, &series));
    }
    section("Against the baseline", "", &table(&head, rows), &figures)
}

fn two(first: &str, second: &str, values: &[Vec<f32>; 2]) -> [Series; 2] {
    let series = |name: &str, values: &[f32]| Series {
        name: format!("{name} ({})", values.len()),
        values: values.iter().copied().map(f64::from).collect(),
    };
    [series(first, &values[0]), series(second, &values[1])]
}

fn section(title: &str, about: &str, table: &str, figures: &str) -> String {
    let (title, about) = (escaped(title), escaped(about));
    format!(
        "<section>\n<h2>{title}</h2>\n<p>{about}</p>\n{table}<div class=\"charts\">\n{figures}</div>\n</section>\n"
    )
}

/// A chart under its title, with what the colours mean.
fn figure(title: &str, series: &[Series], chart: impl Fn(&str) -> String) -> String {
    let legend = series.iter().enumerate().map(|(number, series)| {
        format!("<span><i style=\"background:var(--s{number})\"></i>{}</span>", escaped(&series.name))
    });
    let legend: String = legend.collect();
    format!(
        "<figure>\n<figcaption>{}</figcaption>\n{}\n<div class=\"legend\">{legend}</div>\n</figure>\n",
        escaped(title),
        chart(title)
    )
}

fn table(head: &[&str], rows: impl Iterator<Item = (String, Vec<String>)>) -> String {
    let head: String = head.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escaped(cell))).collect();
    let mut table = format!("<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for (name, cells) in rows {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(table, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escaped(&name));
    }
    table.push_str("</tbody>\n</table>\n");
    table
}

#[cfg(test)]
mod tests {
    use ragway::{
        config::{EmbeddingSpace, SearchMode},
        rag::evaluate::{Cut, Cutoff},
    };

    use super::*;

    fn report(mode: SearchMode, ndcg: f64) -> RetrievalReport {
        RetrievalReport {
            mode,
            space: EmbeddingSpace { id: "m@1:\"query: \"".into(), model: "m".into(), dimension: 3 },
            data: "a<b".into(),
            reranked: false,
            documents: 5,
            queries: 2,
            ndcg_10: ndcg,
            ndcg_10_halves: [ndcg; 2],
            recall_10: 0.75,
            recall_100: 1.0,
            mrr_10: 0.5,
            curve: [1, 10].map(|k| Cutoff { k, ndcg, recall: 0.75 }).to_vec(),
            scores: [vec![0.9, 0.8], vec![0.1, 0.2, 0.3]],
        }
    }

    #[test]
    fn a_page_stands_alone_and_holds_every_figure() {
        let reports = [report(SearchMode::Dense, 0.6451), report(SearchMode::Hybrid, 0.7333)];
        let answers = AnswerReport {
            answerable: 4,
            answered: 3,
            abstention: 0.2718,
            citation_precision: 0.6789,
            scores: [vec![0.6], vec![0.4]],
            trade_off: vec![Cut { score: 0.5, kept: 1.0, refused: 0.25 }],
            ..AnswerReport::default()
        };
        let comparison = Comparison {
            subject: "a<b hybrid".into(),
            figure: "ndcg@10".into(),
            before: 0.8,
            now: 0.7333,
            tolerance: 0.01,
        };
        let gate = GateReport {
            comparisons: vec![comparison],
            retrieval: reports.to_vec(),
            answers: vec![answers],
            ..GateReport::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plot.html");
        super::gate(&file, &gate).unwrap();
        let page = fs::read_to_string(&file).unwrap();
        for held in ["the gate fails", "a&lt;b", "0.6451", "0.7333", "0.2718", "0.6789", "-0.0667", "fell"] {
            assert!(page.contains(held), "{held}");
        }
        assert!(!page.contains("<script") && !page.contains("http") && !page.contains("a<b"), "{page}");
        assert_eq!(page.matches("<svg").count(), 1 + 2 + 2 + 3);
        // It is well-formed but for what HTML does not close.
        let body = &page[page.find("<body>").unwrap()..page.find("</html>").unwrap()];
        roxmltree::Document::parse(body).unwrap();
    }
}
