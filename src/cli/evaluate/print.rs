//! Reports as text.

use std::path::Path;

use ragway::rag::evaluate::{
    AnswerReport, CrossLingualReport, FeedbackReport, GateReport, GroundingReport, ImageTextReport,
    PairScore, RetrievalReport, SearchedPair, StsReport, bitext_mean,
};

pub fn retrieval(reports: &[RetrievalReport]) {
    if let Some(report) = reports.first() {
        println!("documents   {}", report.documents);
        println!("queries     {}", report.queries);
    }
    for report in reports {
        let [first, second] = report.ndcg_10_halves;
        println!("\nmode        {}", report.mode.name());
        println!("nDCG@10     {:.4} ({first:.4} and {second:.4} of every second query)", report.ndcg_10);
        println!("recall@10   {:.4}", report.recall_10);
        println!("recall@100  {:.4}", report.recall_100);
        println!("MRR@10      {:.4}", report.mrr_10);
    }
}

pub fn answers(report: &AnswerReport) {
    println!("questions            {} answerable, {} unanswerable", report.answerable, report.unanswerable);
    println!("answered             {} of the answerable", report.answered);
    println!("exact match          {:.3}", report.exact_match);
    println!("F1                   {:.3}", report.f1);
    println!("holds a gold answer  {:.3}", report.contains_gold);
    println!("citation precision   {:.3} of the right paragraph", report.citation_precision);
    println!("quotes               {:.3} hold a gold answer", report.quotes_gold);
    println!("abstention           {:.3} of the unanswerable", report.abstention);
    println!("method               {} generated, {} extractive", report.generated, report.extractive);
    println!("mean time            {:.2} s", report.seconds);
    println!("\nanswer_cut  answerable kept  unanswerable refused");
    for cut in &report.trade_off {
        println!("{:>10.3}  {:>15.3}  {:>20.3}", cut.score, cut.kept, cut.refused);
    }
}

pub fn grounding(report: &GroundingReport) {
    println!("claims         made  supported");
    for (kind, (made, supported)) in &report.claims {
        let wish = if kind.is_true() { "should be 1" } else { "should be 0" };
        let share = *supported as f64 / *made as f64;
        println!("{:<13} {made:>5}      {share:.3}  ({wish})", kind.name());
    }
}

pub fn feedback(report: &FeedbackReport) {
    println!("backend                        up   down");
    for (backend, (up, down)) in &report.by_backend {
        println!("{backend:<28} {up:>4}   {down:>4}");
    }
    println!("comments                     {:>4}", report.comments);
}

pub fn bitext(pairs: &[PairScore]) {
    println!("recall@1    sentences  there   back");
    for pair in pairs {
        let languages = format!("{}-{}", pair.language, pair.other);
        println!("{languages:<11} {:>9}  {:.4}  {:.4}", pair.sentences, pair.there, pair.back);
    }
    println!("mean        {:.4}", bitext_mean(pairs));
}

pub fn cross_lingual(report: &CrossLingualReport) {
    println!("queries     {}", report.queries);
    println!("recall@5    {}", columns(report.languages.iter().map(String::as_str)));
    for (language, row) in report.languages.iter().zip(&report.recall_5) {
        let recalls: Vec<String> = row.iter().map(|recall| format!("{recall:.3}")).collect();
        println!("{language:<11} {}", columns(recalls.iter().map(String::as_str)));
    }
    println!("rows: the language of the queries; columns: of the documents");
    println!("mean        {:.4} across languages, {:.4} within", report.across(), report.within());
}

/// A line a pair, then the means within and across languages.
pub fn searched_pairs(pairs: &[SearchedPair]) {
    let line = |name: &str, [dense, lexical, hybrid]: [f64; 3], gain: f64| {
        println!("{name:<14} {dense:>7.4} {lexical:>8.4} {hybrid:>7.4}  {gain:>+7.4}");
    };
    println!("nDCG@10          dense  lexical  hybrid  hybrid beside the better");
    for pair in pairs {
        line(&format!("{} → {}", pair.asked_in, pair.written_in), pair.ndcg_10, pair.gain());
    }
    for (name, within) in [("within", true), ("across", false)] {
        let chosen: Vec<_> =
            pairs.iter().filter(|pair| (pair.asked_in == pair.written_in) == within).collect();
        let mean = |mode: usize| {
            chosen.iter().map(|pair| pair.ndcg_10[mode]).sum::<f64>() / chosen.len().max(1) as f64
        };
        let means = [0, 1, 2].map(mean);
        line(name, means, means[2] - means[0].max(means[1]));
    }
}

fn columns<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    cells.map(|cell| format!("{cell:>7}")).collect()
}

pub fn sts(file: &Path, report: &StsReport) {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    println!("{name}  {} pairs, Spearman × 100 = {:.2}", report.pairs, report.spearman);
}

pub fn image_text(report: &ImageTextReport) {
    println!("images      {}", report.images);
    println!("captions    {}", report.captions);
    println!("recall@5    {:.4}", report.recall_5);
}

/// What fell and what holds, a line a figure.
pub fn gate(report: &GateReport) {
    for (subject, before, now) in &report.spaces {
        println!("{subject}: the baseline is of {before}, this is {now}");
    }
    let subjects = report.comparisons.iter().map(|row| row.subject.chars().count());
    let width = subjects.max().unwrap_or(0).max("evaluation".len());
    println!("{:<width$}  figure              baseline     now   change  may fall by", "evaluation");
    for row in &report.comparisons {
        println!(
            "{:<width$}  {:<18}  {:>8.4}  {:>6.4}  {:>+7.4}  {:>11.4}  {}",
            row.subject,
            row.figure,
            row.before,
            row.now,
            row.now - row.before,
            row.tolerance,
            if row.fell() { "FELL" } else { "holds" }
        );
    }
    let fell = report.comparisons.iter().filter(|row| row.fell()).count();
    match fell {
        0 => println!("\nthe gate passes: no figure fell by more than it may"),
        _ => println!(
            "\nthe gate fails: {fell} of {} figures fell by more than they may",
            report.comparisons.len()
        ),
    }
}
