use std::{fs, path::Path};

use ragway::rag::evaluate::{
    bitext_mean, evaluate_bitext, evaluate_cross_lingual, evaluate_image_text, evaluate_sts,
};

use crate::{harness::embedder, multilingual::e5};

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn silent(_: &'static str, _: usize, _: usize) {}

#[tokio::test]
async fn translations_are_found_among_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let german = "Der Hund schläft im Garten.\nWir fahren morgen nach Paris.\nDie Suppe ist zu salzig.\n";
    let english = "The dog sleeps in the garden.\nTomorrow we travel to Paris.\nThe soup is too salty.\n";
    write(folder.path(), "own.deu-eng.deu", german);
    write(folder.path(), "own.deu-eng.eng", english);
    let scores = evaluate_bitext(&*e5().await, folder.path(), usize::MAX, &silent).await.unwrap();
    assert_eq!((scores.len(), scores[0].sentences, bitext_mean(&scores)), (1, 3, 1.0));

    // The same sentences in another order: none stands beside its translation.
    let turned: String = english.lines().cycle().skip(1).take(3).map(|line| format!("{line}\n")).collect();
    write(folder.path(), "own.deu-eng.eng", &turned);
    let scores = evaluate_bitext(&*e5().await, folder.path(), usize::MAX, &silent).await.unwrap();
    assert_eq!((scores[0].there, scores[0].back), (0.0, 0.0));
    let scores = evaluate_bitext(&*e5().await, folder.path(), 1, &silent).await.unwrap();
    assert_eq!((scores[0].sentences, scores[0].there), (1, 1.0));
}

#[tokio::test]
async fn documents_are_found_across_languages() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = |texts: &[&str]| -> String {
        let line = |(id, text): (usize, &&str)| {
            format!("{}\n", serde_json::json!({"_id": id.to_string(), "text": text}))
        };
        texts.iter().enumerate().map(line).collect()
    };
    let english = ["bread", "ferries", "tax", "violins", "rain", "chess", "bees", "tyres"];
    let german = ["Brot", "Fähren", "Steuer", "Geigen", "Regen", "Schach", "Bienen", "Reifen"];
    for (language, words) in [("en", english), ("de", german)] {
        write(folder.path(), &format!("queries.{language}.jsonl"), &jsonl(&words));
        write(folder.path(), &format!("corpus.{language}.jsonl"), &jsonl(&words));
    }
    let report = evaluate_cross_lingual(&*e5().await, folder.path(), &silent).await.unwrap();
    assert_eq!(
        (report.languages.as_slice(), report.queries),
        (["de".to_owned(), "en".to_owned()].as_slice(), 16)
    );
    assert_eq!(report.within(), 1.0);
    assert!(report.across() > 0.8, "{}", report.across());

    write(folder.path(), "corpus.de.jsonl", &jsonl(&german[..7]));
    let told = evaluate_cross_lingual(&*e5().await, folder.path(), &silent).await.unwrap_err().to_string();
    assert!(told.ends_with("corpus.de.jsonl has no document `7`"), "{told}");
}

#[tokio::test]
async fn similarity_is_correlated_with_judgements() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "A dog barks.,A dog is barking.,5.0\n\"A dog, old, barks.\",A cat meows.,1.5\nA dog barks.,Stocks fell.,0\n";
    write(folder.path(), "pairs.csv", rows);
    let report = evaluate_sts(&*embedder().await, &folder.path().join("pairs.csv"), &silent).await.unwrap();
    assert_eq!(report.pairs, 3);
    assert!((report.spearman - 100.0).abs() < 1e-9);

    write(folder.path(), "pairs.csv", "a,b,5.0\na,b\n");
    let told = evaluate_sts(&*embedder().await, &folder.path().join("pairs.csv"), &silent).await.unwrap_err();
    assert!(told.to_string().contains("record 2"), "{told}");
}

#[tokio::test]
async fn a_model_of_texts_cannot_be_measured_on_images() {
    let folder = tempfile::tempdir().unwrap();
    let told = evaluate_image_text(&*embedder().await, folder.path(), "en", &silent).await.unwrap_err();
    assert!(told.to_string().starts_with("model `all-MiniLM-L6-v2` reads no images"), "{told}");
}
