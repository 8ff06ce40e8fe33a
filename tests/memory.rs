//! What the engine takes of memory, read from Linux in a process of its own.
#![cfg(target_os = "linux")]

use std::{fs, path::Path, process::Command};

use ragway::{
    config::EmbedderEntry,
    models::{Embedder, Lane, TextRole, candle::bert::BertEmbedder},
};

use crate::harness::{assets, catalog};

/// Set in the process that is measured: where the weights are.
const FOLDER: &str = "RAGWAY_TEST_MEASURED_FOLDER";

/// A batch whose tokens went through the layers at once would take 7 GB; 68 MB were measured for
/// the whole server.
#[tokio::test]
async fn the_longest_texts_in_the_largest_batch_are_bounded() {
    let entry = catalog().embedders.remove(0);
    let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["memory::measured", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .output();
    let output = child.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let figure = |name: &str| {
        let after = told.split_once(name).unwrap_or_else(|| panic!("{told}")).1;
        after.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert!(figure("at rest: ") < 250, "{told}");
    assert!(figure("more at most: ") < 200, "{told}");
}

/// Run by the test above in a process of its own: prints megabytes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is a part of another test"]
async fn measured() {
    let folder = std::env::var(FOLDER).expect("only the other test runs this one");
    let entry = catalog().embedders.remove(0);
    let embedder = BertEmbedder::load(&entry, Path::new(&folder)).unwrap();
    embed(&embedder, vec!["When does the ferry leave?".to_owned()]).await;
    println!("at rest: {} MB", status("VmRSS"));
    drop(embedder);

    // What a layer needs is given back to the next: one is as good as six, and does it sooner.
    let embedder = one_layer(&entry, Path::new(&folder));
    embed(&embedder, vec!["When does the ferry leave?".to_owned()]).await;
    let before = status("VmRSS");
    // Forgets the most so far.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let most = catalog().http.max_texts;
    let tokens = embed(&embedder, vec!["ferry ".repeat(300); most]).await;
    assert_eq!(tokens, most * entry.max_tokens);
    println!("more at most: {} MB", status("VmHWM").saturating_sub(before));
}

async fn embed(embedder: &BertEmbedder, texts: Vec<String>) -> usize {
    let embedded = embedder.embed(texts, TextRole::Passage, Lane::Interactive).await.unwrap();
    embedded.tokens.iter().sum()
}

/// The entry's model with the first of its layers only.
fn one_layer(entry: &EmbedderEntry, folder: &Path) -> BertEmbedder {
    let shortened = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::os::unix::fs::symlink(folder.join(file), shortened.path().join(file)).unwrap();
    }
    let config = fs::read(folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["num_hidden_layers"] = 1.into();
    fs::write(shortened.path().join("config.json"), config.to_string()).unwrap();
    BertEmbedder::load(entry, shortened.path()).unwrap()
}

/// A line of this process's status, in MB.
fn status(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}
