use super::{BUILT_IN, Catalog};

fn refusal(text: &str) -> String {
    Catalog::parse(text, "models.toml").unwrap_err().to_string()
}

/// A server that is said to run all-MiniLM-L6-v2.
const SERVER: &str = r#"
[[embedder]]
name = "server"
kind = "remote"
dimension = 384
max_tokens = 256
min_similarity = 0.3
answer_cut = 0.6
[embedder.remote]
api = "tei"
base_url = "http://embed.example:8080"
same_space_as = "all-MiniLM-L6-v2"
"#;

fn with_server() -> String {
    format!("{BUILT_IN}{SERVER}")
}

#[test]
fn an_unknown_key_names_its_line() {
    for (table, wrong) in [
        ("kind = \"bert\"", "poolling = \"mean\"\nkind = \"bert\""),
        ("api = \"tei\"", "api = \"tei\"\ntimeout = 5"),
        ("candidates = [\"all-MiniLM-L6-v2\"]", "candidates = [\"all-MiniLM-L6-v2\"]\nreplica = []"),
    ] {
        let text = with_server().replacen(table, wrong, 1);
        let line =
            text.lines().position(|line| wrong.lines().any(|added| added == line && !table.contains(line)));
        let error = refusal(&text);
        assert!(error.contains("unknown field"), "{error}");
        assert!(error.contains(&format!("line {}", line.unwrap() + 1)), "{line:?}: {error}");
    }
}

#[test]
fn a_server_of_the_same_weights_shares_their_space_and_may_be_a_replica() {
    let text = with_server().replacen(
        "candidates = [\"all-MiniLM-L6-v2\"]",
        "candidates = [\"all-MiniLM-L6-v2\"]\nreplicas = [\"server\"]",
        1,
    );
    let catalog = Catalog::parse(&text, "models.toml").unwrap();
    let space = |name| catalog.space_of(catalog.embedder(name).unwrap()).id;
    assert_eq!(space("server"), space("all-MiniLM-L6-v2"));

    let alone = with_server().replace("same_space_as = \"all-MiniLM-L6-v2\"\n", "");
    let catalog = Catalog::parse(&alone, "models.toml").unwrap();
    let space = catalog.space_of(catalog.embedder("server").unwrap()).id;
    assert!(space.starts_with("server@") && space.contains(":remote:"), "{space}");
}

#[test]
fn each_precision_is_a_space_of_its_own() {
    let space = |precision: &str| {
        let text = BUILT_IN.replacen("kind = \"bert\"", &format!("kind = \"bert\"{precision}"), 1);
        let catalog = Catalog::parse(&text, "models.toml").unwrap();
        catalog.space_of(catalog.embedder("all-MiniLM-L6-v2").unwrap()).id
    };
    let f32 = space("");
    assert!(f32.ends_with(":l2:fp32"), "a space that is stored must keep its name: {f32}");
    assert_eq!(space("\nprecision = \"f32\""), f32);
    assert_eq!(space("\nprecision = \"bf16\""), f32.replace(":fp32", ":bf16"));
    assert_eq!(space("\nprecision = \"int8\""), f32.replace(":fp32", ":int8"));
}

#[test]
fn replicas_of_another_space_are_refused() {
    let text = with_server().replace("same_space_as = \"all-MiniLM-L6-v2\"\n", "").replacen(
        "candidates = [\"all-MiniLM-L6-v2\"]",
        "candidates = [\"all-MiniLM-L6-v2\"]\nreplicas = [\"server\"]",
        1,
    );
    let error = refusal(&text);
    assert!(error.contains("routes.embed.text-embedding") && error.contains("same_space_as"), "{error}");
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    for (from, to, told) in [
        ("same_space_as = \"all-MiniLM-L6-v2\"", "same_space_as = \"nothing\"", "unknown model `nothing`"),
        (
            "dimension = 384\nmax_tokens = 256\nmin_similarity = 0.3\nanswer_cut = 0.6\n[embedder.remote]",
            "dimension = 8\nmax_tokens = 256\nmin_similarity = 0.3\nanswer_cut = 0.6\n[embedder.remote]",
            "384 dimensions",
        ),
        ("base_url = \"http://embed", "base_url = \"ftp://embed", "http:// or https://"),
        ("kind = \"remote\"", "kind = \"bert\"", "belongs to kind `remote`"),
        (
            "[embedder.remote]\napi = \"tei\"\nbase_url = \"http://embed.example:8080\"\nsame_space_as = \"all-MiniLM-L6-v2\"\n",
            "",
            "needs a table [embedder.remote]",
        ),
        ("name = \"tokenizer.json\"", "name = \"tokeniser.json\"", "files lacks `tokenizer.json`"),
        ("[routes.embed.text-embedding]", "[routes.embed.cached]", "reserved"),
        ("lease_ms = 30_000", "lease_ms = 10", "jobs: lease_ms"),
        ("normalize = true", "normalize = true\nprecision = \"f8\"", "f8"),
        (
            "kind = \"clip\"",
            "kind = \"clip\"\nprecision = \"bf16\"",
            "precision: kind `clip` has only \"f32\"",
        ),
        (
            "kind = \"remote\"",
            "kind = \"remote\"\nprecision = \"int8\"",
            "precision: kind `remote` has only \"f32\"",
        ),
    ] {
        let text = with_server();
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        let error = refusal(&changed);
        assert!(error.contains(told), "{told}: {error}");
    }
}
