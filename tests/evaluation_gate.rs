//! `ragway eval`: figures saved, held against later ones, and drawn.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::cli::{own_home, run};

/// Four documents and two queries; the second one's judgement is not what a model would say.
fn write_set(folder: &Path) {
    fs::create_dir_all(folder.join("qrels")).unwrap();
    let lines = |texts: &[(&str, &str)]| -> String {
        texts.iter().map(|(id, text)| format!("{}\n", json!({"_id": id, "text": text}))).collect()
    };
    let corpus = [
        ("bikes", "A bicycle costs three euros each way."),
        ("dogs", "Dogs are welcome on the car deck."),
        ("times", "The first ferry leaves at twenty to seven."),
        ("rain", "In strong wind the ship stays in the harbour."),
    ];
    fs::write(folder.join("corpus.jsonl"), lines(&corpus)).unwrap();
    let queries = [("1", "price of taking a bike"), ("2", "May I bring my dog?")];
    fs::write(folder.join("queries.jsonl"), lines(&queries)).unwrap();
    fs::write(folder.join("qrels/test.tsv"), "query-id\tcorpus-id\tscore\n1\tbikes\t1\n2\train\t1\n")
        .unwrap();
}

#[tokio::test]
async fn a_baseline_is_saved_holds_and_tells_what_fell() {
    let home = own_home().await;
    let set = home.path().join("sets/own");
    write_set(&set);
    let (set, file) = (set.to_str().unwrap(), home.path().join("baseline.json"));
    let eval = |arguments: &[&str]| run(home.path(), &[&["eval"], arguments].concat());
    let (output, out, err) =
        eval(&["retrieval", set, "--mode", "dense", "--save", "baseline.json", "--plot", "page.html"]);
    assert!(output.status.success() && out.contains("nDCG@10"), "{out}{err}");
    let page = fs::read_to_string(home.path().join("page.html")).unwrap();
    assert!(page.contains("retrieval on own") && page.contains("<svg") && !page.contains("<script"));
    let mut baseline: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let saved = &baseline["evaluations"][0];
    assert_eq!(saved["evaluation"]["retrieval"]["mode"], "dense");
    assert_eq!((&saved["counts"], &saved["k"]), (&json!({"documents": 4, "queries": 2}), &json!(100)));
    assert_eq!((&saved["data"]["name"], &saved["model"]), (&json!("own"), &json!("all-MiniLM-L6-v2")));
    let ndcg = saved["figures"]["ndcg@10"].as_f64().unwrap();
    assert!((0.6..0.9).contains(&ndcg), "{ndcg}");

    let gate = &["gate", "--baseline", "baseline.json"];
    let (output, out, err) = eval(gate);
    assert!(output.status.success() && out.contains("the gate passes"), "{out}{err}");
    assert!(out.contains("own dense") && out.contains("recall@100") && out.contains("holds"), "{out}");

    *baseline.pointer_mut("/evaluations/0/figures/ndcg@10").unwrap() = json!(1.0);
    fs::write(&file, baseline.to_string()).unwrap();
    let (output, out, err) = eval(&[gate, &["--plot", "page.html"][..]].concat());
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("FELL") && out.contains("the gate fails: 1 of 3 figures"), "{out}");
    assert!(fs::read_to_string(home.path().join("page.html")).unwrap().contains("the gate fails"));

    // The same set elsewhere, and another one in its place.
    fs::rename(set, home.path().join("own")).unwrap();
    let (output, _, err) = eval(gate);
    assert!(!output.status.success() && err.contains("say where with --data"), "{err}");
    fs::write(home.path().join("own/corpus.jsonl"), "{\"_id\": \"bikes\", \"text\": \"Bicycles.\"}\n")
        .unwrap();
    let (output, _, err) = eval(&[gate, &["--data", "own"][..]].concat());
    assert!(!output.status.success() && err.contains("its files differ"), "{err}");
    fs::write(&file, "").unwrap();
    let (output, _, err) = eval(gate);
    assert!(!output.status.success() && err.contains("baseline.json: is empty"), "{err}");
}
