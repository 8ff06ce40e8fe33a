//! The rules of `src/ARCHITECTURE.md` that a compiler does not check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Module → what its files must not mention.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "config",
        &[
            "crate::access",
            "crate::assets",
            "crate::models",
            "crate::store",
            "crate::rag",
            "crate::http",
            "crate::app",
        ],
    ),
    (
        "assets",
        &[
            "crate::access",
            "crate::models",
            "crate::store",
            "crate::rag",
            "crate::http",
            "crate::app",
            "actix",
        ],
    ),
    (
        "models",
        &[
            "crate::access",
            "crate::assets",
            "crate::store",
            "crate::rag",
            "crate::http",
            "crate::app",
            "actix",
            "tokio_postgres",
        ],
    ),
    (
        "store",
        &["crate::access", "crate::models", "crate::rag", "crate::http", "crate::app", "actix", "candle"],
    ),
    (
        "access",
        &[
            "crate::assets",
            "crate::models",
            "crate::rag",
            "crate::http",
            "crate::app",
            "actix",
            "tokio_postgres",
        ],
    ),
    (
        "rag",
        &[
            "crate::access",
            "crate::http",
            "crate::app",
            "crate::assets",
            "actix",
            "utoipa",
            "tokio_postgres",
            "candle_",
            "async_openai",
            "StatusCode",
        ],
    ),
    (
        "http",
        &[
            "crate::app",
            "crate::assets",
            "tokio_postgres",
            "candle_",
            "async_openai",
            "SELECT ",
            "TenantId::DEFAULT",
        ],
    ),
];

#[test]
fn nothing_calls_upward() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for (module, words) in FORBIDDEN {
        for file in rust_files(&source.join(module)) {
            checked += 1;
            // The tests at a file's end may use more.
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            for word in *words {
                assert!(!code.contains(word), "{} mentions `{word}`", file.display());
            }
        }
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn sql_is_only_in_the_store() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        if !file.starts_with(source.join("store")) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("INSERT INTO") && !text.contains("SELECT "), "{}", file.display());
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}
